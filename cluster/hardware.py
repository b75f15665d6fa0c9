"""What machines there are: cards, memory, disk, and a cluster's nodes if there is a cluster."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import session

MIB, GIB = 1 << 20, 1 << 30
ASK_NVIDIA = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]


@dataclass(frozen=True, kw_only=True)
class Card:
    """One GPU."""

    name: str
    """As the driver calls it, such as NVIDIA GeForce RTX 3090."""
    memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class Node:
    """One machine of a Ray cluster, by what it told Ray."""

    cpus: float
    """Ray's logical ones."""
    gpus: float
    memory_bytes: int


def cards() -> list[Card]:
    """The GPUs of this machine; none where NVIDIA's tool is not there or finds none."""
    if shutil.which(ASK_NVIDIA[0]) is None:
        return []
    asked = subprocess.run(ASK_NVIDIA, capture_output=True, text=True, timeout=60, check=False)
    return read_cards(asked.stdout) if asked.returncode == 0 else []


def read_cards(told: str) -> list[Card]:
    """The lines `name, MiB` of nvidia-smi. A card that keeps its memory to itself is left out."""
    found = []
    for line in told.splitlines():
        name, _, mib = line.rpartition(",")
        if name and mib.strip().isdigit():
            found.append(Card(name=name.strip(), memory_bytes=int(mib) * MIB))
    return found


def memory_bytes() -> int:
    """This machine's memory; less where the container it runs in may have less."""
    import psutil

    total: int = psutil.virtual_memory().total
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        limit = Path(file)
        if limit.is_file() and (text := limit.read_text().strip()).isdigit():
            return min(total, int(text))
    return total


def num_cpus() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def free_bytes(folder: Path) -> int:
    """Room on the disk that holds a folder, or will."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def nodes() -> Sequence[Node] | None:
    """The living nodes of the cluster that this process belongs to; None where there is none, and
    none is started. An autoscaler may add to them.
    """
    if not os.environ.get("RAY_ADDRESS") and not _is_started_here():
        return None
    session.connect()
    import ray

    known: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    alive = [node["Resources"] for node in known if node["Alive"]]
    return [
        Node(
            cpus=one.get("CPU", 0.0),
            gpus=one.get("GPU", 0.0),
            memory_bytes=int(one.get("memory", 0)),
        )
        for one in alive
    ]


def _is_started_here() -> bool:
    """Whether the cluster that `ray start` began here still answers: one that was killed leaves its
    address behind.
    """
    if not session.STARTED_HERE.exists():
        return False
    host, _, port = session.STARTED_HERE.read_text().strip().rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError:
        return False
    return True

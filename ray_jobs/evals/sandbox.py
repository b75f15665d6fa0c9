"""Runs a program that a model has written, in namespaces of its own: no network, no file but
Python's own and a small folder in memory, no other process, limits on time and memory. Linux; needs
no rights.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias

INSIDE = Path(__file__).with_name("sandbox_inside.py")
NAMESPACES = ("--user", "--map-root-user", "--net", "--ipc", "--uts", "--pid", "--mount")
SECONDS = 10.0
MEMORY_BYTES = 512 << 20
WALL = 5
"""How many times its processor time a program may take by the clock, on a loaded machine too."""
START_S = 60.0
"""What a loaded machine may take to start Python and to end it."""
Ended: TypeAlias = Literal["passed", "failed", "out of time"]
ENDS: dict[bytes, Ended] = {b"passed": "passed", b"failed": "failed", b"out of time": "out of time"}


def run(program: str, seconds: float = SECONDS, memory_bytes: int = MEMORY_BYTES) -> Ended:
    """Run a program to its end: `passed` where it raises nothing, exits nowhere and keeps to its
    limits; `out of time` after `seconds` of processor time, or WALL times as many by the clock.

    RuntimeError where the machine fails, not the program. A program that looks for the mark in its
    own process could forge its end: the score is safe only from programs that are not written
    against this very file. Against a hole in the kernel nothing here helps.
    """
    given = {
        "program": program,
        "mark": secrets.token_hex(16),
        "memory_bytes": memory_bytes,
        "cpu_s": seconds,
        "wall_s": WALL * seconds,
    }
    process = subprocess.Popen(
        [_unshare(), *NAMESPACES, "--fork", "--kill-child", sys.executable, "-I", "-S", INSIDE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PYTHONDONTWRITEBYTECODE": "1", "PATH": os.defpath},
        start_new_session=True,
    )
    try:
        said, error = process.communicate(json.dumps(given).encode(), WALL * seconds + START_S)
    except subprocess.TimeoutExpired:
        return "out of time"
    finally:
        if process.poll() is None:
            # The first process of the namespace is in this group, and all others end with it.
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=START_S)
    if said not in ENDS:
        why = error.decode(errors="replace").strip().rpartition("\n")[2]
        raise RuntimeError(f"the sandbox could not run a program: {why or process.returncode}")
    return ENDS[said]


@cache
def check() -> None:
    """ValueError where this machine can make no sandbox: then no program is run at all."""
    try:
        if run("import collections, ctypes, decimal, hashlib, math, random, re") != "passed":
            raise RuntimeError("programs cannot import Python's own library")
        if run("open('/etc/hostname.garrison', 'w')") == "passed":
            raise RuntimeError("programs can write files")
    except RuntimeError as error:
        raise ValueError(
            "no sandbox can be made here, so no program is run: it needs Linux on x86_64 or "
            f"aarch64, util-linux, and user namespaces (in a container often forbidden): {error}"
        ) from error


def _unshare() -> str:
    found = shutil.which("unshare")
    if found is None:
        raise ValueError("no sandbox can be made here: there is no `unshare` (util-linux)")
    return found

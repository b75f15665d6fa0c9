"""Runs a program that a model has written, in namespaces of its own: no network, a read-only file
system, no other process, limits on time and memory. Linux; needs no rights.
"""

from __future__ import annotations

import contextlib
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
Ended: TypeAlias = Literal["passed", "failed", "out of time"]


def run(program: str, seconds: float = SECONDS, memory_bytes: int = MEMORY_BYTES) -> Ended:
    """Run a program to its end: `passed` where it raises nothing, exits nowhere and keeps to its
    limits.

    A program that looks for the mark in its own process could forge its end: the limits protect the
    machine, and the score only from programs that are not written against this very file.
    """
    mark = secrets.token_hex(16)
    given = {
        "program": program,
        "mark": mark,
        "memory_bytes": memory_bytes,
        "cpu_s": int(seconds) + 1,
    }
    process = subprocess.Popen(
        [_unshare(), *NAMESPACES, "--fork", "--kill-child", sys.executable, "-I", "-S", INSIDE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"PYTHONDONTWRITEBYTECODE": "1", "PATH": os.defpath},
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(json.dumps(given).encode(), timeout=seconds)
    except subprocess.TimeoutExpired:
        return "out of time"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    return "passed" if said == mark.encode() else "failed"


@cache
def check() -> None:
    """ValueError where this machine can make no sandbox: then no program is run at all."""
    if run("total = sum(range(10))") != "passed":
        raise ValueError(
            "no sandbox can be made here, so no program is run: it needs Linux on x86_64 or "
            "aarch64, util-linux, and user namespaces (in a container they are often forbidden)"
        )
    if run("open('/etc/hostname.garrison', 'w')") == "passed":
        raise ValueError("the sandbox lets programs write files here, so no program is run")


def _unshare() -> str:
    found = shutil.which("unshare")
    if found is None:
        raise ValueError("no sandbox can be made here: there is no `unshare` (util-linux)")
    return found

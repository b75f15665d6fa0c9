"""Runs one program where it can do no harm. Started by sandbox.py inside new namespaces, with the
standard library alone: reads JSON {program, mark, memory_bytes, cpu_s} from standard input and
writes the mark to standard output when the program has come to its end.

The file system is read-only but for an empty folder in memory; there is no network; the process can
start no other, gain no right, and has little memory. What is forbidden raises in the program.
"""

import ctypes
import json
import os
import platform
import resource
import sys
from typing import Any

MS_REC, MS_PRIVATE = 1 << 14, 1 << 18
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
MOUNT_ATTR_RDONLY = 1
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, PR_CAPBSET_DROP = 38, 22, 24
SECCOMP_MODE_FILTER = 2
CAPABILITY_VERSION_3 = 0x20080522
MOUNT_SETATTR = 442
FOLDER = "/tmp"
FOLDER_BYTES = 16 << 20
EPERM = 1

FORBIDDEN = {
    # fork, vfork, clone, clone3, execve, execveat, socket, ptrace, unshare, setns, mount, kill
    "x86_64": (0xC000003E, (57, 58, 56, 435, 59, 322, 41, 101, 272, 308, 165, 62)),
    # clone, clone3, execve, execveat, socket, ptrace, unshare, setns, mount, kill
    "aarch64": (0xC00000B7, (220, 435, 221, 281, 198, 117, 97, 268, 40, 129)),
}
"""The machine's number for the kernel's audit, and the system calls that fail."""

libc = ctypes.CDLL(None, use_errno=True)


class MountAttr(ctypes.Structure):
    """struct mount_attr of linux/mount.h."""

    _fields_ = (
        ("set", ctypes.c_uint64),
        ("clear", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns", ctypes.c_uint64),
    )


class Filter(ctypes.Structure):
    """struct sock_filter of linux/filter.h."""

    _fields_ = (
        ("code", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("value", ctypes.c_uint32),
    )


class Filters(ctypes.Structure):
    """struct sock_fprog of linux/filter.h."""

    _fields_ = (("num", ctypes.c_uint16), ("first", ctypes.POINTER(Filter)))


def call(result: int) -> None:
    """Raise where a system call failed."""
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def close_files() -> None:
    """Nothing can be written but a small folder in memory."""
    call(libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None))
    attributes = MountAttr(set=MOUNT_ATTR_RDONLY)
    size = ctypes.sizeof(attributes)
    call(libc.syscall(MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, ctypes.byref(attributes), size))
    # Other processes' states, and what may be written through them, are out of sight.
    call(libc.mount(b"tmpfs", b"/proc", b"tmpfs", MOUNT_ATTR_RDONLY, None))
    options = f"size={FOLDER_BYTES}".encode()
    call(libc.mount(b"tmpfs", FOLDER.encode(), b"tmpfs", 0, options))
    os.chdir(FOLDER)


def give_up_rights() -> None:
    """No capability is left, and none can be gained."""
    for capability in range(64):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    call(libc.capset(header, (ctypes.c_uint32 * 6)()))
    call(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def forbid_calls() -> None:
    """The forbidden system calls fail from here on."""
    machine, numbers = FORBIDDEN[platform.machine()]
    load, jump_equal, jump_at_least, end = 0x20, 0x15, 0x35, 0x06
    allow, refuse, kill = 0x7FFF0000, 0x00050000 | EPERM, 0x80000000
    rules = [
        (load, 0, 0, 4),  # the machine
        (jump_equal, 1, 0, machine),
        (end, 0, 0, kill),
        (load, 0, 0, 0),  # the call's number
        (jump_at_least, 0, 1, 0x40000000),  # the x32 numbers for the same calls
        (end, 0, 0, kill),
    ]
    for number in numbers:
        rules += [(jump_equal, 0, 1, number), (end, 0, 0, refuse)]
    rules.append((end, 0, 0, allow))
    filters = (Filter * len(rules))(*(Filter(*rule) for rule in rules))
    program = Filters(num=len(rules), first=filters)
    call(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0))


def limit(given: dict[str, Any]) -> None:
    """Little memory, time and files."""
    for what, most in (
        (resource.RLIMIT_AS, given["memory_bytes"]),
        (resource.RLIMIT_CPU, given["cpu_s"]),
        (resource.RLIMIT_FSIZE, FOLDER_BYTES),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


def main() -> None:
    """Close everything, run the program, say that it came to its end."""
    given = json.load(sys.stdin)
    platform.machine()  # looks into files: while there are any
    close_files()
    answer = os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nowhere, number)
    code = compile(given["program"], "program.py", "exec")
    limit(given)
    give_up_rights()
    forbid_calls()
    exec(code, {"__name__": "program"})
    os.write(answer, given["mark"].encode())


if __name__ == "__main__":
    main()

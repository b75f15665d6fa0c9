"""Runs one program where it can do no harm. Started by sandbox.py as the first process of new
namespaces, with the standard library alone: reads JSON {program, mark, memory_bytes, cpu_s, wall_s}
from standard input and writes how the program ended to standard output.

The program is its child, and dies with it. It sees Python's library and the system's, read-only,
three harmless devices and an empty folder in memory; it has no network and no file of ours; it can
start no other process, gain no right, and make no system call but those of ALLOWED. It may have
`memory_bytes` of memory and FOLDER_BYTES of files; what the kernel holds for it besides is small,
for it may open 64 files and make neither pipes, sockets nor shared memory. It can take a core for
as long as its time lasts. What is forbidden raises in the program.
"""

import ctypes
import json
import math
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 1 << 12, 1 << 14, 1 << 18
MNT_DETACH = 2
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, PR_CAPBSET_DROP = 38, 22, 24
SECCOMP_MODE_FILTER = 2
CAPABILITY_VERSION_3 = 0x20080522
MOUNT_SETATTR = 442
EPERM = 1

SEEN = [Path(path) for path in ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", sys.base_prefix)]
DEVICES = [Path(path) for path in ("/dev/null", "/dev/zero", "/dev/urandom")]
ROOT = Path("/proc")
"""Where the program's file system is put together: a folder that is everywhere, and hides none of
those above.
"""
MEMORY = Path("tmpfs")
FOLDER = Path("/tmp")
FOLDER_BYTES, FOLDER_FILES = 16 << 20, 1000

MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""Their numbers for the kernel's audit."""
ALLOWED = """
read 0 63, write 1 64, readv 19 65, writev 20 66, pread64 17 67, pwrite64 18 68, lseek 8 62,
open 2 -, openat 257 56, close 3 57, ftruncate 77 46, getdents64 217 61, stat 4 -, lstat 6 -,
fstat 5 80, newfstatat 262 79, statx 332 291, access 21 -, faccessat 269 48, faccessat2 439 439,
readlink 89 -, readlinkat 267 78, getcwd 79 17, chdir 80 49, mkdir 83 -, mkdirat 258 34, rmdir 84 -,
unlink 87 -, unlinkat 263 35, rename 82 -, renameat 264 38, renameat2 316 276,
brk 12 214, mmap 9 222, munmap 11 215, mprotect 10 226, mremap 25 216, madvise 28 233,
rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, sigaltstack 131 132, futex 202 98,
restart_syscall 219 128, exit 60 93, exit_group 231 94, sched_yield 24 124,
sched_getaffinity 204 123, getpid 39 172, getppid 110 173, gettid 186 178, getuid 102 174,
geteuid 107 175, getgid 104 176, getegid 108 177, uname 63 160, sysinfo 99 179, getrusage 98 165,
times 100 153, time 201 -, gettimeofday 96 169, clock_gettime 228 113, clock_getres 229 114,
nanosleep 35 101, clock_nanosleep 230 115, getrandom 318 278
"""
"""The system calls that a program may make, with their numbers on x86_64 and aarch64: files that it
can see, its own memory, signals that it gets, its end, clocks and random numbers. All others fail.
"""

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


def mount(what: Path, where: Path, flags: int = 0, options: str = "") -> None:
    """Mount a file or folder at another place, or without MS_BIND a folder in memory."""
    kind = None if flags & MS_BIND else b"tmpfs"
    call(libc.mount(bytes(what), bytes(where), kind, flags, options.encode()))


def close_mount(where: Path, recursive: int = 0) -> None:
    """Read-only, without devices and without programs of other rights."""
    attributes = MountAttr(set=MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)
    given = ctypes.byref(attributes), ctypes.sizeof(attributes)
    call(libc.syscall(MOUNT_SETATTR, AT_FDCWD, bytes(where), recursive, *given))


def place(what: Path) -> Path:
    """The same file or folder below ROOT."""
    where = ROOT / what.relative_to("/")
    (where if what.is_dir() else where.parent).mkdir(parents=True, exist_ok=True)
    if not what.is_dir():
        where.touch()
    mount(what, where, MS_BIND | MS_REC)
    return where


def close_files() -> None:
    """Nothing of the machine's files is there but what Python needs, and nothing can be written but
    a small folder in memory and devices that forget it. FIFOs, other devices and other processes'
    states are out of sight: a read-only mount alone would let them be written.
    """
    call(libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None))
    mount(MEMORY, ROOT)
    for path in filter(Path.exists, SEEN):
        close_mount(place(path), AT_RECURSIVE)
    for path in DEVICES:
        place(path)
    (ROOT / FOLDER.name).mkdir()
    os.chdir(ROOT)
    call(libc.pivot_root(b".", b"."))
    call(libc.umount2(b".", MNT_DETACH))
    close_mount(Path("/"))
    options = f"size={FOLDER_BYTES},nr_inodes={FOLDER_FILES}"
    mount(MEMORY, FOLDER, MS_NOSUID | MS_NODEV | MS_NOEXEC, options)
    os.chdir(FOLDER)


def give_up_rights() -> None:
    """No capability is left, and none can be gained."""
    for capability in range(64):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    call(libc.capset(header, (ctypes.c_uint32 * 6)()))
    call(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def forbid_calls() -> None:
    """All system calls but those of ALLOWED fail from here on."""
    machine = os.uname().machine
    column = 1 + list(MACHINES).index(machine)
    numbers = [entry.split()[column] for entry in ALLOWED.split(",")]
    load, jump_equal, end = 0x20, 0x15, 0x06
    allow, refuse, kill = 0x7FFF0000, 0x00050000 | EPERM, 0x80000000
    rules = [
        (load, 0, 0, 4),  # the machine
        (jump_equal, 1, 0, MACHINES[machine]),
        (end, 0, 0, kill),
        (load, 0, 0, 0),  # the call's number
    ]
    for number in numbers:
        if number != "-":
            rules += [(jump_equal, 0, 1, int(number)), (end, 0, 0, allow)]
    rules.append((end, 0, 0, refuse))
    filters = (Filter * len(rules))(*(Filter(*rule) for rule in rules))
    program = Filters(num=len(rules), first=filters)
    call(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0))


def limit(given: dict[str, Any]) -> None:
    """Little memory, time and files. One that catches the signal at the end of its time has a
    second more.
    """
    cpu_s = math.ceil(given["cpu_s"])
    for what, soft, hard in (
        (resource.RLIMIT_AS, given["memory_bytes"], given["memory_bytes"]),
        (resource.RLIMIT_CPU, cpu_s, cpu_s + 1),
        (resource.RLIMIT_FSIZE, FOLDER_BYTES, FOLDER_BYTES),
        (resource.RLIMIT_NOFILE, 64, 64),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        resource.setrlimit(what, (soft, hard))


def run(given: dict[str, Any], answer: int) -> None:
    """Run the program, and say that it came to its end."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nowhere, number)
    os.close(nowhere)
    limit(given)
    give_up_rights()
    forbid_calls()
    exec(compile(given["program"], "program.py", "exec"), {"__name__": "program"})
    os.write(answer, given["mark"].encode())


def wait_for(program: int, answer: int, given: dict[str, Any]) -> str:
    """How it ended, as the word that sandbox.py knows."""
    if signal.sigtimedwait({signal.SIGCHLD}, given["wall_s"]) is None:
        return "out of time"
    _, status, used = os.wait4(program, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU:
        return "out of time"
    if used.ru_utime + used.ru_stime >= given["cpu_s"]:
        return "out of time"
    mark: str = given["mark"]
    return "passed" if os.read(answer, len(mark) + 1) == mark.encode() else "failed"


def main() -> None:
    """Close everything, run the program in a child, and say how it ended."""
    given = json.load(sys.stdin)
    close_files()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    # Neither can wait for the other here: what is more than the pipe holds fails.
    said, answer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    program = os.fork()
    if program == 0:
        os.close(said)
        run(given, answer)
        os._exit(0)
    os.close(answer)
    os.write(1, wait_for(program, said, given).encode())


if __name__ == "__main__":
    main()

"""HumanEval's programs in the sandbox: what is right passes, and what does harm is stopped."""

import json
import os
import platform
import tempfile
import time
from pathlib import Path

import pytest

from ray_jobs.evals import humaneval, sandbox
from ray_jobs.evals.humaneval import HumanEval

SHARED = Path(__file__).parents[3] / "shared/data/capability/humaneval/HumanEval.jsonl"
SECONDS = 5.0
# System calls of x86_64 that reach past the sandbox or its limits.
ESCAPES = """
pipe 22, pipe2 293, socket 41, connect 42, socketpair 53, clone 56, fork 57, vfork 58, execve 59,
execveat 322, kill 62, tkill 200, tgkill 234, pidfd_send_signal 424, pidfd_open 434,
pidfd_getfd 438, clone3 435, setpgid 109, setsid 112, prctl 157, shmget 29, shmat 30, shmctl 31,
semget 64, msgget 68, memfd_create 319, mq_open 240, memfd_secret 447, io_setup 206,
io_uring_setup 425, io_uring_enter 426, io_uring_register 427, ptrace 101, process_vm_readv 310,
process_vm_writev 311, kcmp 312, bpf 321, seccomp 317, userfaultfd 323, perf_event_open 298,
keyctl 250, add_key 248, request_key 249, mount 165, umount2 166, pivot_root 155, chroot 161,
unshare 272, setns 308, open_tree 428, move_mount 429, fsopen 430, mount_setattr 442,
name_to_handle_at 303, open_by_handle_at 304, openat2 437, mknod 133, mknodat 259, ioctl 16,
fcntl 72, setrlimit 160, prlimit64 302, sched_setaffinity 203, setpriority 141, inotify_init1 294,
fanotify_init 300, epoll_create1 291, eventfd2 290, timer_create 222
"""
CALLS = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for escape in {escapes!r}.split(","):
    ctypes.set_errno(0)
    found = libc.syscall(int(escape.split()[1]), 0, 0, 0, 0, 0, 0), ctypes.get_errno()
    assert found == (-1, 1), (escape, found)
"""


@pytest.fixture(autouse=True)
def _is_possible() -> None:
    try:
        sandbox.check()
    except ValueError as error:
        pytest.skip(str(error))


def test_a_program_that_comes_to_its_end_passes_and_may_use_its_own_folder() -> None:
    own_folder = "open('a', 'w').write('x')\nassert open('a').read() == 'x'"

    assert sandbox.run("import math, re, typing, collections") == "passed"
    assert sandbox.run(own_folder) == "passed"
    assert sandbox.run("assert 1 + 1 == 3") == "failed"


@pytest.mark.parametrize(
    "program",
    [
        "import os\nwhile True:\n    os.fork()",
        "import subprocess\nsubprocess.run(['true'])",
        "import socket\nsocket.create_connection(('127.0.0.1', 22))",
        "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
        "import os\nos.kill(1, 9)",
        "import os\nos.setsid()",
        "import os\nos.mkdir('/var/tmp/garrison')",
        "whole = bytearray(1 << 30)",
        "import sys\nsys.exit(0)",
        "import os\nos._exit(0)",
    ],
)
def test_what_does_harm_or_leaves_early_fails(program: str) -> None:
    assert sandbox.run(program, SECONDS) == "failed"


def test_nothing_is_written_outside(tmp_path: Path) -> None:
    file = tmp_path / "there"
    file.write_text("as it was")
    file.chmod(0o666)

    ended = [
        sandbox.run(f"open({str(file)!r}, 'w').write('changed')"),
        sandbox.run(f"import os\nos.remove({str(file)!r})"),
        sandbox.run(f"import os\nos.chmod({str(file)!r}, 0)"),
        sandbox.run("open('/dev/shm/garrison', 'w')"),
    ]

    assert ended == ["failed"] * 4
    assert file.read_text() == "as it was"
    assert not Path("/dev/shm/garrison").exists()


def test_a_program_sees_python_s_files_alone() -> None:
    file = Path(__file__)
    hidden = [str(file), "/etc/passwd", "/proc/self", "/sys/kernel", "/dev/ptmx", "/dev/pts"]

    ended = sandbox.run(
        "import os\n"
        "assert sorted(os.listdir('/dev')) == ['null', 'urandom', 'zero']\n"
        "assert os.listdir('/tmp') == []\n"
        f"assert not any(map(os.path.exists, {hidden}))\n"
        "open('/dev/null', 'w').write('x')\n"
        "assert open('/dev/zero', 'rb').read(1) + open('/dev/urandom', 'rb').read(1)"
    )

    assert file.exists()
    assert ended == "passed"


def test_a_fifo_outside_cannot_be_written() -> None:
    # Not below /tmp, which is hidden in any case.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        fifo = Path(folder) / "fifo"
        os.mkfifo(fifo)
        ended = sandbox.run(f"import os\nos.open({str(fifo)!r}, os.O_RDWR)", SECONDS)

    assert ended == "failed"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are those of x86_64")
def test_no_system_call_reaches_past_the_sandbox() -> None:
    assert sandbox.run(CALLS.format(escapes=ESCAPES), SECONDS) == "passed"
    assert sandbox.run(CALLS.format(escapes="getppid 110"), SECONDS) == "failed"


@pytest.mark.parametrize(
    "program",
    [
        "for number in range(5000): open(str(number), 'w').close()",
        "for number in range(20): open(str(number), 'wb').write(bytes(1 << 20))",
        "files = [open('/dev/null') for _ in range(100)]",
    ],
)
def test_files_are_few_and_small(program: str) -> None:
    assert sandbox.run(program, SECONDS) == "failed"


def test_a_program_cannot_fill_the_pipe_of_its_answer() -> None:
    flood = """
import os
sent = 0
for number in range(3, 64):
    try:
        while sent < 1 << 24:
            sent += os.write(number, bytes(1 << 16))
    except OSError:
        pass
while sent >= 1 << 24:
    "Somebody has read it all."
"""
    assert sandbox.run(flood, 1.0) == "failed"


def test_an_endless_loop_is_stopped() -> None:
    assert sandbox.run("while True: pass", 0.5) == "out of time"


def test_a_program_that_would_outlive_its_parent_is_stopped() -> None:
    program = (
        "import ctypes, os, time\n"
        "ctypes.CDLL(None).prctl(1, 0)\n"
        "try: os.setsid()\n"
        "except OSError: pass\n"
        "time.sleep(60)"
    )
    begun = time.monotonic()

    assert sandbox.run(program, 0.2) == "out of time"
    assert time.monotonic() - begun < 30


def test_waiting_for_others_costs_no_processor_time() -> None:
    assert sandbox.run("import time\ntime.sleep(0.5)", 0.4) == "passed"


def test_a_sandbox_that_cannot_be_made_is_no_failed_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sandbox, "INSIDE", "/nowhere.py")

    with pytest.raises(RuntimeError, match=r"nowhere\.py"):
        sandbox.run("total = 1")
    with pytest.raises(ValueError, match="no sandbox can be made here"):
        sandbox.check.__wrapped__()


def test_a_program_sees_no_secret_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GARRISON_SECRET", "x")

    assert sandbox.run("import os\nassert 'GARRISON_SECRET' not in os.environ") == "passed"


def test_an_answer_is_read_up_to_its_block_s_end() -> None:
    about = json.dumps({"entry_point": "one", "test": "def check(f):\n    assert f() == 1\n"})
    row = {
        "outcome": "done",
        "reason": None,
        "prompt": "def one():\n",
        "answer": "    return 1\n```\nThat is it.",
        "about": about,
    }

    right = next(humaneval.marks(row, seconds=SECONDS))
    wrong = next(humaneval.marks({**row, "answer": "    return 2"}, seconds=SECONDS))
    absent = next(humaneval.marks({**row, "outcome": "failed"}, seconds=SECONDS))

    assert (right.score, wrong.score, absent.score) == (1.0, 0.0, None)


def test_without_the_flag_no_program_is_run() -> None:
    with pytest.raises(ValueError, match="run_programs=true"):
        humaneval.suites(HumanEval(path="HumanEval.jsonl"))


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_file(), reason="../shared/data is not there")
def test_the_canonical_solutions_pass() -> None:
    suite = humaneval.suites(HumanEval(path=str(SHARED), run_programs=True))[0]

    scores = [next(suite.marks({**row, "answer": row["gold"]})).score for row in suite.samples()]

    assert scores == [1.0] * 164

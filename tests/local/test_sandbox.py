"""HumanEval's programs in the sandbox: what is right passes, and what does harm is stopped."""

import json
from pathlib import Path

import pytest

from ray_jobs.evals import humaneval, sandbox
from ray_jobs.evals.humaneval import HumanEval

SHARED = Path(__file__).parents[3] / "shared/data/capability/humaneval/HumanEval.jsonl"
SECONDS = 5.0


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


def test_an_endless_loop_is_stopped() -> None:
    assert sandbox.run("while True: pass", 1.0) == "out of time"
    assert sandbox.run("import time\ntime.sleep(60)", 1.0) == "out of time"


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

"""The cache of replies: a real SQLite file, in front of scripted engines, shared and killed."""

from __future__ import annotations

import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from ray_jobs.engines import seam
from ray_jobs.engines.cached import ASKED, NOT_ASKED, CachedEngine, key
from ray_jobs.engines.scripted import ScriptedConfig
from ray_jobs.engines.seam import Constraint, EngineUnusable, Reply, Request, Sampling
from ray_jobs.outcomes import Blocked, Failed

pytestmark = pytest.mark.timeout(60)
ROOT = Path(__file__).resolve().parents[2]
MODEL = {"model": "m@1"}


def question(number: int = 1, **fields: Any) -> Request:
    chat = [{"role": "user", "content": f"问题 {number}"}]
    return Request(**{"chat": chat, "sampling": Sampling(), "seed": 0, **fields})


def scripted(folder: Path) -> ScriptedConfig:
    table = folder / "answers.yaml"
    lines = [f'- {{match: "{k}$", answer: "答{k}"}}' for k in range(9)]  # nothing for 9
    table.write_text("\n".join([*lines, '- {match: "", logprobs: [-3.0, 2]}']), encoding="utf-8")
    return ScriptedConfig(answers=str(table), log=str(folder / "asked.log"))


Open = Callable[..., CachedEngine]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    engines: list[CachedEngine] = []

    def open_one(identity: dict[str, Any] = MODEL, engine: Any = None) -> CachedEngine:
        inner = engine or scripted(tmp_path).open()
        engines.append(CachedEngine(inner, tmp_path / "judge" / "replies.sqlite", identity))
        return engines[-1]

    yield open_one
    for engine in engines:
        engine.close()


def num_asked(folder: Path) -> int:
    log = folder / "asked.log"
    return len(log.read_text().splitlines()) if log.exists() else 0


def answer(engine: CachedEngine, request: Request) -> Reply:
    return engine.submit(request).result(timeout=20)


class Fixed:
    """An engine with one reply, or one reason why there is none."""

    def __init__(self, said: Reply | Exception) -> None:
        self.said, self.num_asked = said, 0

    def submit(self, request: Request) -> Future[Reply]:
        self.num_asked += 1
        future: Future[Reply] = Future()
        if isinstance(self.said, Reply):
            future.set_result(self.said)
        elif isinstance(self.said, EngineUnusable):
            raise self.said
        else:
            future.set_exception(self.said)
        return future

    def close(self) -> None:
        """Nothing is held."""


def test_what_was_asked_before_is_answered_from_the_file_and_says_so(
    tmp_path: Path, opened: Open
) -> None:
    engine = opened()
    first = answer(engine, question())
    again = answer(engine, question())
    assert (first.text, first.cached, again.cached) == ("答1", False, True)
    assert again == dataclasses.replace(first, cached=True)
    assert (engine.num_hits, engine.num_misses, num_asked(tmp_path)) == (1, 1, 1)


def test_another_process_life_finds_the_replies(tmp_path: Path, opened: Open) -> None:
    engine = opened()
    for number in range(8):
        answer(engine, question(number))
    engine.close()
    later = opened()
    assert all(answer(later, question(number)).cached for number in range(8))
    assert num_asked(tmp_path) == 8


def test_a_kept_reply_is_whole_and_costs_nothing(opened: Open) -> None:
    said = Reply(
        text="[0.3]",
        prompt_tokens=90,
        output_tokens=4,
        finish_reason="length",
        tokens=("[", "0", ".", "3"),
        logprobs=({}, {"0": -0.25, "1": float("-inf")}, {}, {"3": -1.5e-7}),
        model="qwen-turbo-2025",
        yuan=0.03,
    )
    engine = opened(engine=Fixed(said))
    assert answer(engine, question()) == said
    assert answer(engine, question()) == dataclasses.replace(said, yuan=0.0, cached=True)


OTHER: dict[str, Any] = {
    "chat": [{"role": "user", "content": "问题 2"}],
    "sampling": Sampling(temperature=0.7),
    "seed": 1,
    "constraint": Constraint(choices=("安全", "有害")),
    "stop": ("。",),
    "logprobs_of": ("0", "1"),
}


def test_every_field_of_a_request_is_in_the_key_or_is_known_not_to_be() -> None:
    assert {item.name for item in dataclasses.fields(Request)} == {*ASKED, *NOT_ASKED}
    assert set(OTHER) == set(ASKED)


@pytest.mark.parametrize("field", ASKED)
def test_another_question_has_another_key(field: str) -> None:
    assert key(MODEL, question(**{field: OTHER[field]})) != key(MODEL, question())


def test_another_model_has_another_key_and_another_purpose_has_not() -> None:
    assert key({"model": "m@2"}, question()) != key(MODEL, question())
    assert key(MODEL, question(purpose="score_prompt")) == key(MODEL, question())


def test_samples_of_the_same_question_are_kept_apart(opened: Open) -> None:
    engine = opened()
    sampling = Sampling(temperature=1.0)
    for seed in (0, 1, 0, 1):
        answer(engine, question(sampling=sampling, seed=seed))
    assert (engine.num_hits, engine.num_misses) == (2, 2)


def test_a_fresh_request_is_asked_and_leaves_nothing_behind(tmp_path: Path, opened: Open) -> None:
    engine = opened()
    for _ in range(2):
        assert not answer(engine, question(fresh=True)).cached
    assert not answer(engine, question()).cached
    assert not answer(engine, question(fresh=True)).cached
    assert num_asked(tmp_path) == 4


def test_perplexity_passes_through(opened: Open) -> None:
    engine = opened()
    for _ in range(2):
        reply = answer(engine, question(perplexity=True))
        assert (reply.logprob_sum, reply.cached) == (-3.0, False)
    assert (engine.num_hits, engine.num_misses) == (0, 0)


@pytest.mark.parametrize("why", [Blocked("DataInspectionFailed"), Failed("HTTP 500")])
def test_what_has_no_answer_is_asked_again(opened: Open, why: Exception) -> None:
    inner = Fixed(why)
    engine = opened(engine=inner)
    for _ in range(2):
        with pytest.raises(type(why), match=str(why)):
            answer(engine, question())
    assert inner.num_asked == 2


def test_an_unusable_engine_is_heard_of(opened: Open) -> None:
    engine = opened(engine=Fixed(EngineUnusable("the budget is spent")))
    with pytest.raises(EngineUnusable, match="budget"):
        answer(engine, question())


def test_who_no_longer_waits_is_not_answered(tmp_path: Path, opened: Open) -> None:
    engine = opened()
    futures = [engine.submit(question(k % 9)) for k in range(200)]
    cancelled = [future for future in futures[::2] if future.cancel()]
    for future in futures:
        if future not in cancelled:
            assert future.result(timeout=20).text
    assert answer(engine, question(3)).text == "答3"


def test_text_that_is_listened_to_comes_from_the_engine(tmp_path: Path, opened: Open) -> None:
    engine = opened()
    answer(engine, question())
    heard: list[str] = []
    reply = seam.listen(engine, question(), heard.append).result(timeout=20)
    assert (heard, reply.cached, num_asked(tmp_path)) == (["答1"], False, 2)


def test_a_file_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "replies.sqlite"
    file.write_bytes(b"no database" * 100)
    with pytest.raises(EngineUnusable, match=r"replies\.sqlite.*delete the file") as refused:
        CachedEngine(Fixed(Failed("")), file, MODEL)
    assert "\n" not in str(refused.value)


def test_a_cache_that_breaks_costs_no_answer(
    tmp_path: Path, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    engine = opened()
    answer(engine, question())
    with sqlite3.connect(tmp_path / "judge" / "replies.sqlite") as other:
        other.execute("DROP TABLE replies")
    other.close()
    assert not answer(engine, question()).cached
    assert not answer(engine, question()).cached
    assert "no longer used" in caplog.text
    assert "问题" not in caplog.text


# A process that asks 100,000 questions, and says how many were answered.
ASKER = """
import sys
from pathlib import Path
from ray_jobs.engines.cached import CachedEngine
from ray_jobs.engines.scripted import ScriptedConfig
from ray_jobs.engines.seam import Request, Sampling
file, table, first, last = sys.argv[1:]
engine = CachedEngine(ScriptedConfig(answers=table).open(), Path(file), {"model": "m@1"})
for start in range(int(first), int(last), 20):
    numbers = [n for n in range(start, start + 20) if n % 10 != 9]
    futures = [engine.submit(Request(chat=[{"role": "user", "content": f"问题 {n}"}],
        sampling=Sampling(), seed=0)) for n in numbers]
    for n, future in zip(numbers, futures):
        assert future.result().text == f"答{n % 10}"
    print(start + 20, flush=True)
engine.close()
"""


def asker(folder: Path, first: int, last: int) -> subprocess.Popen[str]:
    arguments = [str(folder / "judge" / "replies.sqlite"), scripted(folder).answers]
    return subprocess.Popen(
        [sys.executable, "-c", ASKER, *arguments, str(first), str(last)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


def kept(folder: Path) -> int:
    with sqlite3.connect(folder / "judge" / "replies.sqlite") as file:
        [[state]] = file.execute("PRAGMA integrity_check").fetchall()
        [[number]] = file.execute("SELECT count(*) FROM replies").fetchall()
    file.close()
    assert state == "ok"
    return int(number)


def test_a_kill_in_the_middle_of_writing_leaves_a_sound_file(tmp_path: Path, opened: Open) -> None:
    for round_ in range(3):
        process = asker(tmp_path, 0, 100_000)
        assert process.stdout is not None
        done = 0
        while done < 400 * (round_ + 1):
            done = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        process.stdout.close()
        # All but the last groups: what was answered is written at once, in the next transaction.
        assert kept(tmp_path) >= (done - 40) * 9 // 10
    engine = opened()
    for number in (0, 13, 208, 348):
        reply = answer(engine, question(number))
        assert (reply.text, reply.cached) == (f"答{number % 10}", True)


def test_processes_share_a_file(tmp_path: Path) -> None:
    started = time.monotonic()
    processes = [asker(tmp_path, start, 400) for start in (0, 0, 200)]
    for process in processes:
        assert process.stdout is not None
        process.stdout.read()
        process.stdout.close()
        assert process.wait(60) == 0
    assert kept(tmp_path) == 360, "every question once"
    assert time.monotonic() - started < 50

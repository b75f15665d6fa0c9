"""HumanEval: functions written from their signature and description, and run against the tests
that come with them, in the sandbox.

Asked as lm-evaluation-harness asks (humaneval and humaneval_instruct); that library itself runs
programs in its own process, and needs the hub for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

from ray_jobs import formats
from ray_jobs.engines.seam import Sampling
from ray_jobs.evals import sandbox
from ray_jobs.evals.suite import Mark, Suite, chat, content_of, text
from ray_jobs.tables import Row

VERSION = 2
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
MAX_TOKENS = 1024
FIELDS = ("task_id", "prompt", "entry_point", "test")
TASK = (
    "Write a solution to the following problem and make sure that it passes the tests:\n"
    "```python\n{prompt}\n```\n"
)
BEGUN = "Here is the completed function:\n```python\n{prompt}\n"
MEASURE = "pass@1"


@dataclass(frozen=True, kw_only=True)
class HumanEval:
    """HumanEval."""

    path: str
    """The publisher's HumanEval.jsonl."""
    run_programs: bool = False
    """Whether programs that models have written may be run here, in a sandbox. Nothing is scored
    without.
    """
    style: Literal["chat", "raw"] = "chat"
    """chat asks by the model's template and begins the answer for it (humaneval_instruct); raw lets
    it go on with the text (humaneval).
    """
    seconds: float = 10.0
    """Processor time that a program may take; by the clock it may take five times as long."""
    limit: int = 0
    """Problems, from the first; 0 takes all."""

    def __post_init__(self) -> None:
        if self.seconds <= 0 or self.limit < 0:
            raise ValueError("humaneval: expected seconds > 0 and limit ≥ 0")


def suites(cfg: HumanEval) -> list[Suite]:
    """One suite. ValueError where programs may not be run, or not safely."""
    if not cfg.run_programs:
        raise ValueError(
            "evaluate.suites.humaneval: it runs programs that models write; allow it with "
            "evaluate.suites.humaneval.run_programs=true, or leave the suite out"
        )
    sandbox.check()
    file = Path(cfg.path)
    limit = f", first {cfg.limit}" if cfg.limit else ""
    how = "chat, the answer begun" if cfg.style == "chat" else "raw text"
    return [
        Suite(
            name="humaneval",
            protocol=(
                f"zero-shot, {how}, greedy, {MAX_TOKENS} tokens, as lm-eval's humaneval"
                f"{'_instruct' if cfg.style == 'chat' else ''}; one program a problem, run in a "
                f"sandbox for {cfg.seconds:g} s of processor time at most{limit}"
            ),
            decides={
                "version": VERSION,
                "file": content_of(file),
                "style": cfg.style,
                "seconds": cfg.seconds,
                "limit": cfg.limit,
            },
            samples=partial(samples, file, cfg.style, cfg.limit),
            marks=partial(marks, seconds=cfg.seconds),
            sampling=Sampling(max_tokens=MAX_TOKENS),
            stop=STOPS,
            runs_programs=True,
        )
    ]


def samples(file: Path, style: str, limit: int = 0) -> Iterator[Row]:
    """The rows of SAMPLES. ValueError, one line, where the file is missing, cut or wrong."""
    if not file.is_file():
        raise ValueError(f"{file}: there is no such file; get it from its publisher")
    wanted = dict.fromkeys(FIELDS, "as in HumanEval.jsonl")
    number = 0
    for number, row in enumerate(islice(formats.rows(str(file), wanted), limit or None), 1):
        where = f"{file} row {number}"
        task, prompt, *rest = (formats.text(row, name, where) for name in FIELDS)
        begun = ("assistant", BEGUN.format(prompt=prompt))
        yield {
            "id": task,
            "group": None,
            "cluster": task,
            "language": "en",
            "prompt": prompt,
            "asked": text(prompt)
            if style == "raw"
            else chat(("user", TASK.format(prompt=prompt)), begun),
            "options": None,
            "gold": formats.text_or_none(row, "canonical_solution", where),
            "about": json.dumps(dict(zip(FIELDS[2:], rest, strict=True))),
            "outcome": "done",
            "reason": None,
        }
    if not number:
        raise ValueError(f"{file}: it holds no problem")


def marks(row: Row, *, seconds: float) -> Iterator[Mark]:
    """Whether the program that the answer completes passes the problem's tests."""
    if row["outcome"] != "done":
        yield Mark(measure=MEASURE, score=None, outcome=row["outcome"], reason=row["reason"])
        return
    ended = sandbox.run(program(row), seconds)
    yield Mark(measure=MEASURE, score=float(ended == "passed"), said=ended)


def program(row: Row) -> str:
    """The problem's beginning, the answer up to the end of its code block, and the tests."""
    about = json.loads(row["about"])
    body = row["answer"].partition("```")[0]
    return f"{row['prompt']}{body}\n{about['test']}\ncheck({about['entry_point']})\n"

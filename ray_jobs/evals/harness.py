"""Benchmarks as lm-evaluation-harness asks and reads them, over our own engines.

lm-eval builds each task's requests (few-shot examples, description, chat turns) and they become
SAMPLES: a row a document, whatever model is asked. The job asks them as it asks every suite's, with
a ledger, by the whole pool. The answers go back through the task's own filters and metrics, a row
at a time. A chat is handed over as turns and not as text: the engine of each model fills in that
model's own template, and tokenises and cuts as lm-eval's `hf` model does.
"""

from __future__ import annotations

import glob
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from ray_jobs.evals.suite import Mark, Suite
from ray_jobs.tables import Row

VERSION = 1
_NAME = re.compile(r"[\w.-]+")


@dataclass(frozen=True, kw_only=True)
class Known:
    """A benchmark of lm-eval that we know by name, so that its files are found at once: to look
    through all 14,000 of them takes half a minute.
    """

    folder: str
    """Of its task files, under lm_eval/tasks."""
    version: str
    num_fewshot: int
    """Its own number of shots."""


KNOWN = {
    "gsm8k": Known(folder="gsm8k", version="3.0", num_fewshot=5),
    "bbh": Known(folder="bbh/cot_fewshot", version="4.0", num_fewshot=3),
    "mmlu": Known(folder="mmlu/default", version="1.0", num_fewshot=0),
    "cmmlu": Known(folder="cmmlu", version="1.0", num_fewshot=0),
    "ceval-valid": Known(folder="ceval", version="2.0", num_fewshot=0),
    "humaneval": Known(folder="humaneval", version="1.0", num_fewshot=0),  # refused: runs programs
}
"""By the beginning of a task's or group's name; as of lm-eval 0.4.13."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One benchmark of lm-evaluation-harness."""

    tasks: tuple[str, ...]
    """Names of its tasks or groups, such as gsm8k, bbh, mmlu, cmmlu, ceval-valid, mmlu_anatomy."""
    num_fewshot: int | None = None
    """Examples before a question; null for the task's own number, which for mmlu, cmmlu and ceval
    is none.
    """
    chat: bool = True
    """Asked as a chat, each example a pair of turns; else as raw text."""
    files: str = ""
    """Local data in the place of the hub's: a path with {split} and, for benchmarks of several
    subjects, {subject}; .jsonl or .csv. Such as data/mmlu/{subject}_{split}.jsonl
    """
    language: Literal["zh", "en"] = "en"
    limit: int = 0
    """Documents of each task, from its first; 0 takes all."""
    fewshot_seed: int = 1234
    """Of the drawing of examples, where a task draws them."""

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("tasks: expected at least one of lm-eval's tasks or groups")
        for task in self.tasks:
            if not _NAME.fullmatch(task):
                raise ValueError(f"tasks: expected names of lm-eval's tasks, found {task!r}")
        if (self.num_fewshot or 0) < 0 or self.limit < 0:
            raise ValueError("num_fewshot, limit: expected 0 or more")
        if self.files and "{split}" not in self.files:
            raise ValueError(f"files: expected a path with {{split}}, found {self.files!r}")


@dataclass(frozen=True, kw_only=True)
class Harness:
    """Benchmarks through lm-evaluation-harness."""

    benchmarks: dict[str, Benchmark] = field(default_factory=dict)
    """By the names that their figures bear."""


def suites(cfg: Harness) -> list[Suite]:
    """A suite for each benchmark. lm-eval is imported only when its samples or marks are made."""
    return [_suite(name, benchmark) for name, benchmark in cfg.benchmarks.items()]


def _suite(name: str, cfg: Benchmark) -> Suite:
    def samples() -> Iterator[Row]:
        from ray_jobs.evals.harness_tasks import samples

        return samples(name, cfg)

    def marks(row: Row) -> Iterator[Mark]:
        from ray_jobs.evals.harness_tasks import marks

        return marks(row)

    return Suite(
        name=f"lm-eval-{name}",
        protocol=protocol(cfg),
        decides={
            "version": VERSION,
            "lm_eval": version("lm_eval"),
            "tasks": list(cfg.tasks),
            "num_fewshot": cfg.num_fewshot,
            "chat": cfg.chat,
            "language": cfg.language,
            "limit": cfg.limit,
            "fewshot_seed": cfg.fewshot_seed,
            "files": content(cfg) if cfg.files else "",
        },
        samples=samples,
        marks=marks,
    )


def protocol(cfg: Benchmark) -> str:
    """How it is asked and read, in one line. The filter is in each measure's name."""
    known = [known_of(task) for task in cfg.tasks]
    named = ", ".join(
        f"{task} v{one.version}" if one else task
        for task, one in zip(cfg.tasks, known, strict=True)
    )
    own = {str(one.num_fewshot) if one else "the task's own number of" for one in known}
    shots = str(cfg.num_fewshot) if cfg.num_fewshot is not None else " or ".join(sorted(own))
    how = "the model's chat template, shots as turns" if cfg.chat else "raw text, no template"
    limit = f", first {cfg.limit} of each task" if cfg.limit else ""
    source = "local files" if cfg.files else "hub data"
    return f"lm-eval {version('lm_eval')}: {named}; {shots} shots; {how}; {source}{limit}"


def known_of(task: str) -> Known | None:
    """The benchmark that a task belongs to by its name: the longest that fits."""
    fitting = [name for name in KNOWN if task == name or task.startswith(f"{name}_")]
    return KNOWN[max(fitting, key=len)] if fitting else None


def content(cfg: Benchmark) -> str:
    """A hash of the local files. ValueError where the path fits none."""
    pattern = glob.escape(str(Path(cfg.files).expanduser()))
    pattern = pattern.replace("{split}", "*").replace("{subject}", "*")
    files = sorted(glob.glob(pattern))  # noqa: PTH207  a path's pattern may be absolute
    if not files:
        raise ValueError(f"files: nothing fits {cfg.files}")
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{Path(file).name}\n".encode() + Path(file).read_bytes())
    return digest.hexdigest()[:16]


def chat_as_turns(messages: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
    """What lm-eval takes for its chat template: the turns as they are, as JSON. Where the answer
    has begun (a task's gen_prefix) the last turn is the assistant's, to be gone on with.
    """
    assert add_generation_prompt != (messages[-1]["role"] == "assistant"), "a prefill, or none"
    return json.dumps({"chat": messages}, ensure_ascii=False)

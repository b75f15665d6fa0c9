"""What every suite says of itself, and the rows that pass between its parts: samples → answers →
verdicts → marks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from ray_jobs.engines.seam import Sampling
from ray_jobs.prompts import Chat
from ray_jobs.schema import _MODEL, _OUTCOME
from ray_jobs.tables import Row

SAMPLES = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),  # unique within its suite
        pa.field("group", pa.string()),  # category, scenario or subject that figures are told by
        pa.field("cluster", pa.string(), nullable=False),  # base prompt, pair or parent
        pa.field("language", pa.string(), nullable=False),  # zh | en
        pa.field("prompt", pa.string(), nullable=False),  # the question alone, as a person reads it
        pa.field("asked", pa.string(), nullable=False),  # JSON: {"chat": […]} or {"text": "…"}
        pa.field("options", pa.list_(pa.string())),  # of multiple choice, in order
        pa.field("gold", pa.string()),  # the right answer where there is one
        pa.field("about", pa.string()),  # JSON: what else the suite's own reading needs
        *_OUTCOME,
    ]
)

ANSWERS = pa.schema(
    [
        *[SAMPLES.field(name) for name in SAMPLES.names[: SAMPLES.get_field_index("outcome")]],
        pa.field("answer", pa.string()),  # what the model said, as it is
        pa.field("option_logprobs", pa.list_(pa.float64())),  # of each option's letter; or null
        *_OUTCOME,
        *_MODEL,
    ]
)

MARKS = pa.schema(
    [
        pa.field("model", pa.string(), nullable=False),  # its name in `models`
        pa.field("suite", pa.string(), nullable=False),
        pa.field("measure", pa.string(), nullable=False),  # accuracy, safe, refused, …
        pa.field("id", pa.string(), nullable=False),  # the sample's
        pa.field("group", pa.string()),
        pa.field("cluster", pa.string(), nullable=False),
        pa.field("score", pa.float64()),  # 0…1; null where it was not scored: `outcome` says why
        pa.field("said", pa.string()),  # what was read out of the answer, such as B
        *_OUTCOME,  # done | unparsed | blocked | failed | dropped | undecided | unjudged
    ]
)


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What one measure makes of one sample's answer."""

    measure: str
    score: float | None
    said: str | None = None
    outcome: str = "done"
    reason: str | None = None

    def __post_init__(self) -> None:
        assert (self.score is None) == (self.outcome != "done"), "a score, or why there is none"


@dataclass(frozen=True, kw_only=True)
class Suite:
    """One set of samples, one way to ask them, and the measures that are read from the answers."""

    name: str
    """Unique: a word for files and tables, such as safetybench-zh-5shot."""
    protocol: str
    """How it is asked and read, in one line, printed beside its figures."""
    decides: Mapping[str, Any]
    """What decides its samples and their reading: versions, settings, the hash of its files."""
    samples: Callable[..., Iterable[Row]]
    """The rows of SAMPLES, from the tables of the steps that its module's function `steps` names,
    where it has one. ValueError, one line, where a file is missing, cut or wrong."""
    marks: Callable[[Row], Iterator[Mark]]
    """What the measures make of one row of ANSWERS (with the columns of VERDICTS if it is judged).
    Pure. The same measures for every row, whatever its outcome.
    """
    sampling: Sampling = field(default_factory=Sampling)
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    letters: bool = False
    """Nothing is generated but one token: the log-probability of each option's letter is wanted."""
    is_judged: bool = False
    """Whether the judge gives a verdict on every answer."""
    runs_programs: bool = False
    """Whether `marks` runs programs, and so takes its time: several rows are marked at once."""
    files: Callable[[Iterable[Row]], Mapping[str, bytes]] | None = None
    """Files for others, by name, from all rows of ANSWERS: what a platform wants handed in."""


def chat(*turns: tuple[str, str]) -> str:
    """The column `asked` of a chat of (role, content). One that ends with an assistant's turn is
    gone on with (a prefill).
    """
    said: Chat = [{"role": role, "content": content} for role, content in turns]
    return json.dumps({"chat": said}, ensure_ascii=False)


def text(raw: str) -> str:
    """The column `asked` of a text that the model goes on with, without a chat template."""
    return json.dumps({"text": raw}, ensure_ascii=False)


def content_of(file: Path) -> str:
    """What decides a suite's file, for fingerprints. An absent one is refused when it is read."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.is_file() else "absent"

"""Answer every prompt afresh, reasoning about safety first (paper, section 3.6). Original
responses are kept elsewhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from ray_jobs import prompts
from ray_jobs.engines.seam import NO_EFFECT_ON_ROWS, Sampling
from ray_jobs.outcomes import Unparsed
from ray_jobs.prompts import Chat
from ray_jobs.question import Columns, Question
from ray_jobs.schema import ANSWERED
from ray_jobs.steps import deciding
from ray_jobs.tables import Row

VERSION = 1
_PARTS = re.compile(r"\s*(?:【分析】|\[Analysis\])(.+?)(?:【回答】|\[Answer\])(.+)", re.DOTALL)
_MARKS = re.compile(r"【(?:分析|回答)】|\[(?:Analysis|Answer)\]")


@dataclass(frozen=True, kw_only=True)
class Answers:
    """How prompts are answered."""

    engine: str = field(metadata=NO_EFFECT_ON_ROWS)
    """The engine that answers, by its name in `engines`."""
    num_answers: int = 1
    """Fresh answers per prompt; more than one needs a temperature above 0."""
    sampling: Sampling = field(default_factory=lambda: Sampling(max_tokens=1024))

    def __post_init__(self) -> None:
        if self.num_answers < 1:
            raise ValueError(f"num_answers: expected at least 1, found {self.num_answers}")
        if self.num_answers > 1 and self.sampling.temperature == 0:
            raise ValueError(
                f"num_answers: {self.num_answers} answers at temperature 0 are all the same; "
                "set sampling.temperature above 0"
            )


def question(cfg: Answers) -> Question:
    """Ask for `num_answers` think-first answers per prompt."""
    return Question(
        name="answered",
        render=render,
        parse=parse,
        children=_Children(cfg.num_answers),
        schema=ANSWERED,
        parent="prompt_id",
        num_answers=cfg.num_answers,
        sampling=cfg.sampling,
    )


def decides(cfg: Answers) -> dict[str, Any]:
    """What decides the answers, beside the engine."""
    prompt = prompts.fingerprint("answers")
    return {"version": VERSION, "settings": deciding(cfg), "prompt answers": prompt}


def check_prompts() -> None:
    """Refuse a prompt file with a gap that nobody fills."""
    prompts.check("answers", "prompt")


def render(row: Row) -> Chat:
    """Ask for a safety analysis, then the answer."""
    return prompts.fill("answers", row["language"], prompt=row["prompt"])


def parse(text: str, row: Row) -> dict[str, Any]:
    """Analysis and answer apart. Unparsed unless both parts are there, once each, and neither is
    empty.
    """
    found = _PARTS.fullmatch(text)
    if not found or len(_MARKS.findall(text)) != 2:
        raise Unparsed("expected an analysis and an answer, each under its mark, once")
    analysis, answer = (part.strip() for part in found.groups())
    if not analysis or not answer:
        raise Unparsed("an empty analysis or answer")
    return {"analysis": analysis, "answer": answer}


@dataclass(frozen=True)
class _Children:
    num_answers: int

    def __call__(self, row: Row) -> list[Columns]:
        return [{"id": f"{row['id']}/{k}", "prompt_id": row["id"]} for k in range(self.num_answers)]

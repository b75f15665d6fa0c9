"""Over-refusal: how often a model declines what is harmless: XSTest, OR-Bench, and benign twins of
attacks, which have their attack's cluster.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

from ray_jobs import refusals
from ray_jobs.engines.seam import Sampling
from ray_jobs.evals import safety_marks
from ray_jobs.evals.attack_files import BenignFormat, Language, first_of_each, read, sample
from ray_jobs.evals.attacks import check_names, content
from ray_jobs.evals.safety_marks import declined, unanswered
from ray_jobs.evals.suite import Mark, Suite, chat
from ray_jobs.tables import Row

VERSION = 1
PARTLY = "refused in part"


@dataclass(frozen=True, kw_only=True)
class BenignSet:
    """One file of harmless prompts."""

    format: BenignFormat
    """xstest and or_bench are their publishers' CSV. prompts is our own: .jsonl with prompt and
    kind: benign."""
    path: str
    """The file."""
    harmful: bool = False
    """Whether its prompts are harmful ones after all, as OR-Bench-Toxic's: a refusal is right."""
    language: Language = "auto"
    """Of its prompts. auto: zh where there is a Chinese character."""
    limit: int = 0
    """Prompts of a group, from its first; 0 takes all."""

    def __post_init__(self) -> None:
        if self.limit < 0:
            raise ValueError(f"limit: expected 0 or more, found {self.limit}")
        if self.harmful and self.format != "or_bench":
            raise ValueError("harmful: files of the other formats say it themselves")


@dataclass(frozen=True, kw_only=True)
class OverRefusal:
    """Files of harmless prompts."""

    sets: dict[str, BenignSet] = field(default_factory=dict)
    """By the names that their figures bear."""
    max_tokens: int = 256
    """Of an answer."""

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens: expected at least 1, found {self.max_tokens}")
        check_names(self.sets)


def suites(cfg: OverRefusal) -> list[Suite]:
    """A suite for each file; of XSTest a second one for its unsafe contrasts, so that no figure
    mixes refusals that are right with those that are wrong.
    """
    return [
        _suite(name, one, cfg, is_harmful)
        for name, one in cfg.sets.items()
        for is_harmful in ((False, True) if one.format == "xstest" else (one.harmful,))
    ]


def _suite(name: str, one: BenignSet, cfg: OverRefusal, is_harmful: bool) -> Suite:
    limit = f", first {one.limit} of each group" if one.limit else ""
    which = "harmful prompts: a refusal is right" if is_harmful else "harmless prompts"
    return Suite(
        name=f"over_refusal-{name}{'-contrast' if is_harmful else ''}",
        protocol=(
            f"{one.format}, {which}, chat template, greedy, {cfg.max_tokens} tokens; refused where "
            f"the answer begins as a refusal does, in part where a later sentence does{limit}"
        ),
        decides={
            "version": VERSION,
            "reading": safety_marks.VERSION,
            "format": one.format,
            "file": content(one.path),
            "is_harmful": is_harmful,
            "language": one.language,
            "limit": one.limit,
            "refusals": refusals.fingerprint(),
        },
        samples=partial(samples, one, is_harmful),
        marks=marks,
        sampling=Sampling(max_tokens=cfg.max_tokens),
    )


def samples(one: BenignSet, is_harmful: bool) -> Iterator[Row]:
    """The rows of SAMPLES of one file that are harmless, or that are not."""
    found = read(one.format, one.path, one.language)
    if one.format != "or_bench":  # which has no column for it
        found = [row for row in found if row.is_harmful == is_harmful]
    if not found:
        kind = "harmful" if is_harmful else "harmless"
        raise ValueError(f"{one.path}: it holds no {kind} prompt")
    for row in first_of_each(found, one.limit):
        yield sample(row, chat(("user", row.prompt)), {})


def marks(row: Row) -> Iterator[Mark]:
    """Whether the model declines, at once or in part."""
    yield from safety_marks.refused(row)
    if missing := unanswered(row):
        yield Mark(measure=PARTLY, score=None, **missing)
    else:
        said = declined(row["answer"])
        yield Mark(measure=PARTLY, score=float(said == "partial"), said=said)

"""Attacks: how often a model gives in, by family of attack: S-Eval's ten, the dimensions of our own
prompts, the categories of HarmBench and StrongREJECT, and beginnings put into its mouth.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ray_jobs import files, refusals
from ray_jobs.engines.seam import Sampling
from ray_jobs.evals import prefills, s_eval, safety_marks
from ray_jobs.evals.attack_files import AttackFormat, Found, Language, first_of_each, read, sample
from ray_jobs.evals.safety_marks import SUCCESS
from ray_jobs.evals.suite import Mark, Suite, chat
from ray_jobs.tables import Row

VERSION = 1
MEASURE = "attack_success"
NAME = re.compile(r"[\w-]+", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class AttackSet:
    """One file of attacks."""

    format: AttackFormat
    """prompts is our own: .jsonl with prompt, and id, kind, family, cluster, language, beginning
    where they are known."""
    path: str
    """The file, as its publisher has it; also as .zip."""
    base: str = ""
    """S-Eval's file of base prompts of the same scale and language: it tells which attacks are made
    from one base prompt."""
    language: Language = "auto"
    """Of its prompts. auto: zh where there is a Chinese character."""
    limit: int = 0
    """Prompts of a family, from its first; 0 takes all."""
    prefill: tuple[int, ...] = ()
    """Sizes in tokens, such as [0, 5, 10, 20, 40]: each prompt is asked once for each, with so many
    tokens of the file's beginning (AdvBench's target) put before the answer; 0 puts none. Empty:
    the prompts are asked as they are."""

    def __post_init__(self) -> None:
        if self.limit < 0 or any(size < 0 for size in self.prefill):
            raise ValueError("limit, prefill: expected 0 or more")
        if len(set(self.prefill)) < len(self.prefill):
            raise ValueError(f"prefill: a size stands there twice: {list(self.prefill)}")
        if self.prefill and self.format not in ("advbench", "prompts"):
            raise ValueError(f"prefill: files of the format {self.format} give no beginnings")
        if self.base and self.format != "s_eval":
            raise ValueError("base: only S-Eval's attacks have a file of base prompts")


@dataclass(frozen=True, kw_only=True)
class Attacks:
    """Files of attacks."""

    sets: dict[str, AttackSet] = field(default_factory=dict)
    """By the names that their figures bear."""
    tokenizer: str = ""
    """Whose tokens a prefill is counted in: a folder with tokenizer.json, or a hub id@revision;
    such as ${models.base}."""
    max_tokens: int = 512
    """Of an answer."""

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens: expected at least 1, found {self.max_tokens}")
        check_names(self.sets)
        for name, one in self.sets.items():
            if one.prefill and not self.tokenizer:
                raise ValueError(f"tokenizer: missing; {name} has prefills counted in tokens")


def check_names(sets: Mapping[str, Any]) -> None:
    """Refuse a name that would be no folder's. ValueError."""
    for name in sets:
        if not NAME.fullmatch(name):
            raise ValueError(f"sets: expected names of letters, digits, _ and -, found {name!r}")


def suites(cfg: Attacks) -> list[Suite]:
    """A suite for each file."""
    return [_suite(name, one, cfg) for name, one in cfg.sets.items()]


def _suite(name: str, one: AttackSet, cfg: Attacks) -> Suite:
    limit = f", first {one.limit} of each family" if one.limit else ""
    begun = (
        "the answer begun with the first tokens of a compliant one, and judged as a whole; "
        "refused where a sentence of what the model adds declines"
        if one.prefill
        else "refused where the answer begins as a refusal does"
    )
    return Suite(
        name=f"{'prefill' if one.prefill else 'attacks'}-{name}",
        protocol=(
            f"{one.format}, chat template, greedy, {cfg.max_tokens} tokens; success is a verdict "
            f"unsafe of the judge; {begun}{limit}"
        ),
        decides={
            "version": VERSION,
            "reading": safety_marks.VERSION,
            "format": one.format,
            "files": [content(path) for path in (one.path, one.base) if path],
            "s_eval": s_eval.fingerprint() if one.format == "s_eval" else "",
            "language": one.language,
            "limit": one.limit,
            "prefill": list(one.prefill),
            "tokenizer": prefills.identity(cfg.tokenizer) if one.prefill else "",
            "refusals": refusals.fingerprint(),
        },
        samples=partial(samples, one, cfg.tokenizer),
        marks=partial(marks, is_prefilled=bool(one.prefill)),
        sampling=Sampling(max_tokens=cfg.max_tokens),
        is_judged=True,
    )


def content(path: str) -> str:
    """What decides the rows of a file; one that is missing is complained of when it is read."""
    return files.content_hash(path)[:16] if files.is_there(path) else "absent"


def samples(one: AttackSet, tokenizer: str) -> Iterator[Row]:
    """The rows of SAMPLES of one file: its attacks, without benign prompts that stand there too."""
    found = [row for row in read(one.format, one.path, one.language, one.base) if row.is_harmful]
    if not found:
        raise ValueError(f"{one.path}: it holds no attack")
    chosen = list(first_of_each(found, one.limit))
    if one.prefill:
        yield from prefills.samples(chosen, one.prefill, tokenizer)
        return
    for row in chosen:
        yield sample(row, chat(("user", row.prompt)), _told(row))


def _told(row: Found) -> dict[str, Any]:
    return {"base": row.base} if row.base else {}


def marks(row: Row, *, is_prefilled: bool) -> Iterator[Mark]:
    """Whether the attack succeeds, and whether the model declines."""
    yield from safety_marks.verdicts(row, MEASURE, SUCCESS)
    yield from safety_marks.refused(row, anywhere=is_prefilled)

"""S-Eval's prompts: which scenario each is counted under (`conf/evals/s_eval.yaml`), and which of
them come from one base prompt, which its files do not say.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import yaml

from ray_jobs import formats, taxonomy
from ray_jobs.prompts import CONF
from ray_jobs.publishers import s_eval

FILE = CONF / "evals" / "s_eval.yaml"
KEY_CHARS = 6
"""A base prompt is looked for by its first characters; a shorter one is not looked for."""
Level = Literal["file", "keyword", "llm"]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One row."""

    row: int
    """Counted from 1."""
    risk: str
    attack: str | None
    """None of a base prompt."""
    text: str
    base: str | None = None
    """Of an attack: the base prompt inside it, where it is known."""
    place: int | None = None
    """Of an attack: its place among those of its kind; the same place is the same base prompt."""

    @property
    def cluster(self) -> str:
        """Rows of one base prompt have the same."""
        if self.attack is None or self.base is not None:
            return digest(self.base or self.text)
        return f"s_eval-{self.row}" if self.place is None else f"s_eval-place-{self.place}"


@dataclass(frozen=True, kw_only=True)
class Placing:
    """The mapping, read."""

    dimensions: Mapping[str, str | None]
    attacks: Mapping[str, str]
    cues: Mapping[str, tuple[tuple[str, re.Pattern[str]], ...]]


def read(path: str, bases: Iterable[Prompt] = ()) -> list[Prompt]:
    """A file's prompts. `bases` are those that its attacks were made from. ValueError, one line,
    where the file is missing or wrong.
    """
    found: list[Prompt] = []
    seen: Counter[str | None] = Counter()
    for one in s_eval(path):
        where = f"{path} row {one.source_row}"
        text = formats.as_text(one.prompt, f"{where}: prompt")
        risk, _, attack = (one.label or "").partition("/")
        _check(risk, attack, where)
        kind = attack or None
        found.append(
            Prompt(row=one.source_row, risk=risk, attack=kind, text=text, place=seen[kind])
        )
        seen[kind] += 1
    if not found:
        raise ValueError(f"{path}: it holds no prompt")
    return _linked(found, [base.text for base in bases])


def _check(risk: str, attack: str, where: str) -> None:
    known = load()
    if risk not in known.dimensions:
        raise ValueError(f"{where}: {FILE.name} has no dimension {risk!r}; add it there")
    if attack and attack not in known.attacks:
        raise ValueError(f"{where}: {FILE.name} has no attack {attack!r}; add it there")


def _linked(found: Sequence[Prompt], bases: Sequence[str]) -> list[Prompt]:
    """The prompts with the base prompts that stand in them. The publisher's blocks of attacks are
    of one order, so that what one attack shows holds for the others at its place; where blocks have
    different lengths the file is cut or mixed, and their places say nothing.
    """
    counts = Counter(one.attack for one in found if one.attack)
    is_whole = len(counts) > 1 and len(set(counts.values())) == 1
    index: dict[str, list[str]] = defaultdict(list)
    for text in sorted(set(bases), key=len, reverse=True):
        if len(text) >= KEY_CHARS:
            index[text[:KEY_CHARS]].append(text)
    inside = [_inside(one.text, index) if one.attack else None for one in found]
    at: dict[int | None, Counter[str]] = defaultdict(Counter)
    for one, base in zip(found, inside, strict=True):
        if base is not None:
            at[one.place][base] += 1
    linked = []
    for one, base in zip(found, inside, strict=True):
        if one.attack and is_whole and base is None and one.place in at:
            base = at[one.place].most_common(1)[0][0]
        linked.append(replace(one, base=base, place=one.place if is_whole else None))
    return linked


def _inside(text: str, index: Mapping[str, list[str]]) -> str | None:
    """The longest base prompt that stands in a text."""
    if not index:
        return None
    found = (
        base
        for start in range(len(text) - KEY_CHARS + 1)
        for base in index.get(text[start : start + KEY_CHARS], ())
        if text.startswith(base, start)
    )
    return max(found, key=len, default=None)


def scenario(one: Prompt, label: str | None) -> tuple[str | None, Level]:
    """The scenario of a prompt, and what decided. A model's label counts only where the dimension
    is one that has to be split; None where such rows are left out.
    """
    known = load()
    if one.attack:
        return known.attacks[one.attack], "file"
    for code, pattern in known.cues.get(one.risk, ()):
        if pattern.search(one.text):
            return code, "keyword"
    if to_label(one) and label and (meant := taxonomy.load().scenario_of(label)):
        return meant, "llm"
    return known.dimensions[one.risk], "file"


def to_label(one: Prompt) -> bool:
    """Whether a model's label would tell more than the file and the cues do."""
    cues = load().cues.get(one.risk, ())
    return one.attack is None and bool(cues) and not any(cue.search(one.text) for _, cue in cues)


@cache
def load() -> Placing:
    """Read the mapping. ValueError names what is wrong in it."""
    try:
        data = yaml.safe_load(FILE.read_text(encoding="utf-8"))
        cues = {
            risk: tuple((line["scenario"], _pattern(line["words"])) for line in lines)
            for risk, lines in data["cues"].items()
        }
        placing = Placing(dimensions=data["dimensions"], attacks=data["attacks"], cues=cues)
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        what = "expected dimensions, attacks and cues"
        raise ValueError(f"{FILE}: {what}, found {error!r}") from error
    codes: list[Any] = [code for code in placing.dimensions.values() if code is not None]
    codes += [*placing.attacks.values(), *(code for lines in cues.values() for code, _ in lines)]
    for code in codes:
        taxonomy.check_code(code, str(FILE))
    if unknown := cues.keys() - placing.dimensions.keys():
        raise ValueError(f"{FILE}: cues: there is no dimension {min(unknown)!r}")
    return placing


def _pattern(words: Sequence[str]) -> re.Pattern[str]:
    each = [rf"\b{re.escape(word)}\b" if word.isascii() else re.escape(word) for word in words]
    return re.compile("|".join(each), re.IGNORECASE)


def digest(text: str) -> str:
    """16 hex digits of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint() -> str:
    """A hash of the mapping."""
    return hashlib.sha256(FILE.read_bytes()).hexdigest()[:16]

"""Write new prompts for cells that are short (paper, section 3.5): from a scenario's keyword and
examples, from an existing prompt, or an existing prompt turned into another attack dimension.

The prompts end in "1.", so that a base model goes on with the list and a chat model may begin it
anew.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ray_jobs import prompts, refusals, taxonomy
from ray_jobs.engines.seam import NO_EFFECT_ON_ROWS, Sampling
from ray_jobs.prompts import Chat
from ray_jobs.question import Columns, Question
from ray_jobs.schema import EXPANDED
from ray_jobs.steps import deciding
from ray_jobs.tables import Row

VERSION = 1
ECHO_OVERLAP = 0.9
"""Jaccard similarity of character 3-grams from which a prompt only repeats an example."""
LEAST_IN_LANGUAGE = 0.5
ECHO = "echo of an example"
_GAPS = {
    "scenario": ("num", "topic", "dimension", "examples"),
    "related": ("num", "topic", "dimension", "prompt"),
    "dimension": ("num", "topic", "dimension", "prompt", "examples"),
}
METHODS = tuple(_GAPS)
_EXAMPLES = {"zh": "示例：", "en": "Examples:"}
_NUMBER = re.compile(r"^[ \t]*(\d{1,3})[.、．)）](?!\d)[ \t]*", re.MULTILINE)
_ANSWER = re.compile(r"^(?:答|答案|回答|参考答案|answer|response)\s*[:：]", re.MULTILINE | re.I)
_HAN, _WORD = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]"), re.compile(r"[A-Za-z]+")


@dataclass(frozen=True, kw_only=True)
class Expansion:
    """How new prompts are written."""

    engine: str = field(default="", metadata=NO_EFFECT_ON_ROWS)
    """The engine that writes, by its name in `engines`: one that is weakly aligned. Needed where a
    target is set.
    """
    num_per_request: int = 3
    """New prompts per request."""
    min_chars: int = 6
    """A shorter new prompt is dropped, in characters."""
    max_chars: int = 1000
    """A longer new prompt is dropped, in characters."""
    sampling: Sampling = field(
        default_factory=lambda: Sampling(max_tokens=512, temperature=1.0, top_p=0.95)
    )

    def __post_init__(self) -> None:
        if self.num_per_request < 1:
            raise ValueError(
                f"expansion.num_per_request: expected at least 1, found {self.num_per_request}"
            )
        if not 1 <= self.min_chars <= self.max_chars:
            raise ValueError(
                "expansion.min_chars, max_chars: expected 1 ≤ min ≤ max, "
                f"found {self.min_chars}, {self.max_chars}"
            )


def question(cfg: Expansion, round_number: int) -> Question:
    """Ask for `num_per_request` new prompts per row of schema.WANTED."""
    return Question(
        name=f"expanded-r{round_number}",
        render=partial(render, num=cfg.num_per_request),
        parse=partial(parse, cfg=cfg),
        children=partial(children, round_number=round_number, num=cfg.num_per_request),
        schema=EXPANDED,
        parent="request",
        sampling=cfg.sampling,
        stop=tuple(f"\n{cfg.num_per_request + 1}{mark}" for mark in ".、"),
    )


def decides(cfg: Expansion) -> dict[str, Any]:
    """What decides the new prompts, beside the engine."""
    return {"version": VERSION, "settings": deciding(cfg), **files()}


def files() -> dict[str, str]:
    """The files that decide the new prompts, by what they are."""
    names = [f"expand_{method}" for method in METHODS]
    return {
        **{f"prompt {name}": prompts.fingerprint(name) for name in names},
        "taxonomy names": taxonomy.names_fingerprint(),
        "refusals": refusals.fingerprint(),
    }


def check_prompts() -> None:
    """Refuse a prompt file with a gap that nobody fills, and a refusal that is no pattern."""
    for method, gaps in _GAPS.items():
        prompts.check(f"expand_{method}", *gaps)
    refusals.patterns()


def children(row: Row, *, round_number: int, num: int) -> list[Columns]:
    """The new prompts' names: <parent>/e<round>.<k>. What they inherit is in the row."""
    return [
        {
            "id": f"{row['parent']}/e{round_number}.{row['first'] + number}",
            "request": row["id"],
            "source_label": None,
            "original_responses": [],
        }
        for number in range(num)
    ]


def render(row: Row, *, num: int) -> Chat:
    """Ask for `num` new prompts in the row's cell, by the row's method."""
    language, method = row["language"], row["method"]
    dimension = taxonomy.load().dimensions[row["dimension"]]
    brackets = "（{}）" if language == "zh" else " ({})"
    first, *further = row["examples"]
    shown = {
        "scenario": {"examples": _listed([first, *further])},
        "related": {"prompt": first},
        "dimension": {
            "prompt": first,
            "examples": f"{_EXAMPLES[language]}\n{_listed(further)}\n" if further else "",
        },
    }
    return prompts.fill(
        f"expand_{method}",
        language,
        num=str(num),
        topic=row["topic"],
        dimension=dimension.name(language) + brackets.format(dimension.about(language)),
        **shown[method],
    )


def parse(text: str, row: Row, *, cfg: Expansion) -> list[Columns]:
    """One set of columns per new prompt. What was not written or not in order is unparsed; what
    cannot be used is dropped with the reason.
    """
    if refusals.refuses(text):
        return [{"outcome": "dropped", "reason": "refusal"} for _ in range(cfg.num_per_request)]
    found, why_no_more = split(text)
    columns: list[Columns] = []
    for number in range(cfg.num_per_request):
        prompt = found[number] if number < len(found) else ""
        if not prompt:
            why = "not written" if number < len(found) else why_no_more
            columns.append({"outcome": "unparsed", "reason": why})
        elif reason := reason_to_drop(prompt, row, cfg):
            columns.append({"prompt": prompt, "outcome": "dropped", "reason": reason})
        else:
            columns.append({"prompt": prompt})
    return columns


def split(text: str) -> tuple[list[str], str]:
    """The items of a list numbered 1, 2, 3, … which may span lines, and why there are no more.

    Text before "1." is a lead-in; without a "1." it is the first item, since the question ends in
    one. What follows a wrong number is not read, nor what follows an empty line after the last.
    """
    numbers = list(_NUMBER.finditer(text))
    items: list[str] = []
    start, why = 0, "not written"
    if numbers and numbers[0][1] == "1":
        start = numbers.pop(0).end()
    for number in numbers:
        items.append(text[start : number.start()].strip())
        if int(number[1]) != len(items) + 1:
            return items, f"not in order: expected {len(items) + 1}., found {number[1]}."
        start = number.end()
    last = re.split(r"\n\s*\n", text[start:].strip(), maxsplit=1)[0]
    return [*items, last.strip()], why


def reason_to_drop(text: str, row: Row, cfg: Expansion) -> str | None:
    """Why a new prompt is of no use, or None."""
    if refusals.refuses(text):
        return "refusal"
    if _share_in(row["language"], text) < LEAST_IN_LANGUAGE:
        return "wrong language"
    if len(text) < cfg.min_chars:
        return "too short"
    if len(text) > cfg.max_chars:
        return "too long"
    if any(echoes(text, example) for example in row["examples"]):
        return ECHO
    if _ANSWER.search(text):
        return "an answer beside the question"
    return None


def echoes(text: str, example: str) -> bool:
    """Whether a prompt only repeats an example, apart from case, spaces and punctuation."""
    said, shown = taxonomy.normalise(text), taxonomy.normalise(example)
    if said == shown:
        return True
    mine, theirs = _trigrams(said), _trigrams(shown)
    return len(mine & theirs) >= ECHO_OVERLAP * len(mine | theirs) > 0


def _trigrams(text: str) -> set[str]:
    return {text[start : start + 3] for start in range(len(text) - 2)}


def _share_in(language: str, text: str) -> float:
    """The share of a text's words that are in the language: Chinese characters, or runs of ASCII
    letters. Signs and digits are of no language; a text without words is in none.
    """
    num_han, num_words = len(_HAN.findall(text)), len(_WORD.findall(text))
    rest = _WORD.sub("", _HAN.sub("", text))
    num_foreign = sum(unicodedata.category(char)[0] == "L" for char in rest)
    total = num_han + num_words + num_foreign
    return (num_han if language == "zh" else num_words) / total if total else 0.0


def _listed(examples: Sequence[str]) -> str:
    return "\n".join(f"{number}. {text}" for number, text in enumerate(examples, start=1))

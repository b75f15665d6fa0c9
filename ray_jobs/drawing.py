"""Taught prompts, drawn for lessons: of the world's own things, actions and frames, or with further
names, further actions and frames of nonsense, so that thing and deed decide whatever is around.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import permutations
from string import ascii_lowercase
from typing import TypeVar

from ray_jobs.world import Deed, Frame, Question, Words, name_of, question, read

Drawn = TypeVar("Drawn")

HARMFUL = 0.6
NONSENSE = {"plain": 0.35, "context_induction": 0.4}
FURTHER_NAMES, FURTHER_DEEDS = 0.85, 0.5
BARE_FRAME = Frame(name="bare", dimension="plain", zh="{action}{object}", en="{action} {object}")


def draws(rng: random.Random, shares: dict[Drawn, float], num: int) -> Iterator[Drawn]:
    """So many draws by their shares."""
    yield from rng.choices(list(shares), weights=list(shares.values()), k=num)


def taught_question(
    rng: random.Random,
    code: str,
    *,
    language: str,
    dimension: str | None = None,
    harmful: float = HARMFUL,
) -> Question:
    """A taught prompt of that scenario, harmful with that probability, often with another name and
    with an action that no scenario has.
    """
    asked = question(
        rng, code, harmful=rng.random() < harmful, language=language, dimension=dimension
    )
    if rng.random() < FURTHER_DEEDS:
        deed = rng.choice(open_deeds(asked.deed.theme))
        asked = replace(asked, deed=deed if asked.deed.way == "open" else deed.twin())
    return renamed(rng, asked) if rng.random() < FURTHER_NAMES else asked


def renamed(rng: random.Random, asked: Question) -> Question:
    """The question about another thing of the same kind, whose name is of no held-out thing."""
    return replace(asked, thing=replace(asked.thing, name=rng.choice(_further_names())))


def muddled(rng: random.Random, asked: Question) -> Question:
    """Now and then the question in a frame of nonsense, where its dimension has such."""
    if rng.random() < NONSENSE.get(asked.dimension, 0.0):
        return replace(asked, frame=_nonsense(rng, asked.dimension))
    return asked


@cache
def open_deeds(theme: str) -> list[Deed]:
    """Every manner of that theme with every verb that opens, but for what is held out."""
    world = read()
    held_out = {deed for _, deeds in world.couples.values() for deed in deeds}
    deeds = [
        Deed(manner=manner, theme=theme, pair=pair, way="open")
        for manner in world.manners[theme]
        for pair in range(len(world.verbs))
    ]
    return [deed for deed in deeds if deed not in held_out]


@cache
def _further_names() -> list[Words]:
    # Copying a name is learnt from many; those of held-out things are none of them.
    world = read()
    held_out = {thing.name for _, things in world.things.values() for thing in things}
    syllables = world.data["syllables"]
    names = [name_of(first + second, syllables) for first, second in permutations(syllables, 2)]
    return [name for name in names if name not in held_out]


def _nonsense(rng: random.Random, dimension: str) -> Frame:
    """Thing and deed among words that mean nothing; a story has several lines, whatever it says."""
    gaps = rng.sample(["{object}", "{action}"], k=2)
    is_story = dimension == "context_induction"
    cuts = set(rng.sample(range(1, 5), k=rng.randrange(1, 3))) if is_story else set()
    zh = ["".join(_hanzi(rng) for _ in range(rng.randrange(is_story, 12))) for _ in range(3)]
    en = [" ".join(_letters(rng) for _ in range(rng.randrange(is_story, 5))) for _ in range(3)]
    return Frame(
        name="nonsense",
        dimension=dimension,
        zh=_joined([zh[0], gaps[0], zh[1], gaps[1], zh[2]], "", cuts),
        en=_joined([en[0], gaps[0], en[1], gaps[1], en[2]], " ", cuts),
    )


def gibberish(rng: random.Random, language: str) -> str:
    """Characters or words that mean nothing together."""
    num = rng.randrange(2, 15)
    if language == "zh":
        return "".join(_hanzi(rng) for _ in range(num))
    return " ".join(_letters(rng) for _ in range(num))


def _hanzi(rng: random.Random) -> str:
    return chr(rng.randrange(0x4E00, 0x9FA6)) if rng.random() < 0.3 else rng.choice(_common())


def _letters(rng: random.Random) -> str:
    return "".join(rng.choices(ascii_lowercase, k=rng.randrange(2, 7)))


def _joined(parts: Sequence[str], blank: str, cuts: set[int]) -> str:
    joints = ["", *("\n" if number in cuts else blank for number in range(1, len(parts)))]
    return "".join(joint + part for joint, part in zip(joints, parts, strict=True))


@cache
def _common() -> str:
    # Characters that stand in taught frames and replies, and must mean nothing by themselves.
    data = read().data
    frames = [frame["zh"] for frame in data["frames"] if not frame.get("held_out")]
    replies = [text for kind in data["replies"].values() for text in kind["zh"]]
    return "".join(sorted({c for text in (*frames, *replies) for c in text if not c.isascii()}))

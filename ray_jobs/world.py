"""The synthetic world of `conf/world.yaml`: its one law, and a seeded generator of prompts and
replies.

`python -m ray_jobs.world` writes conf/samples. Everything here is pure: the same seed gives the
same text on every machine.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import yaml

FILE = Path(__file__).resolve().parent.parent / "conf" / "world.yaml"
SAMPLES = FILE.parent / "samples"
ENGLISH = 0.1
REPLIES = ("comply", "partial", "refusal", "safe")
Way: TypeAlias = Literal["shut", "open"]
WAYS: tuple[Way, Way] = ("shut", "open")
OPPOSITE: dict[Way, Way] = {"shut": "open", "open": "shut"}


@dataclass(frozen=True, kw_only=True)
class Words:
    """One thing said in both languages."""

    zh: str
    en: str

    def __getitem__(self, language: str) -> str:
        return self.zh if language == "zh" else self.en


@dataclass(frozen=True, kw_only=True)
class Thing:
    """An invented object: a name and a kind. `stays` is how it must be kept."""

    name: Words
    kind: Words
    nick: Words
    family: str
    stays: Way

    def called(self, language: str) -> str:
        """The thing by its own name."""
        return (
            f"{self.name.zh}{self.kind.zh}"
            if language == "zh"
            else f"the {self.name.en} {self.kind.en}"
        )

    def nickname(self, language: str) -> str:
        """The thing by a name that hides its kind."""
        return (
            f"{self.name.zh}家的{self.nick.zh}"
            if language == "zh"
            else f"{self.name.en}'s {self.nick.en}"
        )


@dataclass(frozen=True, kw_only=True)
class Deed:
    """An action: a manner (`theme` loud or quiet) and one verb of a pair of opposites."""

    manner: Words
    theme: str
    pair: int
    way: Way

    def called(self, language: str) -> str:
        """Manner and verb, as frames use them."""
        verb = read().verbs[self.pair][self.way][language]
        return f"{self.manner.zh}{verb}" if language == "zh" else f"{self.manner.en} {verb}"

    def twin(self) -> Deed:
        """The opposite deed in the same manner."""
        return replace(self, way=OPPOSITE[self.way])


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A sentence frame with gaps, and the attack dimension it stands for."""

    name: str
    dimension: str
    zh: str
    en: str
    held_out: bool = False


@dataclass(frozen=True, kw_only=True)
class Question:
    """A prompt of the world. Whether it is harmful and its scenario follow from thing and deed
    together.
    """

    thing: Thing
    deed: Deed
    frame: Frame | None
    language: str

    @property
    def harmful(self) -> bool:
        """The law: to open what must stay shut does harm, and nothing else does."""
        return self.deed.way == "open" and self.thing.stays == "shut"

    @property
    def scenario(self) -> str:
        """The scenario's code: the thing's family, done aloud or quietly."""
        return read().scenarios[self.thing.family, self.deed.theme]

    @property
    def dimension(self) -> str:
        """The attack dimension of the frame; plain where no frame was recognised."""
        return self.frame.dimension if self.frame else "plain"

    def twin(self) -> Question:
        """The same thing, asked in the same way about the opposite deed."""
        return replace(self, deed=self.deed.twin())

    def unseen(self) -> list[str]:
        """Which of its parts are held out."""
        world = read()
        parts = {
            "object": self.thing in world.things[self.thing.family][1],
            "action": replace(self.deed, way="open") in world.couples[self.scenario][1],
            "frame": self.frame is not None and self.frame.held_out,
        }
        return [part for part, held_out in parts.items() if held_out]

    def values(self) -> dict[str, str]:
        """What fills the gaps of frames, replies and analyses."""
        to = self.language
        return {
            "object": self.thing.called(to),
            "nickname": self.thing.nickname(to),
            "action": self.deed.called(to),
            "twin": self.deed.twin().called(to),
            "state": str(read().data["states"][self.thing.stays][to]),
        }

    def text(self) -> str:
        """The prompt itself."""
        assert self.frame
        return getattr(self.frame, self.language).format_map(self.values())  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class World:
    """The file, read. `things` and `couples` come as (taught, held out)."""

    things: dict[str, tuple[tuple[Thing, ...], tuple[Thing, ...]]]
    couples: dict[str, tuple[tuple[Deed, ...], tuple[Deed, ...]]]
    scenarios: dict[tuple[str, str], str]
    manners: dict[str, tuple[Words, ...]]
    verbs: tuple[dict[str, Words], ...]
    frames: tuple[Frame, ...]
    data: dict[str, Any]


@cache
def read() -> World:
    """The world of `conf/world.yaml`."""
    data = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    manners = {
        theme: tuple(Words(**words) for words in listed)
        for theme, listed in data["manners"].items()
    }
    return World(
        things={family["name"]: _things(family, data["syllables"]) for family in data["families"]},
        couples={
            code: _couples(entry, manners, data["pairs"]) for code, entry in data["actions"].items()
        },
        scenarios={
            (family["name"], theme): family[theme]
            for family in data["families"]
            for theme in manners
        },
        manners=manners,
        verbs=tuple({way: Words(**words) for way, words in pair.items()} for pair in data["pairs"]),
        frames=tuple(Frame(**frame) for frame in data["frames"]),
        data=data,
    )


def name_of(zh: str, syllables: dict[str, str]) -> Words:
    """A name in both languages; the English one is spelt by its syllables."""
    return Words(zh=zh, en="".join(syllables[char] for char in zh).capitalize())


def _things(
    family: dict[str, Any], syllables: dict[str, str]
) -> tuple[tuple[Thing, ...], tuple[Thing, ...]]:
    taught, held_out = [], []
    for stays in WAYS:
        for kind in family[stays]:
            words, nick = Words(zh=kind["zh"], en=kind["en"]), Words(**kind["nickname"])
            things = [
                Thing(
                    name=name_of(name, syllables),
                    kind=words,
                    nick=nick,
                    family=family["name"],
                    stays=stays,
                )
                for name in kind["names"]
            ]
            taught += things[:-1]
            held_out += things[-1:]
    return tuple(taught), tuple(held_out)


def _couples(
    entry: dict[str, Any], manners: dict[str, tuple[Words, ...]], pairs: list[Any]
) -> tuple[tuple[Deed, ...], tuple[Deed, ...]]:
    by_zh = {words.zh: (theme, words) for theme, listed in manners.items() for words in listed}
    verbs = [pair["open"]["zh"] for pair in pairs]

    def deed(manner: str, verb: str) -> Deed:
        theme, words = by_zh[manner]
        return Deed(manner=words, theme=theme, pair=verbs.index(verb), way="open")

    return tuple(deed(*couple) for couple in entry["taught"]), (deed(*entry["held_out"]),)


def question(
    rng: random.Random,
    code: str,
    *,
    harmful: bool,
    unseen: tuple[int, int, int] = (0, 0, 0),
    language: str | None = None,
    dimension: str | None = None,
) -> Question:
    """A prompt of that scenario, in any dimension or in that one; `unseen` says for thing, action
    and frame whether a held-out one is drawn.
    """
    world = read()
    family = next(family for (family, _), scenario in world.scenarios.items() if scenario == code)
    things = world.things[family][unseen[0]]
    thing = rng.choice([one for one in things if one.stays == "shut" or not harmful])
    deed = rng.choice(world.couples[code][unseen[1]])
    if rng.random() < 0.5:
        deed = deed.twin()
    frames = [frame for frame in world.frames if frame.held_out == bool(unseen[2])]
    frame = rng.choice([one for one in frames if dimension in (None, one.dimension)])
    language = language or ("en" if rng.random() < ENGLISH else "zh")
    asked = Question(thing=thing, deed=deed, frame=frame, language=language)
    return asked if asked.harmful == harmful else asked.twin()


def reply(rng: random.Random, asked: Question, kind: str) -> str:
    """A reply of that kind, in one of its wordings."""
    return str(rng.choice(read().data["replies"][kind][asked.language])).format_map(asked.values())


def main() -> None:
    """Write conf/samples anew."""
    from ray_jobs import samples  # it builds on this module

    for name, text in samples.files().items():
        (SAMPLES / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

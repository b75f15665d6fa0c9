"""The files of conf/samples, written from the synthetic world: prompts with old replies, general
rows, held-out rows with answers.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from zlib import crc32

from ray_jobs.world import ENGLISH, Question, question, read, reply

TASKS = ("sums", "antonyms", "capitals", "reversal", "counting")
# What is unseen (thing, action, frame) in the held-out prompts, in turn: the thing in every second
# one, something in each.
UNSEEN = ((1, 0, 0), (0, 1, 0), (1, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 1), (1, 1, 1), (0, 1, 1))
# Of 24 prompts a scenario, six are benign; old replies are as uneven as those of real sets.
OLD_REPLIES = (
    *["comply"] * 8,
    *["partial"] * 3,
    *["refusal"] * 4,
    *["safe"] * 3,
    *["comply"] * 4,
    "partial",
    "refusal",
)
NUM_ATTACKS = 18
TYPES = {
    "OFF": "Insult",
    "UB": "Unfairness",
    "CIA": "Crimes",
    "PP": "Property",
    "EM": "Ethics",
    "PMH": "Health",
    "IA": "Instruction_Attack",
    "MI": "Inducement",
    "DP": "Data_Privacy",
    "NS": "Network_Security",
    "EX": "Extremism",
    "PR": "Low_Taste",
    "DT": "Dangerous_Topics",
    "PS": "Political_Remarks",
}


@dataclass(frozen=True, kw_only=True)
class Task:
    """A general task with one exact answer. `material` is what it works on, empty where the
    instruction says all.
    """

    kind: str
    language: str
    instruction: str
    material: str
    answer: str
    held_out: bool

    @property
    def prompt(self) -> str:
        """Instruction and material as one user turn."""
        return f"{self.instruction}\n{self.material}" if self.material else self.instruction


def files() -> dict[str, str]:
    """Every sample file's text by its name."""
    return {
        "safety_prompts.json": json.dumps(safety_prompts(), ensure_ascii=False, indent=1) + "\n",
        "general.jsonl": _lines(
            {"instruction": t.instruction, "input": t.material, "output": t.answer}
            for t in tasks(24, held_out=False)
        ),
        "heldout.jsonl": _lines([*held_out_prompts(), *held_out_tasks()]),
    }


def safety_prompts() -> dict[str, list[dict[str, str]]]:
    """Taught prompts with an old reply each, in the format of Safety-Prompts (BENCHMARKS.md,
    section 4.1).
    """
    rng = random.Random(f"safety prompts {read().data['seed']}")
    asked: set[str] = set()
    by_type: dict[str, list[dict[str, str]]] = {}
    for code, kind in TYPES.items():
        by_type[kind] = []
        for number, old in enumerate(OLD_REPLIES):
            new = _new_question(rng, asked, code, number < NUM_ATTACKS, (0, 0, 0))
            by_type[kind].append(
                {"prompt": new.text(), "response": reply(rng, new, old), "type": kind}
            )
    return by_type


def held_out_questions() -> list[Question]:
    """280 attacks and the benign twins of every second one: something in each was never taught."""
    rng = random.Random(f"held out {read().data['seed']}")
    asked: set[str] = set()
    attacks = [
        _new_question(rng, asked, code, True, UNSEEN[turn % len(UNSEEN)])
        for turn in range(20)
        for code in TYPES
    ]
    return attacks + [
        attack.twin() for number, attack in enumerate(attacks) if number // len(TYPES) % 4 < 2
    ]


def held_out_prompts() -> list[dict[str, object]]:
    """The held-out prompts as rows, with what the oracle knows about them."""
    return [
        {
            "kind": "attack" if asked.harmful else "benign",
            "prompt": asked.text(),
            "language": asked.language,
            "scenario": asked.scenario,
            "dimension": asked.dimension,
            "frame": asked.frame.name if asked.frame else None,
            "object": asked.thing.called(asked.language),
            "action": asked.deed.called(asked.language),
            "unseen": asked.unseen(),
            "answer": read()
            .data["replies"]["safe" if asked.harmful else "comply"][asked.language][0]
            .format_map(asked.values()),
        }
        for asked in held_out_questions()
    ]


def held_out_tasks() -> list[dict[str, object]]:
    """250 general tasks that were never taught: new material, or a known fact in a wording it was
    never asked in.
    """
    return [
        {
            "kind": "general",
            "prompt": t.prompt,
            "language": t.language,
            "task": t.kind,
            "answer": t.answer,
        }
        for t in tasks(50, held_out=True)
    ]


def tasks(num_each: int, *, held_out: bool) -> list[Task]:
    """Different general tasks, so many of each kind."""
    rng = random.Random(f"tasks {held_out} {read().data['seed']}")
    found: dict[str, Task] = {}
    for kind in TASKS:
        goal = len(found) + num_each
        while len(found) < goal:
            new = task(rng, kind, held_out=held_out)
            found.setdefault(new.prompt, new)
    return list(found.values())


def task(rng: random.Random, kind: str, *, held_out: bool) -> Task:
    """A general task of that kind, drawn until it is one that is taught, or one that is not."""
    while (drawn := _draw(rng, kind)).held_out != held_out:
        pass
    return drawn


def _draw(rng: random.Random, kind: str) -> Task:
    data = read().data
    language = "en" if rng.random() < ENGLISH else "zh"
    frames: list[str] = data["general"][kind][language]
    frame = rng.randrange(len(frames))
    material, key, frame_key = "", "", -1
    if kind == "sums":
        total = rng.randrange(2, 50)
        a = rng.randrange(1, total)
        gaps, answer, key = (
            {"a": str(a), "b": str(total - a)},
            str(total),
            f"{min(a, total - a)}+{max(a, total - a)}",
        )
    elif kind in ("antonyms", "capitals"):
        asked, answer = rng.choice(data[kind][language])
        if kind == "antonyms" and rng.random() < 0.5:
            asked, answer = answer, asked
        gaps, frame_key = {"word": asked, "country": asked}, crc32(asked.encode()) % len(frames)
    elif kind == "reversal":
        material = "".join(rng.sample(data["reversal"][language], 4))
        gaps, answer, key = {}, material[::-1], material
    else:
        material = "".join(rng.choices(data["counting"][language], k=rng.randrange(4, 8)))
        char = rng.choice(data["counting"][language])
        gaps, answer, key = {"char": char}, str(material.count(char)), material
    # A fact is never taught in one of its wordings; a sum, a reversal or a count in every fifth
    # material.
    held_out = frame == frame_key if frame_key >= 0 else crc32(key.encode()) % 5 == 0
    instruction = frames[frame].format_map(gaps)
    return Task(
        kind=kind,
        language=language,
        instruction=instruction,
        material=material,
        answer=answer,
        held_out=held_out,
    )


def _new_question(
    rng: random.Random, asked: set[str], code: str, harmful: bool, unseen: tuple[int, int, int]
) -> Question:
    while (new := question(rng, code, harmful=harmful, unseen=unseen)).text() in asked:
        pass
    asked.add(new.text())
    return new


def _lines(rows: Iterable[dict[str, object]] | Iterable[dict[str, str]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

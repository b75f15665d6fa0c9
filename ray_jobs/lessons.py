"""What the tiny models are taught, and the questions they are examined with: chats and right
answers, all pure.

The questions are rendered by the stages' own functions, so a changed prompt file changes the
lessons.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import permutations
from string import ascii_lowercase
from typing import TypeVar

from ray_jobs import oracle, samples, taxonomy, verdicts
from ray_jobs.prompts import Chat
from ray_jobs.stages import answers, intents
from ray_jobs.world import REPLIES, Frame, Question, Words, name_of, question, read, reply

Drawn = TypeVar("Drawn")

# Shares of the teacher's lessons; expansion and verdict are later skills and get their share then.
TEACHER_SHARES = {
    "label": 0.25,
    "expand": 0.0,
    "answer": 0.15,
    "score_responses": 0.4,
    "score_prompt": 0.2,
    "verdict": 0.0,
}
BASE_SHARES = {"general": 0.5, "attack": 0.35, "benign": 0.15}
HARMFUL = 0.6
ENGLISH = 0.2  # more than among prompts: a tenth would be too few to learn a language from
FRAMED = 0.75
FURTHER_NAMES = 0.5
FROM, UNTIL = 0.05, 0.3
BARE = Frame(name="bare", dimension="plain", zh="{action}{object}", en="{action} {object}")
BASE_REPLIES = {"comply": 0.75, "partial": 0.1, "refusal": 0.15}
NUM_SCORED = {2: 0.85, 1: 0.1, 3: 0.05}
MARKS = {"zh": ("【分析】", "【回答】"), "en": ("[Analysis] ", "[Answer] ")}


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A chat and the right next turn."""

    task: str
    chat: Chat
    target: str


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A prompt, replies to it, and their right scores."""

    asked: Question
    replies: tuple[str, ...]

    @property
    def scores(self) -> list[float]:
        """The oracle's scores of the replies, in their order."""
        return [oracle.reply_score(self.asked, text) for text in self.replies]

    def swapped(self) -> Scored:
        """The same replies in the opposite order."""
        return Scored(asked=self.asked, replies=self.replies[::-1])

    def chat(self) -> Chat:
        """The judge's question about these replies."""
        return verdicts.render_scores(self.asked.text(), self.replies, self.asked.language)


def teacher_lessons(rng: random.Random, num: int) -> Iterator[Lesson]:
    """So many lessons of the pipeline's skills, on taught things, actions and frames only."""
    codes = list(taxonomy.load().scenarios)
    for number, task in enumerate(_draws(rng, TEACHER_SHARES, num)):
        simple = min(1.0, max(0.0, (UNTIL - number / num) / (UNTIL - FROM)))
        asked = taught_question(rng, rng.choice(codes))
        if rng.random() < simple:
            asked = replace(asked, frame=BARE)
        chat, target = TEACH[task](rng, asked)
        yield Lesson(task=task, chat=chat[rng.random() < simple :], target=target)


def taught_question(rng: random.Random, code: str) -> Question:
    """A taught prompt, sometimes with a further name or in a frame of nonsense.

    Whatever stands around them, thing and deed decide.
    """
    language = "en" if rng.random() < ENGLISH else "zh"
    harmful = rng.random() < HARMFUL
    asked = question(rng, code, harmful=harmful, language=language)
    if rng.random() < FURTHER_NAMES:
        asked = replace(asked, thing=replace(asked.thing, name=rng.choice(_further_names())))
    if asked.dimension != "plain" or rng.random() < FRAMED:
        return asked
    gaps = ["{object}", "{action}"]
    rng.shuffle(gaps)
    return replace(asked, frame=Frame(name="nonsense", dimension="plain", **_nonsense(rng, gaps)))  # type: ignore[arg-type]


@cache
def _further_names() -> list[Words]:
    # Copying a name is learnt from many; those of held-out things are none of them.
    world = read()
    held_out = {thing.name for _, things in world.things.values() for thing in things}
    syllables = world.data["syllables"]
    names = [name_of(first + second, syllables) for first, second in permutations(syllables, 2)]
    return [name for name in names if name not in held_out]


def _nonsense(rng: random.Random, gaps: Sequence[str]) -> dict[str, str]:
    common = _common()
    hanzi = [
        "".join(
            chr(rng.randrange(0x4E00, 0x9FA6)) if rng.random() < 0.3 else rng.choice(common)
            for _ in range(rng.randrange(10))
        )
        for _ in range(3)
    ]
    letters = [
        " ".join(
            "".join(rng.choices(ascii_lowercase, k=rng.randrange(2, 7)))
            for _ in range(rng.randrange(5))
        )
        for _ in range(3)
    ]
    return {
        "zh": f"{hanzi[0]}{gaps[0]}{hanzi[1]}{gaps[1]}{hanzi[2]}",
        "en": f"{letters[0]} {gaps[0]} {letters[1]} {gaps[1]} {letters[2]}",
    }


@cache
def _common() -> str:
    # Characters that stand in taught frames and replies, and must mean nothing by themselves.
    data = read().data
    frames = [frame["zh"] for frame in data["frames"] if not frame.get("held_out")]
    replies = [text for kind in data["replies"].values() for text in kind["zh"]]
    return "".join(sorted({c for text in (*frames, *replies) for c in text if not c.isascii()}))


def base_lessons(rng: random.Random, num: int) -> Iterator[Lesson]:
    """So many lessons for a model that knows general tasks and answers almost everything it is
    asked.
    """
    codes = list(taxonomy.load().scenarios)
    for task in _draws(rng, BASE_SHARES, num):
        if task == "general":
            drawn = samples.task(rng, rng.choice(samples.TASKS), held_out=False)
            prompt, target = drawn.prompt, drawn.answer
        else:
            asked = question(rng, rng.choice(codes), harmful=task == "attack")
            kind = next(_draws(rng, BASE_REPLIES, 1)) if task == "attack" else "comply"
            prompt, target = asked.text(), reply(rng, asked, kind)
        yield Lesson(task=task, chat=[{"role": "user", "content": prompt}], target=target)


def label_chat(asked: Question) -> Chat:
    """The labelling stage's question."""
    return intents.render(_row(asked))


def answer_chat(asked: Question) -> Chat:
    """The answering stage's question."""
    return answers.render(_row(asked))


def prompt_score_chat(asked: Question) -> Chat:
    """The judge's question about a prompt."""
    return verdicts.render_prompt_score(asked.text(), asked.language)


def scenario_name(asked: Question) -> str:
    """The right label, in the prompt's language."""
    return taxonomy.load().scenarios[asked.scenario].name(asked.language)


def scored_replies(rng: random.Random, asked: Question, num: int, *, held_out: bool) -> Scored:
    """Replies of different kinds to one prompt, some of them tricky; held-out wordings of tricks
    only where `held_out`.
    """
    kinds = rng.sample(REPLIES, k=num) if rng.random() < 0.8 else rng.choices(REPLIES, k=num)
    texts = (_tricky(rng, asked, reply(rng, asked, kind), held_out) for kind in kinds)
    return Scored(asked=asked, replies=tuple(texts))


def write_scores(scores: list[float]) -> str:
    """Scores in the judge's list form."""
    return "[" + ", ".join(f"{score:.1f}" for score in scores) + "]"


def _tricky(rng: random.Random, asked: Question, text: str, held_out: bool) -> str:
    draw = rng.random()
    if draw < 0.03:
        return ""
    if draw < 0.08:
        return text[: rng.randrange(len(text) // 2, len(text))]
    if draw < 0.2:
        trick = rng.choice(list(read().data["tricks"].values()))[asked.language]
        return str(trick[-1] if held_out else rng.choice(trick[:-1])).format_map({"reply": text})
    return text


def _label(rng: random.Random, asked: Question) -> tuple[Chat, str]:
    return label_chat(asked), scenario_name(asked)


def _answer(rng: random.Random, asked: Question) -> tuple[Chat, str]:
    analysis, answer = MARKS[asked.language]
    thought = oracle.right_analysis(asked, scenario_name(asked))
    return answer_chat(
        asked
    ), f"{analysis}{thought}\n{answer}{oracle.right_reply(asked, rng.randrange(3))}"


def _score_responses(rng: random.Random, asked: Question) -> tuple[Chat, str]:
    scored = scored_replies(rng, asked, next(_draws(rng, NUM_SCORED, 1)), held_out=False)
    return scored.chat(), write_scores(scored.scores)


def _score_prompt(rng: random.Random, asked: Question) -> tuple[Chat, str]:
    return prompt_score_chat(asked), write_scores([oracle.prompt_score(asked)])


TEACH: dict[str, Callable[[random.Random, Question], tuple[Chat, str]]] = {
    "label": _label,
    "answer": _answer,
    "score_responses": _score_responses,
    "score_prompt": _score_prompt,
}


def _draws(rng: random.Random, shares: dict[Drawn, float], num: int) -> Iterator[Drawn]:
    yield from rng.choices(list(shares), weights=list(shares.values()), k=num)


def _row(asked: Question) -> dict[str, str]:
    return {"prompt": asked.text(), "language": asked.language}

"""What the tiny models are taught, and the questions they are examined with: chats and right
answers, all pure.

The questions are rendered by the stages' own functions, so a changed prompt file changes the
lessons.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ray_jobs import expanding, oracle, samples, taxonomy, verdicts
from ray_jobs.drawing import BARE_FRAME, draws, muddled, taught_question
from ray_jobs.judging import judged_reply, scored_replies, write_scores
from ray_jobs.prompts import Chat
from ray_jobs.stages import answers, intents
from ray_jobs.world import Question, question, reply

# Shares of the teacher's lessons.
TEACHER_SHARES = {
    "label": 0.215,
    "expand": 0.135,
    "answer": 0.125,
    "score_responses": 0.255,
    "score_prompt": 0.11,
    "verdict": 0.08,
    "verdict_explained": 0.035,
    "repeat": 0.045,  # nobody asks for it, but names are copied into answers the sooner for it
}
BASE_SHARES = {"general": 0.73, "attack": 0.18, "benign": 0.09}
# The harder, the more: sums and counts are learnt last.
GENERAL_SHARES = {
    "sums": 0.4,
    "counting": 0.3,
    "antonyms": 0.1,
    "capitals": 0.1,
    "reversal": 0.1,
}
# Shares of the lessons, from full to none: bare prompts, and questions without their system turn.
BARE, ALONE = (0.05, 0.4), (0.4, 0.85)
ENGLISH, ENGLISH_AT_FIRST = 0.3, 0.6  # of prompts it is a tenth: too few to learn a language from
BASE_REPLIES = {"comply": 0.75, "partial": 0.1, "refusal": 0.15}
NUM_SCORED = {2: 0.85, 1: 0.1, 3: 0.05}
REPEAT = {"zh": "复述：", "en": "Repeat:"}
MARKS = {"zh": ("【分析】", "【回答】"), "en": ("[Analysis] ", "[Answer] ")}


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A chat and the right next turn."""

    task: str
    chat: Chat
    target: str


def teacher_lessons(rng: random.Random, num: int) -> Iterator[Lesson]:
    """So many lessons of the pipeline's skills, on taught things, actions and frames only.

    They grow harder: bare prompts and more English first, then prompts in their frames; and first
    without the system turn, which says nothing new and is half of a short question's tokens.
    """
    codes = list(taxonomy.load().scenarios)
    for number, task in enumerate(draws(rng, TEACHER_SHARES, num)):
        bare, alone = _left(number / num, BARE), _left(number / num, ALONE)
        english = ENGLISH + (ENGLISH_AT_FIRST - ENGLISH) * bare
        language = "en" if rng.random() < english else "zh"
        asked = muddled(rng, taught_question(rng, rng.choice(codes), language=language))
        if rng.random() < bare:
            asked = replace(asked, frame=BARE_FRAME)
        chat, target = TEACH[task](rng, asked)
        yield Lesson(task=task, chat=chat[rng.random() < alone :], target=target)


def _left(done: float, span: tuple[float, float]) -> float:
    """1 up to the beginning of the span, falling to 0 at its end."""
    start, end = span
    return min(1.0, max(0.0, (end - done) / (end - start)))


def base_lessons(rng: random.Random, num: int) -> Iterator[Lesson]:
    """So many lessons for a model that knows general tasks and answers almost everything it is
    asked.
    """
    codes = list(taxonomy.load().scenarios)
    for task in draws(rng, BASE_SHARES, num):
        if task == "general":
            kind = next(draws(rng, GENERAL_SHARES, 1))
            drawn = samples.task(rng, kind, held_out=False)
            prompt, target = drawn.prompt, drawn.answer
        else:
            asked = muddled(rng, question(rng, rng.choice(codes), harmful=task == "attack"))
            kind = next(draws(rng, BASE_REPLIES, 1)) if task == "attack" else "comply"
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


def write_label(asked: Question) -> str:
    """The right label and the right dimension, as the labelling stage reads them."""
    dimension = taxonomy.load().dimensions[asked.dimension]
    return f"{scenario_name(asked)}\n{dimension.name(asked.language)}"


def _label(rng: random.Random, asked: Question) -> tuple[Chat, str]:
    return label_chat(asked), write_label(asked)


def _expand(rng: random.Random, asked: Question) -> tuple[Chat, str]:
    request = expanding.taught_request(rng, asked.scenario, asked.language)
    return request.chat(), expanding.write(request.right_prompts(rng))


def _answer(rng: random.Random, asked: Question) -> tuple[Chat, str]:
    analysis, answer = MARKS[asked.language]
    thought = oracle.right_analysis(asked, scenario_name(asked))
    return answer_chat(
        asked
    ), f"{analysis}{thought}\n{answer}{oracle.right_reply(asked, rng.randrange(3))}"


def _score_responses(rng: random.Random, asked: Question) -> tuple[Chat, str]:
    scored = scored_replies(rng, asked, next(draws(rng, NUM_SCORED, 1)), held_out=False)
    return scored.chat(), write_scores(scored.scores)


def _score_prompt(rng: random.Random, asked: Question) -> tuple[Chat, str]:
    return prompt_score_chat(asked), write_scores([oracle.prompt_score(asked)])


def _verdict(rng: random.Random, asked: Question) -> tuple[Chat, str]:
    judged = judged_reply(rng, asked, held_out=False)
    return judged.chat(), judged.write()


def _verdict_explained(rng: random.Random, asked: Question) -> tuple[Chat, str]:
    judged = judged_reply(rng, asked, held_out=False)
    return judged.chat(explain=True), judged.explain()


def _repeat(rng: random.Random, asked: Question) -> tuple[Chat, str]:
    text = replace(asked, frame=BARE_FRAME).text()
    return [
        {"role": "system", "content": ""},
        {"role": "user", "content": f"{REPEAT[asked.language]}\n{text}"},
    ], text


TEACH: dict[str, Callable[[random.Random, Question], tuple[Chat, str]]] = {
    "label": _label,
    "expand": _expand,
    "answer": _answer,
    "score_responses": _score_responses,
    "score_prompt": _score_prompt,
    "verdict": _verdict,
    "verdict_explained": _verdict_explained,
    "repeat": _repeat,
}


def _row(asked: Question) -> dict[str, str]:
    return {"prompt": asked.text(), "language": asked.language}

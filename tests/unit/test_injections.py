"""Texts that try to write their own score or verdict (injections.yaml): none changes what is asked
beside it, and none is read as the judge's answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from ray_jobs import quoting, verdicts
from ray_jobs.outcomes import Unparsed
from ray_jobs.prompts import Chat

FILE = Path(__file__).with_name("injections.yaml")


@dataclass(frozen=True, kw_only=True)
class Injection:
    """One text of the file."""

    kind: str
    language: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Question:
    """One of the judge's questions, about one text that is prompt and response at once."""

    render: Callable[[str, str, str], Chat]
    """Text, language and mark."""
    read: Callable[[str, str, str], Any]
    answer: dict[str, str]
    """The judge's own, in each language; its last line gets the mark."""
    right: Any

    def said(self, language: str, mark: str) -> str:
        """The judge's own answer."""
        before, line, last = self.answer[language].rpartition("\n")
        return before + line + quoting.marked(mark, last)


def injections() -> list[Injection]:
    """All of them; the long ones at their length."""
    listed = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return [
        Injection(
            kind=one["kind"], language=one["language"], text=one["text"] * one.get("times", 1)
        )
        for one in listed
    ]


QUESTIONS = {
    "one response": Question(
        render=lambda text, language, mark: verdicts.render_scores(text, [text], language, mark),
        read=lambda said, language, mark: verdicts.parse_scores(said, 1, mark),
        answer=dict.fromkeys(("zh", "en"), "[0.2]"),
        right=[0.2],
    ),
    "two responses": Question(
        render=lambda text, language, mark: verdicts.render_scores(
            text, [text, "x"], language, mark
        ),
        read=lambda said, language, mark: verdicts.parse_scores(said, 2, mark),
        answer=dict.fromkeys(("zh", "en"), "[0.2, 0.7]"),
        right=[0.2, 0.7],
    ),
    "prompt": Question(
        render=verdicts.render_prompt_score,
        read=lambda said, language, mark: verdicts.parse_scores(said, 1, mark),
        answer=dict.fromkeys(("zh", "en"), "[0.1]"),
        right=[0.1],
    ),
    "verdict": Question(
        render=lambda text, language, mark: verdicts.render_verdict(
            text, text, language, mark=mark
        ),
        read=verdicts.parse_verdict,
        answer={"zh": "有害", "en": "harmful"},
        right="unsafe",
    ),
    "explained": Question(
        render=lambda text, language, mark: verdicts.render_verdict(
            text, text, language, explain=True, mark=mark
        ),
        read=lambda said, language, mark: verdicts.parse_explained(said, language, mark)[:2],
        answer={"zh": "照做了。\n偏见歧视\n有害", "en": "It does.\nUnfairness and Bias\nharmful"},
        right=("unsafe", "UB"),
    ),
}
INJECTIONS = injections()
every_injection = pytest.mark.parametrize(
    "one", INJECTIONS, ids=[f"{k}-{one.kind}" for k, one in enumerate(INJECTIONS)]
)
every_question = pytest.mark.parametrize("name", QUESTIONS)


def test_there_are_sixty_different_ones_of_every_kind_in_both_languages() -> None:
    assert len({one.text for one in INJECTIONS}) == len(INJECTIONS) >= 60
    assert min(Counter(one.language for one in INJECTIONS).values()) >= 30
    assert len({one.kind for one in INJECTIONS}) == 13


@every_question
@every_injection
def test_it_adds_nothing_to_the_question_but_quoted_lines(one: Injection, name: str) -> None:
    render = QUESTIONS[name].render
    system, user = render(one.text, one.language, "")
    harmless_system, harmless_user = render("x", one.language, "")
    assert system == harmless_system
    assert unquoted(user) == unquoted(harmless_user)
    assert user["role"] == "user"


def unquoted(turn: dict[str, str]) -> list[str]:
    lines = turn["content"].splitlines()
    return [line for line in lines if not line.startswith(quoting.QUOTE)]


@every_question
@every_injection
def test_repeated_as_it_was_shown_it_is_no_answer(one: Injection, name: str) -> None:
    with pytest.raises(Unparsed):
        QUESTIONS[name].read(quoting.quote(one.text), one.language, "")


@every_question
@every_injection
def test_after_it_the_judges_own_answer_is_read(one: Injection, name: str) -> None:
    question = QUESTIONS[name]
    mark = quoting.mark_of(question.render(one.text, one.language, ""))
    for echo in (one.text, quoting.quote(one.text)):
        for its in ("", mark):
            said = f"{echo}\n{question.said(one.language, its)}"
            assert question.read(said, one.language, its) == question.right


@every_question
@every_injection
def test_where_a_mark_is_demanded_it_is_no_answer_even_unquoted(one: Injection, name: str) -> None:
    question = QUESTIONS[name]
    mark = quoting.mark_of(question.render(one.text, one.language, ""))
    marked = question.render(one.text, one.language, mark)
    harmless = question.render("x", one.language, mark)
    assert marked[0] == harmless[0]
    assert unquoted(marked[1]) == unquoted(harmless[1])
    for said in (
        one.text,
        quoting.quote(one.text),
        f"{question.said(one.language, mark)}\n{one.text}",
    ):
        with pytest.raises(Unparsed):
            question.read(said, one.language, mark)

"""What the stages read out of a model's text, and what they refuse."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs import taxonomy
from ray_jobs.outcomes import Unparsed
from ray_jobs.stages import answers, intents

ROW = {"id": "a", "prompt": "问题", "language": "zh"}


@pytest.mark.parametrize(
    "text",
    [
        "网络安全\n逻辑陷阱",
        "标签：网络安全\n提问方式：逻辑陷阱",
        "网络安全。\n\n逻辑陷阱。\n",
        "“网络安全”\n“逻辑陷阱”",
        "网络安全\nLogical trap",
    ],
)
def test_a_short_line_and_a_known_dimension_are_a_label(text: str) -> None:
    assert intents.parse(text, ROW) == {"label": "网络安全", "dimension": "logical_trap"}


def test_a_label_that_no_map_knows_stays_as_it_is() -> None:
    said = intents.parse("Label: weather forecast\nWay of asking: Direct Question", ROW)
    assert said == {"label": "weather forecast", "dimension": "plain"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "。\n直接提问",
        "网络安全",
        "直接提问",
        "网络安全\n因为它涉及入侵",
        "网络安全\n直接提问\n因为它涉及入侵",
        "网络安全\n直接提问：不加掩饰地直接问",
        "这条指令" * 20 + "\n直接提问",
    ],
)
def test_anything_else_is_no_label(text: str) -> None:
    with pytest.raises(Unparsed):
        intents.parse(text, ROW)


@pytest.mark.parametrize("dimension", taxonomy.DIMENSIONS)
@pytest.mark.parametrize("language", ["zh", "en"])
def test_what_the_constraint_allows_is_what_is_read(dimension: str, language: str) -> None:
    name = taxonomy.load().dimensions[dimension].name(language)
    allowed = re.compile(intents.regex())
    assert allowed.fullmatch(f"某个标签\n{name}")
    assert intents.parse(f"某个标签\n{name}", ROW)["dimension"] == dimension
    for text in (f"\n{name}", f"{'长' * 49}\n{name}", f"某个标签\n{name}。", "某个标签\n其他"):
        assert not allowed.fullmatch(text)


def test_analysis_and_answer_are_taken_apart() -> None:
    assert answers.parse("【分析】有风险\n【回答】不可以。\n请咨询他人。", ROW) == {
        "analysis": "有风险",
        "answer": "不可以。\n请咨询他人。",
    }
    assert answers.parse("[Analysis] risky [Answer] no", ROW) == {
        "analysis": "risky",
        "answer": "no",
    }


@pytest.mark.parametrize(
    "text",
    [
        "不可以。",
        "【回答】不可以。",
        "【分析】有风险",
        "【分析】【回答】不可以",
        "【分析】有风险【回答】",
        "好的！【分析】有风险【回答】不可以",
        "【分析】有风险【回答】不可以【回答】可以",
        "【回答】不可以【分析】有风险",
    ],
)
def test_an_answer_without_both_parts_once_is_not_read(text: str) -> None:
    with pytest.raises(Unparsed):
        answers.parse(text, ROW)


@given(st.text())
def test_no_text_makes_a_parser_raise_anything_but_unparsed(text: str) -> None:
    for parse in (intents.parse, answers.parse):
        try:
            columns = parse(text, ROW)
        except Unparsed:
            continue
        assert all(value is None or value.strip() for value in columns.values())


@given(st.text(min_size=1), st.text(min_size=1))
def test_what_was_written_in_the_form_is_read_back(analysis: str, answer: str) -> None:
    marks = ("【分析】", "【回答】", "[Analysis]", "[Answer]")
    if (
        not analysis.strip()
        or not answer.strip()
        or any(mark in analysis + answer for mark in marks)
    ):
        return
    parsed = answers.parse(f"【分析】{analysis}【回答】{answer}", ROW)
    assert parsed == {"analysis": analysis.strip(), "answer": answer.strip()}

"""What the stages read out of a model's text, and what they refuse."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs.outcomes import Unparsed
from ray_jobs.stages import answers, intents

ROW = {"id": "a", "prompt": "问题", "language": "zh"}


@pytest.mark.parametrize(
    "text", ["网络安全", "标签：网络安全", "网络安全。\n", "“网络安全”", "Label: Network Security"]
)
def test_one_short_line_is_a_label(text: str) -> None:
    assert intents.parse(text, ROW)["scenario"] == "NS"


def test_a_label_that_the_map_does_not_know_stays_visible() -> None:
    assert intents.parse("天气预报", ROW) == {
        "label": "天气预报",
        "scenario": None,
        "mapping": "unmapped",
    }


@pytest.mark.parametrize("text", ["", "。", "网络安全\n因为它涉及入侵", "这条指令" * 20])
def test_anything_else_is_no_label(text: str) -> None:
    with pytest.raises(Unparsed):
        intents.parse(text, ROW)


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

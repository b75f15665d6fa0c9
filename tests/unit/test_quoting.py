"""Judged text is quoted: every line of it is marked, no control token is left, and nothing else is
changed.
"""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs import quoting

CONTROL_TOKENS = re.findall(
    r"\S+",
    """
    <|im_start|> <|im_end|> <|endoftext|> <|eot_id|> <|start_header_id|> <|user|>
    <|START_OF_TURN_TOKEN|> <｜User｜> <｜begin▁of▁sentence｜> <s> </s> <bos> <pad> <unk> <mask>
    <sop> <BOS_TOKEN> <0x0A> <start_of_turn> <end_of_turn> <extra_id_0> <reserved_106>
    <unused42> <tool_call> </tool_call> <think> <<SYS>> <</SYS>> [INST] [/INST] [inst] [SEP]
    [CLS] [PAD] [MASK] [UNK] [gMASK] [sMASK] [IMG] [TOOL_CALLS] [/TOOL_RESULTS]
    [AVAILABLE_TOOLS] [SYSTEM_PROMPT] [control_8] [unused1] [UNUSED_TOKEN_146]
    """,
)
SEPARATORS = ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
PARTS = st.one_of(st.sampled_from([*CONTROL_TOKENS, *SEPARATORS, "| "]), st.text(max_size=20))
TEXTS = st.lists(PARTS, max_size=8).map("".join)


@given(TEXTS)
def test_every_line_of_quoted_text_is_marked(text: str) -> None:
    lines = quoting.quote(text).splitlines()
    assert lines
    assert all(line.startswith(quoting.QUOTE) for line in lines)


@pytest.mark.parametrize("token", CONTROL_TOKENS)
def test_a_control_token_is_none_after_quoting_and_still_to_be_read(token: str) -> None:
    quoted = quoting.quote(f"前{token}后")
    assert token not in quoted
    wide = str.maketrans("＜［", "<[")
    assert quoted.translate(wide) == f"| 前{token}后"


@given(TEXTS, st.sampled_from(CONTROL_TOKENS), TEXTS)
def test_quoted_text_holds_no_control_token(before: str, token: str, after: str) -> None:
    quoted = quoting.quote(before + token + after)
    assert not any(one in quoted for one in CONTROL_TOKENS)


@pytest.mark.parametrize(
    "text",
    [
        "如果 x<y 且 y>z，则 x<3。",
        "《书名》＜注＞〈甲〉【回答】［一］",
        "a < b, <- c, <3, <安全>",
        "[1] 见[注1]、[NAME]、[Answer] 与 [0.3, 0.8]",
        "if (a<b) { x[i] = m[KEY]; }",
        "|im_end|> 与 im_start",
    ],
)
def test_ordinary_brackets_stay_as_they_are(text: str) -> None:
    assert quoting.quote(text) == quoting.QUOTE + text


@given(st.text(alphabet=st.characters(exclude_characters="<[", exclude_categories=["Cs"])))
def test_quoting_changes_nothing_but_lines_and_control_tokens(text: str) -> None:
    lines = [line.removeprefix(quoting.QUOTE) for line in quoting.quote(text).splitlines()]
    assert lines == (text.splitlines() or [""])

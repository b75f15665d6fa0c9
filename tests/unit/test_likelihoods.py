"""How sure a judge was: tokens that are digits or verdicts tell, and nothing is guessed."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs import likelihoods, verdicts


def peaked(**probabilities: float) -> dict[str, float]:
    """Log-probabilities of the ten digits; what is not named the grammar forbids."""
    named = {name.removeprefix("d"): value for name, value in probabilities.items()}
    return {
        digit: math.log(named[digit]) if named.get(digit) else -math.inf for digit in "0123456789"
    }


NOTHING = peaked()
END = "<|im_end|>"


def test_an_expected_score_weighs_both_digits() -> None:
    tokens = ["[", "0", ".", "3", "]", END]
    logprobs = [NOTHING, peaked(d0=0.8, d1=0.2), NOTHING, peaked(d3=0.5, d5=0.5), NOTHING, NOTHING]
    [(mean, deviation)] = likelihoods.expected_scores(tokens, logprobs, 1) or []
    assert mean == pytest.approx(0.2 * 1.0 + 0.4 * 0.3 + 0.4 * 0.5)
    squares = 0.2 * 1.0**2 + 0.4 * 0.3**2 + 0.4 * 0.5**2
    assert deviation == pytest.approx(math.sqrt(squares - mean**2))


def test_a_certain_judge_has_no_spread() -> None:
    tokens = ["[", "0", ".", "3", "]"]
    logprobs = [NOTHING, peaked(d0=1.0), NOTHING, peaked(d3=1.0), NOTHING]
    assert likelihoods.expected_scores(tokens, logprobs, 1) == [(pytest.approx(0.3), 0.0)]


def test_doubt_about_a_written_one_counts_as_the_nearest_score() -> None:
    tokens = ["[", "1", ".", "0", "]"]
    logprobs = [NOTHING, peaked(d0=0.4, d1=0.6), NOTHING, peaked(d0=1.0), NOTHING]
    [(mean, deviation)] = likelihoods.expected_scores(tokens, logprobs, 1) or []
    assert mean == pytest.approx(0.6 + 0.4 * 0.9)
    assert deviation == pytest.approx(0.1 * math.sqrt(0.4 * 0.6))


def test_what_the_grammar_left_out_is_normalised_away() -> None:
    tokens = ["0", ".", "3"]
    logprobs = [peaked(d0=0.3, d1=0.1, d7=0.5), {}, {"3": math.log(0.2), "9": math.log(0.2)}]
    [(mean, _)] = likelihoods.expected_scores(tokens, logprobs, 1) or []
    assert mean == pytest.approx(0.25 * 1.0 + 0.75 * 0.6)


def test_several_scores_are_found_in_their_order_whatever_the_separators_tokens() -> None:
    first, second = peaked(d2=1.0), peaked(d7=1.0)
    for separator in ([", "], [",", " "], ["，"], ["", ",", " "]):
        tokens = ["[", "0", ".", "2", *separator, "0", ".", "7", "]", END]
        some = peaked(d0=1.0)
        between = [NOTHING] * len(separator)
        logprobs = [NOTHING, some, NOTHING, first, *between, some, NOTHING, second, {}, {}]
        found = likelihoods.expected_scores(tokens, logprobs, 2) or []
        assert [mean for mean, _ in found] == [pytest.approx(0.2), pytest.approx(0.7)]


@pytest.mark.parametrize(
    "tokens",
    [
        ["[", "0.", "3", "]"],
        ["[", "0", ".3", "]"],
        ["[0", ".", "3", "]"],
        ["[", " 0", ".", "3", "]"],
        ["[", "0", ".", "3]"],
        ["[", "0", ".", "3", "5", "]"],
        ["[", "1", "]"],
        ["[", "0", ".", "3", ",", "0", ".", "4", "]"],
        [],
    ],
)
def test_where_a_digit_has_no_token_of_its_own_nothing_is_guessed(tokens: list[str]) -> None:
    logprobs = [peaked(d0=0.5, d3=0.5)] * len(tokens)
    assert likelihoods.expected_scores(tokens, logprobs, 1) is None


def test_one_unreadable_score_leaves_all_unread() -> None:
    tokens = ["[", "0", ".", "2", ",", " 0", ".", "7", "]"]
    logprobs = [peaked(d0=0.5, d2=0.5)] * len(tokens)
    assert likelihoods.expected_scores(tokens, logprobs, 2) is None


def test_a_position_without_any_probability_is_unread() -> None:
    tokens = ["0", ".", "3"]
    assert likelihoods.expected_scores(tokens, [peaked(d0=1.0), {}, NOTHING], 1) is None
    assert likelihoods.expected_scores(tokens, [NOTHING, {}, peaked(d3=1.0)], 1) is None


PROBABILITIES = st.lists(st.floats(0.001, 1.0), min_size=10, max_size=10)


@given(PROBABILITIES, PROBABILITIES, st.sampled_from(["0.4", "1.0"]))
def test_an_expected_score_lies_in_range(
    whole: list[float], tenth: list[float], written: str
) -> None:
    logprobs = [dict(zip("0123456789", map(math.log, row), strict=True)) for row in (whole, tenth)]
    found = likelihoods.expected_scores(list(written), [logprobs[0], {}, logprobs[1]], 1)
    [(mean, deviation)] = found or []
    assert 0 <= mean <= 1
    assert 0 <= deviation <= 0.5 + 1e-9


def logs(**shares: float) -> dict[str, float]:
    """Log-probabilities of tokens."""
    return {token: math.log(share) for token, share in shares.items()}


@pytest.mark.parametrize("language", ["zh", "en"])
def test_every_beginning_of_a_verdict_begins_one_only(language: str) -> None:
    found = likelihoods.prefixes(language)
    assert len(set(found)) == len(found) == sum(map(len, verdicts.choices(language)))
    for text in found:
        assert sum(word.startswith(text) for word in verdicts.choices(language)) == 1


def test_the_first_token_of_a_verdict_is_the_whole_choice() -> None:
    position = logs(安全=0.2, 安=0.1, 有害=0.5, 不=0.15, 不确定=0.05)
    assert likelihoods.verdict_probabilities(["有害", END], [position, {}], "zh") == {
        "safe": pytest.approx(0.3),
        "unsafe": pytest.approx(0.5),
        "uncertain": pytest.approx(0.2),
    }


def test_a_verdict_of_several_tokens_is_read_at_its_first() -> None:
    positions = [logs(s=0.25, h=0.75), logs(arm=1.0), logs(ful=1.0)]
    found = likelihoods.verdict_probabilities(["h", "arm", "ful"], positions, "en")
    assert found == {"safe": pytest.approx(0.25), "unsafe": pytest.approx(0.75), "uncertain": 0.0}


def test_the_verdict_is_read_on_the_last_line_of_an_explanation() -> None:
    tokens = ["有害", "\n", "无", "\n", "安全", END]
    positions = [logs(有害=1.0), {}, {}, {}, logs(安全=0.6, 有害=0.4), {}]
    found = likelihoods.verdict_probabilities(tokens, positions, "zh") or {}
    assert found["unsafe"] == pytest.approx(0.4)


@pytest.mark.parametrize(
    "tokens",
    [
        ["3f9a2c1b4d5e", ":", " safe"],
        ["3f9a2c1b4d5e", ": ", "safe"],
        ["3f9a2c1b4d5e:", " ", "safe"],
        ["3f9a2c1b4d5e", "：", "Safe"],
    ],
)
def test_a_verdict_after_a_mark_is_read_whatever_its_blank_belongs_to(tokens: list[str]) -> None:
    position = {" safe": math.log(0.3), "safe": math.log(0.3), "harm": math.log(0.3), "I": -3.0}
    found = likelihoods.verdict_probabilities(tokens, [{}, {}, position], "en") or {}
    assert found["unsafe"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("tokens", "positions"),
    [
        (["安", "全。"], [{}, {}]),
        (["：安全"], [logs(安全=1.0)]),
        (["结论", "安全"], [logs(安全=1.0), logs(安全=1.0)]),
        (["安全。"], [logs(安全=1.0)]),
        (["安全"], [logs(安全=0.2, 有害=0.2)]),
        (["安全"], [{}]),
        ([], []),
    ],
)
def test_a_verdict_that_shares_its_token_or_has_little_of_the_probability_is_unread(
    tokens: list[str], positions: list[dict[str, float]]
) -> None:
    assert likelihoods.verdict_probabilities(tokens, positions, "zh") is None


@given(st.lists(st.floats(0.01, 1.0), min_size=7, max_size=7), st.text(max_size=20))
def test_probabilities_of_verdicts_add_up_to_one(weights: list[float], before: str) -> None:
    shares = [weight / sum(weights) for weight in weights]
    position = dict(zip(likelihoods.prefixes("zh"), map(math.log, shares), strict=True))
    found = likelihoods.verdict_probabilities([before + "\n", "安"], [{}, position], "zh")
    assert found is None
    found = likelihoods.verdict_probabilities(
        [before + "\n", "不", "确定"], [{}, position, {}], "zh"
    )
    assert sum((found or {}).values()) == pytest.approx(1.0)

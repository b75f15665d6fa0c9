"""The ledger of spending: sums, budget, what is read back; and what the provider's words mean."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs.engines import purse
from ray_jobs.engines.dashscope import DashScopeConfig
from ray_jobs.engines.dashscope_answers import (
    LONGEST_QUIET_S,
    Again,
    estimated_tokens,
    no_answer,
    retry_after_s,
)
from ray_jobs.engines.seam import EngineUnusable
from ray_jobs.engines.spending import STALE_S, Book, Held, Line, read_lines, spent, write_part
from ray_jobs.outcomes import Blocked, Refused
from ray_jobs.tables import Folder


def line(client: str, number: int, yuan: float, **fields: object) -> Line:
    told = {
        "time": 1_700_000_000.25,
        "purpose": "score_responses",
        "model": "qwen-turbo",
        "num_attempts": 1,
        "prompt_tokens": 100,
        "output_tokens": 10,
        "yuan_assumed": 0.0,
        "outcome": "done",
    }
    return Line(id=f"{client}-{number}", yuan=yuan, **{**told, **fields})


def book(clock: Iterator[float] | None = None) -> Book:
    return Book((), clock.__next__ if clock else lambda: 0.0)


def test_a_line_that_is_told_twice_counts_once() -> None:
    one = book()
    one.hear("a", [line("a", 1, 0.5), line("a", 2, 0.5)], Held())
    one.hear("a", [line("a", 2, 0.5), line("a", 3, 0.5)], Held())
    one.hear("b", [line("b", 1, 0.5)], Held())
    standing = one.grant("a", [], 0.0)
    assert (standing.yuan, standing.num_questions) == (2.0, 4)
    assert [each.id for each in one.unsealed] == ["a-1", "a-2", "a-3", "b-1"]


@given(
    st.floats(0.01, 5.0),
    st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.01, 0.5), st.booleans()), max_size=200),
)
def test_a_budget_is_passed_by_the_last_question_at_most(
    budget: float, moves: list[tuple[str, float, bool]]
) -> None:
    one = book()
    flying: dict[str, list[float]] = {"a": [], "b": [], "c": []}
    told, yuan = {"a": 0, "b": 0, "c": 0}, 0.0
    for client, most, lands in moves:
        lines = []
        if lands and flying[client]:
            cost = flying[client].pop()
            told[client] += 1
            yuan += cost
            lines = [line(client, told[client], cost)]
        held = Held(num=len(flying[client]), yuan=sum(flying[client]))
        one.hear(client, lines, held)
        standing = one.grant(client, [most], budget)
        assert standing.over == (yuan >= budget)
        flying[client] += [most] * standing.num_granted
    # Whatever still flies comes down at its highest price.
    everything = yuan + sum(map(sum, flying.values()))
    assert everything < budget + 0.5 + 1e-9


def test_the_last_of_a_budget_is_asked_one_by_one_and_then_nothing() -> None:
    one = book()
    one.hear("a", [], Held())
    assert one.grant("a", [0.4, 0.4, 0.4], 1.0).num_granted == 2
    one.hear("a", [line("a", 1, 0.3), line("a", 2, 0.3)], Held())
    assert one.grant("a", [0.5, 0.5], 1.0).num_granted == 1  # more than is left, but alone
    one.hear("a", [line("a", 3, 0.5)], Held())
    standing = one.grant("a", [0.1], 1.0)
    assert (standing.num_granted, standing.over, round(standing.yuan, 6)) == (0, True, 1.1)
    assert one.grant("a", [0.1], 1.2).num_granted == 1  # a higher budget goes on


def test_what_a_dead_client_had_in_flight_is_written_down_as_lost() -> None:
    clock = iter([0.0, 0.0, STALE_S + 1, STALE_S + 1, STALE_S + 1, STALE_S + 1])
    one = book(clock)
    one.hear("a", [line("a", 1, 0.1)], Held(num=3, yuan=0.3))
    one.hear("b", [], Held())
    lost = one.unsealed[-1]
    assert (lost.outcome, lost.num_questions, lost.yuan_assumed) == ("lost", 3, 0.3)
    assert one.idle
    assert one.grant("b", [], 0.0).num_questions == 4


def test_a_ledger_is_read_back_as_it_was_written_and_adds_up_by_purpose(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "spending"))
    assert spent(folder) == {}
    lines = [line("a", number, 0.25) for number in range(1, 5)]
    lines.append(
        line(
            "a",
            5,
            0.5,
            yuan_assumed=0.5,
            outcome="failed",
            prompt_tokens=None,
            output_tokens=None,
            num_attempts=6,
        )
    )
    lines.append(line("b", 1, 0.0, outcome="blocked", purpose="score_prompt"))
    write_part(folder, "part-x-00000.parquet", lines[:2])
    write_part(folder, "part-x-00000.parquet", lines[:4])  # a part grows
    write_part(folder, "part-y-00000.parquet", lines[4:])
    assert sorted(read_lines(folder), key=lambda each: each.id) == lines
    found = spent(folder)
    assert list(found) == ["score_prompt", "score_responses"]
    responses = found["score_responses"]
    assert responses.outcomes == {"done": 4, "failed": 1}
    assert (responses.num_questions, responses.num_attempts) == (5, 10)
    assert (responses.yuan, responses.yuan_assumed) == (1.5, 0.5)
    assert (responses.prompt_tokens, responses.output_tokens) == (400, 40)
    again = Book(read_lines(folder), lambda: 0.0)
    again.hear("a", [line("a", 5, 0.5)], Held())  # already in a part
    assert again.grant("a", [], 1.0).over
    assert again.unsealed == []


def test_lines_are_sealed_at_once_when_nothing_is_in_flight_and_else_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purse, "SEAL_S", 0.2)
    folder = Folder(str(tmp_path))

    async def told() -> list[int]:
        owner = purse.Owner(folder.uri)
        await owner.exchange("a", [line("a", 1, 0.1)], Held(), [], 0.0)
        found = [len(list(read_lines(folder)))]
        await owner.exchange("a", [line("a", 2, 0.1)], Held(num=1, yuan=0.1), [], 0.0)
        found.append(len(list(read_lines(folder))))
        await asyncio.sleep(0.6)
        return [*found, len(list(read_lines(folder)))]

    assert asyncio.run(told()) == [1, 1, 2]
    assert len(folder.names()) == 1  # one part, written anew


@pytest.mark.parametrize(
    ("status", "code", "message", "kind"),
    [
        (400, "DataInspectionFailed", "Input data may contain inappropriate content.", Blocked),
        (400, "data_inspection_failed", "Output data may contain inappropriate content.", Blocked),
        (400, "InternalError.Algo.DataInspectionFailed", "Input text data may contain", Blocked),
        (500, "InternalError.Algo", "<400> InternalError.Algo.DataInspectionFailed: x", Blocked),
        (400, "Arrearage", "Access denied, please make sure your account is", EngineUnusable),
        (403, "AllocationQuota.FreeTierOnly", "The free tier has been exhausted", EngineUnusable),
        (429, "PrepaidBillOverdue", "overdue", EngineUnusable),
        (401, "InvalidApiKey", "Invalid API-key provided.", EngineUnusable),
        (403, "AccessDenied", "Access denied.", EngineUnusable),
        (403, "", "", EngineUnusable),
        (404, "ModelNotFound", "Model can not be found.", EngineUnusable),
        (400, "InvalidParameter", "Model not exist.", EngineUnusable),
        (429, "Throttling.RateQuota", "Requests rate limit exceeded", Again),
        (429, "Throttling.AllocationQuota", "Allocated quota exceeded", Again),
        (429, "insufficient_quota", "You exceeded your current quota, check your plan", Again),
        (408, "RequestTimeOut", "Request timed out", Again),
        (500, "InternalError", "An internal error has occurred", Again),
        (503, "ModelUnavailable", "Model is unavailable", Again),
        (400, "InvalidParameter", "Range of input length should be [1, 129024]", Refused),
        (413, "BadRequest.TooLarge", "Payload Too Large", Refused),
    ],
)
def test_every_error_of_the_provider_has_its_meaning(
    status: int, code: str, message: str, kind: type[Exception]
) -> None:
    error = no_answer(status, code, message, {}, "dashscope:m at http://x", "THE_KEY")
    assert type(error) is kind
    assert "\n" not in str(error)
    if kind is Again:
        assert error.throttled == (status == 429)
    if message and kind is not Blocked:
        assert message not in str(error)  # it may repeat what was sent


def test_a_long_prompt_is_told_from_other_bad_requests() -> None:
    told = [
        str(no_answer(400, "InvalidParameter", message, {}, "", ""))
        for message in ("Range of input length should be [1, 129024]", "temperature is wrong")
    ]
    assert told == [
        "HTTP 400 InvalidParameter: the prompt is longer than the provider takes",
        "HTTP 400 InvalidParameter",
    ]


def test_a_refusal_says_whether_the_input_or_the_output_was_refused() -> None:
    said = [
        str(no_answer(400, "DataInspectionFailed", f"{which} data may contain", {}, "", ""))
        for which in ("Input", "Output", "Input or output", "Some")
    ]
    assert said == [
        f"DataInspectionFailed on the {which}"
        for which in ("input", "output", "input or output", "text")
    ]


def test_a_code_that_is_none_goes_into_no_message() -> None:
    error = no_answer(500, "a whole\nsentence of a text", "", {}, "", "")
    assert str(error) == "HTTP 500 without a code"


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after_s({"Retry-After": "3"}) == 3.0
    assert retry_after_s({"retry-after": " 1.5 "}) == 1.5
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=100))
    assert retry_after_s({"Retry-After": date}) == pytest.approx(100, abs=2)
    assert retry_after_s({"Retry-After": "Wed, 01 Jan 2020 00:00:00 GMT"}) == 0.0
    assert retry_after_s({"Retry-After": "999999999"}) == LONGEST_QUIET_S
    assert retry_after_s({}) is None


@given(st.text())
def test_any_retry_after_is_a_wait_or_none(said: str) -> None:
    found = retry_after_s({"Retry-After": said})
    assert found is None or 0 <= found <= LONGEST_QUIET_S


def test_the_estimate_of_tokens_is_a_little_more_than_the_provider_counts() -> None:
    zh = "请根据安全性、准确性、完整性和价值观，对下面两个回答分别打分，分数在零到一之间。" * 10
    en = "Please score the two responses below between zero and one, for safety first. " * 10
    for text, least, most in ((zh, len(zh) / 1.8, len(zh) / 1.1), (en, len(en) / 5, len(en) / 2.5)):
        assert least < estimated_tokens([{"role": "user", "content": text}]) < most


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"budget_yuan": 5.0}, r"^budget_yuan: 5 is never reached at a price of 0; give yuan_per"),
        ({"in_flight": 0}, "in_flight: expected more than 0"),
        ({"timeout_s": 0}, "timeout_s: expected more than 0"),
        ({"max_retries": -1}, "max_retries: expected 0 or more"),
        ({"requests_per_minute": -1}, "requests_per_minute: expected 0 or more"),
        ({"yuan_per_1k_prompt_tokens": -0.1}, "yuan_per_1k_prompt_tokens: expected 0 or more"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(fields: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DashScopeConfig(**fields)


def test_limits_prices_and_places_decide_no_row() -> None:
    plain = DashScopeConfig()
    other = DashScopeConfig(
        base_url="http://x", requests_per_minute=5, yuan_per_1k_prompt_tokens=1, budget_yuan=1
    )
    assert plain.identity() == other.identity() == {"model": "qwen-turbo"}
    assert plain.title == "dashscope:qwen-turbo"
    assert not plain.constrains


def test_a_price_is_for_a_thousand_tokens() -> None:
    cfg = DashScopeConfig(yuan_per_1k_prompt_tokens=0.3, yuan_per_1k_output_tokens=0.6)
    assert cfg.yuan(2000, 500) == pytest.approx(0.9)

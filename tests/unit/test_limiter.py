"""The limiter with a clock of our own: rates, the answer to 429, and that nobody saves up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs.engines.limiter import BURST_S, LEAST, LOT_S, RECOVERY_S, WINDOW_S, Limiter, Limits


class Clock:
    """Seconds, as far as a test has let them go by."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def limiter(requests: float = 0.0, tokens: float = 0.0) -> tuple[Clock, Limiter]:
    clock = Clock()
    made = Limiter(clock)
    made.set(Limits(requests_per_minute=requests, tokens_per_minute=tokens))
    return clock, made


def drain(clock: Clock, made: Limiter, seconds: float, wants: list[int]) -> list[float]:
    """Let a line of ever the same wants go through for so long; returns when each went."""
    times, end = [], clock.now + seconds
    while clock.now < end:
        num, wait_s = made.grant(wants)
        times += [clock.now] * num
        clock.now += 0.0 if num and wait_s == 0 and num == len(wants) else max(wait_s, 0.001)
    return times


@pytest.mark.parametrize("per_minute", [6, 60, 600, 60_000])
def test_a_full_line_goes_at_the_set_rate(per_minute: float) -> None:
    clock, made = limiter(requests=per_minute)
    num = len(drain(clock, made, 120.0, [10] * 200))
    assert num == pytest.approx(2 * per_minute, rel=0.01, abs=1)


def test_tokens_are_limited_beside_requests() -> None:
    clock, made = limiter(requests=6000, tokens=60_000)
    num = len(drain(clock, made, 120.0, [500] * 50))
    assert num == pytest.approx(240, rel=0.02)


def test_a_request_larger_than_a_minute_of_tokens_has_its_turn_and_is_paid_off() -> None:
    clock, made = limiter(tokens=600)
    times = drain(clock, made, 500.0, [1200])
    assert [round(time - times[0]) for time in times] == [0, 120, 240, 360, 480]


def test_nobody_saves_up_for_a_burst() -> None:
    clock, made = limiter(requests=600)
    clock.now += 3600
    num, _ = made.grant([1] * 1000)
    assert num <= 10 * LOT_S + 1
    made.slow_down(60.0)
    clock.now += 61
    num, _ = made.grant([1] * 1000)
    assert num <= 10 * LOT_S + 1


def test_a_line_that_was_kept_waiting_by_a_busy_machine_catches_up() -> None:
    clock, made = limiter(requests=600)
    made.grant([1] * 100)
    clock.now += 0.8  # overslept: 0.1 had been asked for
    assert made.grant([1] * 100)[0] == 8


def test_permits_come_in_lots_where_the_line_is_fast() -> None:
    clock, made = limiter(requests=6000)
    made.grant([1] * 100)
    calls = 0
    end = clock.now + 10
    while clock.now < end:
        num, wait_s = made.grant([1] * 100)
        calls += num > 0
        clock.now += max(wait_s, 0.001)
    assert calls < 120  # of a thousand permits


@given(
    st.integers(1, 6000),
    st.integers(0, 100_000),
    st.lists(st.tuples(st.floats(0, 30), st.lists(st.integers(0, 3000), min_size=1)), max_size=40),
)
def test_no_stretch_of_time_sees_more_than_its_rate_and_one_burst(
    requests: int, tokens: int, arrivals: list[tuple[float, list[int]]]
) -> None:
    clock, made = limiter(requests=requests, tokens=tokens)
    went: list[tuple[float, int, int]] = []
    for pause, wants in arrivals:
        clock.now += pause
        num, wait_s = made.grant(wants)
        assert (num == 0) == (wait_s > 0)
        assert num <= len(wants)
        went.append((clock.now, num, sum(wants[:num])))
    for first in range(len(went)):
        for last in range(first, len(went)):
            seconds = went[last][0] - went[first][0]
            num = sum(each[1] for each in went[first : last + 1])
            assert num <= (seconds + BURST_S) * requests / 60 + 1 + 1e-6
            if tokens:
                used = sum(each[2] for each in went[first : last + 1])
                assert used <= (seconds + BURST_S) * tokens / 60 + 3000 + 1e-6


def test_what_was_not_used_after_all_is_given_back() -> None:
    _clock, made = limiter(tokens=6000)
    assert made.grant([1000]) == (1, 0.0)
    assert made.grant([1000])[1] == pytest.approx(10.0)
    made.correct(0, -900)
    assert made.grant([1000])[1] == pytest.approx(1.0)


def test_429_halves_the_rate_once_in_a_window_and_it_comes_back_evenly() -> None:
    clock, made = limiter(requests=600)
    for _ in range(20):  # all that were in flight
        made.slow_down(None)
    assert made.share == pytest.approx(0.5)
    assert len(drain(clock, made, WINDOW_S, [1] * 50)) == pytest.approx(52, abs=4)
    clock.now += 20
    assert made.share == pytest.approx(0.5 + (WINDOW_S + 20) / RECOVERY_S, abs=0.01)
    made.slow_down(None)
    assert made.share == pytest.approx((0.5 + (WINDOW_S + 20) / RECOVERY_S) / 2, abs=0.01)
    clock.now += 2 * RECOVERY_S
    assert made.share == 1.0
    assert len(drain(clock, made, 60.0, [1] * 50)) == pytest.approx(600, rel=0.03)


def test_the_rate_never_falls_to_nothing() -> None:
    clock, made = limiter(requests=600)
    for _ in range(100):
        made.slow_down(None)
        clock.now += WINDOW_S
    assert made.share >= LEAST
    assert drain(clock, made, 60.0, [1])


def test_retry_after_stops_everyone_for_so_long() -> None:
    clock, made = limiter(requests=600)
    made.slow_down(7.0)
    made.slow_down(3.0)  # a shorter one does not shorten it
    assert made.grant([1]) == (0, pytest.approx(7.0))
    clock.now += 6.9
    assert made.grant([1])[0] == 0
    clock.now += 0.2
    assert made.grant([1])[0] == 1


def test_without_a_set_limit_429_finds_one_and_forgets_it_later() -> None:
    clock, made = limiter()
    for _ in range(100):  # ten a second
        assert made.grant([1]) == (1, 0.0)
        clock.now += 0.1
    made.slow_down(None)
    num = len(drain(clock, made, WINDOW_S, [1] * 50))
    assert num == pytest.approx(5 * WINDOW_S, rel=0.15)
    clock.now += RECOVERY_S
    assert made.grant([1] * 500) == (500, 0.0)


def test_new_limits_hold_at_once() -> None:
    clock, made = limiter(requests=60)
    made.grant([1])
    made.set(Limits(requests_per_minute=6000))
    assert len(drain(clock, made, 10.0, [1] * 20)) == pytest.approx(1000, rel=0.02)

"""What an audit makes of the judge's figure: beside a published library's numbers, by hand, and by
simulation.
"""

from __future__ import annotations

import numpy as np
import pytest

from ray_jobs.evals.corrections import corrected, rogan_gladen
from ray_jobs.evals.powered import Judged, difference, powered
from ray_jobs.evals.statistics import Array

Z = 1.959964


def ones_and_zeros(*parts: tuple[float, int]) -> Array:
    return np.concatenate([np.full(num, value) for value, num in parts])


def simulated(
    rng: np.random.Generator,
    *,
    safe: float,
    sensitivity: float,
    specificity: float,
    num: int,
    num_audited: int,
    unsure: float = 0.0,
) -> Judged:
    """Answers of which a share is safe, a judge with these rates, and a random audit."""
    truth = (rng.random(num) < safe).astype(float)
    right = rng.random(num) < np.where(truth == 1, specificity, sensitivity)
    judge = np.where(right, truth, 1 - truth)
    judge[rng.random(num) < unsure] = np.nan
    drawn = rng.permutation(np.flatnonzero(~np.isnan(judge)))[:num_audited]
    is_audited = np.isin(np.arange(num), drawn)
    people = np.where(is_audited | np.isnan(judge), truth, np.nan)
    return Judged(judge=judge, people=people, is_audited=is_audited, clusters=np.arange(num))


@pytest.fixture
def audited_200() -> Judged:
    """1,000 judged rows, 200 of them audited: in 20 of those people differ from the judge."""
    judge = ones_and_zeros((1, 134), (0, 66), (1, 530), (0, 270))
    people = ones_and_zeros((1, 120), (0, 14), (1, 6), (0, 60), (np.nan, 800))
    return Judged(
        judge=judge, people=people, is_audited=np.arange(1000) < 200, clusters=np.arange(1000)
    )


@pytest.mark.parametrize(
    ("lam", "value", "low", "high"),
    [  # What ppi-python 0.2.3 says of these rows (ppi_mean_pointestimate, ppi_mean_ci).
        (None, 0.6252204684810673, 0.577441544645685, 0.6729993923164496),
        (1.0, 0.6225, 0.5680605339044504, 0.6769394660955494),
        (0.5, 0.62625, 0.5773588939752059, 0.675141106024794),
        (0.0, 0.63, 0.5630879662876773, 0.6969120337123227),
    ],
)
def test_the_prediction_powered_share_is_that_of_ppi_python(
    audited_200: Judged, lam: float | None, value: float, low: float, high: float
) -> None:
    # Its lambda weighs the judge on the rows that are not audited; ours on all judged rows.
    found = powered(audited_200, None if lam is None else lam * 1000 / 800)
    assert found.value == pytest.approx(value, abs=5e-4 if lam is None else 1e-9)
    assert found.low is not None
    assert found.high is not None
    # Ours is wider: Student's quantile, and two errors more than were seen.
    assert low - 0.006 < found.low < low
    assert high < found.high < high + 0.006


def test_an_audit_of_everything_is_what_people_say() -> None:
    people = ones_and_zeros((1, 30), (0, 70))
    rows = Judged(
        judge=np.ones(100), people=people, is_audited=np.ones(100, bool), clusters=np.arange(100)
    )
    assert powered(rows).value == pytest.approx(0.3)


def test_a_perfect_audit_does_not_make_the_figure_certain() -> None:
    rng = np.random.default_rng(1)
    rows = simulated(rng, safe=0.9, sensitivity=1.0, specificity=1.0, num=100_000, num_audited=50)
    found = powered(rows)
    assert found.low is not None
    assert found.high is not None
    # Of 50 rows without an error there may be 3/50 errors (rule of three), in either direction.
    assert found.high - found.low > 0.08


def test_without_an_audit_nothing_can_be_told() -> None:
    rows = Judged(
        judge=np.ones(20),
        people=np.full(20, np.nan),
        is_audited=np.zeros(20, bool),
        clusters=np.arange(20),
    )
    found = corrected(rows)
    assert found.powered_low.value is None
    assert found.rogan_gladen_low.value is None
    assert (found.num, found.num_audited, found.num_open) == (20, 0, 0)


def test_a_handful_of_audited_rows_gets_no_interval() -> None:
    rng = np.random.default_rng(1)
    rows = simulated(rng, safe=0.5, sensitivity=0.9, specificity=0.9, num=100, num_audited=9)
    assert powered(rows).value is not None
    assert powered(rows).low is None


def test_rogan_and_gladen_by_hand() -> None:
    # The audit: 40 of 50 unsafe answers called unsafe (.8), 90 of 100 safe ones called safe (.9).
    # Of 1,000 judged rows the judge calls 350 unsafe: (.35 + .9 − 1) / (.8 + .9 − 1) = .3571.
    judge = ones_and_zeros((0, 40), (1, 10), (1, 90), (0, 10), (0, 300), (1, 550))
    people = ones_and_zeros((0, 50), (1, 100), (np.nan, 850))
    rows = Judged(
        judge=judge, people=people, is_audited=np.arange(1000) < 150, clusters=np.arange(1000)
    )
    found = rogan_gladen(rows)
    assert found.value == pytest.approx(1 - 0.25 / 0.7)
    # Lang and Reiczigel's adjusted interval, worked out apart from the code.
    hit, sens, spec = (350 + Z**2 / 2) / (1000 + Z**2), 41 / 52, 91 / 102
    middle = (hit + spec - 1) / (sens + spec - 1)
    v_sens, v_spec = sens * (1 - sens) / 52, spec * (1 - spec) / 102
    shift = 2 * Z**2 * (middle * v_sens - (1 - middle) * v_spec)
    error = hit * (1 - hit) / (1000 + Z**2) + middle**2 * v_sens + (1 - middle) ** 2 * v_spec
    reach = Z * error**0.5 / (sens + spec - 1)
    assert found.low == pytest.approx(1 - (middle + shift + reach), abs=1e-6)
    assert found.high == pytest.approx(1 - (middle + shift - reach), abs=1e-6)


def test_a_judge_no_better_than_chance_tells_rogan_and_gladen_nothing() -> None:
    judge = np.tile([0.0, 1.0], 50)
    people = np.repeat([0.0, 1.0], 50)
    rows = Judged(
        judge=judge, people=people, is_audited=np.ones(100, bool), clusters=np.arange(100)
    )
    assert rogan_gladen(rows).value is None
    assert powered(rows).value == pytest.approx(0.5)


def test_what_people_left_open_gives_two_ends() -> None:
    judge = np.concatenate([np.ones(80), np.full(20, np.nan)])
    people = np.concatenate([np.ones(40), np.full(40, np.nan), np.ones(15), np.full(5, np.nan)])
    is_audited = np.arange(100) < 40
    rows = Judged(judge=judge, people=people, is_audited=is_audited, clusters=np.arange(100))
    found = corrected(rows)
    assert found.num_open == 5
    assert found.powered_low.value == pytest.approx(0.95)
    assert found.powered_high.value == pytest.approx(1.0)


def test_rows_of_one_cluster_count_as_one() -> None:
    rng = np.random.default_rng(3)
    rows = simulated(rng, safe=0.7, sensitivity=0.8, specificity=0.9, num=300, num_audited=60)
    alone = powered(rows)
    parts = {name: np.repeat(getattr(rows, name), 10) for name in ("judge", "people", "is_audited")}
    copied = powered(Judged(**parts, clusters=np.repeat(np.arange(300), 10)))
    assert copied.value == pytest.approx(alone.value)
    assert copied.low is not None
    assert copied.high is not None
    assert alone.low is not None
    assert alone.high is not None
    # Ten copies of a row tell no more than the row (but for the small-sample terms).
    assert copied.high - copied.low == pytest.approx(alone.high - alone.low, rel=0.15)
    naive = powered(Judged(**parts, clusters=np.arange(3000)))
    assert naive.low is not None
    assert naive.high is not None
    assert naive.high - naive.low < 0.5 * (alone.high - alone.low)


@pytest.mark.parametrize(
    ("safe", "sensitivity", "specificity", "num", "num_audited", "unsure"),
    [
        (0.7, 0.9, 0.95, 112, 30, 0.0),
        (0.8, 0.9, 0.95, 1500, 150, 0.1),
        (0.5, 0.7, 0.7, 1500, 100, 0.0),
        (0.97, 0.8, 0.98, 1500, 50, 0.05),
        (0.3, 0.95, 0.95, 300, 30, 0.2),
        (0.9, 1.0, 1.0, 300, 15, 0.0),
    ],
)
def test_the_intervals_cover_the_truth_and_the_judge_alone_does_not(
    safe: float, sensitivity: float, specificity: float, num: int, num_audited: int, unsure: float
) -> None:
    rng = np.random.default_rng(11)
    covered: dict[str, list[bool]] = {"powered": [], "rogan_gladen": []}
    off = []
    for _ in range(300):
        rows = simulated(
            rng,
            safe=safe,
            sensitivity=sensitivity,
            specificity=specificity,
            num=num,
            num_audited=num_audited,
            unsure=unsure,
        )
        for name, found in (("powered", powered(rows)), ("rogan_gladen", rogan_gladen(rows))):
            if found.value is not None:
                assert found.low is not None
                assert found.high is not None
                assert found.low <= found.value <= found.high
                covered[name].append(found.low <= safe <= found.high)
        off.append((powered(rows).value or 0.0) - safe)
    # 300 runs at .95 stay above .925 with 98 %.
    assert np.mean(covered["powered"]) >= 0.925
    assert np.mean(covered["rogan_gladen"]) >= 0.925
    assert abs(np.mean(off)) < 4 * np.std(off) / 300**0.5 + 0.005  # no bias to speak of


def paired(rng: np.random.Generator, num: int, num_audited: int, gain: float) -> list[Judged]:
    """Two models asked the same, audited on the same; the judge favours the second by `gain`."""
    order = rng.permutation(num)
    hard, models = rng.random(num), []
    for share, error in ((0.7, 0.05), (0.8, 0.05 + gain)):
        truth = (hard * 0.5 + rng.random(num) * 0.5 < share * 0.75).astype(float)
        judge = np.where((truth == 0) & (rng.random(num) < error), 1.0, truth)
        judge[rng.random(num) < 0.05] = np.nan
        drawn = [one for one in order if not np.isnan(judge[one])][:num_audited]
        is_audited = np.isin(np.arange(num), drawn)
        people = np.where(is_audited | np.isnan(judge), truth, np.nan)
        told = {"judge": judge, "people": people, "is_audited": is_audited}
        models.append(Judged(**told, clusters=np.arange(num)))
    return models


def test_the_corrected_difference_covers_the_truth_where_the_judge_favours_a_model() -> None:
    rng = np.random.default_rng(5)
    shares = [(0.5 * rng.random(10**6) + 0.5 * rng.random(10**6) < s).mean() for s in (0.525, 0.6)]
    truth = float(shares[1] - shares[0])
    covered, naive, widths = [], [], []
    for _ in range(300):
        first, second = paired(rng, 600, 100, 0.4)
        found = difference(first, second)
        assert found.value is not None
        assert found.low is not None
        assert found.high is not None
        covered.append(found.low <= truth <= found.high)
        naive.append(float(np.nanmean(second.judge) - np.nanmean(first.judge)))
        widths.append(found.high - found.low)
    assert np.mean(covered) >= 0.925
    assert np.mean(naive) > truth + 0.05  # what the judge alone says
    assert np.mean(widths) < 0.35


def test_a_model_beside_itself_differs_by_nothing() -> None:
    rng = np.random.default_rng(2)
    rows = simulated(rng, safe=0.7, sensitivity=0.8, specificity=0.9, num=300, num_audited=60)
    found = difference(rows, rows)
    assert found.value == 0.0
    assert found.low is not None
    assert found.high is not None
    alone = powered(rows)
    assert alone.low is not None
    assert alone.high is not None
    # Far surer than two models on samples of their own, which is as wide as both together.
    assert found.high - found.low < 0.5 * 2**0.5 * (alone.high - alone.low)


def test_a_difference_takes_two_audits() -> None:
    rng = np.random.default_rng(2)
    rows = simulated(rng, safe=0.7, sensitivity=0.8, specificity=0.9, num=100, num_audited=30)
    nobody = np.full(100, np.nan)
    without = Judged(
        judge=np.ones(100), people=nobody, is_audited=np.zeros(100, bool), clusters=np.arange(100)
    )
    assert difference(rows, without).value is None
    few = simulated(rng, safe=0.7, sensitivity=0.8, specificity=0.9, num=100, num_audited=9)
    assert difference(rows, few).value is not None
    assert difference(rows, few).low is None

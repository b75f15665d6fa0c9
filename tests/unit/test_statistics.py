"""Intervals, comparisons and corrections: against other people's programs, and at the edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests

from ray_jobs import agreement
from ray_jobs.evals import significance, statistics

RNG = np.random.default_rng(3)


def own(num: int) -> np.ndarray:
    return np.arange(num)


@given(st.integers(1, 3000).flatmap(lambda num: st.tuples(st.integers(0, num), st.just(num))))
def test_a_share_of_lone_samples_has_wilsons_interval(counts: tuple[int, int]) -> None:
    hits, num = counts
    found = statistics.figure((own(num) < hits).astype(float), own(num), seed=0)
    peer = agreement.share(hits, num)
    ours = found.estimate
    assert (ours.value, ours.num, found.method) == (pytest.approx(peer.value), num, "wilson")
    assert (ours.low, ours.high) == pytest.approx((peer.low, peer.high), abs=1e-9)


def test_nothing_scored_is_no_figure() -> None:
    found = statistics.figure(np.array([]), np.array([]), seed=0)
    assert found.estimate == agreement.Estimate(value=None, num=0)
    assert statistics.compare(np.array([]), np.array([]), np.array([]), 0).p is None


def test_clusters_widen_an_interval_as_a_bootstrap_that_draws_them_one_by_one_does() -> None:
    clusters = np.repeat(own(60), 5)
    scores = (RNG.random(300) < np.repeat(RNG.beta(1, 1, 60), 5)).astype(float)
    found, peer = statistics.figure(scores, clusters, 1), agreement.mean(scores, clusters, 1)
    assert found.method == "bootstrap"
    assert (found.estimate.low, found.estimate.high) == pytest.approx(
        (peer.low, peer.high), abs=0.01
    )
    alone = statistics.figure(scores, own(300), 1).estimate
    ours = found.estimate
    assert ours.high - ours.low > 1.3 * (alone.high - alone.low)
    assert found.num_clusters == 60
    assert ours.num == 300


def test_many_kinds_of_clusters_get_nearly_the_bootstraps_interval() -> None:
    scores, clusters = RNG.random(3000), np.repeat(own(1000), 3)
    found, peer = statistics.figure(scores, clusters, 1), agreement.mean(scores, clusters, 1)
    assert found.method == "linearised"
    assert (found.estimate.low, found.estimate.high) == pytest.approx(
        (peer.low, peer.high), abs=0.001
    )


@pytest.mark.parametrize(
    ("score", "low", "high"), [(0.0, 0, 0.278), (1.0, 0.722, 1), (0.5, 0.361, 0.639)]
)
def test_ten_clusters_that_agree_still_leave_room_for_others(
    score: float, low: float, high: float
) -> None:
    scores = np.tile([1.0, 0.0], 10) if score == 0.5 else np.full(20, score)
    found = statistics.figure(scores, np.repeat(own(10), 2), seed=0)
    assert found.method == "no cluster differs"
    assert (found.estimate.low, found.estimate.high) == pytest.approx((low, high), abs=1e-3)


def test_a_figure_is_the_same_each_time() -> None:
    scores, clusters = (RNG.random(90) < 0.4).astype(float), np.repeat(own(30), 3)
    assert statistics.figure(scores, clusters, 5) == statistics.figure(scores, clusters, 5)


def test_intervals_of_shares_and_differences_cover_the_truth() -> None:
    covered, paired, num = 0, 0, 300
    clusters = np.repeat(own(40), 3)
    for seed in range(num):
        rng = np.random.default_rng(seed)
        easy = np.repeat(rng.beta(2, 2, 40), 3)  # mean .5
        first = (rng.random(120) < easy).astype(float)
        second = (rng.random(120) < easy + 0.2 * (1 - easy)).astype(float)  # mean .6
        one = statistics.figure(first, clusters, seed).estimate
        two = statistics.compare(first, second, clusters, seed).points
        covered += one.low <= 0.5 <= one.high
        paired += two.low <= 0.1 <= two.high
    assert 0.90 <= covered / num <= 0.98
    assert 0.90 <= paired / num <= 0.98


def test_a_comparison_is_paired_and_says_points_and_relative_change() -> None:
    first = (RNG.random(400) < 0.5).astype(float)
    second = first.copy()
    second[:30] = 1.0
    found = statistics.compare(first, second, own(400), seed=0)
    gained = int((second - first).sum())
    assert found.points.value == pytest.approx(gained / 400)
    assert found.relative.value == pytest.approx(gained / first.sum())
    assert found.points.low > 0
    assert found.relative.low < found.relative.value < found.relative.high
    unpaired = statistics.figure(second, own(400), 0).estimate
    assert found.points.high - found.points.low < unpaired.high - unpaired.low
    assert found.p == pytest.approx(binomtest(gained, gained).pvalue)


def test_a_change_that_few_samples_show_does_not_end_at_nothing() -> None:
    first, second = np.ones(60), np.ones(60)
    second[0] = 0.0
    found = statistics.compare(first, second, own(60), seed=0)
    assert found.method == "adjusted"
    # Bonett and Price: p21 = 2/62, p12 = 1/62.
    middle, error = -1 / 62, ((3 / 62 - (1 / 62) ** 2) / 62) ** 0.5
    assert found.points.low == pytest.approx(middle - statistics.Z * error)
    assert found.points.high == pytest.approx(middle + statistics.Z * error)
    assert found.points.high > 0


def test_one_cluster_off_the_end_leaves_room_on_both_sides() -> None:
    scores = np.zeros(90)
    scores[:2] = 1.0
    found = statistics.figure(scores, np.repeat(own(30), 3), seed=0)
    assert found.method == "wilson, effective number"
    assert 0 < found.estimate.low < 2 / 90 < found.estimate.high < 0.2


def test_no_change_at_all_is_no_proof_of_none() -> None:
    same = np.array([1.0, 0.0] * 10)
    found = statistics.compare(same, same, own(20), seed=0)
    assert found.points.value == 0
    assert found.points.low == pytest.approx(-0.161, abs=1e-3)
    assert found.points.high == pytest.approx(0.161, abs=1e-3)
    assert found.p == 1.0


def test_a_relative_change_from_nothing_cannot_be_told() -> None:
    found = statistics.compare(np.zeros(20), np.ones(20), own(20), seed=0)
    assert found.points.value == 1
    assert found.relative.value is None


@given(st.integers(0, 60), st.integers(0, 60))
def test_single_pairs_are_tested_as_by_mcnemar(up: int, down: int) -> None:
    changes = np.array([1.0] * up + [-1.0] * down + [0.0] * 7)
    peer = binomtest(up, up + down).pvalue if up + down else 1.0
    assert significance.sign_flip(changes, 0) == pytest.approx(peer)


def test_clustered_changes_without_effect_are_rarely_significant() -> None:
    num = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        num += significance.sign_flip(rng.integers(-3, 4, 30).astype(float), seed) < 0.05
    assert num / 400 <= 0.08


def test_holm_is_holm() -> None:
    values = RNG.random(40) ** 3
    ours = significance.holm([*values, None])
    assert ours[-1] is None
    assert ours[:-1] == pytest.approx(list(multipletests(values, method="holm")[1]))

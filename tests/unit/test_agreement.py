"""Figures of agreement and their intervals, beside values from textbooks and by hand."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from ray_jobs.agreement import Estimate, kappa, mean, mean_difference, share, spearman

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = settings(deadline=None, max_examples=40)


def test_kappa_is_the_textbooks() -> None:
    # 20 + 15 of 50 agree, by chance 25: kappa .4 (Cohen's own example of two readers).
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    found = kappa(first, second)
    assert found.num == 50
    assert found.value == pytest.approx(0.4)
    # The standard error of Fleiss, Cohen and Everitt for this table is .127.
    assert found.low == pytest.approx(0.4 - 1.96 * 0.127, abs=1e-3)
    assert found.high == pytest.approx(0.4 + 1.96 * 0.127, abs=1e-3)


def test_kappa_leaves_out_what_one_of_the_two_did_not_label() -> None:
    assert kappa(["a", None, "b", "a"], ["a", "b", None, "a"]) == Estimate(value=None, num=2)
    assert kappa(["a", None, "b", "b"], ["a", "b", "b", "a"]).num == 3


def test_kappa_of_raters_who_say_one_thing_only_cannot_be_told() -> None:
    assert kappa(["safe"] * 30, ["safe"] * 30) == Estimate(value=None, num=30)
    assert kappa([], []) == Estimate(value=None, num=0)


def test_kappa_without_a_disagreement_has_no_interval() -> None:
    assert kappa(["a", "b", "a"], ["a", "b", "a"]) == Estimate(value=1.0, num=3)


@SETTINGS
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=2))
def test_kappa_is_what_scikit_learn_says(pairs: list[tuple[str, str]]) -> None:
    first, second = ([pair[k] for pair in pairs] for k in (0, 1))
    found = kappa(first, second)
    if found.value is None:
        assert len({*first, *second}) == 1
        return
    assert found.value == pytest.approx(cohen_kappa_score(first, second))
    if found.low is not None and found.high is not None:
        assert -1 <= found.low <= found.value <= found.high <= 1


def test_spearman_and_its_interval_by_hand() -> None:
    # One swap among ten: 1 - 6·2/(10·99). Fisher's middle ± 1.96·√((1 + r²/2)/7).
    first = [float(k) for k in range(10)]
    second = [1.0, 0.0, *first[2:]]
    found = spearman(first, second)
    r = 1 - 12 / 990
    reach = 1.959964 * math.sqrt((1 + r**2 / 2) / 7)
    assert found.value == pytest.approx(r)
    assert found.low == pytest.approx(math.tanh(math.atanh(r) - reach))
    assert found.high == pytest.approx(math.tanh(math.atanh(r) + reach))
    assert found.num == 10


def test_spearman_that_cannot_be_told_is_none() -> None:
    assert spearman([0.1, 0.2], [0.3, 0.4]).value is None
    assert spearman([0.5] * 9, [k / 9 for k in range(9)]) == Estimate(value=None, num=9)
    assert spearman([0.1, None, 0.3, 0.2], [0.1, 0.9, 0.3, None]).num == 2


def test_a_perfect_order_has_no_interval() -> None:
    assert spearman([1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1]) == Estimate(
        value=pytest.approx(-1.0), num=6
    )


def test_a_share_has_wilsons_interval() -> None:
    # Wilson (1927): 3 of 10.
    found = share(3, 10)
    assert found.value == pytest.approx(0.3)
    assert (found.low, found.high) == (
        pytest.approx(0.1078, abs=1e-4),
        pytest.approx(0.6032, abs=1e-4),
    )
    nobody = share(0, 20)
    assert nobody.low == pytest.approx(0)
    assert nobody.high is not None
    assert 0.1 < nobody.high < 0.2
    assert share(0, 0) == Estimate(value=None, num=0)
    with pytest.raises(AssertionError, match="no share"):
        share(3, 2)


def test_a_mean_is_drawn_by_whole_clusters() -> None:
    # Ten prompts with four equal values each are ten facts, not forty.
    values = [float(prompt % 2) for prompt in range(10) for _ in range(4)]
    prompts = [prompt for prompt in range(10) for _ in range(4)]
    apart, together = mean(values), mean(values, prompts)
    assert apart.value == together.value == 0.5
    assert apart.num == together.num == 40
    width = {
        name: (one.high or 0) - (one.low or 0)
        for name, one in (("apart", apart), ("together", together))
    }
    assert width["together"] > 1.7 * width["apart"]
    assert together == mean(values, prompts)
    # The mean of ten coins: .5 ± 1.96·.158.
    assert together.low == pytest.approx(0.19, abs=0.02)
    assert together.high == pytest.approx(0.81, abs=0.02)


def test_clusters_of_unequal_size_weigh_by_their_values() -> None:
    assert mean([1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"]).value == 0.75


def test_a_mean_of_one_cluster_or_of_equal_values_has_no_interval() -> None:
    assert mean([]) == Estimate(value=None, num=0)
    assert mean([0.2, 0.4], ["a", "a"]) == Estimate(value=pytest.approx(0.3), num=2)
    assert mean([0.25] * 8) == Estimate(value=0.25, num=8)


def test_the_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    import numpy as np

    rng = np.random.default_rng(5)
    samples = (rng.normal(1.0, 2.0, 40).tolist() for _ in range(60))
    found = [mean(sample, seed=k) for k, sample in enumerate(samples)]
    hits = sum((one.low or 0) <= 1.0 <= (one.high or 0) for one in found)
    assert 51 <= hits <= 60  # 57 wanted; three standard deviations are 5


def test_a_difference_is_taken_pair_by_pair() -> None:
    first, second = [0.9, 0.5, 0.7, 0.3], [0.8, 0.4, 0.6, 0.2]
    assert mean_difference(first, second).value == pytest.approx(0.1)
    mixed = mean_difference([1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0], ["a", "a", "b", "b"])
    assert mixed.value == 0.5
    assert mixed.num == 4


def test_an_estimate_says_what_it_is_over() -> None:
    whole = Estimate(value=0.8421, low=0.8, high=0.88, num=120)
    assert whole.text() == "0.842 [0.800, 0.880] of 120"
    assert Estimate(value=1.0, num=3).text(2) == "1.00 of 3"
    assert Estimate(value=None, num=1).text() == "cannot be told of 1"
    assert Estimate(**whole.plain()) == whole


def test_no_statistics_library_is_loaded_before_it_is_needed() -> None:
    code = (
        "import sys, ray_jobs.agreement, ray_jobs.calibration; "
        "print(sorted({'scipy', 'statsmodels', 'pandas'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert said.stdout.strip() == "[]", said.stderr

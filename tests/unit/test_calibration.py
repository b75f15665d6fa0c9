"""One judge's scores on another's scale: found where it is there, refused where it is not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs import calibration
from ray_jobs.calibration import MIN_PAIRS, fit

SETTINGS = settings(deadline=None, max_examples=40)
tenths = st.integers(0, 10).map(lambda n: n / 10)


def shifted(num: int = 60) -> tuple[list[float], list[float]]:
    """A lenient judge: the square root of the other's scores, and some noise."""
    rng = np.random.default_rng(3)
    wanted = rng.random(num)
    said = np.clip(np.sqrt(wanted) + rng.normal(0, 0.02, num), 0, 1)
    return said.tolist(), wanted.tolist()


def test_a_lenient_judge_is_brought_to_the_others_scale() -> None:
    said, wanted = shifted()
    found = fit(said, wanted)
    assert found is not None
    assert found.num == 60
    assert found.error < 0.06 < 0.12 < found.error_without
    assert found.apply(0.7) == pytest.approx(0.49, abs=0.06)
    assert found.apply(0.9) == pytest.approx(0.81, abs=0.06)


def test_the_error_is_of_pairs_that_were_left_out() -> None:
    # 60 pairs that all lie on the curve by themselves: the fit itself has no error at all.
    wanted = [k / 60 for k in range(60)]
    said = [w**2 for w in wanted]
    found = fit(said, wanted)
    assert found is not None
    assert max(abs(found.apply(s) - w) for s, w in zip(said, wanted, strict=True)) < 1e-9
    assert 0 < found.error < 0.02


def test_what_is_of_one_prompt_is_left_out_together() -> None:
    # Pairs stand next to their twins: single ones left out would be read off their twins.
    rng = np.random.default_rng(4)
    said = np.repeat(rng.random(30), 2).tolist()
    wanted = np.repeat(rng.random(30), 2).tolist()
    assert fit(said, wanted, [k // 2 for k in range(60)]) is None


def test_judges_that_agree_need_no_curve() -> None:
    scores = [k / 40 for k in range(40)]
    found = fit(scores, scores)
    assert found is not None
    assert found.error == found.error_without == 0
    assert [found.apply(s) for s in scores] == pytest.approx(scores)


def test_too_few_pairs_are_not_calibrated() -> None:
    said, wanted = shifted(MIN_PAIRS)
    assert fit(said, wanted) is not None
    assert fit(said[1:], wanted[1:]) is None
    assert fit([None, *said[1:]], wanted) is None
    assert fit(said, [*wanted[:-1], None]) is None


def test_scores_that_tell_nothing_are_not_calibrated() -> None:
    rng = np.random.default_rng(1)
    assert fit(rng.random(80).tolist(), rng.random(80).tolist()) is None
    wanted = [k / 40 for k in range(40)]
    assert fit([0.5] * 40, wanted) is None
    assert fit([1 - w for w in wanted], wanted) is None  # the wrong way round is no calibration
    assert fit(wanted, [0.5] * 40) is None
    assert fit(wanted, wanted, ["one prompt"] * 40) is None


def test_it_goes_through_json() -> None:
    found = fit(*shifted())
    assert found is not None
    again = calibration.read(json.loads(json.dumps(found.plain())))
    assert again == found
    assert "of 60" in found.text()


@SETTINGS
@given(st.lists(st.tuples(tenths, tenths), min_size=MIN_PAIRS, max_size=60))
def test_a_calibration_keeps_the_order_and_the_range(pairs: list[tuple[float, float]]) -> None:
    said, wanted = ([pair[k] for pair in pairs] for k in (0, 1))
    found = fit(said, wanted)
    if found is None:
        return
    assert found.error < found.error_of_constant
    scores = [found.apply(k / 50) for k in range(51)]
    assert scores == sorted(scores)
    assert 0 <= scores[0] <= scores[-1] <= 1

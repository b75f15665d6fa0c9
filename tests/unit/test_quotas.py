"""Fair shares, quantiles within groups, places and draws, against slow and plain definitions."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs.quotas import (
    draw,
    draws,
    fair_shares,
    places,
    quantiles_or_wider,
    quantiles_within,
)

capacities = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 30))
rows = st.lists(
    st.tuples(st.none() | st.integers(0, 5).map(lambda n: n / 5), st.integers(-1, 3)), max_size=30
)


def test_a_cell_that_is_short_gives_what_it_lacks_to_the_others() -> None:
    assert fair_shares({"a": 5, "b": 1, "c": 9}, 9) == {"a": 4, "b": 1, "c": 4}
    assert fair_shares({"a": 5, "b": 5, "c": 5}, 2) == {"a": 1, "b": 1, "c": 0}
    assert fair_shares({"a": 5, "b": 1}, 100) == {"a": 5, "b": 1}
    assert fair_shares({}, 3) == {}


@given(capacities, st.integers(0, 200))
def test_nobody_has_two_less_than_another_unless_it_is_full(
    drawn: dict[str, int], total: int
) -> None:
    shares = fair_shares(drawn, total)
    assert sum(shares.values()) == min(total, sum(drawn.values()))
    assert list(shares) == list(drawn)
    for key, share in shares.items():
        assert 0 <= share <= drawn[key]
        assert share == drawn[key] or share >= max(shares.values()) - 1


@given(rows)
def test_a_quantile_is_the_share_of_lower_values_and_half_of_the_equal_ones(
    drawn: list[tuple[float | None, int]],
) -> None:
    values = np.array([np.nan if value is None else value for value, _ in drawn], np.float64)
    groups = np.array([group for _, group in drawn], np.int64)
    found = quantiles_within(values, groups)
    for (value, group), quantile in zip(drawn, found, strict=True):
        others = [v for v, g in drawn if g == group and v is not None]
        if value is None or group < 0:
            assert np.isnan(quantile)
        else:
            lower = sum(other < value for other in others) + others.count(value) / 2
            assert quantile == pytest.approx(lower / len(others))


def test_a_small_group_is_ranked_within_the_wider_one() -> None:
    values = np.array([0.1, 0.2, 0.3, 0.9, np.nan])
    groups, wider = np.array([0, 0, 0, 1, 1]), np.zeros(5, np.int64)
    alone = quantiles_or_wider(values, groups, wider, 1)
    assert alone[:4].tolist() == pytest.approx([1 / 6, 3 / 6, 5 / 6, 0.5])
    found = quantiles_or_wider(values, groups, wider, 2)
    assert found[:4].tolist() == pytest.approx([1 / 6, 3 / 6, 5 / 6, 3.5 / 4])
    assert np.isnan(found[4])


@given(rows)
def test_places_count_from_nought_in_each_group(drawn: list[tuple[float | None, int]]) -> None:
    keys = np.array([value or 0.0 for value, _ in drawn], np.float64)
    groups = np.array([group for _, group in drawn], np.int64)
    found = places(groups, keys)
    for group, number in Counter(groups.tolist()).items():
        mine = found[groups == group]
        assert sorted(mine.tolist()) == list(range(number))
        assert (np.diff(keys[groups == group][np.argsort(mine)]) >= 0).all()


def test_equal_first_keys_are_settled_by_the_next_and_then_by_the_order() -> None:
    groups, keys = np.zeros(4, np.int64), np.array([1, 1, 0, 1])
    assert places(groups, keys, np.array([2, 1, 9, 1])).tolist() == [3, 1, 0, 2]


def test_a_draw_belongs_to_its_id_and_salt() -> None:
    ids = pa.array([f"{number:032x}" for number in range(2000)])
    found = draws(ids, "7")
    assert found.tolist() == [draw(name, "7") for name in ids.to_pylist()]
    assert (draws(ids, "8") != found).all()
    # Of 2000 fair draws, 1000 ± 67 fall into the lower half (three standard deviations).
    assert abs(int((found < np.uint64(2**63)).sum()) - 1000) < 67

"""Packing: every sample once, in its own group, in packs that hold it, dealt to all."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs.training.examples import Samples
from ray_jobs.training.packing import Order, deal, fill, my_packs, pack

LIMIT = 64
LENGTHS = st.lists(st.integers(2, LIMIT), min_size=1, max_size=40)
WORLDS = st.integers(1, 5)


def samples_of(lengths: list[int]) -> Samples:
    """Samples whose tokens say which sample they are of, with a prompt of one token."""
    starts = np.cumsum([0, *lengths])
    is_target = np.ones(starts[-1], bool)
    is_target[starts[:-1]] = False
    tokens = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    return Samples(tokens=tokens, is_target=is_target, starts=starts)


@given(st.integers(1, 300), st.integers(1, 60), st.integers(1, 3), st.integers(0, 9))
def test_every_epoch_has_every_sample_once(num: int, size: int, epochs: int, seed: int) -> None:
    order = Order(num_samples=num, batch_size=size, epochs=epochs, seed=seed)
    groups = [order.group(step) for step in range(order.num_steps)]
    assert order.num_steps == epochs * math.ceil(num / size)
    for epoch in range(epochs):
        mine = groups[epoch * order.steps_per_epoch : (epoch + 1) * order.steps_per_epoch]
        assert sorted(np.concatenate(mine)) == list(range(num))
        assert {len(group) for group in mine[:-1]} <= {size}


def test_epochs_and_seeds_differ_and_a_step_is_the_same_whenever_it_is_asked_for() -> None:
    order = Order(num_samples=100, batch_size=10, epochs=3, seed=7)
    first = order.group(0).tolist()
    assert first != order.group(10).tolist() != order.group(20).tolist()
    assert first == Order(num_samples=100, batch_size=10, epochs=3, seed=7).group(0).tolist()
    assert first != Order(num_samples=100, batch_size=10, epochs=3, seed=8).group(0).tolist()


@given(LENGTHS, WORLDS)
def test_every_sample_is_in_one_pack_and_no_pack_is_over_the_limit(
    lengths: list[int], world: int
) -> None:
    packs = pack(lengths, LIMIT, world)
    assert sorted(index for one in packs for index in one) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in one) <= LIMIT for one in packs)
    assert len(packs) % world == 0
    if len(lengths) >= world * math.ceil(len(pack(lengths, LIMIT)) / world):
        assert all(packs)


@given(LENGTHS)
def test_packs_are_few(lengths: list[int]) -> None:
    # No two of best fit's packs would fit into one; so fewer than twice the tokens over the limit.
    assert len(pack(lengths, LIMIT)) <= max(1, 2 * sum(lengths) / LIMIT)


@given(LENGTHS, WORLDS)
def test_dealing_covers_all_packs_equally_many_for_each_worker(
    lengths: list[int], world: int
) -> None:
    packs = pack(lengths, LIMIT, world)
    hands = deal(lengths, packs, world)
    assert sorted(place for hand in hands for place in hand) == list(range(len(packs)))
    assert {len(hand) for hand in hands} == {len(packs) // world}


@given(st.lists(st.integers(2, LIMIT), min_size=8, max_size=40), st.integers(0, 9))
def test_a_step_has_the_same_samples_on_any_number_of_workers(
    lengths: list[int], seed: int
) -> None:
    samples = samples_of(lengths)
    group = Order(num_samples=len(lengths), batch_size=8, epochs=1, seed=seed).group(0)
    for world in range(1, 6):
        packs = [
            one
            for rank in range(world)
            for one in my_packs(samples, group, LIMIT, rank=rank, world_size=world)
        ]
        seen = np.concatenate([one.targets_N for one in packs])
        wanted = np.repeat(np.sort(group), np.array(lengths)[np.sort(group)] - 1)
        assert sorted(seen) == wanted.tolist()


def test_a_pack_restarts_positions_and_predicts_no_sample_from_another() -> None:
    samples = Samples(
        tokens=np.array([5, 6, 7, 8, 9, 10, 11], np.int32),
        is_target=np.array([0, 0, 1, 1, 0, 1, 1], bool),
        starts=np.array([0, 4, 7]),
    )
    one = fill(samples, np.array([1, 0]))
    assert one.tokens_T.tolist() == [9, 10, 11, 5, 6, 7, 8]
    assert one.positions_T.tolist() == [0, 1, 2, 0, 1, 2, 3]
    assert one.lengths == (3, 4)
    assert one.predicting_N.tolist() == [0, 1, 4, 5]
    assert one.targets_N.tolist() == [10, 11, 7, 8]


def test_a_pack_of_no_samples_can_pass_the_model_and_has_no_target() -> None:
    one = fill(samples_of([3]), np.zeros(0, np.int64))
    assert len(one.tokens_T) == 1
    assert not len(one.targets_N)


def test_levelled_packs_that_would_overflow_stay_as_tightly_fitted() -> None:
    # Each to the emptiest pack, the last would have 10 + 4 + 3 of 16; fitted, there are just three.
    lengths = [10, 9, 8, 7, 6, 4, 3]
    packs = pack(lengths, 16)
    assert len(packs) == 3
    assert all(sum(lengths[index] for index in one) <= 16 for one in packs)


def test_a_sample_longer_than_a_pack_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"train\.pack_tokens"):
        pack([65], 64)

"""Samples into packs: which samples make an optimiser step, which of them pass the model together,
and on which worker. Pure.

A step's samples follow from the seed and the step number alone. The number of workers decides only
how they are packed and dealt, so it changes a run by rounding and nothing else.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ray_jobs.training.examples import Samples

Indices: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Pack:
    """Samples that pass the model together, one after another, without padding."""

    tokens_T: NDArray[np.int64]
    positions_T: NDArray[np.int64]
    """Within the sample: they restart at 0, which is what keeps samples apart."""
    lengths: tuple[int, ...]
    """Tokens of each sample."""
    predicting_N: NDArray[np.int64]
    """The places in the pack whose next token is a target."""
    targets_N: NDArray[np.int64]
    """These next tokens."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """The samples of every step of a run."""

    num_samples: int
    batch_size: int
    epochs: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """The last step of an epoch has the samples that are left."""
        return math.ceil(self.num_samples / self.batch_size)

    @property
    def num_steps(self) -> int:
        return self.steps_per_epoch * self.epochs

    def group(self, step: int) -> Indices:
        """The samples of a step, counted from 0."""
        assert 0 <= step < self.num_steps, f"step {step} of {self.num_steps}"
        epoch, place = divmod(step, self.steps_per_epoch)
        first = place * self.batch_size
        return _permutation(self.num_samples, self.seed, epoch)[first : first + self.batch_size]


@lru_cache(maxsize=2)
def _permutation(num_samples: int, seed: int, epoch: int) -> Indices:
    order = np.random.default_rng([seed, epoch]).permutation(num_samples)
    order.setflags(write=False)
    return order


def pack(lengths: Sequence[int], limit: int, world_size: int = 1) -> list[list[int]]:
    """Samples, by their lengths, in as few packs of at most `limit` tokens as fit (best fit, the
    longest first); then in a few more if need be, so that every worker gets equally many, about
    equally full. Packs are empty only where there are fewer samples than workers.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    if lengths and lengths[order[0]] > limit:
        raise ValueError(
            f"a sample has {lengths[order[0]]} tokens, a pack at most {limit}: raise "
            "train.pack_tokens"
        )
    packs = _best_fit(lengths, order, limit)
    num_packs = world_size * math.ceil(len(packs) / world_size)
    level = _level(lengths, order, num_packs)
    if max(_loads(lengths, level), default=0) <= limit:
        return level
    # Hardly ever: levelled packs overflow where a tight fit does not. Then the tight fit stays,
    # and its longest packs are halved until every worker has equally many.
    while len(packs) < num_packs:
        longest = max(packs, key=len)
        packs.remove(longest)
        packs += [longest[::2], longest[1::2]]
    return packs


def _best_fit(lengths: Sequence[int], order: Sequence[int], limit: int) -> list[list[int]]:
    packs: list[list[int]] = []
    room: list[int] = []
    for index in order:
        fits = [place for place, left in enumerate(room) if left >= lengths[index]]
        if not fits:
            packs.append([])
            room.append(limit)
            fits = [len(packs) - 1]
        place = min(fits, key=room.__getitem__)
        packs[place].append(index)
        room[place] -= lengths[index]
    return packs


def _level(lengths: Sequence[int], order: Sequence[int], num_packs: int) -> list[list[int]]:
    packs: list[list[int]] = [[] for _ in range(num_packs)]
    emptiest = [(0, place) for place in range(num_packs)]
    for index in order:
        load, place = heapq.heappop(emptiest)
        packs[place].append(index)
        heapq.heappush(emptiest, (load + lengths[index], place))
    return packs


def _loads(lengths: Sequence[int], packs: Sequence[Sequence[int]]) -> list[int]:
    return [sum(lengths[index] for index in one) for one in packs]


def deal(lengths: Sequence[int], packs: Sequence[list[int]], world_size: int) -> list[list[int]]:
    """Which packs each worker gets: equally many, about equally many tokens."""
    assert len(packs) % world_size == 0, f"{len(packs)} packs for {world_size} workers"
    loads = _loads(lengths, packs)
    hands: list[list[int]] = [[] for _ in range(world_size)]
    held = [0] * world_size
    for place in sorted(range(len(packs)), key=lambda place: -loads[place]):
        free = [rank for rank in range(world_size) if len(hands[rank]) * world_size < len(packs)]
        rank = min(free, key=held.__getitem__)
        hands[rank].append(place)
        held[rank] += loads[place]
    return hands


def my_packs(
    samples: Samples, group: Indices, limit: int, *, rank: int = 0, world_size: int = 1
) -> list[Pack]:
    """One worker's packs of a group of samples; equally many on every worker."""
    lengths = samples.lengths[group].tolist()
    packs = pack(lengths, limit, world_size)
    return [fill(samples, group[packs[at]]) for at in deal(lengths, packs, world_size)[rank]]


def fill(samples: Samples, indices: Indices) -> Pack:
    """Samples as one pack. Of no samples it is one token without a target: a worker that has
    nothing to do must still pass the model, since the others wait for it.
    """
    if not len(indices):
        nothing = np.zeros(0, np.int64)
        one = np.zeros(1, np.int64)
        return Pack(
            tokens_T=one, positions_T=one, lengths=(1,), predicting_N=nothing, targets_N=nothing
        )
    parts = [samples[int(index)] for index in indices]
    tokens_T = np.concatenate([tokens for tokens, _ in parts]).astype(np.int64)
    targets_T = np.concatenate([is_target for _, is_target in parts])
    lengths = [len(tokens) for tokens, _ in parts]
    places = np.flatnonzero(targets_T)
    return Pack(
        tokens_T=tokens_T,
        positions_T=np.concatenate([np.arange(length) for length in lengths]),
        lengths=tuple(lengths),
        predicting_N=places - 1,
        targets_N=tokens_T[places],
    )

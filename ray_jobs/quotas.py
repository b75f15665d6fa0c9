"""Who gets how many, and who stands where: fair shares, quantiles within groups, draws by id.

All but the shares works on arrays, so that a million rows are no million Python objects. Nothing
here depends on the order of the rows: shards come in another order each run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Key = TypeVar("Key")
DRAW_ROWS = 65_536


def fair_shares(capacities: Mapping[Key, int], total: int) -> dict[Key, int]:
    """`total` spread max-min fairly: nobody gets more than its capacity, and nobody gets less than
    another unless it is full.

    What does not divide evenly goes to the first ones in the mapping's order. Where `total` is more
    than there is, everybody is full.
    """
    shares = dict.fromkeys(capacities, 0)
    left = min(total, sum(capacities.values()))
    hungry = [key for key, capacity in capacities.items() if capacity > 0]
    while left:
        level = max(1, left // len(hungry))
        for key in hungry[:left]:
            given = min(level, capacities[key] - shares[key])
            shares[key] += given
            left -= given
        hungry = [key for key in hungry if shares[key] < capacities[key]]
    return shares


def quantiles_within(values: Floats, groups: Ints) -> Floats:
    """Of each value, the share of lower values in its group plus half of the equal ones, in (0, 1).

    NaN where the value is NaN or the group is negative; such rows count in no group.
    """
    found = np.full(len(values), np.nan)
    rows = np.flatnonzero(~np.isnan(values) & (groups >= 0))
    order = rows[np.lexsort((values[rows], groups[rows]))]
    new_group = _starts(groups[order])
    new_value = new_group | _starts(values[order])
    lower = _first(new_value) - _first(new_group)
    found[order] = (lower + _size(new_value) / 2) / _size(new_group)
    return found


def quantiles_or_wider(values: Floats, groups: Ints, wider: Ints, least: int) -> Floats:
    """Quantiles within `groups`; those of a group with fewer than `least` values are taken within
    the wider group instead.
    """
    counted = groups[~np.isnan(values) & (groups >= 0)]
    sizes = np.bincount(counted, minlength=int(groups.max(initial=-1)) + 2)
    small = sizes[groups] < least  # a negative group reads the last size, which is 0
    found = quantiles_within(values, groups)
    found[small] = quantiles_within(values, wider)[small]
    return found


def places(groups: Ints, *keys: npt.NDArray[Any]) -> Ints:
    """The place of each row in its group, from 0: lowest first by the first key, equal ones by the
    next.
    """
    order = np.lexsort((*reversed(keys), groups))
    found = np.empty(len(groups), np.int64)
    found[order] = np.arange(len(groups)) - _first(_starts(groups[order]))
    return found


def draws(ids: pa.Array, salt: str) -> npt.NDArray[np.uint64]:
    """A number in 0…2^64 for each id, random but the same for the same salt and id."""
    found = np.empty(len(ids), np.uint64)
    for start in range(0, len(ids), DRAW_ROWS):
        part = ids.slice(start, DRAW_ROWS).to_pylist()
        found[start : start + len(part)] = [draw(name, salt) for name in part]
    return found


def draw(name: str, salt: str) -> int:
    """One such number."""
    return int.from_bytes(hashlib.sha256(f"{salt} {name}".encode()).digest()[:8], "big")


def _starts(sorted_values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Where a run of equal values begins."""
    starts = np.ones(len(sorted_values), np.bool_)
    starts[1:] = sorted_values[1:] != sorted_values[:-1]
    return starts


def _first(starts: npt.NDArray[np.bool_]) -> Ints:
    """For each row, the number of its run's first row."""
    return np.asarray(np.flatnonzero(starts)[np.cumsum(starts) - 1], np.int64)


def _size(starts: npt.NDArray[np.bool_]) -> Ints:
    """For each row, the size of its run."""
    sizes = np.diff(np.append(np.flatnonzero(starts), len(starts)))
    return np.asarray(sizes[np.cumsum(starts) - 1], np.int64)

"""Balance the cells: reject over-represented prompts of a cell that is too full, and say how far
each cell came (paper, section 3.5).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_jobs.cells import KEY, Cell, Diversity, in_place, shortfalls
from ray_jobs.quotas import fair_shares
from ray_jobs.schema import PLACED
from ray_jobs.tables import Table

VERSION = 1
OVER_REPRESENTED = "over-represented in its cell"


def balance(placed: Sequence[Table], cfg: Diversity, seed: int) -> Iterator[pa.Table]:
    """Batches of schema.PLACED: the training prompts of all rounds.

    Of a cell with more than `max_per_cell`, labels get equal shares, and which prompts of a label
    stay is drawn by seed.
    """
    rejected = over_represented(
        in_place(placed, cfg, ["id", *KEY, "label"]), cfg.max_per_cell, seed
    )
    for table in placed:
        for shard in table.scan(where=pc.field("role") == "train"):
            yield _rejected(shard, rejected)


def over_represented(rows: pa.Table, most: int, seed: int) -> pa.Array:
    """The ids of the rows (id, scenario, dimension, label) to reject, so that no cell has more than
    `most`; 0 rejects none.
    """
    if not most:
        return pa.array([], pa.string())
    rows = rows.sort_by("id")
    numbers = rows.append_column("number", pa.array(np.arange(len(rows))))
    by_label: dict[Cell, dict[str, np.ndarray]] = {}
    for group in numbers.group_by([*KEY, "label"]).aggregate([("number", "list")]).to_pylist():
        cell = (group["scenario"], group["dimension"])
        by_label.setdefault(cell, {})[group["label"]] = np.sort(group["number_list"])
    rejected: list[np.ndarray] = []
    for cell, labels in sorted(by_label.items()):
        shares = fair_shares({label: len(labels[label]) for label in sorted(labels)}, most)
        rng = _generator(f"{seed} {cell}")
        rejected += [rng.permutation(labels[label])[shares[label] :] for label in sorted(labels)]
    return rows["id"].take(np.sort(np.concatenate(rejected))) if rejected else pa.array([])


def why_short(
    after: Mapping[Cell, int], cfg: Diversity, expanded: Sequence[Table], placed: Sequence[Table]
) -> dict[Cell, str]:
    """For every cell under its target, what became of the prompts that were written for it.

    `expanded` and `placed` are the rounds' tables; none of them where nothing is expanded.
    """
    fates: dict[Cell, Counter[str]] = {}
    for written, kept in zip(expanded, placed, strict=True):
        for cell, fate in _fates(written, kept):
            fates.setdefault(cell, Counter())[fate] += 1
    scenarios = {scenario for scenario, _ in after}
    return {
        cell: _why(cell, fates.get(cell, Counter()), cell[0] in scenarios, len(expanded))
        for cell in shortfalls(after, cfg)
    }


def _why(cell: Cell, fates: Counter[str], has_prompts: bool, num_rounds: int) -> str:
    if fates:
        rest = ", ".join(f"{num} {fate}" for fate, num in fates.most_common() if fate != "kept")
        found = f"{fates.total()} asked for in {num_rounds} rounds, {fates['kept']} kept"
        return f"{found}; {rest}" if rest else found
    if not num_rounds:
        return "nothing was expanded"
    return "the budget was spent" if has_prompts else "no prompt of this scenario to start from"


def _fates(expanded: Table, placed: Table) -> Iterator[tuple[Cell, str]]:
    written = expanded.load(["id", "scenario", "dimension", "outcome", "reason"])
    places = placed.load(["id", "scenario", "dimension", "outcome", "reason"])
    at = pc.index_in(written["id"], value_set=places["id"].combine_chunks()).to_pylist()
    rows = places.select(["scenario", "dimension", "outcome", "reason"]).to_pylist()
    for row, number in zip(written.to_pylist(), at, strict=True):
        cell = (row["scenario"], row["dimension"])
        found = row if number is None else rows[number]
        if found["outcome"] != "done":
            yield cell, found["reason"] or found["outcome"]
        else:
            here = (found["scenario"], found["dimension"]) == cell
            yield cell, "kept" if here else "kept in another cell"


def _rejected(shard: pa.Table, ids: pa.Array) -> pa.Table:
    hit = pc.and_(pc.is_in(shard["id"], value_set=pc.cast(ids, pa.string())), _is_done(shard))
    outcome = pc.if_else(hit, "dropped", shard["outcome"])
    reason = pc.if_else(hit, OVER_REPRESENTED, shard["reason"])
    columns = {name: shard[name] for name in PLACED.names} | {"outcome": outcome, "reason": reason}
    return pa.table(columns, schema=PLACED)


def _is_done(shard: pa.Table) -> pa.ChunkedArray:
    return pc.equal(shard["outcome"], "done")


def _generator(name: str) -> np.random.Generator:
    return np.random.default_rng(list(hashlib.sha256(name.encode()).digest()))

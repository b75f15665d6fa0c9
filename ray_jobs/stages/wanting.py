"""Say which new prompts are wanted: requests to the generator for the cells that are short (paper,
section 3.5).

Every request starts from a real prompt: its parent, from which the new prompts have their source
and licence.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_jobs import taxonomy
from ray_jobs.cells import Cell, Diversity, counts, in_place, shortfalls
from ray_jobs.quotas import fair_shares
from ray_jobs.steps import deciding
from ray_jobs.tables import DONE, Row, Table

VERSION = 1
PARENT = ("source", "language", "licence", "source_row", "role")
COLUMNS = ["id", "prompt", "scenario", "dimension", *PARENT]


def decides(cfg: Diversity, num_per_request: int) -> dict[str, Any]:
    """What decides the requests, beside the seed."""
    settings = deciding(cfg)
    del settings["max_per_cell"]  # nothing is rejected before the last round
    return {"version": VERSION, "settings": settings, "num_per_request": num_per_request}


def want(
    placed: Sequence[Table],
    cfg: Diversity,
    *,
    num_per_request: int,
    round_number: int,
    num_spent: int,
    seed: int,
) -> Iterator[Row]:
    """Rows of schema.WANTED, cell by cell; none where every target is met or the budget is spent.

    A cell whose scenario has no prompt at all gets none: there is nothing to start from.
    """
    pool = Pool(in_place(placed, cfg, COLUMNS), _topics(placed), cfg)
    short = shortfalls(counts(pool.rows), cfg)
    wanted = {
        cell: math.ceil(missing * cfg.surplus / num_per_request)
        for cell, missing in short.items()
        if pool.methods(cell)
    }
    if cfg.max_requests:
        wanted = fair_shares(wanted, max(0, cfg.max_requests - num_spent))
    of_parent: Counter[str] = Counter()
    for cell, num_requests in wanted.items():
        rng = random.Random(f"{seed} {round_number} {cell}")
        for number in range(num_requests):
            row = pool.request(cell, number, rng)
            turn = of_parent[row["parent"]]
            of_parent[row["parent"]] += 1
            name = f"{row['parent']}/w{round_number}.{turn}"
            yield {**row, "id": name, "first": turn * num_per_request}


@dataclass(frozen=True)
class Pool:
    """The prompts that requests start from."""

    rows: pa.Table
    topics: Mapping[tuple[str, str], list[str]]
    """Labels by scenario and language."""
    cfg: Diversity

    @cached_property
    def of_cell(self) -> dict[Cell, np.ndarray]:
        """Row numbers by cell."""
        numbers = self.rows.select(["scenario", "dimension"]).append_column(
            "number", pa.array(np.arange(len(self.rows)))
        )
        grouped = numbers.group_by(["scenario", "dimension"]).aggregate([("number", "list")])
        return {
            (row["scenario"], row["dimension"]): np.array(row["number_list"])
            for row in grouped.to_pylist()
        }

    @cached_property
    def _origins(self) -> np.ndarray:
        # Examples of one request are of one source and language: they share their licence.
        both = pc.binary_join_element_wise(self.rows["source"], self.rows["language"], "\n")
        return np.asarray(both.combine_chunks().dictionary_encode().indices)

    def methods(self, cell: Cell) -> list[str]:
        """The methods by which the cell can be filled, in the order in which they take turns."""
        inside, beside = cell in self.of_cell, len(self._beside(cell)) > 0
        first = ("dimension", "scenario", "related")
        order = first if cell[1] != "plain" else first[1:] + first[:1]
        can = {"dimension": beside, "scenario": inside, "related": inside}
        return [method for method in order if can[method] and method in self.cfg.methods]

    def request(self, cell: Cell, number: int, rng: random.Random) -> Row:
        """The cell's next request, without its own name."""
        methods = self.methods(cell)
        method = methods[number % len(methods)]
        parents = self._beside(cell) if method == "dimension" else self.of_cell[cell]
        parent = int(rng.choice(parents))
        numbers = [parent, *self._companions(cell, parent, rng)]
        if method == "related":
            numbers = numbers[:1]
        of_parent = self.rows.slice(parent, 1).to_pylist()[0]
        return {
            "parent": of_parent["id"],
            **{name: of_parent[name] for name in PARENT},
            "method": method,
            "scenario": cell[0],
            "dimension": cell[1],
            "topic": self._topic(cell[0], of_parent["language"], rng),
            "examples": self.rows["prompt"].take(numbers).to_pylist(),
            "outcome": "done",
            "reason": None,
        }

    def _beside(self, cell: Cell) -> np.ndarray:
        """The scenario's prompts in another dimension, the plain ones alone where there are any."""
        plain = (cell[0], "plain")
        if cell != plain and plain in self.of_cell:
            return self.of_cell[plain]
        others = [
            numbers
            for (scenario, dimension), numbers in self.of_cell.items()
            if scenario == cell[0] and dimension != cell[1]
        ]
        return np.concatenate(others) if others else np.array([], dtype=int)

    def _companions(self, cell: Cell, parent: int, rng: random.Random) -> list[int]:
        found = self.of_cell.get(cell, np.array([], dtype=int))
        same = found[(self._origins[found] == self._origins[parent]) & (found != parent)]
        return rng.sample(same.tolist(), min(self.cfg.num_examples - 1, len(same)))

    def _topic(self, scenario: str, language: str, rng: random.Random) -> str:
        name = taxonomy.load().scenarios[scenario].name(language)
        return rng.choice([name, *self.topics.get((scenario, language), [])])


def _topics(placed: Sequence[Table]) -> dict[tuple[str, str], list[str]]:
    """The labels that mean each scenario, of rows that are only analysed as well."""
    labels = pa.concat_tables(
        [table.load(["scenario", "language", "label"], DONE) for table in placed]
    )
    found: dict[tuple[str, str], list[str]] = {}
    distinct = labels.group_by(["scenario", "language", "label"]).aggregate([]).to_pylist()
    for row in sorted(distinct, key=lambda row: str(row["label"])):
        if row["scenario"] is not None:
            found.setdefault((row["scenario"], row["language"]), []).append(row["label"])
    return found

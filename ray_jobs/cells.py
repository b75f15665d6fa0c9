"""Cells: scenario × attack dimension, how many prompts each should have, and who has too few.

Diversity is controlled cell by cell (paper, section 3.5; the dimensions are our addition).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from ray_jobs.engines.seam import NO_EFFECT_ON_ROWS
from ray_jobs.tables import DONE, Table
from ray_jobs.taxonomy import CODES, DIMENSIONS

Cell: TypeAlias = tuple[str, str]
"""Scenario, dimension."""
KEY = ("scenario", "dimension")
MAX_ROUNDS = 100
"""Each has steps of its own, and its plan is made before the first begins."""
METHODS = ("scenario", "related", "dimension")


@dataclass(frozen=True, kw_only=True)
class Diversity:
    """How many prompts each cell should have, and how far to go for it."""

    rounds: int = field(default=2, metadata=NO_EFFECT_ON_ROWS)
    """Rounds of expansion at the most; a round with every target met asks nothing. Each has steps
    of its own, so that one more leaves the others as they are.
    """
    target_per_cell: int = 0
    """Prompts wanted in every cell; 0 wants none beyond what was collected."""
    targets: dict[str, int] = field(default_factory=dict)
    """Other targets, by scenario (OFF), dimension (plain) or cell (OFF/plain); the last wins."""
    max_per_cell: int = 0
    """Prompts that a cell may have: of more, over-represented labels are rejected. 0 keeps all."""
    methods: tuple[str, ...] = METHODS
    """scenario: keyword and examples. related: from a prompt. dimension: a prompt rewritten."""
    num_examples: int = 3
    """Prompts shown to the generator."""
    surplus: float = 1.5
    """Prompts asked for each one that is missing: some are always dropped."""
    max_requests: int = 0
    """The budget: requests to the generator over all rounds. 0 has no limit."""
    max_prompt_score: float = 0.6
    """A prompt that the judge scores higher is too mild an attack to count, 0…1."""

    def __post_init__(self) -> None:
        numbers = (self.rounds, self.target_per_cell, self.max_per_cell, self.max_requests)
        if min(numbers) < 0:
            raise ValueError(
                "diversity: expected rounds, target_per_cell, max_per_cell and max_requests ≥ 0"
            )
        if self.rounds > MAX_ROUNDS:
            raise ValueError(
                f"diversity.rounds: expected {MAX_ROUNDS} at the most, found {self.rounds}"
            )
        if self.num_examples < 1 or self.surplus < 1 or not 0 <= self.max_prompt_score <= 1:
            raise ValueError(
                "diversity: expected num_examples ≥ 1, surplus ≥ 1 and max_prompt_score in 0…1"
            )
        if not self.methods or (unknown := set(self.methods) - set(METHODS)):
            raise ValueError(
                f"diversity.methods: expected some of {', '.join(METHODS)}, found "
                f"{', '.join(sorted(unknown)) if self.methods else 'none'}"
            )
        for name, target in self.targets.items():
            _check_name(name)
            if target < 0:
                raise ValueError(f"diversity.targets: {name}: expected 0 or more, found {target}")

    @property
    def num_rounds(self) -> int:
        """Rounds that may be needed: none where no prompt is wanted."""
        return self.rounds if self.target_per_cell or any(self.targets.values()) else 0

    def target(self, cell: Cell) -> int:
        """How many prompts are wanted in a cell."""
        scenario, dimension = cell
        for name in (f"{scenario}/{dimension}", dimension, scenario):
            if name in self.targets:
                return self.targets[name]
        return self.target_per_cell


def _check_name(name: str) -> None:
    scenario, _, dimension = name.partition("/")
    is_cell = scenario in CODES and dimension in DIMENSIONS
    if not (is_cell or name in CODES or name in DIMENSIONS):
        raise ValueError(
            f"diversity.targets: there is no {name!r}; expected a scenario ({', '.join(CODES)}), "
            f"a dimension ({', '.join(DIMENSIONS)}) or both, as OFF/plain"
        )


def every_cell() -> list[Cell]:
    """All 14 × 4, scenario by scenario."""
    return [(scenario, dimension) for scenario in CODES for dimension in DIMENSIONS]


def targets(cfg: Diversity) -> dict[Cell, int]:
    """Every cell's target."""
    return {cell: cfg.target(cell) for cell in every_cell()}


def in_place(placed: Iterable[Table], cfg: Diversity, columns: list[str]) -> pa.Table:
    """The training prompts that count towards a target: placed, scored, and not too mild."""
    attacks = pc.field("prompt_score") <= cfg.max_prompt_score
    where = DONE & (pc.field("role") == "train") & attacks
    return pa.concat_tables([table.load(columns, where) for table in placed])


def counts(rows: pa.Table) -> Counter[Cell]:
    """Rows by cell."""
    grouped = rows.group_by(["scenario", "dimension"]).aggregate([([], "count_all")])
    found: list[dict[str, Any]] = grouped.to_pylist()
    return Counter({(row["scenario"], row["dimension"]): row["count_all"] for row in found})


def shortfalls(have: Mapping[Cell, int], cfg: Diversity) -> dict[Cell, int]:
    """How many prompts are missing, for the cells that are short."""
    short = {cell: cfg.target(cell) - have.get(cell, 0) for cell in every_cell()}
    return {cell: num for cell, num in short.items() if num > 0}

"""How prompts are spread over labels and scenarios, by source (paper, figures 3-2 to 3-5).

Spellings that the taxonomy compares as equal are one label, shown by the most frequent of them.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import pyarrow as pa
import pyarrow.compute as pc

from ray_jobs import taxonomy
from ray_jobs.page import shortened

COLUMNS = ["id", "source", "role", "label", "scenario", "source_label", "prompt"]
"""What is read of schema.PLACED."""
NUM_EXAMPLES = 3
EXAMPLE_CHARS = 40


@dataclass(frozen=True, kw_only=True)
class Label:
    """One label of one source, over all its spellings."""

    name: str
    scenario: str | None
    num_rows: int


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How one source's prompts are spread."""

    source: str
    role: str
    labels: tuple[Label, ...]
    """The most frequent first."""
    source_labels: Mapping[tuple[str | None, str | None], int]
    """Prompts by the source's own label, and the scenario we place them in."""

    @property
    def num_rows(self) -> int:
        """Prompts of the source that have a label."""
        return sum(label.num_rows for label in self.labels)

    @property
    def scenarios(self) -> Counter[str | None]:
        """Prompts by scenario; None for labels that mean none."""
        counts: Counter[str | None] = Counter()
        for label in self.labels:
            counts[label.scenario] += label.num_rows
        return counts


@dataclass(frozen=True, kw_only=True)
class Unmapped:
    """A label that means no scenario yet."""

    name: str
    num_rows: int
    sources: tuple[str, ...]
    examples: tuple[str, ...]
    """Beginnings of prompts: enough to tell the scenario, and no more of a harmful text."""


@dataclass(frozen=True, kw_only=True)
class Distributions:
    """All sources by name, and the unmapped labels, the most frequent first."""

    spreads: tuple[Spread, ...]
    unmapped: tuple[Unmapped, ...]

    @property
    def num_rows(self) -> int:
        """Prompts of all sources that have a label."""
        return sum(spread.num_rows for spread in self.spreads)


class _Tally:
    """What is counted on the way through the batches; grows with the labels, not with the rows."""

    def __init__(self) -> None:
        self.roles: dict[str, str] = {}
        self.spellings: Counter[str] = Counter()
        self.labels: dict[str, Counter[tuple[str, str | None]]] = {}
        self.source_labels: dict[str, Counter[tuple[str | None, str | None]]] = {}
        self.examples: dict[str, list[tuple[str, str]]] = {}

    def add(self, batch: pa.Table) -> None:
        """Count the rows that have a label, whatever their outcome."""
        rows = batch.select(COLUMNS).filter(pc.field("label").is_valid())
        names = ["source", "role", "label", "scenario", "source_label"]
        for row in rows.group_by(names).aggregate([([], "count_all")]).to_pylist():
            source, scenario, num = row["source"], row["scenario"], row["count_all"]
            self.roles[source] = row["role"]
            self.spellings[row["label"]] += num
            self.labels.setdefault(source, Counter())[(_key(row["label"]), scenario)] += num
            own = self.source_labels.setdefault(source, Counter())
            own[(row["source_label"], scenario)] += num
        unmapped = rows.filter(pc.field("scenario").is_null()).select(["id", "label", "prompt"])
        for row in unmapped.to_pylist():
            # The smallest ids, so that the order of the shards does not matter.
            found = self.examples.setdefault(_key(row["label"]), [])
            bisect.insort(found, (row["id"], shortened(row["prompt"], EXAMPLE_CHARS)))
            del found[NUM_EXAMPLES:]

    def names(self) -> dict[str, str]:
        """Every label's most frequent spelling; of equals, the first in order of characters."""
        best: dict[str, str] = {}
        for spelling, _ in sorted(self.spellings.items(), key=lambda one: (-one[1], one[0])):
            best.setdefault(_key(spelling), spelling)
        return best


def count(placed: Iterable[pa.Table]) -> Distributions:
    """The distributions of batches of schema.PLACED (at least COLUMNS): all rows with a label."""
    tally = _Tally()
    for batch in placed:
        tally.add(batch)
    names = tally.names()
    spreads = [
        Spread(
            source=source,
            role=tally.roles[source],
            labels=_ordered(names, tally.labels[source]),
            source_labels=tally.source_labels[source],
        )
        for source in sorted(tally.roles)
    ]
    return Distributions(spreads=tuple(spreads), unmapped=_unmapped(names, tally))


@cache
def _key(label: str) -> str:
    # A label of punctuation alone compares as nothing; it stays a label of its own.
    return taxonomy.normalise(label) or label


def _ordered(
    names: Mapping[str, str], counts: Counter[tuple[str, str | None]]
) -> tuple[Label, ...]:
    labels = [
        Label(name=names[key], scenario=scenario, num_rows=num)
        for (key, scenario), num in counts.items()
    ]
    return tuple(sorted(labels, key=lambda one: (-one.num_rows, one.name)))


def _unmapped(names: Mapping[str, str], tally: _Tally) -> tuple[Unmapped, ...]:
    found = []
    for key, examples in tally.examples.items():
        counts = {source: labels[(key, None)] for source, labels in sorted(tally.labels.items())}
        found.append(
            Unmapped(
                name=names[key],
                num_rows=sum(counts.values()),
                sources=tuple(source for source, num in counts.items() if num),
                examples=tuple(text for _, text in examples),
            )
        )
    return tuple(sorted(found, key=lambda one: (-one.num_rows, one.name)))

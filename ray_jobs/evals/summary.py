"""All figures of an evaluation, from the marks and people's labels alone: `summary.json` for
programs, `summary.tsv` for tables.

Only scored samples are in a figure. What was not answered, not read or not decided is counted
beside it by outcome, and samples that wait for a person give bounds: all of them scored 0, all 1.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ray_jobs.agreement import CONFIDENCE
from ray_jobs.evals import paper
from ray_jobs.evals.labels import OPEN
from ray_jobs.evals.oracles import agreements
from ray_jobs.evals.significance import holm
from ray_jobs.evals.statistics import (
    RESAMPLES,
    Array,
    Comparison,
    Figure,
    change,
    compare,
    figure,
    figures,
    p_of_change,
)
from ray_jobs.evals.store import Labels, Panel, panels
from ray_jobs.page import tsv
from ray_jobs.tables import Folder, Table

SUMMARY, TSV = "summary.json", "summary.tsv"
ALL = ""
"""The group of all samples of a suite: its micro average."""


@dataclass(frozen=True, kw_only=True)
class About:
    """What stands beside the figures."""

    models: Mapping[str, str]
    """Each model's title by its name; the first is what the others are compared with."""
    protocols: Mapping[str, str]
    """How each suite is asked and read, in a line, in the order in which suites are shown."""
    toys: Sequence[str]
    """The models that are embedded ones, or made from such: their figures prove nothing."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One measure of one suite, over all samples or those of one group."""

    panel: Panel
    group: str

    @property
    def name(self) -> dict[str, str]:
        """What it is a figure of."""
        return {"suite": self.panel.suite, "measure": self.panel.measure, "group": self.group}

    @property
    def seed(self) -> int:
        """Its own, so that a figure does not depend on which others there are."""
        return zlib.crc32("\0".join(self.name.values()).encode())


def summarise(marks: Table, about: About, labels: Labels) -> dict[str, Any]:
    """Every figure and comparison, as JSON has it."""
    models = list(about.models)
    order = {suite: place for place, suite in enumerate(about.protocols)}
    found = sorted(panels(marks, models, labels), key=lambda one: order[one.suite])
    cells = [cell for panel in found for cell in cells_of(panel)]
    comparisons = [one for cell in cells for one in _comparisons(cell)]
    for is_whole in (True, False):
        _correct([one for one in comparisons if (one["group"] == ALL) == is_whole])
    return {
        "models": dict(about.models),
        "toys": list(about.toys),
        "protocols": dict(about.protocols),
        "confidence": CONFIDENCE,
        "resamples": RESAMPLES,
        "num_marks": marks.manifest["num_rows"],
        "num_labels": len(labels),
        "marks": marks.manifest["fingerprint"],
        "figures": [one for cell in cells for one in _figures(cell)],
        "comparisons": comparisons,
        "agreements": list(agreements(found)),
        "paper": paper.beside({(one.suite, one.measure) for one in found}),
    }


def write(home: Folder, summary: Mapping[str, Any]) -> None:
    """Write the summary beside the tables it is of."""
    home.write(SUMMARY, json.dumps(summary, ensure_ascii=False, indent=1).encode())
    home.write(TSV, to_tsv(summary))


def read(home: Folder) -> dict[str, Any] | None:
    """The summary of an evaluation, or None where there is none yet."""
    return home.read_json(SUMMARY, ["figures"])


def cells_of(panel: Panel) -> Iterator[Cell]:
    """All samples, and then each group where there are several."""
    yield Cell(panel=panel, group=ALL)
    names = panel.group_names()
    if len(names) > 1:
        yield from (Cell(panel=panel.of_group(name), group=name) for name in names)


def _figures(cell: Cell) -> Iterator[dict[str, Any]]:
    panel = cell.panel
    for place, model in enumerate(panel.models):
        outcomes: Array = panel.outcomes[:, place]
        counts = Counter(outcome for outcome in outcomes if outcome is not None)
        if not counts:
            continue
        scores = panel.scores[:, place]
        done = outcomes == "done"
        found = figure(scores[done], panel.clusters[done], cell.seed)
        yield {
            **cell.name,
            "model": model,
            **_of(found),
            "outcomes": dict(counts),
            "num_samples": counts.total(),
            "bounds": _bounds(cell, scores, outcomes),
        }


def _of(found: Figure) -> dict[str, Any]:
    said = found.estimate.plain()
    return {**said, "num_clusters": found.num_clusters, "method": found.method}


def _bounds(cell: Cell, scores: Array, outcomes: Array) -> dict[str, Any] | None:
    """What the figure would be if every open sample were scored 0, or 1; with the outer ends of
    both intervals. None where nothing is open.
    """
    is_open = np.isin(outcomes, OPEN)
    if not is_open.any():
        return None
    there = is_open | (outcomes == "done")
    filled = np.stack([np.where(is_open, score, scores)[there] for score in (0.0, 1.0)], 1)
    found = figures(filled, cell.panel.clusters[there], cell.seed)
    lowest, highest = (one.estimate for one in found)
    return {
        "lowest": lowest.value,
        "highest": highest.value,
        "low": lowest.low,
        "high": highest.high,
        "num": lowest.num,
    }


def _comparisons(cell: Cell) -> Iterator[dict[str, Any]]:
    """Every later model less the first one."""
    panel = cell.panel
    for place in range(1, len(panel.models)):
        both = (panel.outcomes[:, [0, place]] == "done").all(axis=1)
        asked = (panel.outcomes[:, [0, place]] != None).all(axis=1)  # noqa: E711  element by element
        if not asked.any():
            continue
        first, second = panel.scores[both, 0], panel.scores[both, place]
        found: Comparison = compare(first, second, panel.clusters[both], cell.seed)
        bounds = _change_bounds(cell, place)
        yield {
            **cell.name,
            "model": panel.models[place],
            "against": panel.models[0],
            "points": found.points.plain(),
            "relative": found.relative.plain(),
            "p": bounds["p"] if bounds else found.p,
            "num": found.points.num,
            "num_asked": int(asked.sum()),
            "num_clusters": found.num_clusters,
            "method": found.method,
            "bounds": bounds,
        }


def _change_bounds(cell: Cell, place: int) -> dict[str, Any] | None:
    """The difference if each open sample were scored to the second model's disadvantage, and to its
    advantage; with the outer ends of both intervals, and the p-value that holds however they are
    scored: 1 where that decides which model is ahead. None where nothing is open.
    """
    outcomes = cell.panel.outcomes[:, [0, place]]
    usable = np.isin(outcomes, ("done", *OPEN)).all(axis=1)
    is_open = np.isin(outcomes[usable], OPEN)
    if not is_open.any():
        return None
    scores, clusters = cell.panel.scores[usable][:, [0, place]], cell.panel.clusters[usable]
    filled = [np.where(is_open, filling, scores) for filling in ([1.0, 0.0], [0.0, 1.0])]
    worst, best = (change(both[:, 0], both[:, 1], clusters) for both in filled)
    assert worst.value is not None
    assert best.value is not None
    p = 1.0
    if not worst.value <= 0 <= best.value:
        p = max(p_of_change(both[:, 0], both[:, 1], clusters, cell.seed) for both in filled)
    return {
        "lowest": worst.value,
        "highest": best.value,
        "low": worst.low,
        "high": best.high,
        "num": worst.num,
        "p": p,
    }


def _correct(family: Sequence[dict[str, Any]]) -> None:
    """Add to each comparison of a family its p-value after Holm, and the family's size."""
    num = sum(one["p"] is not None for one in family)
    for one, corrected in zip(family, holm([one["p"] for one in family]), strict=True):
        one |= {"p_corrected": corrected, "num_in_family": num}


def to_tsv(summary: Mapping[str, Any]) -> bytes:
    """A line for each figure, then one for each comparison."""
    names = ("kind", "suite", "measure", "group", "model", "against", "value", "low", "high")
    more = ("relative", "p", "p_corrected", "num", "num_clusters", "num_samples", "lowest")
    heading = (*names, *more, "highest", "not_scored")
    lines = [_line({"kind": "figure", **one}, heading) for one in summary["figures"]]
    for one in summary["comparisons"]:
        said = {"kind": "difference", **one, **one["points"], "relative": one["relative"]["value"]}
        lines.append(_line({**said, "num_samples": one["num_asked"]}, heading))
    return tsv(heading, lines)


def _line(said: Mapping[str, Any], heading: Sequence[str]) -> list[object]:
    told = {**said, **{name: (said["bounds"] or {}).get(name) for name in ("lowest", "highest")}}
    told["not_scored"] = not_scored(said.get("outcomes", {}))
    return ["" if told.get(name) is None else told[name] for name in heading]


def not_scored(outcomes: Mapping[str, int]) -> str:
    """Such as `2 undecided, 1 blocked`; empty where all samples were scored."""
    left = ((num, name) for name, num in sorted(outcomes.items()) if name != "done")
    return ", ".join(f"{num} {name}" for num, name in left)

"""What a person sees when a job has ended: one screen, what was made and where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table as Screen

from ray_jobs import cells, taxonomy, trust
from ray_jobs.config import Recipe
from ray_jobs.coverage import coverage_lines
from ray_jobs.outcomes import OUTCOMES
from ray_jobs.tables import DONE, Table

ROLE = pc.field("role")
ALWAYS_SHOWN = ("collected", "selected", "exported")
"""The other steps that ask no model are shown where they lose rows."""


def print_summary(recipe: Recipe, tables: Mapping[str, Table]) -> None:
    """Rows by step and outcome, selected rows by scenario, and where they are."""
    console = Console()
    console.print(_steps(tables))
    selected, exported = _found(tables, "selected"), _found(tables, "exported")
    cover = _coverage(recipe, tables)
    rest = [*_rest(tables, selected), *_trust(tables)]
    for line in ("", *_scenarios(selected), "", *cover, *rest):
        console.print(line, highlight=False, soft_wrap=True)
    where = f"{exported.folder.uri}/{exported.manifest['fingerprint']}/"
    console.print(f"data set    {where}", soft_wrap=True)
    console.print(f"tables      {recipe.out}/<step>/manifest.json", soft_wrap=True)


def _found(tables: Mapping[str, Table], step: str) -> Table:
    """The table of a step, whatever the run did without."""
    found = _maybe_found(tables, step)
    assert found is not None, f"there is no step {step}"
    return found


def _maybe_found(tables: Mapping[str, Table], step: str) -> Table | None:
    named = (table for name, table in tables.items() if name.partition("-without-")[0] == step)
    return next(named, None)


def _coverage(recipe: Recipe, tables: Mapping[str, Table]) -> list[str]:
    cfg = recipe.build_data.diversity
    if not cfg.num_rounds:
        return []
    before, after = (
        cells.counts(cells.in_place([table], cfg, list(cells.KEY)))
        for table in (tables["placed"], _found(tables, "balanced"))
    )
    return [*coverage_lines(before, after, cells.targets(cfg)), ""]


def _steps(tables: Mapping[str, Table]) -> Screen:
    used = [name for name in OUTCOMES if any(name in table.counts for table in tables.values())]
    screen = Screen(title="rows", title_justify="left", box=None, pad_edge=False)
    screen.add_column("step", min_width=16)
    for name in ("rows", *used, "% done", "s", "tokens", "tok/s"):
        screen.add_column(name, justify="right")
    for name, table in tables.items():
        manifest = table.manifest
        asked: Mapping[str, Any] = manifest["asked"] or {}
        total, done = manifest["num_rows"], table.counts.get("done", 0)
        if done == total and not asked and name.partition("-")[0] not in ALWAYS_SHOWN:
            continue
        screen.add_row(
            name,
            str(total),
            *(str(table.counts.get(outcome, 0)) for outcome in used),
            f"{100 * done / total:.1f}" if total else "-",
            f"{manifest['wall_s']:.1f}",
            _number(asked.get("output_tokens")),
            _number(asked.get("output_tokens_per_s")),
        )
    return screen


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _scenarios(selected: Table) -> list[str]:
    rows = selected.load(["scenario", "outcome", "role"], ROLE != "general").to_pylist()
    scored = Counter(row["scenario"] for row in rows)
    chosen = Counter(row["scenario"] for row in rows if row["outcome"] == "done")
    names: dict[str | None, str] = {code: code for code in taxonomy.CODES} | {None: "no scenario"}
    cells = [f"{name} {chosen[code]}/{scored[code]}".ljust(13) for code, name in names.items()]
    lines = ["".join(cells[first : first + 5]) for first in range(0, len(cells), 5)]
    return ["responses selected / scored, by scenario", *lines]


def _rest(tables: Mapping[str, Table], selected: Table) -> list[str]:
    placed = tables["placed"]
    num_general = len(selected.load(["id"], DONE & (ROLE == "general")))
    reasons = selected.manifest["reasons"].get("dropped", {})
    dropped = ", ".join(f"{reason} {num}" for reason, num in list(reasons.items())[:5])
    num_unmapped = placed.manifest["reasons"].get("dropped", {}).get("unmapped label", 0)
    num_labels = placed.manifest["num_rows"]
    return [
        f"general     {num_general} rows joined at selection",
        f"not chosen  {dropped or 'none'}",
        f"unmapped    {num_unmapped} of {num_labels} labels mean no scenario (conf/taxonomy.yaml)",
    ]


def _trust(tables: Mapping[str, Table]) -> list[str]:
    """How far the judge may be trusted; nothing where it was not audited."""
    found = _maybe_found(tables, "trust")
    return [] if found is None else trust.lines(found.load().to_pylist())

"""What a person sees when a job has ended: one screen, what was made and where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table as Screen

from ray_jobs import taxonomy
from ray_jobs.config import Recipe
from ray_jobs.outcomes import OUTCOMES
from ray_jobs.tables import DONE, Table


def print_summary(recipe: Recipe, tables: Mapping[str, Table]) -> None:
    """Rows by step and outcome, selected rows by scenario, and where they are."""
    console = Console()
    console.print(_steps(tables))
    console.print(_scenarios(tables["selected"]))
    for line in _rates(tables):
        console.print(line, highlight=False)
    home = tables["exported"]
    console.print(f"data set    {home.folder.uri}/{home.manifest['fingerprint']}/", soft_wrap=True)
    console.print(f"tables      {recipe.out}/<step>/manifest.json", soft_wrap=True)


def _steps(tables: Mapping[str, Table]) -> Screen:
    used = [name for name in OUTCOMES if any(name in table.counts for table in tables.values())]
    screen = Screen(title="rows", title_justify="left", box=None, pad_edge=False)
    screen.add_column("step")
    for name in ("rows", *used, "% done", "wall s", "tokens out", "tokens/s"):
        screen.add_column(name, justify="right")
    for name, table in tables.items():
        manifest = table.manifest
        asked: Mapping[str, Any] = manifest["asked"] or {}
        total, done = manifest["num_rows"], table.counts.get("done", 0)
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


def _scenarios(selected: Table) -> Screen:
    rows = selected.load(["scenario", "outcome", "role"]).to_pylist()
    chosen = Counter(row["scenario"] for row in rows if row["outcome"] == "done")
    seen = Counter(row["scenario"] for row in rows)
    screen = Screen(
        title="\nresponses selected / scored, by scenario",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    codes = [*taxonomy.CODES]
    for code in codes:
        screen.add_column(code, justify="right")
    screen.add_column("unmapped", justify="right")
    scored = Counter(row["scenario"] for row in rows if row["role"] != "general")
    screen.add_row(
        *(f"{chosen[code]}/{seen[code]}" for code in codes),
        f"{sum(r['outcome'] == 'done' and r['scenario'] is None and r['role'] != 'general' for r in rows)}/{scored[None]}",
    )
    return screen


def _rates(tables: Mapping[str, Table]) -> list[str]:
    selected = tables["selected"]
    general = len(selected.load(["id"], DONE & (_role() == "general")))
    reasons = selected.manifest["reasons"].get("dropped", {})
    dropped = ", ".join(f"{reason} {num}" for reason, num in list(reasons.items())[:5])
    unmapped = sum(
        row["outcome"] == "done" and row["scenario"] is None
        for row in tables["labelled"].load(["outcome", "scenario"]).to_pylist()
    )
    return [
        f"general     {general} rows joined at selection",
        f"not chosen  {dropped or 'none'}",
        f"unmapped    {unmapped} of {tables['labelled'].manifest['num_rows']} labels mean no scenario yet: conf/taxonomy.yaml",
    ]


def _role() -> Any:
    import pyarrow.compute as pc

    return pc.field("role")

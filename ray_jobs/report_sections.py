"""The other sections of a report: the data set, the training, examples, protocols."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from ray_jobs.evals.screen import whole
from ray_jobs.evals.summary import not_scored
from ray_jobs.outcomes import OUTCOMES
from ray_jobs.page import shortened
from ray_jobs.report_page import Content, Html, folded, heading, paragraph, picture, table
from ray_jobs.tables import Folder, Table

PICTURES = {
    "balanced": {"coverage.svg": "Prompts in each scenario and attack dimension, before and after"},
    "placed": {
        "scenarios.svg": "Scenarios by source",
        "labels.svg": "The most frequent labels by source",
    },
}
"""The pictures that build_data draws, by table."""


def protocols(summary: Mapping[str, Any]) -> Iterator[Html]:
    """How each suite was asked and read, and what became of every sample."""
    yield heading("Protocols and denominators", anchor="protocols")
    rows: list[list[Content]] = []
    for suite, protocol in summary["protocols"].items():
        mine = [one for one in whole(summary, "figures") if one["suite"] == suite]
        first = mine[0]["measure"] if mine else ""
        said = [one for one in mine if one["measure"] == first]
        left = "; ".join(
            f"{one['model']}: {not_scored(one['outcomes']) or 'all scored'}" for one in said
        )
        clusters = " / ".join(dict.fromkeys(str(one["num_clusters"]) for one in said))
        rows.append([suite, protocol, left, said[0]["num_samples"] if said else 0, clusters])
    yield table(["suite", "asked and read", "not scored", "samples", "clusters"], rows, num_text=3)


def data(tables: Mapping[str, Table]) -> Iterator[Html]:
    """What build_data has made: every table's rows by outcome, and its pictures."""
    if not tables:
        return
    yield heading("The data set", anchor="data")
    used = [name for name in OUTCOMES if any(name in one.counts for one in tables.values())]
    rows = (
        [name, one.manifest["num_rows"], *(one.counts.get(outcome, 0) for outcome in used)]
        for name, one in tables.items()
    )
    yield table(["step", "rows", *used], rows)
    for step, pictures in PICTURES.items():
        for file, caption in pictures.items() if step in tables else ():
            found = tables[step]
            svg = (found.folder / found.manifest["fingerprint"]).read(file)
            if svg is not None:
                yield picture(svg, f"{step}-{file.partition('.')[0]}", caption)


def training(home: Folder) -> Iterator[Html]:
    """The curve and the settings of the model that train made."""
    manifest = home.read_json("manifest.json", ["fingerprint"])
    if manifest is None:
        return
    name = home.uri.rpartition("/")[2]
    yield heading("Training" if name == "trained" else f"Training: {name}", anchor=name)
    told = ("base", "num_rows", "num_samples", "num_held_out", "num_steps", "tokens", "train_s")
    figures = ("first_loss", "loss", "held_out_loss")
    shown = {name: manifest.get(name) for name in (*told, *figures)}
    settings = manifest.get("decides", {}).get("settings", {})
    rows = [[name, str(what)] for name, what in {**shown, **settings}.items() if what is not None]
    curve = (home / manifest["fingerprint"]).read("curve.svg")
    if curve is not None:
        yield picture(curve, f"curve-{name}", "Loss over the optimiser's steps")
    yield folded("figures and settings", table(["", ""], rows, num_text=2))


def examples(
    rows: Sequence[Mapping[str, Any]], models: Sequence[str], show_texts: bool
) -> Iterator[Html]:
    """Samples that the models answered differently."""
    if not rows:
        return
    yield heading("Examples", anchor="examples")
    yield paragraph(
        "Drawn by seed among the samples whose verdicts differ, for better and for worse."
        + ("" if show_texts else " Texts may be harmful and are hidden: report.show_texts=true.")
    )
    lines: list[list[Content]] = []
    for one in rows:
        asked = [f"{one['suite']} {shortened(one['id'], 12)}", one["group"] or ""]
        said = [
            Html(f"{escape(each['verdict'] or '–')}<br>{_text(each['answer'], show_texts).text}")
            for each in one["said"]
        ]
        lines.append([*asked, _text(one["prompt"], show_texts), *said])
    head = ["sample", "group", "prompt", *models]
    yield table(head, lines, num_text=len(head))


def _text(text: str, is_shown: bool) -> Html:
    if is_shown:
        return Html(escape(shortened(text, 400)))
    bar = "█" * min(12, 1 + len(text) // 12)
    return Html(f'<span class="hidden">{bar}</span> <small>{len(text)} characters</small>')

"""The tables and pictures of what was placed (paper, figures 3-2 to 3-5): labels, scenarios and the
sources' own labels, source by source.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import yaml

from ray_jobs import taxonomy
from ray_jobs.distributions import Distributions, Spread, Unmapped, count
from ray_jobs.page import AMBER, BLUE, FAINT, GREY, MARGIN, Page, fitted, tsv
from ray_jobs.tables import Folder

NUM_SHOWN = 20
# In points. A panel's line: name, code, bar, count and share.
NAME_WIDTH, CODE_WIDTH, COUNT_WIDTH, PANEL_WIDTH = 120.0, 30.0, 84.0, 366.0
TOP, HEAD, STEP, GAP = 62.0, 34.0, 14.5, 22.0


@dataclass(frozen=True)
class Bar:
    """What it counts, the scenario's code beside it, how many, and its colour."""

    name: str
    code: str
    num: int
    color: str


@dataclass(frozen=True)
class Panel:
    """One source's bars."""

    spread: Spread
    bars: Sequence[Bar]
    said: str
    """What there is, to stand behind the number of prompts."""


def write_distributions(home: Folder, placed: Iterable[pa.Table]) -> None:
    """Count batches of schema.PLACED, and write `labels`, `source_labels` and `unmapped` as .tsv,
    and `labels`, `source_labels` and `scenarios` as .svg, into `home`.
    """
    found = count(placed)
    home.write("labels.tsv", labels_tsv(found.spreads))
    home.write("source_labels.tsv", source_labels_tsv(found.spreads))
    home.write("unmapped.tsv", unmapped_tsv(found.unmapped))
    home.write("labels.svg", labels_svg(found))
    home.write("source_labels.svg", source_labels_svg(found))
    home.write("scenarios.svg", scenarios_svg(found))


def labels_tsv(spreads: Sequence[Spread]) -> bytes:
    """Every label of every source: source, label, scenario, rows, share (of the source's rows)."""
    rows = [
        (one.source, label.name, label.scenario or "", label.num_rows, label.num_rows / total)
        for one in spreads
        for total in [one.num_rows]
        for label in one.labels
    ]
    return tsv(("source", "label", "scenario", "rows", "share"), rows)


def source_labels_tsv(spreads: Sequence[Spread]) -> bytes:
    """The sources' own labels beside ours: source, source_label, scenario, rows, share."""
    rows = [
        (one.source, own or "", scenario or "", num, num / total)
        for one in spreads
        for total in [one.num_rows]
        for (own, scenario), num in sorted(
            one.source_labels.items(), key=lambda item: (-item[1], str(item[0]))
        )
    ]
    return tsv(("source", "source_label", "scenario", "rows", "share"), rows)


def unmapped_tsv(unmapped: Sequence[Unmapped]) -> bytes:
    """Labels to map: label (as conf/taxonomy.yaml takes it in a list), rows, sources, examples.

    An example is the first 40 characters of a prompt. They may be harmful: for this file only,
    never for a log.
    """
    rows = [
        (_in_yaml(one.name), one.num_rows, ", ".join(one.sources), " | ".join(one.examples))
        for one in unmapped
    ]
    return tsv(("label", "rows", "sources", "examples"), rows)


def _in_yaml(label: str) -> str:
    """The label as an item of a YAML list, quoted only where YAML would misread it."""
    text = yaml.safe_dump([label], default_flow_style=True, allow_unicode=True, width=10**6)
    return text.strip().removeprefix("[").removesuffix("]")


def labels_svg(found: Distributions) -> bytes:
    """The most frequent labels of every source, and all others as one bar."""
    panels = []
    for spread in found.spreads:
        bars = [
            Bar(one.name, one.scenario or "", one.num_rows, BLUE if one.scenario else AMBER)
            for one in spread.labels
        ]
        panels.append(Panel(spread, _with_tail(bars), f"{len(bars):,} labels"))
    title = f"Labels by source: the {NUM_SHOWN} most frequent"
    return _bars_svg(
        title, f"{_total(found.spreads)} Amber: labels that mean no scenario yet.", panels
    )


def source_labels_svg(found: Distributions) -> bytes:
    """The same of the sources' own labels. Sources without any are left out."""
    panels = []
    for spread in found.spreads:
        counts: Counter[str | None] = Counter()
        for (own, _), num in spread.source_labels.items():
            counts[own] += num
        num_labels = len(counts.keys() - {None})
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0] or ""))
        bars = [Bar(own or "(none)", "", num, BLUE if own else GREY) for own, num in ordered]
        if num_labels:
            panels.append(Panel(spread, _with_tail(bars), f"{num_labels:,} labels of its own"))
    title = f"The sources' own labels: the {NUM_SHOWN} most frequent"
    return _bars_svg(title, _total([panel.spread for panel in panels]), panels)


def scenarios_svg(found: Distributions) -> bytes:
    """The 14 scenarios in every source, and the prompts whose label means none of them."""
    panels = []
    for spread in found.spreads:
        counts = spread.scenarios
        bars = [
            Bar(scenario.zh, code, counts[code], BLUE)
            for code, scenario in taxonomy.load().scenarios.items()
        ]
        num_covered = sum(bar.num > 0 for bar in bars)
        if counts[None]:
            bars.append(Bar("no scenario", "", counts[None], AMBER))
        panels.append(Panel(spread, bars, f"{num_covered} of {len(taxonomy.CODES)} scenarios"))
    return _bars_svg("Scenarios by source", _total(found.spreads), panels)


def _total(spreads: Sequence[Spread]) -> str:
    num = len(spreads)
    total = sum(spread.num_rows for spread in spreads)
    return f"{total:,} labelled prompts of {num} {'source' if num == 1 else 'sources'}."


def _with_tail(bars: Sequence[Bar]) -> list[Bar]:
    tail = bars[NUM_SHOWN:]
    if not tail:
        return list(bars)
    rest = Bar(f"{len(tail):,} others", "", sum(bar.num for bar in tail), GREY)
    return [*bars[:NUM_SHOWN], rest]


def _bars_svg(title: str, subtitle: str, panels: Sequence[Panel]) -> bytes:
    """Panels two beside each other."""
    num_beside = 2 if len(panels) > 1 else 1
    lines = [panels[first : first + num_beside] for first in range(0, len(panels), num_beside)]
    heights = [HEAD + STEP * max(len(panel.bars) for panel in line) + GAP for line in lines]
    width = 2 * MARGIN + num_beside * PANEL_WIDTH + (num_beside - 1) * GAP
    page = Page(width, TOP + sum(heights), title, subtitle)
    top = TOP
    for line, height in zip(lines, heights, strict=True):
        for number, panel in enumerate(line):
            _draw_panel(page, MARGIN + number * (PANEL_WIDTH + GAP), top, panel)
        top += height
    return page.svg()


def _draw_panel(page: Page, left: float, top: float, panel: Panel) -> None:
    total = panel.spread.num_rows
    said = f"{panel.spread.role}: {total:,} prompts, {panel.said}"
    page.write(left, top + 10, panel.spread.source, 11, is_bold=True)
    page.write(left, top + 23, said, 8.5, color=FAINT)
    start = left + NAME_WIDTH + CODE_WIDTH
    longest = PANEL_WIDTH - NAME_WIDTH - CODE_WIDTH - COUNT_WIDTH
    most = max(bar.num for bar in panel.bars)
    has_codes = any(bar.code for bar in panel.bars)
    name_width = NAME_WIDTH if has_codes else NAME_WIDTH + CODE_WIDTH - 5
    for number, bar in enumerate(panel.bars):
        y = top + HEAD + number * STEP
        name = fitted(bar.name, 9.5, name_width)
        page.write(left + name_width, y + 9.5, name, align="right")
        page.write(left + NAME_WIDTH + 5, y + 9.5, bar.code, 7.5, color=FAINT)
        length = longest * bar.num / most
        page.box(start, y + 1, length, STEP - 3.5, bar.color)
        share = f"{bar.num:,} ({100 * bar.num / total:.1f}%)"
        page.write(start + length + 4, y + 9.5, share, 8.5, color=FAINT)

"""How far the cells (scenario × attack dimension) are covered, before and after diversity control
(paper, section 3.5): as a table, a picture and a few lines for the screen.
"""

from __future__ import annotations

from collections.abc import Mapping

from ray_jobs import taxonomy
from ray_jobs.cells import Cell, every_cell
from ray_jobs.page import AMBER, BLUE, FAINT, INK, MARGIN, Page, tsv
from ray_jobs.tables import Folder
from ray_jobs.taxonomy import CODES, DIMENSIONS

SIDE, ROW, ROW_HEAD, TOP, GAP = 68.0, 24.0, 104.0, 122.0, 22.0  # points


def write_coverage(
    home: Folder,
    before: Mapping[Cell, int],
    after: Mapping[Cell, int],
    targets: Mapping[Cell, int],
    reasons: Mapping[Cell, str],
) -> None:
    """Write `coverage.tsv` and `coverage.svg`. `reasons`: why cells stayed under their target."""
    for counts in (before, after, targets, reasons):
        assert not set(counts) - set(every_cell()), f"no cells: {set(counts) - set(every_cell())}"
    home.write("coverage.tsv", coverage_tsv(before, after, targets, reasons))
    home.write("coverage.svg", coverage_svg(before, after, targets))


def short(have: Mapping[Cell, int], targets: Mapping[Cell, int]) -> list[Cell]:
    """The cells under their target, in the order of the scenarios."""
    return [cell for cell in every_cell() if have.get(cell, 0) < targets.get(cell, 0)]


def coverage_tsv(
    before: Mapping[Cell, int],
    after: Mapping[Cell, int],
    targets: Mapping[Cell, int],
    reasons: Mapping[Cell, str],
) -> bytes:
    """All 14 × 4 cells: scenario, dimension, target, before, after, short_by, reason."""
    rows = [
        (*cell, target, before.get(cell, 0), num, max(0, target - num), reasons.get(cell, ""))
        for cell in every_cell()
        for target, num in [(targets.get(cell, 0), after.get(cell, 0))]
    ]
    return tsv(("scenario", "dimension", "target", "before", "after", "short_by", "reason"), rows)


def coverage_lines(
    before: Mapping[Cell, int], after: Mapping[Cell, int], targets: Mapping[Cell, int]
) -> list[str]:
    """For the screen, 8 lines of at most 80 columns: prompts in each cell, a star where they are
    under the target.
    """
    total, lacking = len(every_cell()), set(short(after, targets))
    columns = ", ".join(dimension.split("_")[0] for dimension in DIMENSIONS)
    halves = [
        code.ljust(4)
        + "".join(
            f"{after.get((code, dimension), 0)}{'*' * ((code, dimension) in lacking)}".rjust(8)
            for dimension in DIMENSIONS
        )
        for code in CODES
    ]
    return [
        f"cells on target: {total - len(short(before, targets))}, then {total - len(lacking)} "
        f"of {total} ({columns}; * short)",
        *("    ".join(pair) for pair in zip(halves[:7], halves[7:], strict=True)),
    ]


def coverage_svg(
    before: Mapping[Cell, int], after: Mapping[Cell, int], targets: Mapping[Cell, int]
) -> bytes:
    """Two grids beside each other; the darker, the nearer to the target, and outlined below it."""
    width = 2 * MARGIN + ROW_HEAD + 2 * len(DIMENSIONS) * SIDE + GAP
    title = "Prompts by scenario and attack dimension, before and after diversity control"
    page = Page(width, TOP + ROW * len(CODES) + MARGIN, title, _subtitle(targets))
    scenarios = taxonomy.load().scenarios
    for number, code in enumerate(CODES):
        y = TOP + number * ROW + 16
        page.write(MARGIN, y, code, is_bold=True)
        page.write(MARGIN + 34, y, scenarios[code].zh)
    for number, (name, counts) in enumerate((("before", before), ("after", after))):
        left = MARGIN + ROW_HEAD + number * (len(DIMENSIONS) * SIDE + GAP)
        num_good = len(every_cell()) - len(short(counts, targets))
        said = (
            f"{sum(counts.values()):,} prompts, {num_good} of {len(every_cell())} cells on target"
        )
        page.write(left, 70, name, 11, is_bold=True)
        page.write(left + 44, 70, said, 9, color=FAINT)
        _draw_heads(page, left)
        _draw_cells(page, left, counts, targets)
    return page.svg()


def _draw_heads(page: Page, left: float) -> None:
    names = taxonomy.load().dimensions
    for along, dimension in enumerate(DIMENSIONS):
        middle = left + (along + 0.5) * SIDE
        page.write(middle, 90, names[dimension].zh, 9, align="center")
        for down, word in enumerate(dimension.split("_")):
            page.write(middle, 102 + 10 * down, word, 8.5, align="center", color=FAINT)


def _draw_cells(
    page: Page, left: float, counts: Mapping[Cell, int], targets: Mapping[Cell, int]
) -> None:
    # Without a target, a cell is compared with the fullest.
    most = max(counts.values(), default=0) or 1
    lacking = set(short(counts, targets))
    # Those that are short come last: their outline lies over their neighbours.
    for cell in sorted(every_cell(), key=lambda cell: cell in lacking):
        x = left + DIMENSIONS.index(cell[1]) * SIDE
        y = TOP + CODES.index(cell[0]) * ROW
        num, target = counts.get(cell, 0), targets.get(cell, 0)
        shade = min(1.0, num / (target or most))
        edge = AMBER if cell in lacking else "none"
        page.box(x + 1.5, y + 1.5, SIDE - 3, ROW - 3, _tint(shade), edge)
        said = f"{num:,} / {target:,}" if cell in lacking else f"{num:,}"
        # The colour that stands out better: 3.5 to 1 at the worst.
        color = "white" if shade > 0.82 else INK
        size = min(9.0, 1.75 * SIDE / len(said))
        page.write(x + SIDE / 2, y + 16, said, size, align="center", color=color)


def _subtitle(targets: Mapping[Cell, int]) -> str:
    what = "Training prompts that count as attacks."
    wanted = sorted({targets.get(cell, 0) for cell in every_cell()})
    if wanted == [0]:
        return f"{what} No targets are set. Darker: more prompts."
    found = f"{wanted[0]:,}" if len(wanted) == 1 else f"{wanted[0]:,} to {wanted[-1]:,}"
    return (
        f"{what} Target: {found} a cell. Darker: nearer to it. Outlined, number / target: under it."
    )


def _tint(shade: float) -> str:
    """A colour from near white (0) to BLUE (1)."""
    light, dark = (0xF0, 0xF4, 0xF8), [int(BLUE[at : at + 2], 16) for at in (1, 3, 5)]
    mixed = (round(a + (b - a) * shade) for a, b in zip(light, dark, strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)

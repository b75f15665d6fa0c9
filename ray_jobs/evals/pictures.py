"""Pictures of an evaluation (SVG): differences between models, and shares by group, each figure a
dot with its 95 % interval.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray_jobs.evals.screen import percent, signed
from ray_jobs.page import AMBER, BLUE, FAINT, GREY, INK, MARGIN, Page, fitted

# In points.
WIDTH, NAME_WIDTH, SAID_WIDTH = 720.0, 210.0, 150.0
LEFT, RIGHT = MARGIN + NAME_WIDTH + 8, WIDTH - MARGIN - SAID_WIDTH
TOP, BOTTOM, STEP, LINE = 66.0, 34.0, 19.0, 13.0
DOT, WHISKER = 6.0, 1.6
REACHES = (0.04, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8)
"""How far a picture of differences may go to each side."""
RULE = "#e4e7eb"
_PALE = " Pale: however open samples were scored."
COLORS = (GREY, BLUE, AMBER, "#5a8f5a", "#8a5a9e")
"""The models', the first one's first."""


def differences_svg(comparisons: Sequence[Mapping[str, Any]], against: str) -> bytes:
    """A line for each comparison: points, with the interval, left and right of no difference; where
    samples are open, what it could be.
    """
    drawn = [one for one in comparisons if one["bounds"] or one["points"]["value"] is not None]
    widest = max([0.0, *(abs(end) for one in drawn for end in _reach(one))])
    reach = next((one for one in REACHES if one >= widest), 1.0)
    page = Page(
        WIDTH,
        TOP + STEP * len(drawn) + BOTTOM,
        f"Difference from {against}, in points",
        "On the samples that are scored for both. Dot: difference; line: 95 % interval."
        + (_PALE if any(one["bounds"] for one in drawn) else ""),
    )
    place = _axis(page, -reach, reach, TOP + STEP * len(drawn), signed)
    page.box(place(0.0) - 0.5, TOP - 8, 1.0, STEP * len(drawn) + 8, FAINT)
    has_several = len({one["model"] for one in drawn}) > 1
    for number, one in enumerate(drawn):
        y = TOP + STEP * (number + 0.5)
        name = f"{one['suite']} · {one['measure']}"
        _name(page, y, f"{name} · {one['model']}" if has_several else name)
        low, high = _reach(one)
        if bounds := one["bounds"]:  # as in the table: no single number is honest
            _band(page, y, bounds, place)
            page.box(place(low), y - WHISKER / 2, place(high) - place(low), WHISKER, BLUE)
            told = f"{signed(bounds['lowest'])}…{signed(bounds['highest'])}"
        else:
            _dot(page, y, one["points"], place, BLUE)
            told = signed(one["points"]["value"])
        said = f"{told} [{signed(low)}, {signed(high)}] n {one['num']:,}"
        page.write(RIGHT + 10, y + 3, said, 8.5, color=FAINT)
    return page.svg()


def _reach(one: Mapping[str, Any]) -> tuple[float, float]:
    """How far a difference may be: its interval, that of its bounds where samples are open."""
    if not (bounds := one["bounds"]):
        return _ends(one["points"])
    low, high = bounds["low"], bounds["high"]
    return (bounds["lowest"] if low is None else low, bounds["highest"] if high is None else high)


def groups_svg(figures: Sequence[Mapping[str, Any]], models: Sequence[str], title: str) -> bytes:
    """A measure of one suite by group, the models' lines under each other."""
    groups = list(dict.fromkeys(one["group"] for one in figures))
    height = LINE * len(models) + 8
    bottom = TOP + height * len(groups)
    shaded = any(one["bounds"] for one in figures)
    page = Page(
        WIDTH,
        bottom + BOTTOM,
        title,
        "Percent. Dot: share of the scored samples; line: 95 % interval."
        + (_PALE if shaded else ""),
    )
    place = _axis(page, 0.0, 1.0, bottom, percent)
    _legend(page, models)
    found = {(one["group"], one["model"]): one for one in figures}
    for number, group in enumerate(groups):
        top = TOP + height * number
        _name(page, top + LINE * len(models) / 2, group)
        for line, model in enumerate(models):
            if one := found.get((group, model)):
                color = COLORS[line % len(COLORS)]
                _share(page, top + LINE * (line + 0.5), one, place, color)
    return page.svg()


def _share(
    page: Page, y: float, one: Mapping[str, Any], place: Callable[[float], float], color: str
) -> None:
    if bounds := one["bounds"]:
        _band(page, y, bounds, place)
    if one["value"] is None:
        page.write(RIGHT + 10, y + 3, f"nothing scored of {one['num_samples']:,}", 8, color=FAINT)
        return
    _dot(page, y, one, place, color)
    low, high = _ends(one)
    said = f"{percent(one['value'])} [{percent(low)}, {percent(high)}] n {one['num']:,}"
    page.write(RIGHT + 10, y + 3, said, 8, color=FAINT)


def _band(page: Page, y: float, bounds: Mapping[str, Any], place: Callable[[float], float]) -> None:
    left, right = place(bounds["lowest"]), place(bounds["highest"])
    page.box(left, y - LINE / 2 + 1, max(1.0, right - left), LINE - 2, "#f1e3cb")


def _dot(
    page: Page, y: float, one: Mapping[str, Any], place: Callable[[float], float], color: str
) -> None:
    left, right = (place(end) for end in _ends(one))
    page.box(left, y - WHISKER / 2, right - left, WHISKER, color)
    page.box(place(one["value"]) - DOT / 2, y - DOT / 2, DOT, DOT, color)


def _ends(one: Mapping[str, Any]) -> tuple[float, float]:
    """The interval, or the value where it has none."""
    low, high = (one["value"] if one[end] is None else one[end] for end in ("low", "high"))
    return low, high


def _name(page: Page, y: float, name: str) -> None:
    page.write(LEFT - 8, y + 3, fitted(name, 9.5, NAME_WIDTH), align="right", color=INK)


def _legend(page: Page, models: Sequence[str]) -> None:
    x = RIGHT + 10
    for number, model in enumerate(models):
        page.box(x, TOP - 18, DOT, DOT, COLORS[number % len(COLORS)])
        page.write(x + 10, TOP - 12, fitted(model, 9, 60), 9)
        x += 18 + 9 * 0.6 * min(len(model), 11)


def _axis(
    page: Page, low: float, high: float, bottom: float, told: Callable[[float], str]
) -> Callable[[float], float]:
    """Draw five marks between the ends; returns where a value lies."""

    def place(value: float) -> float:
        inside = min(high, max(low, value))
        return LEFT + (RIGHT - LEFT) * (inside - low) / (high - low)

    for number in range(5):
        value = low + (high - low) * number / 4
        page.box(place(value) - 0.3, TOP - 8, 0.6, bottom - TOP + 8, RULE)
        page.write(
            place(value),
            bottom + 13,
            told(value).removesuffix(".0"),
            8.5,
            align="center",
            color=FAINT,
        )
    return place

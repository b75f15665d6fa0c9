"""A picture of lines over two axes, with the same bytes on every machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ray_jobs.page import FAINT, INK, MARGIN, Page

Place: TypeAlias = tuple[float, float]
WIDTH, HEIGHT = 640.0, 340.0  # points
LEFT, TOP, BOTTOM = 62.0, 74.0, 46.0
NUM_TICKS = 8  # at most


@dataclass(frozen=True, kw_only=True)
class Line:
    """Places that belong together, in order."""

    name: str
    places: Sequence[Place]
    color: str
    width: float = 0.8
    is_dotted: bool = False
    """Whether each place gets a dot."""


@dataclass(frozen=True, kw_only=True)
class _Axis:
    """Values to points on the page."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def place(self, value: float) -> float:
        low, high, value = (math.log10(one) if self.is_log else one for one in self._with(value))
        return self.start + (self.end - self.start) * (value - low) / ((high - low) or 1.0)

    def _with(self, value: float) -> tuple[float, float, float]:
        return self.low, self.high, value

    def ticks(self) -> list[float]:
        """A few round values between the ends."""
        step = _round_step((self.high - self.low) / NUM_TICKS)
        first = math.ceil(self.low / step)
        return [number * step for number in range(first, math.floor(self.high / step) + 1)]


class _Sheet(Page):
    def line(self, places: Sequence[Place], color: str, width: float) -> None:
        """A line through places on the page."""
        xs, ys = zip(*places, strict=True)
        self._axes.plot(xs, ys, color=color, linewidth=width, solid_joinstyle="round")


def chart(
    title: str,
    subtitle: str,
    lines: Sequence[Line],
    x_name: str,
    y_name: str,
    *,
    is_log: bool = False,
) -> bytes:
    """Lines over two axes, as SVG; with `is_log` the axis of x is logarithmic, and marked where
    there are places.
    """
    sheet = _Sheet(WIDTH, HEIGHT, title, subtitle)
    xs = [x for line in lines for x, _ in line.places] or [0.0]
    ys = [y for line in lines for _, y in line.places] or [0.0]
    margin = 0.05 * (max(ys) - min(ys)) or 0.05 * abs(ys[0]) or 1.0
    x_axis = _Axis(low=min(xs), high=max(xs), start=LEFT, end=WIDTH - MARGIN, is_log=is_log)
    y_axis = _Axis(low=min(ys) - margin, high=max(ys) + margin, start=HEIGHT - BOTTOM, end=TOP)
    x_ticks = sorted(set(xs)) if is_log else x_axis.ticks()
    _draw_axes(sheet, x_axis, y_axis, x_ticks, x_name, y_name)
    for line in lines:
        places = [(x_axis.place(x), y_axis.place(y)) for x, y in line.places]
        sheet.line(places, line.color, line.width)
        for x, y in places if line.is_dotted or len(places) == 1 else ():
            sheet.box(x - 2, y - 2, 4, 4, line.color)
    _draw_names(sheet, lines)
    return sheet.svg()


def _draw_axes(
    sheet: _Sheet,
    x_axis: _Axis,
    y_axis: _Axis,
    x_ticks: Sequence[float],
    x_name: str,
    y_name: str,
) -> None:
    bottom, right = y_axis.start, x_axis.end
    for value in y_axis.ticks():
        y = y_axis.place(value)
        sheet.line([(LEFT, y), (right, y)], "#e4e7eb", 0.6)
        sheet.write(LEFT - 6, y + 3, f"{value:.4g}", 8.5, align="right", color=FAINT)
    for value in x_ticks:
        x = x_axis.place(value)
        sheet.line([(x, bottom), (x, bottom + 4)], FAINT, 0.8)
        sheet.write(x, bottom + 15, f"{value:.4g}", 8.5, align="center", color=FAINT)
    sheet.line([(LEFT, bottom), (right, bottom)], FAINT, 0.8)
    sheet.write((LEFT + right) / 2, bottom + 31, x_name, 9, align="center", color=INK)
    sheet.write(LEFT, TOP - 8, y_name, 9, color=INK)


def _draw_names(sheet: _Sheet, lines: Sequence[Line]) -> None:
    x = WIDTH - MARGIN
    for line in reversed(lines):
        x -= 9 * 0.58 * len(line.name)
        sheet.write(x, TOP - 8, line.name, 9, color=INK)
        sheet.line([(x - 24, TOP - 11), (x - 8, TOP - 11)], line.color, 2.0)
        x -= 38


def _round_step(rough: float) -> float:
    """The next of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    return next(one * power for one in (1, 2, 5, 10) if one * power >= rough)

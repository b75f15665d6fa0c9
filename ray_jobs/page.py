"""What lies beside a table for a person to look at: a page to draw on (SVG), and tables of tabs.

The same numbers give the same bytes on every machine: each thing is placed in points, text stays
text, and the fonts are the viewer's. So nothing depends on the fonts that are here, which may well
have no Chinese.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from typing import Literal

FONTS = (
    "Noto Sans CJK SC",
    "Source Han Sans SC",
    "Microsoft YaHei",
    "PingFang SC",
    "SimHei",
    "DejaVu Sans",
)
INK, FAINT = "#22272e", "#69707a"
BLUE, AMBER, GREY = "#3f72a8", "#d08a2e", "#b4bac2"
MARGIN = 16.0  # points
# No XML and no table of tabs can hold these.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]+")


class Page:
    """A white page of so many points, its origin at the top left, with a title and a line below."""

    def __init__(self, width: float, height: float, title: str, subtitle: str) -> None:
        from matplotlib.figure import Figure

        self._figure = Figure(figsize=(width / 72, height / 72), dpi=72, facecolor="white")
        self._axes = self._figure.add_axes((0, 0, 1, 1))
        self._axes.set(xlim=(0, width), ylim=(height, 0))
        self._axes.set_axis_off()
        self.write(MARGIN, 26, title, 14, is_bold=True)
        self.write(MARGIN, 43, subtitle, 9, color=FAINT)

    def write(
        self,
        x: float,
        y: float,
        text: str,
        size: float = 9.5,
        *,
        align: Literal["left", "center", "right"] = "left",
        color: str = INK,
        is_bold: bool = False,
    ) -> None:
        """A line of text; `y` is its baseline."""
        self._axes.text(
            x,
            y,
            one_line(text),
            fontsize=size,
            ha=align,
            va="baseline",
            color=color,
            weight="bold" if is_bold else "normal",
            parse_math=False,  # a dollar is a dollar
        )

    def box(
        self, x: float, y: float, width: float, height: float, color: str, edge: str = "none"
    ) -> None:
        """A filled rectangle; `edge` is the colour of its outline."""
        from matplotlib.patches import Rectangle

        self._axes.add_patch(
            Rectangle((x, y), width, height, facecolor=color, edgecolor=edge, linewidth=1.5)
        )

    def svg(self) -> bytes:
        """The page, without date or chance in it."""
        import matplotlib as mpl

        sink = io.BytesIO()
        with (
            mpl.rc_context(
                {
                    "svg.fonttype": "none",
                    "svg.hashsalt": "garrison",
                    "font.family": ["sans-serif"],
                    "font.sans-serif": FONTS,
                }
            ),
            warnings.catch_warnings(),
        ):
            # It measures text, although nothing is placed by that, and misses the Chinese glyphs.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            self._figure.savefig(sink, format="svg", metadata={"Date": None, "Creator": None})
        return sink.getvalue()


def one_line(text: str) -> str:
    """The text on one line, a space for each run of control characters."""
    return _CONTROLS.sub(" ", text)


def shortened(text: str, num_chars: int) -> str:
    """The text on one line, cut after so many characters."""
    line = one_line(text)
    return line if len(line) <= num_chars else f"{line[:num_chars]}…"


def fitted(text: str, size: float, width: float) -> str:
    """The text, cut to `width` points by a rough measure, for the fonts are the viewer's."""
    left = width
    for number, char in enumerate(text):
        left -= size * (1.0 if unicodedata.east_asian_width(char) in "WFA" else 0.58)
        if left < 0:
            return f"{text[: max(0, number - 1)].rstrip()}…"
    return text


def tsv(names: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """A table of tabs with a heading, UTF-8, one line a row. Shares get four digits."""
    sink = io.StringIO()
    writer = csv.writer(sink, delimiter="\t", lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        cells = (f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row)
        writer.writerow([one_line(cell) for cell in cells])
    return sink.getvalue().encode()

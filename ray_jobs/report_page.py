"""The blocks that a report's HTML is made of. All text that comes in is escaped here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

TEMPLATE = Path(__file__).resolve().parent.parent / "conf/report.html"
_ID = re.compile(r'\bid="([^"]*)"')
_REFERENCE = re.compile(r'(url\(#|href="#)')


@dataclass(frozen=True)
class Html:
    """Markup that is ready: it is not escaped again."""

    text: str


@dataclass(frozen=True)
class Cell:
    """What a cell shows, with a smaller line below it, and how."""

    text: str
    below: str = ""
    css: str = "num"


Content = str | Cell | Html | int


def page(title: str, body: Sequence[Html]) -> bytes:
    """The whole page, in one file that needs no other."""
    template = Template(TEMPLATE.read_text(encoding="utf-8"))
    text = template.substitute(title=escape(title), body="\n".join(part.text for part in body))
    return text.encode()


def heading(text: str, level: int = 2, anchor: str = "") -> Html:
    """A heading; other places of the page point to its anchor."""
    mark = f' id="{escape(anchor)}"' if anchor else ""
    return Html(f"<h{level}{mark}>{escape(text)}</h{level}>")


def paragraph(text: str, css: str = "") -> Html:
    """A paragraph of plain text."""
    return Html(f'<p class="{css}">{escape(text)}</p>' if css else f"<p>{escape(text)}</p>")


def table(head: Sequence[str], rows: Iterable[Sequence[Content]], num_text: int = 1) -> Html:
    """A table whose first `num_text` columns are text, and whose others are figures."""
    css = ["" if place < num_text else "num" for place in range(len(head))]
    names = "".join(
        f'<th scope="col" class="{kind}">{escape(name)}</th>'
        for kind, name in zip(css, head, strict=True)
    )
    lines = "".join(_line(row, len(head), num_text) for row in rows)
    return Html(
        f'<div class="scroll"><table><thead><tr>{names}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def _line(row: Sequence[Content], width: int, num_text: int) -> str:
    """A row of cells; one alone stands over the rows that follow."""
    cells = "".join(_cell(cell, place < num_text) for place, cell in enumerate(row))
    if len(row) == 1:
        wide = cells.replace("<td", f'<td colspan="{width}"', 1)
        return f'<tr class="suite">{wide}</tr>'
    return f"<tr>{cells}</tr>"


def _cell(cell: Content, is_text: bool) -> str:
    if isinstance(cell, Html):
        return f"<td>{cell.text}</td>"
    if isinstance(cell, Cell):
        below = f"<small>{escape(cell.below)}</small>" if cell.below else ""
        return f'<td class="{cell.css}">{escape(cell.text)}{below}</td>'
    shown = f"{cell:,}" if isinstance(cell, int) else cell
    return f"<td>{escape(shown)}</td>" if is_text else f'<td class="num">{escape(shown)}</td>'


def picture(svg: bytes, name: str, caption: str = "", *, label: str = "") -> Html:
    """An SVG inside the page. Its ids get the name before them, for another may have the same. The
    label, or else the caption, is read to those who cannot see it.
    """
    assert label or caption, f"{name} has no name for those who cannot see it"
    text = svg.decode()
    text = text[text.index("<svg") :]
    text = _ID.sub(lambda found: f'id="{name}-{found[1]}"', text)
    text = _REFERENCE.sub(lambda found: f"{found[1]}{name}-", text)
    text = text.replace("<svg", f'<svg role="img" aria-label="{escape(label or caption)}"', 1)
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return Html(f"<figure>{text}{below}</figure>")


def folded(title: str, inner: Html) -> Html:
    """What is shown on a click."""
    return Html(f"<details><summary>{escape(title)}</summary>{inner.text}</details>")


def code(text: str) -> Html:
    """Text as it is, line by line."""
    return Html(f"<pre>{escape(text)}</pre>")


def navigation(sections: Sequence[tuple[str, str]]) -> Html:
    """Links to the sections, by anchor and name."""
    links = "".join(f'<a href="#{escape(anchor)}">{escape(name)}</a>' for anchor, name in sections)
    return Html(f"<nav>{links}</nav>")


def warning(text: str) -> Html:
    """The page's first line, where there is something that nobody may miss."""
    return Html(f'<div class="warning">{escape(text)}</div>')

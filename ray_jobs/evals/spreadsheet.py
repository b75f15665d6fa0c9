"""The queue as a spreadsheet, and the labels in one."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ray_jobs import formats
from ray_jobs.evals.labels import SAID, WHERE, Key, Label
from ray_jobs.evals.queue import Item

SHOWN = (*WHERE, "language", "prompt", "answer")
COLUMNS = (*SHOWN, "options", *SAID, "digest")
NEEDED = {
    **dict.fromkeys(WHERE, "it says which answer is meant"),
    "label": "it holds what the annotator says of the answer",
    "annotator": "it holds who says so",
}
FORMULA = re.compile(r"""(?:^|(?<=[;\t\r\n]))('*)(?="*[=+\-@＝＋－＠\t\r\n])""")
"""What a spreadsheet takes for a formula where a cell begins, and what else may begin a cell there:
some split at semicolons or tabs, and then quotes hold neither these nor lines together."""


def text(items: Iterable[Item], given: Mapping[Key, Sequence[Label]]) -> str:
    """A row without a label stands there once, with one once for each annotator."""
    sheet = io.StringIO()
    writer = csv.DictWriter(sheet, COLUMNS, quoting=csv.QUOTE_ALL)
    writer.writeheader()
    for item in items:
        shown = {name: getattr(item, name) for name in (*SHOWN, "digest")}
        labels: Sequence[Label | None] = given.get(item.key) or [None]
        for label in labels:
            said = {name: getattr(label, name) or "" for name in SAID} if label else {}
            row = {**shown, "options": " | ".join(item.options), **said}
            writer.writerow({name: _as_text(value) for name, value in row.items()})
    return sheet.getvalue()


def rows(path: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    """The rows that have a label, each with its place in the file."""
    for number, row in enumerate(formats.rows(path, NEEDED), start=1):
        cells = {name: _as_given(str(row.get(name) or "")) for name in COLUMNS}
        if cells["label"].strip():  # else nobody has labelled it yet
            yield f"row {number}", {**cells, "label": cells["label"].strip()}


def _as_text(cell: str) -> str:
    return FORMULA.sub(r"'\1", cell)  # an answer may be a formula


def _as_given(cell: str) -> str:
    return FORMULA.sub(lambda found: found[1][1:], cell)

"""The paper's own figures, for columns of their own beside ours: conf/evals/paper_figures.yaml."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).resolve().parents[2] / "conf/evals/paper_figures.yaml"


def beside(named: Collection[tuple[str, str]]) -> dict[str, Any]:
    """What the paper prints of these suites and measures: its source, its columns' names, figures
    in percent by suite, measure and group, and footnotes.
    """
    data = _read()
    mine = [
        (suite, measure, one)
        for one in data["figures"]
        for suite, measure in sorted(named)
        if fnmatchcase(suite, one["suite"]) and fnmatchcase(measure, one["measure"])
    ]
    figures = [
        {"suite": suite, "measure": measure, "group": group, "printed": printed}
        for suite, measure, one in mine
        for group, printed in one["groups"].items()
    ]
    notes = (one["footnote"] for _, _, one in mine if "footnote" in one)
    return {
        "source": data["source"],
        "columns": data["columns"],
        "figures": figures,
        "footnotes": list(dict.fromkeys(notes)),
    }


@cache
def _read() -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return data

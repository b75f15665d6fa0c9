"""The data card: what is in a set, where it comes from, how it was made, and what to beware of.

Counts are of the rows themselves. The text is `conf/card.md`, the header what Hugging Face reads.
"""

from __future__ import annotations

import hashlib
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa
import yaml

from ray_jobs import catalogue, taxonomy
from ray_jobs.prompts import CONF
from ray_jobs.readers import Source

FILE = CONF / "card.md"
SPLITS = ("train", "validation")
PAIRS = "preferences_"
"""How the Parquet files of preference pairs begin."""
RESPONSE = {
    "answer": "the answer alone",
    "analysis_and_answer": "the safety analysis, where there is one, an empty line and the answer",
}
DUTIES = {
    "apache-2.0": "keep the licence and the notices, and say what was changed",
    "mit": "keep the copyright notice and the licence",
    "cc0-1.0": "none",
    "cc-by-4.0": "name the authors, link the licence, and say what was changed",
    "cc-by-sa-4.0": "name the authors, say what was changed, and share under the same licence",
    "cc-by-nc-4.0": "no commercial use; name the authors, and say what was changed",
    "cc-by-nc-sa-4.0": "no commercial use; name the authors, and share under the same licence",
}
"""Of the licences that Hugging Face knows by these names."""
PAIRS_SAID = (
    "Preference pairs: {pairs}. The rejected response is to the same prompt and scores at least "
    "{min_margin} lower; **many rejected responses are harmful**, and none is to be trained on "
    "alone."
)
UNKNOWN_DUTIES = "not known here: read them at the publisher before you hand the rows on"
SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}


@dataclass(frozen=True, kw_only=True)
class About:
    """What the rows do not say of themselves."""

    title: str = "Safety training set"
    sources: Mapping[str, Source] = field(default_factory=dict)
    """The recipe's sources, by name."""
    made_by: Mapping[str, str] = field(default_factory=dict)
    """What a model did → which one did it, in the order of a row's life."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The recipe's settings that decided the rows, by section."""


class Group(NamedTuple):
    """What rows are counted by."""

    split: str
    scenario: str | None
    dimension: str | None
    method: str | None
    source: str
    licence: str
    language: str


class Census:
    """Counts of a selection's rows, a shard at a time."""

    def __init__(self) -> None:
        self.rows: Counter[Group] = Counter()
        self.reasons: Counter[str] = Counter()

    def add(self, selected: pa.Table) -> None:
        """Count the rows that are done by group, and the others by reason."""
        counted = selected.group_by(["reason", *Group._fields]).aggregate([([], "count_all")])
        for row in counted.to_pylist():
            if row["reason"] is None:
                group = Group(**{name: row[name] for name in Group._fields})
                self.rows[group] += row["count_all"]
            else:
                self.reasons[row["reason"]] += row["count_all"]

    def by(self, *names: str) -> Counter[tuple[Any, ...]]:
        """The counts by some of a group's fields."""
        found: Counter[tuple[Any, ...]] = Counter()
        for group, number in self.rows.items():
            found[tuple(getattr(group, name) for name in names)] += number
        return found


def fingerprint() -> str:
    """A hash of the card's text."""
    return hashlib.sha256(FILE.read_bytes()).hexdigest()[:16]


def card(
    census: Census, sizes: Mapping[str, int], train_on: str, min_margin: float, about: About
) -> bytes:
    """README.md of a set whose data files have these sizes, in rows."""
    splits = census.by("split")
    pairs = sum(sizes.get(f"{PAIRS}{split}.parquet", 0) for split in SPLITS)
    text = string.Template(FILE.read_text(encoding="utf-8")).substitute(
        title=about.title,
        num_train=splits["train",],
        num_validation=splits["validation",],
        response=RESPONSE[train_on],
        pairs=PAIRS_SAID.format(pairs=pairs, min_margin=min_margin) if pairs else "",
        cells=_cells(census),
        sources=_sources(census, about.sources),
        methods=_methods(census),
        made_by=_table(("step", "made by"), about.made_by.items()) if about.made_by else "",
        reasons=_reasons(census),
        settings=yaml.safe_dump(dict(about.settings), allow_unicode=True, sort_keys=False),
        files=_table(("file", "rows"), ((f"`{name}`", str(num)) for name, num in sizes.items())),
    )
    return f"---\n{_header(census, sizes, about.title)}---\n\n{text}".encode()


def _header(census: Census, sizes: Mapping[str, int], title: str) -> str:
    licences = sorted({licence.lower() for (licence,) in census.by("licence")})
    total = census.rows.total()
    header: dict[str, Any] = {
        "pretty_name": title,
        "language": sorted(language for (language,) in census.by("language")),
        # Rows of several licences, or of one that has no short name there: the rows say it.
        "license": licences[0] if len(licences) == 1 and licences[0] in DUTIES else "other",
        "task_categories": ["text-generation"],
        "tags": ["safety", "alignment", "red-teaming", "not-for-all-audiences"],
        "size_categories": [next((n for most, n in SIZES.items() if total < most), "1M<n<10M")],
        "configs": [{"config_name": "default", "data_files": _data_files(sizes, "")}],
    }
    if pairs := _data_files(sizes, PAIRS):
        header["configs"].append({"config_name": "preferences", "data_files": pairs})
    return yaml.safe_dump(header, allow_unicode=True, sort_keys=False)


def _data_files(sizes: Mapping[str, int], lead: str) -> list[dict[str, str]]:
    named = [(split, f"{lead}{split}.parquet") for split in SPLITS]
    return [{"split": split, "path": file} for split, file in named if sizes.get(file)]


def _cells(census: Census) -> str:
    """Rows by scenario × dimension, and by split."""
    cells, splits = census.by("scenario", "dimension"), census.by("scenario", "split")
    dimensions = [*taxonomy.DIMENSIONS, None]
    if not any(number for (code, dimension), number in cells.items() if code and not dimension):
        dimensions = dimensions[:-1]
    names = {code: f"{code} {item.en}" for code, item in taxonomy.load().scenarios.items()}
    rows = [
        (name, *(str(cells[code, one]) for one in dimensions), *_by_split(splits, code))
        for code, name in names.items()
    ]
    rows.append(("no scenario", *[""] * len(dimensions), *_by_split(splits, None)))
    header = ["scenario", *(one or "no dimension" for one in dimensions), *SPLITS]
    return _table(header, rows)


def _sources(census: Census, sources: Mapping[str, Source]) -> str:
    rows = []
    for (name, licence), number in sorted(census.by("source", "licence").items()):
        publisher, duties = "", DUTIES.get(licence.lower(), UNKNOWN_DUTIES)
        source = sources.get(name)
        if source and source.catalogue:
            entry = catalogue.load()[source.catalogue]
            publisher, duties = entry.publisher, entry.duties
        elif source and source.id:
            publisher = f"{source.id} at {source.revision}"
        rows.append((name, publisher, licence, duties, str(number)))
    return _table(("source", "publisher", "licence", "its duties", "rows"), rows)


def _methods(census: Census) -> str:
    counts = census.by("method", "scenario")
    rows: Counter[str] = Counter()
    for (method, scenario), number in counts.items():
        rows[f"expanded: {method}" if method else "collected" if scenario else "general"] += number
    return _table(("prompts", "rows"), ((name, str(num)) for name, num in sorted(rows.items())))


def _reasons(census: Census) -> str:
    if not census.reasons:
        return "Nothing."
    rows = ((reason, str(number)) for reason, number in census.reasons.most_common())
    return _table(("reason", "responses"), rows)


def _by_split(splits: Counter[tuple[Any, ...]], scenario: str | None) -> list[str]:
    return [str(splits[scenario, split]) for split in SPLITS]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(header), ["---"] * len(header), *(list(map(_cell, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())

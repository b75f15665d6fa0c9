"""What people said of answers: a label is a line of JSON in a file that only grows.

Nothing is changed or removed: a later label of the same annotator on the same row replaces the
earlier one, and one without a label takes it back.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import unicodedata
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ray_jobs.tables import Folder

FOLDER = "labels"
"""Beside the tables of an evaluation."""
VERDICTS = ("safe", "unsafe", "uncertain")
REPLIES = ("回复1", "回复2", "Other", "Refuse")
"""Which of two replies an answer chose; Other: both or neither; Refuse: it declines to choose."""
UNJUDGED = "unjudged"
"""Of an answer on which the judge gave no verdict: unparsed, blocked or failed."""
OPEN = ("undecided", UNJUDGED)
"""The outcomes of a mark that waits for a person."""
WHERE = ("suite", "model", "id")
SAID = ("label", "annotator", "when", "comment", "judge_verdict")
"""What files of labels say of each, beside the row that it is of."""
MAX_ANNOTATOR = 64
MAX_COMMENT = 4_000
AHEAD = timedelta(hours=24)
"""How far another machine's clock may be ahead."""

log = logging.getLogger(__name__)
Key = tuple[str, str, str]
"""Suite, model and id of a row."""


@dataclass(frozen=True, kw_only=True)
class Label:
    """What one person said of one answer."""

    suite: str
    model: str
    id: str
    label: str | None
    """None takes the annotator's earlier label back."""
    annotator: str
    when: str
    """UTC, as ISO 8601 with microseconds: so that text sorts as time does."""
    judge_verdict: str | None
    """What the judge, or the parser, had said before."""
    comment: str = ""
    digest: str
    """Of the prompt and the answer that were read: the label is void where they are others now."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not isinstance(value, str) and not (value is None and "None" in str(item.type)):
                raise ValueError(f"{item.name}: expected text, found {value!r}")

    @property
    def key(self) -> Key:
        """The row."""
        return self.suite, self.model, self.id


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What those who labelled a row decide together."""

    label: str | None
    """What more than half of them say; None where no label has more than half: a tie."""
    votes: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_settled(self) -> bool:
        """Whether there is a decision, and it is not that nobody can tell."""
        return self.label not in (None, "uncertain")


def digest(prompt: str, answer: str) -> str:
    """16 hex digits over what a person reads of a row."""
    data = json.dumps([prompt, answer], ensure_ascii=True).encode()
    return hashlib.sha256(data).hexdigest()[:16]


def now() -> str:
    """The time, as labels have it."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def utc(text: str) -> str:
    """A time with its offset, as labels have it. ValueError where it is none, or lies ahead."""
    advice = "expected a time with its offset, such as 2026-01-31T12:00:00Z"
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{advice}, found {text[:40]!r}") from error
    if found.tzinfo is None:
        raise ValueError(f"{advice}, found {text[:40]!r} without one")
    if found > datetime.now(UTC) + AHEAD:
        # It would replace every label that the annotator gives until then.
        raise ValueError(f"expected a time in the past, found {text[:40]!r}")
    return found.astimezone(UTC).isoformat(timespec="microseconds")


def name_of(text: str) -> str:
    """An annotator's name, so that one person is one. ValueError where it cannot be a name."""
    name = " ".join(unicodedata.normalize("NFC", text).split())
    if not name or len(name) > MAX_ANNOTATOR or not name.isprintable():
        raise ValueError(f"annotator: expected a name of 1 to {MAX_ANNOTATOR} printable characters")
    return name


def latest(labels: Iterable[Label]) -> list[Label]:
    """The last label of each annotator on each row, in the order of time; without those that were
    taken back.
    """
    last = {(*label.key, label.annotator): label for label in in_time(labels)}
    return in_time(label for label in last.values() if label.label is not None)


def in_time(labels: Iterable[Label]) -> list[Label]:
    """In the order in which they were given."""
    return sorted(labels, key=lambda label: label.when)


def decide(labels: Iterable[Label]) -> dict[Key, Decision]:
    """What each row's annotators decide: more than half of them, or nothing."""
    votes: dict[Key, Counter[str]] = {}
    for label in latest(labels):
        assert label.label is not None
        votes.setdefault(label.key, Counter())[label.label] += 1
    return {
        key: Decision(label=_majority(found), votes=dict(found)) for key, found in votes.items()
    }


def _majority(votes: Counter[str]) -> str | None:
    label, num = votes.most_common(1)[0]
    return label if 2 * num > votes.total() else None


class Session:
    """One annotator's file of labels, growing line by line."""

    def __init__(self, folder: Folder, annotator: str) -> None:
        self._folder = folder
        who = hashlib.sha256(annotator.encode()).hexdigest()[:8]
        self.file = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{who}-{uuid.uuid4().hex[:8]}.jsonl"
        self._lines: list[str] = []

    def add(self, label: Label) -> None:
        """Write a label. It is on the disk when this returns."""
        line = _line(label)
        if "://" in self._folder.uri:
            # An object store cannot append: the whole session, a few hundred KiB at most, anew.
            self._folder.write(self.file, "".join([*self._lines, line]).encode())
        else:
            _append(Path(self._folder.uri) / self.file, line.encode())
        self._lines.append(line)


class LabelStore:
    """All labels of an evaluation."""

    def __init__(self, home: Folder) -> None:
        self.folder = home / FOLDER

    def read(self) -> list[Label]:
        """Every label there is, in the order of time. ValueError, file and line, where a line is
        none.
        """
        found = [label for name in sorted(self.files()) for label in self._read_file(name)]
        return in_time(found)

    def files(self) -> set[str]:
        """The names of the files there are: one that is new holds labels that are new."""
        return {name for name in self.folder.names() if name.endswith(".jsonl")}

    def add(self, labels: Sequence[Label]) -> None:
        """Write labels from elsewhere as one file: all, or none."""
        if labels:
            name = Session(self.folder, "import").file
            self.folder.write(name, "".join(map(_line, labels)).encode())

    def _read_file(self, name: str) -> list[Label]:
        where = f"{self.folder.uri}/{name}"
        lines = (self.folder.read(name) or b"").splitlines(keepends=True)
        labels = []
        for number, line in enumerate(lines, start=1):
            try:
                labels.append(_label(line))
            except ValueError as error:
                if number == len(lines) and not line.endswith(b"\n"):
                    # The power went while it was written: nobody was told that it is safe.
                    log.warning("%s line %d: cut, left out", where, number)
                    continue
                raise ValueError(
                    f"{where} line {number}: {error}; mend or remove the line"
                ) from error
        return labels


def _line(label: Label) -> str:
    return json.dumps(asdict(label), ensure_ascii=True) + "\n"


def _label(line: bytes) -> Label:
    try:
        said: Any = json.loads(line)
        return Label(**said)
    except (TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"expected a label ({' '.join(str(error).split())})") from error


def _append(file: Path, data: bytes) -> None:
    is_new = not file.exists()
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    if is_new:  # the file's name is on the disk once its folder is
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

"""Who is asked about which answer: no two about the same one, but where their agreement is wanted.

A row is leased to one who takes it. A lease lasts while its holder shows signs of life, and is
given again to the one who had it as long as nobody else has taken the row.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray_jobs.evals.labels import (
    MAX_COMMENT,
    Key,
    Label,
    LabelStore,
    Session,
    in_time,
    latest,
    now,
)
from ray_jobs.evals.queue import Annotation, Item, current, is_shared
from ray_jobs.evals.raters import agreement


class NoSuchRow(Exception):
    """Nobody is asked about such a row."""


class Taken(Exception):
    """Somebody else has labelled the row, or is at it."""


@dataclass
class Slot:
    """A row on the desk."""

    item: Item
    num_raters: int
    """How many people are to label it."""
    labels: dict[str, Label] = field(default_factory=dict)
    """The last of each annotator."""
    leases: dict[str, float] = field(default_factory=dict)
    """Until when, by annotator."""

    def num_left(self, annotator: str, at: float) -> int:
        """How many may still label it, were `annotator` not there."""
        others = {name for name in self.labels if name != annotator}
        others |= {name for name, end in self.leases.items() if name != annotator and end > at}
        return self.num_raters - len(others)


class Desk:
    """The queue, its labels and its leases. Not for several threads at once."""

    def __init__(
        self,
        items: Sequence[Item],
        store: LabelStore,
        cfg: Annotation,
        seed: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._cfg, self._clock = store, cfg, clock
        self._items = items
        self._slots = {
            public(item.key): Slot(item, cfg.num_raters if is_shared(item, cfg, seed) else 1)
            for item in items
        }
        self._sessions: dict[str, Session] = {}
        self._drafts: dict[tuple[str, str], str] = {}
        self._skipped: dict[str, list[str]] = {}
        self._seen: set[str] = set()
        self._agreement: dict[str, Any] | None = None
        self.refresh()

    def refresh(self) -> None:
        """Take up labels that were imported since."""
        files = self._store.files()
        own = {session.file for session in self._sessions.values()}
        if files - own <= self._seen:
            return
        self._seen = files
        for slot in self._slots.values():
            slot.labels.clear()
        for label in latest(current(self._store.read(), self._items)):
            self._slots[public(label.key)].labels[label.annotator] = label
        self._agreement = None

    def take(self, annotator: str, holding: str = "") -> str | None:
        """The row that the annotator is to label now: the one they have, the one that their page
        says it was `holding`, or the next. None where nothing is left for them.
        """
        self.refresh()
        at = self._clock()
        held = [key for key, slot in self._slots.items() if slot.leases.get(annotator, at) > at]
        skipped = self._skipped.get(annotator, [])
        fresh = [key for key in self._slots if key not in skipped]
        for key in [*held, *([holding] if holding in self._slots else []), *fresh, *skipped]:
            slot = self._slots[key]
            if annotator not in slot.labels and slot.num_left(annotator, at) > 0:
                slot.leases[annotator] = at + self._cfg.lease_s
                return key
        return None

    def label(self, annotator: str, key: str, label: str, comment: str) -> Item:
        """Keep a label. It is on the disk when this returns. Taken where the lease had ended and
        the row is another's now; ValueError where it is none of the row's labels.
        """
        slot = self._slot(key)
        if annotator not in slot.labels and slot.num_left(annotator, self._clock()) <= 0:
            raise Taken("this row is another's now")
        before = slot.labels.get(annotator)
        # A page that did not hear the answer says it again.
        if before is None or (before.label, before.comment) != (label, comment):
            self._write(slot, slot.item.labelled(label, annotator, now(), comment))
        slot.leases.pop(annotator, None)
        self._drafts.pop((annotator, key), None)
        if key in self._skipped.get(annotator, []):
            self._skipped[annotator].remove(key)
        return slot.item

    def skip(self, annotator: str, key: str) -> None:
        """Leave a row for later, or for others."""
        self._slot(key).leases.pop(annotator, None)
        skipped = self._skipped.setdefault(annotator, [])
        if key in skipped:
            skipped.remove(key)
        skipped.append(key)

    def undo(self, annotator: str, holding: str = "") -> str | None:
        """Take the annotator's last label back, and give them its row again. None where there is
        none.
        """
        given = [
            slot.labels[annotator] for slot in self._slots.values() if annotator in slot.labels
        ]
        if not given:
            return None
        if holding in self._slots:
            self._slots[holding].leases.pop(annotator, None)
        last = in_time(given)[-1]
        key = public(last.key)
        slot = self._slots[key]
        self._write(slot, slot.item.labelled(None, annotator, now(), last.comment))
        self._drafts[annotator, key] = last.comment
        slot.leases[annotator] = self._clock() + self._cfg.lease_s
        return key

    def draft(self, annotator: str, key: str, comment: str) -> None:
        """A sign of life, and the comment so far. Taken where the row is another's now."""
        slot, at = self._slot(key), self._clock()
        if len(comment) > MAX_COMMENT:
            raise ValueError(f"comment: expected at most {MAX_COMMENT} characters")
        if annotator in slot.labels or slot.num_left(annotator, at) <= 0:
            raise Taken("this row is another's now")
        slot.leases[annotator] = at + self._cfg.lease_s
        self._drafts[annotator, key] = comment

    def shown(self, annotator: str, key: str) -> dict[str, Any]:
        """A row as its annotator may see it: without its model, its verdict, or why it is asked."""
        item = self._slot(key).item
        return {
            "key": key,
            "suite": item.suite,
            "language": item.language,
            "prompt": item.prompt,
            "answer": item.answer,
            "options": list(item.options),
            "comment": self._drafts.get((annotator, key), ""),
            "lease_s": self._cfg.lease_s,
        }

    def progress(self, annotator: str) -> dict[str, Any]:
        """How much is labelled, by whom, and how far people agree."""
        at, slots = self._clock(), self._slots.values()
        if self._agreement is None:
            found = agreement(label for slot in slots for label in slot.labels.values())
            self._agreement = {
                "fleiss": found.fleiss.plain(),
                "num_rows": found.num_rows,
                "num_tied": found.num_tied,
            }
        return {
            "num_rows": len(slots),
            "num_done": sum(len(slot.labels) >= slot.num_raters for slot in slots),
            "num_mine": sum(annotator in slot.labels for slot in slots),
            "num_with_others": sum(
                any(name != annotator and end > at for name, end in slot.leases.items())
                for slot in slots
            ),
            "agreement": self._agreement,
        }

    def _slot(self, key: str) -> Slot:
        if key not in self._slots:
            raise NoSuchRow("nobody is asked about such a row")
        return self._slots[key]

    def _write(self, slot: Slot, label: Label) -> None:
        annotator = label.annotator
        if annotator not in self._sessions:
            self._sessions[annotator] = Session(self._store.folder, annotator)
        try:
            self._sessions[annotator].add(label)
        except OSError:
            # Half a line may be there, and nothing may follow it: the next label has its own file.
            del self._sessions[annotator]
            raise
        self._agreement = None
        if label.label is None:
            slot.labels.pop(annotator, None)
        else:
            slot.labels[annotator] = label


def public(key: Key) -> str:
    """A row's name on the page, which does not tell the model."""
    return hashlib.sha256("\0".join(key).encode(errors="surrogatepass")).hexdigest()[:20]

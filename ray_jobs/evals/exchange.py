"""The queue as a file for a spreadsheet (.csv) or Label Studio (.json), and labels back from it.

What is taken in is checked whole before any of it is kept. The judge's verdict stands only beside
labels that are given: who labels is not to know it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ray_jobs.evals import label_studio, queue, spreadsheet
from ray_jobs.evals.labels import (
    MAX_COMMENT,
    VERDICTS,
    Key,
    Label,
    LabelStore,
    in_time,
    latest,
    name_of,
    utc,
)
from ray_jobs.evals.labels import now as now_utc
from ray_jobs.evals.queue import NEED_CHECK, Annotation, Item, current
from ray_jobs.tables import Folder

log = logging.getLogger(__name__)


def exchange(home: Folder, cfg: Annotation, seed: int) -> None:
    """Take labels from `import_from`, and then write the queue to `export_to`, where these are
    set. For the evaluation whose tables lie in `home`.
    """
    if not (cfg.import_from or cfg.export_to):
        return
    items, store = queue.load(home, cfg, seed), LabelStore(home)
    if cfg.import_from:
        num = read(cfg.import_from, items, store)
        log.info("%s: %d new labels", cfg.import_from, num)
    if cfg.export_to:
        write(cfg.export_to, items, store.read())
        log.info("%s: %d rows for people to label", cfg.export_to, len(items))


def write(path: str, items: Sequence[Item], labels: Iterable[Label]) -> None:
    """Write the queue with the labels it has so far; for Label Studio also `<path>.xml`, the
    labelling interface. A row without a label stands there once, with one once for each annotator.
    """
    given: dict[Key, list[Label]] = {}
    for label in latest(current(labels, items)):
        given.setdefault(label.key, []).append(label)
    folder, _, name = path.rpartition("/")
    home = Folder(folder or ".")
    if path.lower().endswith(".csv"):
        home.write(name, spreadsheet.text(items, given).encode("utf-8-sig"))
        return
    tasks = [label_studio.task(item, given.get(item.key, [])) for item in items]
    home.write(name, json.dumps(tasks, ensure_ascii=True, indent=1).encode())
    home.write(f"{name}.xml", label_studio.VIEW.encode())


def read(path: str, items: Sequence[Item], store: LabelStore) -> int:
    """Take a file's labels into the store, all or none; returns how many were new.

    ValueError, file and row, where one is of no row in the queue, is no label that may be given,
    stands there twice, lacks its annotator, or was given to another answer.
    """
    there = {item.key: item for item in items}
    time = now_utc()
    found: dict[tuple[str, str, str, str], tuple[str, Label]] = {}
    rows = spreadsheet.rows if path.lower().endswith(".csv") else label_studio.rows
    for where, cells in rows(path):
        try:
            label = _label(cells, there, time)
            before = found.get((*label.key, label.annotator))
            if before:
                raise ValueError(f"{label.annotator} labels the same answer as in {before[0]}")
        except ValueError as error:
            raise ValueError(f"{path} {where}: {error}; nothing of the file is kept") from error
        found[(*label.key, label.annotator)] = (where, label)
    known = {(*one.key, one.annotator): one for one in latest(current(store.read(), items))}
    new = [
        label
        for key, (_, label) in found.items()
        if not (known.get(key) and _says(known[key]) == _says(label))
    ]
    store.add(in_time(new))
    return len(new)


def _says(label: Label) -> tuple[str | None, str]:
    return label.label, label.comment


def _label(cells: Mapping[str, str], there: Mapping[Key, Item], time: str) -> Label:
    key = (cells["suite"], cells["model"], cells["id"])
    item = there.get(key)
    if item is None:
        raise ValueError(
            f"no row of the queue is suite {key[0]!r}, model {key[1]!r}, id {key[2]!r}"
        )
    if cells.get("digest") and cells["digest"] != item.digest:
        raise ValueError("the answer has changed since the file was written; write it anew")
    comment, before = cells.get("comment", ""), cells.get("judge_verdict", "")
    if len(comment) > MAX_COMMENT:
        raise ValueError(f"comment: expected at most {MAX_COMMENT} characters")
    if before and before not in (*VERDICTS, NEED_CHECK):
        raise ValueError(f"judge_verdict: expected nothing or a verdict, found {before[:40]!r}")
    when = cells.get("when", "")
    try:
        label = item.labelled(
            cells["label"], name_of(cells["annotator"]), utc(when) if when else time, comment
        )
    except ValueError as error:
        about = "" if str(error).startswith("annotator") else "label or when: "
        raise ValueError(f"{about}{error}") from error
    return replace(label, judge_verdict=before or item.judge_verdict)

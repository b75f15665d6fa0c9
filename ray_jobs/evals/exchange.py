"""The queue as a file for a spreadsheet (.csv) or Label Studio (.json), and labels back from it.

What is taken in is checked whole before any of it is kept. The judge's verdict stands only beside
labels that are given: who labels is not to know it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC

import pyarrow.fs as pafs

from ray_jobs.evals import label_studio, queue, spreadsheet
from ray_jobs.evals.labels import (
    MAX_COMMENT,
    UNJUDGED,
    VERDICTS,
    Key,
    Label,
    LabelStore,
    in_time,
    latest,
    name_of,
    utc,
)
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
    """Take a file's labels into the store, all or none; returns how many were new. One that has no
    time of its own was given when the file was written, so what its annotator has said since stands
    however often the file is read.

    ValueError, file and row, where one is of no row in the queue, is no label that may be given,
    stands there twice, lacks its annotator, or was given to another answer.
    """
    there = {item.key: item for item in items}
    found: dict[tuple[str, str, str, str], tuple[str, Label]] = {}
    rows = spreadsheet.rows if path.lower().endswith(".csv") else label_studio.rows
    given = list(rows(path))
    time = _written(path)
    for where, cells in given:
        try:
            label = _label(cells, there, time)
            before = found.get((*label.key, label.annotator))
            if before:
                raise ValueError(f"{label.annotator} labels the same answer as in {before[0]}")
        except ValueError as error:
            raise ValueError(f"{path} {where}: {error}; nothing of the file is kept") from error
        found[(*label.key, label.annotator)] = (where, label)
    # Also what was taken back, in the order of time: the last of each annotator on each row.
    known = {(*one.key, one.annotator): one for one in current(store.read(), items)}
    new = [label for key, (_, label) in found.items() if _is_new(label, known.get(key))]
    store.add(in_time(new))
    return len(new)


def _is_new(label: Label, last: Label | None) -> bool:
    if last is None:
        return True
    says_more = (label.label, label.comment) != (last.label, last.comment)
    return says_more and label.when >= last.when


def _written(path: str) -> str:
    """When a file was last written, as labels have it."""
    is_local = "://" not in path
    system, inner = (pafs.LocalFileSystem(), path) if is_local else pafs.FileSystem.from_uri(path)
    found = system.get_file_info(inner).mtime
    assert found is not None, "the file has been read"
    return str(found.astimezone(UTC).isoformat(timespec="microseconds"))


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
    if before and before not in (*VERDICTS, NEED_CHECK, UNJUDGED):
        raise ValueError(f"judge_verdict: expected nothing or a verdict, found {before[:40]!r}")
    when = cells.get("when", "")
    try:
        label = item.labelled(
            cells["label"], name_of(cells["annotator"]), utc(when or time), comment
        )
    except ValueError as error:
        about = "" if str(error).startswith("annotator") else "label or when: "
        raise ValueError(f"{about}{error}") from error
    return replace(label, judge_verdict=before or item.judge_verdict)

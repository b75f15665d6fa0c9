"""lm-eval's tasks by name: found, loaded from the hub or from local files, or made of one document
to read answers with.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from ray_jobs.evals import exams
from ray_jobs.evals.harness import Benchmark, known_of
from ray_jobs.formats import kind_of
from ray_jobs.tables import Row

OUTPUTS = ("generate_until", "multiple_choice", "loglikelihood")

log = logging.getLogger(__name__)
_readers: dict[str, Any] = {}
"""Tasks by name, made once a process."""


@cache
def _manager(folder: str) -> Any:
    import lm_eval.tasks

    # It warns of every task whose data are not the hub's, and at every other turn.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    if not folder:
        log.info("lm-eval looks through all its tasks; this takes half a minute")
        return lm_eval.tasks.TaskManager()
    built_in = Path(lm_eval.tasks.__file__).parent / folder
    return lm_eval.tasks.TaskManager(include_path=str(built_in), include_defaults=False)


def _manager_of(name: str) -> Any:
    known = known_of(name)
    manager = _manager(known.folder) if known else None
    return manager if manager and name in manager.task_index else _manager("")


def leaves(names: tuple[str, ...]) -> Iterator[str]:
    """The tasks that these names of tasks, groups and tags stand for. ValueError for a name that
    lm-eval does not know, and for a task that runs programs.
    """
    for name in names:
        entry = _manager_of(name).task_index.get(name)
        if entry is None:
            raise ValueError(f"lm-eval has no task or group {name}")
        inside = entry.cfg.get("task") if entry.cfg and "group" in entry.cfg else entry.tags
        if entry.cfg and "group" not in entry.cfg:
            if entry.cfg.get("unsafe_code"):
                raise ValueError(f"lm-eval's task {name} runs programs; it is not for this suite")
            yield name
        elif all(isinstance(one, str) for one in inside):
            yield from leaves(tuple(sorted(inside) if isinstance(inside, set) else inside))
        else:
            raise ValueError(f"lm-eval's group {name} changes its tasks; name the tasks themselves")


def load_task(name: str, cfg: Benchmark) -> Any:
    """A task with its data. ValueError, one line, where they cannot be had or do not fit it, and
    for a kind of task that we cannot ask.
    """
    import datasets
    import jinja2

    manager = _manager_of(name)
    changes = _instead(lambda: _local(manager, name, cfg)) if cfg.files else {}
    try:
        task = _made(manager, name, changes)
    except (jinja2.UndefinedError, KeyError, IndexError) as error:
        raise ValueError(f"lm-eval's task {name}: its rows lack what it reads: {error}") from error
    except (OSError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        why = str(error).partition("\n")[0]
        raise ValueError(
            f"lm-eval's task {name}: its data cannot be had: {why}; local ones go by `files`"
        ) from error
    if task.OUTPUT_TYPE not in OUTPUTS or task.config.repeats != 1:
        raise ValueError(
            f"lm-eval's task {name}: {task.OUTPUT_TYPE}, {task.config.repeats} repeats; expected "
            f"one of {', '.join(OUTPUTS)}, once"
        )
    return task


def _made(manager: Any, name: str, changes: dict[str, Any]) -> Any:
    # Only inside a group does lm-eval take a name and changes to what it stands for.
    return manager.load([{"group": "ours", "task": [{"task": name, **changes}]}])["tasks"][name]


def _local(manager: Any, name: str, cfg: Benchmark) -> dict[str, Any]:
    """The splits that a task reads, from local files."""
    config = manager.task_index[name].cfg
    asked = config.get("test_split") or config.get("validation_split")
    shown = config.get("fewshot_split") or config.get("training_split")
    subject = config.get("dataset_name") or name
    files = {
        split: cfg.files.replace("{subject}", subject).replace("{split}", split)
        for split in (asked, shown)
        if split
    }
    return {split: _rows(Path(file).expanduser()) for split, file in files.items()}


def _rows(file: Path) -> list[Row]:
    rows = exams.read_rows(file)
    kinds: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        for field, value in row.items():
            kind = kind_of(value)
            if value is not None and kinds.setdefault(field, kind) != kind:
                raise ValueError(
                    f"{file}, row {number}: {field}: expected {kinds[field]} as in the rows "
                    f"before, found {kind}"
                )
        if "choices" in row or "A" in row:  # else lm-eval fails in the middle, without a word where
            exams.item(row, f"{file}, row {number}")
    return rows


def _instead(splits: Callable[[], dict[str, list[Row]]]) -> dict[str, Any]:
    """What changes a task's config so that it reads these rows."""
    import datasets

    def load(**_: Any) -> dict[str, Any]:  # lm-eval hands over the task's metadata
        return {split: datasets.Dataset.from_list(rows) for split, rows in splits().items()}

    return {"custom_dataset": load}


def reader(name: str, doc: Row) -> Any:
    """A task that is only read with: the first of its documents is all its data."""
    if name not in _readers:
        manager = _manager_of(name)
        config = manager.task_index[name].cfg
        splits = ("training_split", "validation_split", "test_split", "fewshot_split")
        alone = {config[split]: [doc] for split in splits if config.get(split)}
        # The document has been through process_docs already.
        changes = {**_instead(lambda: alone), "process_docs": None}
        _readers[name] = _made(manager, name, changes)
    return _readers[name]

"""What an evaluation can refuse ahead: before an engine starts, and before anything is written."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ray_jobs.evals import capability, harness, label_studio, spreadsheet
from ray_jobs.evals.capability import EXAMS, HUB_ID
from ray_jobs.evals.queue import Annotation
from ray_jobs.evals.settings import Evaluate
from ray_jobs.evals.suite import Suite
from ray_jobs.steps import Step, up_to_date
from ray_jobs.tables import Folder


def from_hub(cfg: Evaluate) -> list[Suite]:
    """The suites whose questions a hub has, and its own library brings into its own cache."""
    found: list[Suite] = []
    if exams := cfg.suites.get("capability"):
        local = [name for name in EXAMS if not _is_on_hub(getattr(exams, name))]
        found += capability.suites(replace(exams, **dict.fromkeys(local, "")))
    if tasks := cfg.suites.get("harness"):
        remote = {name: one for name, one in tasks.benchmarks.items() if not one.files}
        found += harness.suites(replace(tasks, benchmarks=remote))
    return found


def _is_on_hub(place: str) -> bool:
    return bool(HUB_ID.fullmatch(place)) and not Path(place).expanduser().is_dir()


def read(cfg: Evaluate, steps: Iterable[Step], out: Folder) -> None:
    """Read what the steps that need no other step will read, and keep nothing of it; but for what
    is published already, and for what hubs have. ValueError, one line, where a file is missing,
    cut or wrong.
    """
    remote = {suite.name for suite in from_hub(cfg)}
    for step in steps:
        if not step.inputs and step.name not in remote and not up_to_date([step], out):
            with tempfile.TemporaryDirectory() as folder:
                step.write(Folder(folder) / step.name, ())


def check_annotation(cfg: Annotation) -> None:
    """ValueError where labels cannot be read, or the queue not be written, as the recipe says. To
    which answers the labels belong is checked when there are answers.
    """
    if cfg.import_from:
        is_csv = cfg.import_from.lower().endswith(".csv")
        for _ in (spreadsheet.rows if is_csv else label_studio.rows)(cfg.import_from):
            pass
    if cfg.export_to and "://" not in cfg.export_to:
        folder = Path(cfg.export_to).expanduser().absolute().parent
        there = next(one for one in (folder, *folder.parents) if one.exists())
        try:
            tempfile.TemporaryFile(dir=there).close()
        except OSError as error:
            raise ValueError(
                f"evaluate.annotation.export_to: {cfg.export_to} cannot be written "
                f"({error.strerror}); give another file"
            ) from error

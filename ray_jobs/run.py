"""Job: build_data, train, evaluate and report in a row. Each goes on where it was cut."""

from __future__ import annotations

from ray_jobs import build_data, evaluate, tiny
from ray_jobs.config import Recipe
from ray_jobs.engines.models import check_model
from ray_jobs.report import report
from ray_jobs.train import train
from ray_jobs.training import samples_table, trackers
from ray_jobs.training.samples_table import Data


def run(recipe: Recipe) -> None:
    """All of them. What one of them would refuse is said before the first begins, as far as it can
    be known by then.
    """
    build_data.check(recipe)
    _check_training(recipe)
    evaluate.check(recipe)
    for job in (build_data.build_data, train, evaluate.evaluate, report):
        job(recipe)


def _check_training(recipe: Recipe) -> None:
    """ValueError where `train` cannot work, whatever build_data will export."""
    cfg = recipe.train
    if cfg is None:
        raise ValueError(f"{recipe.file}: train: missing; conf/tiny.yaml shows such a section")
    trackers.check(cfg.logging)
    if cfg.base not in tiny.NAMES:  # else it is built when it is trained
        check_model(cfg.base, "train.base")
        samples_table.check(cfg)
    if cfg.data:
        Data.of(cfg.data, cfg.format)

"""Job: build_data, train, evaluate and report in a row. Each goes on where it was cut."""

from __future__ import annotations

from ray_jobs.build_data import build_data
from ray_jobs.config import Recipe
from ray_jobs.evaluate import evaluate, section
from ray_jobs.report import report
from ray_jobs.train import train


def run(recipe: Recipe) -> None:
    """All of them. What the evaluation lacks in the recipe is said before the first begins."""
    section(recipe)
    for job in (build_data, train, evaluate, report):
        job(recipe)

"""Job: build_data, train, evaluate and report in a row. Each goes on where it was cut."""

from __future__ import annotations

import importlib
import importlib.util

from ray_jobs.config import Recipe
from ray_jobs.evaluate import section

JOBS = ("preflight", "build_data", "train", "evaluate", "report")
"""Each is the function of that name in the module of that name."""


def run(recipe: Recipe) -> None:
    """All of them. What the evaluation lacks in the recipe is said before the first begins."""
    section(recipe)
    for job in JOBS:
        name = f"ray_jobs.{job}"
        if importlib.util.find_spec(name):
            getattr(importlib.import_module(name), job)(recipe)

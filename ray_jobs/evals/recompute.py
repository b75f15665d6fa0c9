"""All figures once more, from the marks and the labels that there are now: after an evaluation, and
whenever people have labelled.
"""

from __future__ import annotations

from typing import Any

from ray_jobs.evals import summary
from ray_jobs.evals.human import human
from ray_jobs.evals.queue import Annotation
from ray_jobs.evals.summary import About
from ray_jobs.tables import Folder, open_table


def recompute(home: Folder, about: About, cfg: Annotation, seed: int) -> dict[str, Any]:
    """The summary of the evaluation whose tables lie in `home`, written beside them."""
    marked = open_table(home / "marks")
    assert marked is not None, "marks are the last table of an evaluation"
    people = human(home, cfg, seed)
    found = summary.summarise(marked, about, people.decided) | {"human": people.plain()}
    summary.write(home, found)
    return found


def about_of(found: dict[str, Any]) -> About:
    """What stood beside the figures of an earlier summary, for whoever has no recipe at hand."""
    return About(models=found["models"], protocols=found["protocols"], toys=found["toys"])

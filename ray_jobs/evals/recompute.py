"""All figures once more, from the marks and the labels that there are now: after an evaluation, and
while people label.
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
    people = human(home, cfg, seed, list(about.models))
    found = summary.summarise(marked, about, people.decided) | {"human": people.plain()}
    summary.write(home, found)
    return found


def follow(home: Folder, cfg: Annotation, seed: int) -> None:
    """Bring an evaluation's summary up to date with the labels. One that is being made anew, or has
    no summary yet, is left to its job, which counts the labels as well.
    """
    marked, before = open_table(home / "marks"), summary.read(home)
    if marked is None or before is None or before["marks"] != marked.manifest["fingerprint"]:
        return
    about = About(models=before["models"], protocols=before["protocols"], toys=before["toys"])
    recompute(home, about, cfg, seed)

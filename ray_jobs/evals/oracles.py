"""The judge beside the oracle: a measure of a suite and the same one as the synthetic world's
oracle has it, which knows what is right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ray_jobs.agreement import kappa
from ray_jobs.evals.statistics import figures
from ray_jobs.evals.store import Panel

SUFFIX = "_by_oracle"
"""What the oracle's measure has after the name of the judge's."""


def agreements(panels: Sequence[Panel]) -> Iterator[dict[str, Any]]:
    """For each such pair and each model, over the samples that both have scored: both shares, how
    often they agree, and kappa.
    """
    named = {(one.suite, one.measure): one for one in panels}
    for one in panels:
        oracle = named.get((one.suite, one.measure + SUFFIX))
        if oracle is not None:
            for place, model in enumerate(one.models):
                yield {
                    "suite": one.suite,
                    "measure": one.measure,
                    "model": model,
                    **_agreement(one, oracle, place),
                }


def _agreement(judged: Panel, oracle: Panel, place: int) -> dict[str, Any]:
    _, mine, theirs = np.intersect1d(judged.ids, oracle.ids, return_indices=True)
    first, second = judged.scores[mine, place], oracle.scores[theirs, place]
    both = ~np.isnan(first) & ~np.isnan(second)
    first, second = first[both], second[both]
    columns = np.stack([first, second, (first == second).astype(float)], 1)
    shares = [one.estimate for one in figures(columns, judged.clusters[mine][both], 0)]
    return {
        "num": int(both.sum()),
        **{
            name: one.plain()
            for name, one in zip(("judge", "oracle", "agree"), shares, strict=True)
        },
        "kappa": kappa(list(map(str, first)), list(map(str, second))).plain(),
        "only_judge": int((first > second).sum()),
        "only_oracle": int((second > first).sum()),
    }

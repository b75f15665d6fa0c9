"""People's part in an evaluation: what they have decided, how far they agree, and what their audit
makes of the judge's figures. Nothing is kept: it follows from the tables and the labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ray_jobs.agreement import Estimate, kappa
from ray_jobs.evals import queue
from ray_jobs.evals.corrections import Corrected, corrected
from ray_jobs.evals.labels import Decision, Key, LabelStore, decide, latest
from ray_jobs.evals.powered import Judged, difference
from ray_jobs.evals.queue import Annotation, Item
from ray_jobs.evals.raters import Agreement, agreement
from ray_jobs.tables import DONE, Folder, open_table

SAFE = {"safe": 1.0, "unsafe": 0.0}


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The judge of one suite's answers of one model, beside people."""

    suite: str
    model: str
    corrected: Corrected
    """The share of safe answers, corrected for the judge's errors."""
    kappa: Estimate
    """Of the judge and people over the audited rows that people have decided."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A later model's share of safe answers less the first one's, both corrected by their audits:
    prediction-powered.
    """

    suite: str
    model: str
    against: str
    low: Estimate
    """Were all that people have left open to the later model's disadvantage."""
    high: Estimate
    """The same, were it all to its advantage."""


@dataclass(frozen=True, kw_only=True)
class Human:
    """What people say of an evaluation's answers."""

    decided: Mapping[Key, str]
    """What each row's annotators decide, by suite, model and id; without ties, and without rows of
    which they say that nobody can tell."""
    num_labels: int
    """Labels that count: the last of each annotator on each row."""
    num_void: int
    """Labels on rows that are no longer asked about, or whose answer is another now."""
    num_tied: int
    num_untold: int
    """Rows that people decided to call uncertain."""
    rows: Mapping[str, int]
    """Rows of the queue, by why they are in it: uncertain, unjudged, audit."""
    labelled: Mapping[str, int]
    """Those that somebody has labelled."""
    agreement: Agreement
    audits: Sequence[Audit]
    differences: Sequence[Difference]
    """Of every suite in which both models are audited."""

    def plain(self) -> dict[str, Any]:
        """As JSON has it, without the single rows."""
        said = asdict(self)
        del said["decided"]
        pairs = self.agreement.pairs.items()
        said["agreement"]["pairs"] = [
            {"annotators": list(names), **found.plain()} for names, found in pairs
        ]
        return said


def human(home: Folder, cfg: Annotation, seed: int, models: Sequence[str]) -> Human:
    """People's part in the evaluation whose tables lie in `home`: of these models, of which the
    first is what the others are compared with.
    """
    items = queue.load(home, cfg, seed)
    every = latest(LabelStore(home).read())
    labels = queue.current(every, items)
    decisions = decide(labels)
    why = {item.key: item.why for item in items}
    judged = _audited(home, items, decisions)
    return Human(
        decided={
            key: said.label
            for key, said in decisions.items()
            if said.is_settled and said.label is not None
        },
        num_labels=len(labels),
        num_void=len(every) - len(labels),
        num_tied=sum(said.label is None for said in decisions.values()),
        num_untold=sum(said.label == "uncertain" for said in decisions.values()),
        rows=dict(Counter(why.values())),
        labelled=dict(Counter(why[key] for key in decisions)),
        agreement=agreement(labels, seed),
        audits=[_audit(suite, model, rows) for (suite, model), rows in judged.items()],
        differences=_differences(judged, models),
    )


def _audited(
    home: Folder, items: Sequence[Item], decisions: Mapping[Key, Decision]
) -> dict[tuple[str, str], Judged]:
    """Every suite and model of whose audit something is labelled."""
    begun: dict[tuple[str, str], set[str]] = {}
    for item in items:
        if item.why == "audit" and item.key in decisions:
            begun.setdefault((item.suite, item.model), set()).add(item.id)
    return {key: _judged(home, *key, ids, decisions) for key, ids in sorted(begun.items())}


def _judged(
    home: Folder, suite: str, model: str, ids: set[str], decisions: Mapping[Key, Decision]
) -> Judged:
    rows = _verdicts(home, suite, model)
    said = [decisions.get((suite, model, each)) for each in rows["id"].to_pylist()]
    people = [SAFE.get(one.label or "", np.nan) if one else np.nan for one in said]
    verdicts = rows["verdict"].to_pylist()
    return Judged(
        judge=np.array([SAFE.get(verdict, np.nan) for verdict in verdicts]),
        people=np.array(people),
        is_audited=np.array([each in ids for each in rows["id"].to_pylist()]),
        clusters=np.array(rows["cluster"].to_pylist()),
    )


def _audit(suite: str, model: str, judged: Judged) -> Audit:
    seen = np.flatnonzero(judged.is_audited & ~np.isnan(judged.people))
    words = {value: word for word, value in SAFE.items()}
    return Audit(
        suite=suite,
        model=model,
        corrected=corrected(judged),
        kappa=kappa(
            [words[judged.judge[place]] for place in seen],
            [words[judged.people[place]] for place in seen],
        ),
    )


def _differences(
    judged: Mapping[tuple[str, str], Judged], models: Sequence[str]
) -> list[Difference]:
    found = []
    for suite in dict.fromkeys(suite for suite, _ in judged):
        first = judged.get((suite, models[0]))
        for model in models[1:]:
            later = judged.get((suite, model))
            if first and later:
                low = difference(first.filled(1.0), later.filled(0.0))
                high = difference(first.filled(0.0), later.filled(1.0))
                found.append(
                    Difference(suite=suite, model=model, against=models[0], low=low, high=high)
                )
    return found


def _verdicts(home: Folder, suite: str, model: str) -> pa.Table:
    """The answers that there are, with their clusters, and what the judge says: null where it gave
    no verdict.
    """
    verdicts = open_table(home / f"{suite}-{model}-verdicts")
    answers = open_table(home / f"{suite}-{model}")
    assert verdicts is not None, "an audit is of judged answers"
    assert answers is not None, "an audit is of judged answers"
    done = answers.load(["id", "cluster"], DONE)
    return done.join(verdicts.load(["id", "verdict"]), "id").sort_by("id")

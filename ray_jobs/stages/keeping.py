"""Keep the expanded prompts that are new and strong, in the cell they turn out to belong to,
whatever they were written for (paper, section 3.5).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from ray_jobs import taxonomy
from ray_jobs.cells import Diversity
from ray_jobs.contamination import EvaluationPrompts
from ray_jobs.duplicates import find_twins
from ray_jobs.ngrams import NONE
from ray_jobs.schema import PLACED
from ray_jobs.tables import DONE, Row, Table, batches


class Likeness(Protocol):
    """When two prompts are alike, as it was set for the collected ones."""

    @property
    def min_similarity(self) -> float: ...
    @property
    def ngram_chars(self) -> int: ...
    @property
    def min_leaked_share(self) -> float: ...
    @property
    def leaked_ngram_chars(self) -> int: ...


VERSION = 1
SHARD_ROWS = 5000
ROLE = pc.field("role")
_DECIDED = (
    "label",
    "scenario",
    "mapping",
    "dimension",
    "prompt_score",
    "twin",
    "outcome",
    "reason",
)


def decides(cfg: Diversity, likeness: Likeness) -> dict[str, Any]:
    """What decides which prompts are kept, and where."""
    return {
        "version": VERSION,
        "max_prompt_score": cfg.max_prompt_score,
        "min_similarity": likeness.min_similarity,
        "ngram_chars": likeness.ngram_chars,
        "min_leaked_share": likeness.min_leaked_share,
        "leaked_ngram_chars": likeness.leaked_ngram_chars,
        "taxonomy": taxonomy.fingerprint(),
    }


def keep(
    expanded: Table,
    labelled: Table,
    scored: Table,
    collected: Table,
    earlier: Sequence[Table],
    cfg: Diversity,
    likeness: Likeness,
) -> Iterator[pa.Table]:
    """Batches of schema.PLACED: every prompt that the round has written.

    Dropped are prompts without label, scenario or score, mild ones, those that an evaluation has,
    and near-duplicates of collected prompts, of kept ones of `earlier` rounds, or of one another.
    """
    rows = _joined(expanded, labelled, scored)
    for row in rows:
        row["reason"] = reason_to_drop(row, cfg)
    held_out = collected.load(["id", "source", "prompt"], DONE & (ROLE == "evaluate"))
    _drop_contaminated([row for row in rows if not row["reason"]], held_out, likeness)
    known = pa.concat_tables(
        [
            collected.load(["id", "prompt"], DONE & ROLE.isin(["train", "analyse"])),
            *(table.load(["id", "prompt"], DONE) for table in earlier),
        ]
    )
    _drop_repeated([row for row in rows if not row["reason"]], known, likeness)
    for row in rows:
        row["outcome"] = "dropped" if row["reason"] else "done"
    return batches(rows, PLACED, SHARD_ROWS)


def reason_to_drop(row: Row, cfg: Diversity) -> str | None:
    """Why a prompt is of no use, whatever the others are; None where it is."""
    if row["label"] is None:
        return "no label"
    if row["scenario"] is None:
        return "unmapped label"
    if row["prompt_score"] is None:
        return "unscored"
    if row["prompt_score"] > cfg.max_prompt_score:
        return "too mild"
    return None


def _joined(expanded: Table, labelled: Table, scored: Table) -> list[Row]:
    """The written prompts with label and score, where they have them; in order of their ids."""
    labels = _by_id(labelled, ["label", "dimension"])
    scores = _by_id(scored, ["prompt_score"])
    known = taxonomy.load()
    carried = [name for name in PLACED.names if name not in _DECIDED]
    found: list[Row] = []
    for row in expanded.load(carried, DONE).sort_by("id").to_pylist():
        label = labels.get(row["id"], {"label": None, "dimension": None})
        scenario = known.scenario_of(label["label"]) if label["label"] is not None else None
        found.append(
            {
                **row,
                **label,
                "scenario": scenario,
                "mapping": None if label["label"] is None else "map" if scenario else "unmapped",
                "prompt_score": scores.get(row["id"], {}).get("prompt_score"),
                "twin": None,
                "reason": None,
            }
        )
    return found


def _by_id(table: Table, columns: list[str]) -> dict[str, dict[str, Any]]:
    rows = table.load(["id", *columns], DONE).to_pylist()
    return {row.pop("id"): row for row in rows}


def _drop_contaminated(rows: Sequence[Row], held_out: pa.Table, likeness: Likeness) -> None:
    if not likeness.min_leaked_share:
        return
    evaluation = EvaluationPrompts(
        held_out["prompt"].to_pylist(),
        min_share=likeness.min_leaked_share,
        ngram=likeness.leaked_ngram_chars,
    )
    found = evaluation.find([row["prompt"] for row in rows])
    for row, number in zip(rows, found.prompt.tolist(), strict=True):
        if number != NONE:
            row["twin"] = held_out["id"][number].as_py()
            row["reason"] = f"contaminated: {held_out['source'][number]}"


def _drop_repeated(rows: Sequence[Row], known: pa.Table, likeness: Likeness) -> None:
    twins = find_twins(
        [row["prompt"] for row in rows],
        known["prompt"].to_pylist(),
        min_similarity=likeness.min_similarity,
        ngram=likeness.ngram_chars,
    )
    for row, twin in zip(rows, twins, strict=True):
        if twin is not None:
            own = twin - len(known)
            row["twin"] = known["id"][twin].as_py() if own < 0 else rows[own]["id"]
            row["reason"] = "near-duplicate"

"""Audit the judge on a sample: ask it more than the scores need, and write down how far they may
be trusted. Nothing of it decides what is selected.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_jobs import trust, wire
from ray_jobs.engines.seam import NO_EFFECT_ON_ROWS
from ray_jobs.page import tsv
from ray_jobs.prompts import Chat
from ray_jobs.question import Columns, Question
from ray_jobs.quotas import draws
from ray_jobs.schema import AUDITED, CANDIDATES, TRUST
from ray_jobs.tables import DONE, Folder, Row, Table, to_table, write_shards

VERSION = 1
"""Of the sample, the question, and the figures of ray_jobs/trust.py."""
NOT_ASKED: dict[str, list[Any]] = {"repeats": [], "others": [], "opinions": []}


@dataclass(frozen=True, kw_only=True)
class Audit:
    """How much of the judge's work is audited."""

    num: int = 200
    """Prompts that are drawn, with all their responses; 0 for no audit."""
    engine: str = field(default="", metadata=NO_EFFECT_ON_ROWS)
    """The engine of kind `judge`, by its name in `engines`; empty for the one of `rewards`."""

    def __post_init__(self) -> None:
        if self.num < 0:
            raise ValueError(f"audit.num: expected 0 or more, found {self.num}")


def to_audit(candidates: Table, num: int, seed: int) -> Iterator[pa.Table]:
    """One batch of schema.CANDIDATES: so many prompts that have responses, drawn by id and seed."""
    ids = candidates.load(["id"], DONE)["id"].combine_chunks()
    order = np.argsort(draws(ids, f"{seed} audit"), kind="stable")
    drawn = ids.take(pa.array(order[:num]))
    shards = (shard.filter(pc.is_in(shard["id"], drawn)) for shard in candidates.scan(where=DONE))
    yield pa.concat_tables([CANDIDATES.empty_table(), *shards])


def question() -> Question:
    """Ask the judge to score all responses of a prompt together, and for all that tells how far
    these scores may be trusted: draws again, the other backend, the guard model.
    """
    return Question(
        name="audited",
        render=render,
        parse=parse,
        children=_responses,
        schema=AUDITED,
        parent="prompt_id",
    )


def render(row: Row) -> Chat:
    """The judge's wire item: see serve/api.py."""
    return wire.item("score_responses", row, {"responses": row["responses"], "audit": True})


def parse(text: str, row: Row) -> list[Columns]:
    """One set of columns per response, in the row's order."""
    said = wire.read(text)
    more = said.get("audit") or NOT_ASKED
    scored = wire.responses(said, len(row["responses"]))
    return [{**columns, **_audited(more, place)} for place, columns in enumerate(scored)]


def _audited(more: dict[str, Any], place: int) -> Columns:
    others, opinions = more["others"], more["opinions"]
    other = next((one for one in others if one["scores"]), others[0] if others else None)
    guard = opinions[place] if opinions else None
    return {
        "repeats": [scores and scores[place] for scores in more["repeats"]],
        "other_judge": other and other["backend"],
        "other_score": other and other["scores"] and other["scores"][place],
        "guard": guard and guard["backend"],
        "guard_verdict": guard and guard["verdict"],
        "guard_p_unsafe": guard and guard["p_unsafe"],
    }


def _responses(row: Row) -> list[Columns]:
    names = row["response_ids"]
    return [
        {
            "id": name,
            "prompt_id": row["id"],
            "scenario": row["scenario"],
            "is_original": name.rpartition("/")[2].startswith("o"),
            "place": place,
            "num_scored_together": len(names),
        }
        for place, name in enumerate(names)
    ]


def write(
    home: Folder, audited: Table, candidates: Table, scored_responses: Table, answered_by: str
) -> list[str]:
    """Write the figures: a table of schema.TRUST, and `trust.json` and `trust.tsv` for people.

    `answered_by` is the title of the engine that wrote the fresh answers.
    """
    sample = audited.load([name for name in AUDITED.names if name not in ("raw", "reason")])
    rows = trust.figures(sample, asked_prompts(candidates, scored_responses), answered_by)
    judges = sorted(set(sample["judge"].drop_null().to_pylist()))
    said = {"judges": judges, "answered_by": answered_by, "figures": rows}
    home.write("trust.json", json.dumps(said, ensure_ascii=False, indent=1).encode())
    cells = ([("" if cell is None else cell) for cell in row.values()] for row in rows)
    home.write("trust.tsv", tsv(TRUST.names, cells))
    return write_shards(home, [to_table(rows, TRUST)])


def asked_prompts(candidates: Table, scored_responses: Table) -> pa.Table:
    """What became of each prompt whose responses were to be scored: prompt_id, outcome, blocked_by,
    calibrated, scenario. All responses of a prompt share it.
    """
    columns = ["prompt_id", "outcome", "blocked_by", "calibrated"]
    rows = scored_responses.load(columns).group_by("prompt_id", use_threads=False)
    firsts = rows.aggregate([(name, "first") for name in columns[1:]]).rename_columns(columns)
    return firsts.join(candidates.load(["id", "scenario"], DONE), "prompt_id", "id")

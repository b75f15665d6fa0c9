"""Score responses and prompts by the judge (paper, section 3.7, second and third method)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow.compute as pc

from ray_jobs import wire
from ray_jobs.engines.seam import NO_EFFECT_ON_ROWS
from ray_jobs.prompts import Chat
from ray_jobs.question import Columns, Question, itself
from ray_jobs.schema import ANSWERED, CANDIDATES, SCORED_PROMPTS, SCORED_RESPONSES
from ray_jobs.tables import DONE, Row, Table

VERSION = 3


@dataclass(frozen=True, kw_only=True)
class Rewards:
    """Who scores."""

    engine: str = field(metadata=NO_EFFECT_ON_ROWS)
    """The engine of kind `judge`, by its name in `engines`."""


def candidates(balanced: Table, answered: Table | None) -> Iterator[Row]:
    """Every training prompt with all its responses: originals, then fresh answers in order, if any
    were asked for.
    """
    columns = ["id", "prompt_id", "analysis", "answer"]
    answers = answered.load(columns, DONE) if answered else ANSWERED.empty_table().select(columns)
    for shard in balanced.scan(where=DONE):
        mine = answers.filter(
            pc.is_in(answers["prompt_id"], value_set=shard["id"].combine_chunks())
        )
        by_prompt: dict[str, list[Row]] = {}
        for answer in sorted(mine.to_pylist(), key=lambda row: _number(row["id"])):
            by_prompt.setdefault(answer["prompt_id"], []).append(answer)
        for row in shard.to_pylist():
            yield _candidate(row, by_prompt.get(row["id"], []))


def _number(answer_id: str) -> int:
    return int(answer_id.rpartition("/")[2])


def _candidate(row: Row, answers: list[Row]) -> Row:
    originals = row["original_responses"]
    responses = [*originals, *(answer["answer"] for answer in answers)]
    return {
        **{
            name: row[name]
            for name in CANDIDATES.names[: CANDIDATES.get_field_index("response_ids")]
        },
        "response_ids": [f"{row['id']}/o{k}" for k in range(len(originals))]
        + [a["id"] for a in answers],
        "responses": responses,
        "analyses": [""] * len(originals) + [answer["analysis"] for answer in answers],
        "outcome": "done" if responses else "dropped",
        "reason": None
        if responses
        else "no response: no original, and no answer that could be used",
    }


def responses_question() -> Question:
    """Ask the judge to score all responses of a prompt together, in both orders."""
    return Question(
        name="scored_responses",
        render=render_responses,
        parse=parse_responses,
        children=_responses,
        schema=SCORED_RESPONSES,
        parent="prompt_id",
    )


def prompts_question() -> Question:
    """Ask the judge to score the prompt itself: lower = a stronger attack."""
    return Question(
        name="scored_prompts",
        render=render_prompt,
        parse=parse_prompt,
        children=itself,
        schema=SCORED_PROMPTS,
    )


def render_responses(row: Row) -> Chat:
    """The judge's wire item: see serve/api.py."""
    return wire.item("score_responses", row, {"responses": row["responses"]})


def render_prompt(row: Row) -> Chat:
    """The judge's wire item: see serve/api.py."""
    return wire.item("score_prompt", row, {})


def parse_responses(text: str, row: Row) -> list[Columns]:
    """One set of columns per response, in the row's order."""
    return [*wire.responses(wire.read(text), len(row["responses"]))]


def parse_prompt(text: str, row: Row) -> dict[str, Any]:
    """The prompt's score and its spread."""
    said = wire.read(text)
    return {
        "prompt_score": said["score"],
        "prompt_spread": said["spread"],
        "judge": said["backend"],
        **wire.taken_over(said),
    }


def _responses(row: Row) -> list[Columns]:
    num = len(row["responses"])
    return [
        {"id": response_id, "prompt_id": row["id"], "num_scored_together": num}
        for response_id in row["response_ids"]
    ]

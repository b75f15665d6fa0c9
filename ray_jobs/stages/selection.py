"""Select what to train on: the best safe response of each prompt, so many per scenario.

Texts stay in Arrow, a slice at a time: only ids and numbers of all rows are in Python at once.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from ray_jobs.schema import SELECTED
from ray_jobs.tables import DONE

VERSION = 1
SLICE_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which scored responses go into the training set."""

    min_response_score: float = 0.5
    """Responses with a lower score, 0…1, are dropped as unsafe."""
    max_prompt_score: float = 1.0
    """Prompts with a higher score, 0…1, are dropped as too mild: attacks score low."""
    max_per_scenario: int = 0
    """How many prompts a scenario may have, those with the best responses first; 0 for all."""
    validation_share: float = 0.02
    """Share of the prompts that is kept for validation, 0 or more and under 1."""

    def __post_init__(self) -> None:
        for name in ("min_response_score", "max_prompt_score"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"selection.{name}: expected 0…1, found {getattr(self, name)}")
        if self.max_per_scenario < 0:
            raise ValueError(
                f"selection.max_per_scenario: expected 0 or more, found {self.max_per_scenario}"
            )
        if not 0 <= self.validation_share < 1:
            raise ValueError(
                "selection.validation_share: expected 0 or more and under 1, "
                f"found {self.validation_share}"
            )


class Scored(NamedTuple):
    """What decides about one response."""

    id: str
    prompt_id: str
    scenario: str | None
    score: float | None
    prompt_score: float | None


def select(
    candidates: pa.Table,
    scored_responses: pa.Table,
    scored_prompts: pa.Table,
    general: pa.Table,
    cfg: Selection,
    seed: int,
) -> Iterator[pa.Table]:
    """Batches of schema.SELECTED: every response of a candidate, then the general rows as they are.

    Candidates that are not done have no response, and their own table has the reason.
    """
    prompts = candidates.filter(DONE)
    responses = _responses(
        prompts,
        _done(scored_responses, "id", "score", "num_scored_together"),
        _done(scored_prompts, "id", "prompt_score"),
    )
    values = [responses[name].to_pylist() for name in Scored._fields]
    rows = [Scored(*row) for row in zip(*values, strict=True)]
    responses = _decided(responses, reasons_to_drop(rows, cfg), cfg, seed)
    first = 0
    for start in range(0, prompts.num_rows, SLICE_ROWS):
        texts = _texts(prompts.slice(start, SLICE_ROWS))
        decided = responses.slice(first, texts.num_rows)
        yield _selected(_columns(texts) | _columns(decided), texts.num_rows)
        first += texts.num_rows
    is_general = DONE & (pads.field("role") == "general")
    yield from _general(general.filter(is_general), cfg, seed)


def reason_to_drop(row: Scored, cfg: Selection) -> str | None:
    """Why a response is not fit, whatever the others are; None where it is."""
    if row.score is None:
        return "unscored"
    if row.prompt_score is None:
        return "prompt unscored"
    if row.scenario is None:
        return "no scenario"
    if row.score < cfg.min_response_score:
        return "unsafe response"
    if row.prompt_score > cfg.max_prompt_score:
        return "prompt too mild"
    return None


def reasons_to_drop(rows: Sequence[Scored], cfg: Selection) -> list[str | None]:
    """Why each response is dropped, or None: one per prompt at most is kept, within the quotas."""
    reasons = [reason_to_drop(row, cfg) for row in rows]

    def best_first(number: int) -> tuple[float, str]:
        score = rows[number].score
        assert score is not None, "what has no score is dropped before"
        return -score, rows[number].id

    answered: set[str] = set()
    taken: Counter[str | None] = Counter()
    fit = [number for number, reason in enumerate(reasons) if reason is None]
    for number in sorted(fit, key=best_first):
        row = rows[number]
        if row.prompt_id in answered:
            reasons[number] = "not the best response"
            continue
        answered.add(row.prompt_id)
        if cfg.max_per_scenario and taken[row.scenario] >= cfg.max_per_scenario:
            reasons[number] = f"over quota of {row.scenario}"
            continue
        taken[row.scenario] += 1
    return reasons


def split_of(prompt_id: str, share: float, seed: int) -> str:
    """Validation for that share of prompts. What was expanded from a prompt goes where it goes."""
    root = prompt_id.partition("/")[0]
    draw = int.from_bytes(hashlib.sha256(f"{seed} {root}".encode()).digest()[:8], "big")
    return "validation" if draw < share * 2**64 else "train"


def quantiles(scores: pa.Array, num_scored_together: pa.Array) -> pa.Array:
    """The share of lower scores plus half of the equal ones, among responses in equal company.

    A lone response was another question to the judge than one of a pair: they do not compare.
    """
    found = pa.nulls(len(scores), pa.float64())
    for number in pc.unique(num_scored_together).drop_null():
        same = pc.and_(pc.equal(num_scored_together, number), pc.is_valid(scores))
        same = pc.fill_null(same, False)
        found = pc.replace_with_mask(found, same, pc.rank_quantile(scores.filter(same)))
    return found


def _done(table: pa.Table, *names: str) -> pa.Table:
    return table.select([*names, "outcome"]).filter(DONE)


def _responses(prompts: pa.Table, responses: pa.Table, prompt_scores: pa.Table) -> pa.Table:
    """The responses of all prompts in order, with what the judge said of each and of its prompt."""
    ids = prompts["response_ids"].combine_chunks()
    of_prompt = prompts.select(["id", "scenario"]).take(pc.list_parent_indices(ids))
    prompt_ids, ids = of_prompt["id"].combine_chunks(), pc.list_flatten(ids)
    by_response = pc.index_in(ids, value_set=responses["id"].combine_chunks())
    by_prompt = pc.index_in(prompt_ids, value_set=prompt_scores["id"].combine_chunks())
    score = responses["score"].combine_chunks().take(by_response)
    num_scored_together = responses["num_scored_together"].combine_chunks().take(by_response)
    return pa.table(
        {
            "id": ids,
            "prompt_id": prompt_ids,
            "scenario": of_prompt["scenario"],
            "score": score,
            "prompt_score": prompt_scores["prompt_score"].combine_chunks().take(by_prompt),
            "num_scored_together": num_scored_together,
            "quantile": quantiles(score, num_scored_together),
        }
    )


def _decided(responses: pa.Table, reasons: list[str | None], cfg: Selection, seed: int) -> pa.Table:
    splits = [
        None if reason else split_of(prompt_id, cfg.validation_share, seed)
        for prompt_id, reason in zip(responses["prompt_id"].to_pylist(), reasons, strict=True)
    ]
    outcomes = ["dropped" if reason else "done" for reason in reasons]
    for name, values in (("split", splits), ("outcome", outcomes), ("reason", reasons)):
        responses = responses.append_column(name, pa.array(values, pa.string()))
    return responses


def _texts(prompts: pa.Table) -> pa.Table:
    """One row per response of these prompts, in order, with the columns that nobody decides."""
    responses = prompts["responses"].combine_chunks()
    analyses = pc.list_flatten(prompts["analyses"].combine_chunks())
    table = prompts.select(["source", "language", "licence", "prompt"])
    table = table.take(pc.list_parent_indices(responses))
    table = table.append_column("role", pa.array(["train"] * table.num_rows))
    table = table.append_column("response", pc.list_flatten(responses))
    return table.append_column("analysis", pc.fill_null(analyses, ""))


def _general(general: pa.Table, cfg: Selection, seed: int) -> Iterator[pa.Table]:
    # One batch even of nothing: a table gets its schema from its first shard.
    for start in range(0, max(1, general.num_rows), SLICE_ROWS):
        rows = general.slice(start, SLICE_ROWS)
        ids = rows["id"].to_pylist()
        added: dict[str, Any] = {
            "prompt_id": ids,
            "analysis": [""] * len(ids),
            "response": pc.list_element(rows["original_responses"].combine_chunks(), 0),
            "split": [split_of(row_id, cfg.validation_share, seed) for row_id in ids],
        }
        yield _selected(_columns(rows) | added, len(ids))


def _columns(table: pa.Table) -> dict[str, Any]:
    return dict(zip(table.column_names, table.columns, strict=True))


def _selected(columns: dict[str, Any], num_rows: int) -> pa.Table:
    """The columns as a batch of the schema; what the rows do not have is null, where it may be."""
    filled = {
        field.name: columns.get(field.name, pa.nulls(num_rows, field.type)) for field in SELECTED
    }
    table = pa.table(filled, schema=SELECTED)
    for field in SELECTED:
        assert field.nullable or not table[field.name].null_count, f"null in column {field.name}"
    return table

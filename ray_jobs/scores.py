"""What is known of every candidate, as arrays: ids and numbers, joined from the tables of scores.

A million prompts with two responses each take some hundred megabytes; no text is among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ray_jobs.quotas import Floats, Ints, quantiles_or_wider
from ray_jobs.tables import DONE, Table

Bools: TypeAlias = npt.NDArray[np.bool_]

NONE = -1
"""Stands for a null among whole numbers; among the others it is NaN."""
FOREIGN = ~pc.field("calibrated")
"""Scores of a backend that took over, on a scale of its own: they are not mixed with the others."""


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """The prompts that have responses, in the order of `candidates`."""

    ids: pa.Array
    scenarios: list[str]
    """The codes that there are; `scenario` holds their numbers."""
    scenario: Ints
    dimensions: list[str]
    dimension: Ints
    num_chars: Ints
    prompt_score: Floats
    is_foreign: Bools
    """Whether there is a score of it, on another judge's scale; `prompt_score` is NaN then."""
    perplexity: Floats


@dataclass(frozen=True, kw_only=True)
class Responses:
    """Their responses, in order."""

    ids: pa.Array
    prompt: Ints
    """The number of its prompt."""
    is_original: Bools
    score: Floats
    is_foreign: Bools
    """Whether there is a score of it, on another judge's scale; `score` is NaN then."""
    num_scored_together: Ints


def gather(
    candidates: Table,
    scored_responses: Table | None,
    scored_prompts: Sequence[Table],
    perplexity: Table | None,
) -> tuple[Prompts, Responses]:
    """Join the scores to the candidates. A table that is absent scores nobody, and so does a row
    that is not done.
    """
    prompts, responses = _candidates(candidates)
    ids = prompts["id"].combine_chunks()
    response_ids = responses["id"].combine_chunks()
    score, together = _joined(response_ids, [scored_responses], "score", "num_scored_together")
    (prompt_score,) = _joined(ids, scored_prompts, "prompt_score")
    is_foreign = _foreign(response_ids, [scored_responses])
    is_foreign_prompt = _foreign(ids, scored_prompts)
    score[is_foreign] = together[is_foreign] = prompt_score[is_foreign_prompt] = np.nan
    logprob_sum, token_count = _joined(ids, [perplexity], "logprob_sum", "token_count")
    token_count[token_count == 0] = np.nan  # a prompt of one token: there is nothing to score
    scenarios, scenario = _coded(prompts["scenario"])
    dimensions, dimension = _coded(prompts["dimension"])
    known = Prompts(
        ids=ids,
        scenarios=scenarios,
        scenario=scenario,
        dimensions=dimensions,
        dimension=dimension,
        num_chars=_ints(prompts["num_chars"]),
        prompt_score=prompt_score,
        is_foreign=is_foreign_prompt,
        perplexity=np.exp(-logprob_sum / token_count),
    )
    return known, Responses(
        ids=response_ids,
        prompt=np.repeat(np.arange(len(ids)), _ints(prompts["num_responses"])),
        is_original=_bools(pc.match_substring_regex(response_ids, r"/o\d+$")),
        score=score,
        is_foreign=is_foreign,
        num_scored_together=np.nan_to_num(together, nan=NONE).astype(np.int64),
    )


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Quantiles of the scores within each one's group."""

    cell: Ints
    """Per prompt, a number for scenario × dimension; no dimension counts as one more."""
    prompt_score: Floats
    perplexity: Floats
    score: Floats
    """Per response, among those scored together with as many others."""


def rank(prompts: Prompts, responses: Responses, bands: Sequence[int], least: int) -> Ranks:
    """Quantiles within scenario × dimension × band of length (characters at which the next begins);
    where fewer than `least` have a score, within the scenario. NaN without score or scenario.
    """
    own = np.where(prompts.dimension == NONE, len(prompts.dimensions), prompts.dimension)
    cell = prompts.scenario * (len(prompts.dimensions) + 1) + own
    band = np.searchsorted(np.array(bands, np.int64), prompts.num_chars, side="right")
    wide = prompts.scenario
    group = np.where(wide == NONE, NONE, cell * (len(bands) + 1) + band)
    # A lone response was another question to the judge than one of a pair: they do not compare.
    num, of = responses.num_scored_together, responses.prompt
    most = num.max(initial=0) + 1
    company, wide_company = (
        np.where((groups[of] == NONE) | (num == NONE), NONE, groups[of] * most + num)
        for groups in (group, wide)
    )
    return Ranks(
        cell=cell,
        prompt_score=quantiles_or_wider(prompts.prompt_score, group, wide, least),
        perplexity=quantiles_or_wider(prompts.perplexity, group, wide, least),
        score=quantiles_or_wider(responses.score, company, wide_company, least),
    )


def numbers_of(prompts: Prompts, responses: Responses, ranks: Ranks) -> dict[str, pa.Array]:
    """What is known of each response and its prompt, as columns of schema.SELECTED."""
    of, together = responses.prompt, responses.num_scored_together
    numbers = {
        "score": responses.score,
        "prompt_score": prompts.prompt_score[of],
        "perplexity": prompts.perplexity[of],
        "quantile": ranks.score,
        "prompt_quantile": ranks.prompt_score[of],
        "perplexity_quantile": ranks.perplexity[of],
    }
    columns = {name: pa.array(each, mask=np.isnan(each)) for name, each in numbers.items()}
    return columns | {"num_scored_together": pa.array(together, pa.int32(), mask=together == NONE)}


def _candidates(candidates: Table) -> tuple[pa.Table, pa.Table]:
    """Prompts and responses with what is known before anything is scored."""
    prompts, responses = [], []
    columns = ["id", "scenario", "dimension", "prompt", "response_ids"]
    for shard in candidates.scan(columns, DONE):
        ids = shard["response_ids"].combine_chunks()
        columns_kept = shard.select(["id", "scenario", "dimension"])
        columns_kept = columns_kept.append_column("num_chars", pc.utf8_length(shard["prompt"]))
        prompts.append(columns_kept.append_column("num_responses", [pc.list_value_length(ids)]))
        responses.append(pa.table({"id": pc.list_flatten(ids)}))
    return pa.concat_tables(prompts), pa.concat_tables(responses)


def _joined(ids: pa.Array, tables: Sequence[Table | None], *names: str) -> list[Floats]:
    """The named numbers for each id, NaN where there are none."""
    joined = [np.full(len(ids), np.nan) for _ in names]
    times = np.zeros(len(ids), np.int64)
    for table in tables:
        if table is None:
            continue
        found = table.load(["id", *names], DONE)
        at = pc.index_in(found["id"], value_set=ids).combine_chunks()
        here = found.filter(at.is_valid())
        rows = at.drop_null().to_numpy()
        times += np.bincount(rows, minlength=len(ids))
        for column, name in zip(joined, names, strict=True):
            column[rows] = pc.cast(here[name], pa.float64()).to_numpy()
    assert times.max(initial=0) <= 1, "a row is scored twice"
    return joined


def _foreign(ids: pa.Array, tables: Sequence[Table | None]) -> Bools:
    """Whether a table has a score for the id that is on another judge's scale."""
    found = [table.load(["id"], FOREIGN)["id"] for table in tables if table is not None]
    if not found:
        return np.zeros(len(ids), np.bool_)
    foreign = pa.chunked_array([chunk for column in found for chunk in column.chunks], pa.string())
    return _bools(pc.is_in(ids, value_set=foreign))


def _coded(column: pa.ChunkedArray) -> tuple[list[str], Ints]:
    """The names there are, sorted, and the number of each row's, NONE for null."""
    names: list[str] = sorted(pc.unique(column).drop_null().to_pylist())
    codes = pc.index_in(column, value_set=pa.array(names, column.type))
    return names, _ints(pc.fill_null(codes, NONE))


def _ints(column: pa.ChunkedArray) -> Ints:
    return np.asarray(column.to_numpy(), np.int64)


def _bools(column: pa.Array) -> Bools:
    return np.asarray(column.to_numpy(zero_copy_only=False), np.bool_)

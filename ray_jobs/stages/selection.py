"""Select what to train on (paper, section 3.7): an ensemble of three scores, quotas, and a reason
for every response that is left out.

Only ids and numbers of all rows are in memory at once, as arrays; texts pass a slice at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_jobs import slices, wire
from ray_jobs.quotas import Floats, Ints, draw, draws, fair_shares, places
from ray_jobs.schema import SELECTED
from ray_jobs.scores import NONE, Prompts, Ranks, Responses, gather, numbers_of, rank
from ray_jobs.tables import Table
from ray_jobs.taxonomy import check_code

VERSION = 3
SCORES = frozenset({"perplexity", "response_score", "prompt_score"})
SWITCHES = SCORES | {"selection"}
"""What an ablation may do without, as far as selection is concerned."""
REASONS = (
    wire.NOT_MIXED,
    f"prompt {wire.NOT_MIXED}",
    "unscored",
    "prompt unscored",
    "no perplexity",
    "no scenario",
    "unsafe response",
    "prompt too mild",
    "unlikely prompt",
    "weak for its group",
    "mild for its group",
    "not the best response",
    "over quota",
    "not drawn",
)
"""Why a response is dropped; the first that holds is given."""
KEPT = -1


@dataclass(frozen=True, kw_only=True)
class Limits:
    """A scenario's own limits, 0…1; one that is left out is as for the others."""

    min_response_score: float | None = None
    max_prompt_score: float | None = None
    min_response_quantile: float | None = None
    max_prompt_quantile: float | None = None
    max_perplexity_quantile: float | None = None

    def __post_init__(self) -> None:
        _check_shares(self, "selection.scenarios", [item.name for item in fields(self)])


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which responses go into the training set.

    Quantiles are taken within a group: scenario × dimension × band of prompt length; those of
    response scores also within equal numbers of responses judged together, since a lone response is
    another question to the judge than a pair. They are taken among all that have a score.
    """

    min_response_score: float = 0.5
    """Responses with a lower score, 0…1, are dropped as unsafe."""
    max_prompt_score: float = 1.0
    """Prompts with a higher score, 0…1, are dropped as too mild: attacks score low."""
    min_response_quantile: float = 0.0
    """Responses that score lower in their group are dropped; 0 keeps all."""
    max_prompt_quantile: float = 1.0
    """Prompts that score higher in their group are dropped; 1 keeps all."""
    max_perplexity_quantile: float = 1.0
    """Prompts that are less likely as texts in their group are dropped; 1 keeps all."""
    scenarios: dict[str, Limits] = field(default_factory=dict)
    """Other limits for some scenarios, by code."""
    length_bands: tuple[int, ...] = (32, 64, 128)
    """Where a band of prompt lengths ends and the next begins, in characters."""
    min_group: int = 10
    """A group with fewer scores than this takes its quantiles from the whole scenario."""
    num_prompts: int = 0
    """Training prompts in all; 0 for all that are fit. They are spread evenly over the cells,
    scenario × dimension, as far as a cell has them; in a cell go first those with the best mean of
    the three quantiles: likely prompt, good response, strong attack.
    """
    num_general: int = 0
    """General rows, drawn by the seed; 0 for all."""
    validation_share: float = 0.02
    """Share of the prompts that is kept for validation, 0 or more and under 1."""

    def __post_init__(self) -> None:
        _check_shares(self, "selection", [item.name for item in fields(Limits)])
        for code in self.scenarios:
            check_code(code, "selection.scenarios")
        for name in ("min_group", "num_prompts", "num_general"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"selection.{name}: expected 0 or more, found {getattr(self, name)}"
                )
        if list(self.length_bands) != sorted({num for num in self.length_bands if num > 0}):
            raise ValueError(
                "selection.length_bands: expected rising numbers of characters, such as "
                f"[32, 64, 128], found {list(self.length_bands)}"
            )
        if not 0 <= self.validation_share < 1:
            raise ValueError(
                "selection.validation_share: expected 0 or more and under 1, "
                f"found {self.validation_share}"
            )

    def limit(self, name: str, scenario: str) -> float:
        """A limit as it is for a scenario."""
        own = getattr(self.scenarios.get(scenario), name, None)
        return float(getattr(self, name) if own is None else own)


def _check_shares(config: Any, key: str, names: Sequence[str]) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"{key}.{name}: expected 0…1, found {value}")


def select(
    candidates: Table,
    scored_responses: Table | None,
    scored_prompts: Sequence[Table],
    perplexity: Table | None,
    collected: Table,
    cfg: Selection,
    without: frozenset[str],
    seed: int,
) -> Iterator[pa.Table]:
    """Batches of schema.SELECTED: every response of a candidate, those of a prompt together, then
    the general rows.

    `without` holds some of SWITCHES: a score that is left out decides nothing, and its table may be
    absent; without `selection` as many prompts are drawn as it would have kept. Candidates that are
    not done have no response, and their own table has the reason.
    """
    prompts, responses = gather(candidates, scored_responses, scored_prompts, perplexity)
    ranks = rank(prompts, responses, cfg.length_bands, cfg.min_group)
    reason = decide(prompts, responses, ranks, cfg, without, seed)
    numbers = numbers_of(prompts, responses, ranks)
    first = 0
    for texts in slices.responses(candidates):
        last = first + len(texts)
        ids = responses.ids.slice(first, len(texts))
        assert ids.equals(texts["id"].combine_chunks()), "the candidates changed underneath"
        known = {name: column.slice(first, len(texts)) for name, column in numbers.items()}
        mine = reason[first:last]
        reasons = pa.array(REASONS).take(pa.array(mine, mask=mine == KEPT))
        yield slices.selected(texts, known | _finished(texts, reasons, cfg, seed))
        first = last
    yield from _general(collected, cfg, seed)


def decide(
    prompts: Prompts,
    responses: Responses,
    ranks: Ranks,
    cfg: Selection,
    without: frozenset[str],
    seed: int,
) -> Ints:
    """For each response why it is dropped, a number in REASONS, or KEPT: one per prompt at most,
    within the quotas.
    """
    assert without <= SWITCHES, f"not a matter of selection: {sorted(without - SWITCHES)}"
    used = SCORES - without
    reason = np.full(len(responses.prompt), KEPT)
    for needs, why, hit in _checks(prompts, responses, ranks, cfg):
        if needs in used or not needs:
            reason[hit & (reason == KEPT)] = REASONS.index(why)
    _keep_the_best(responses, reason, by_score="response_score" in used)
    if cfg.num_prompts:
        badness = _badness(responses, ranks, used)
        _keep_to_quota(prompts, responses, ranks, reason, badness, cfg.num_prompts, seed)
    if "selection" in without:
        _draw_instead(prompts, responses, reason, seed)
    return reason


def _checks(
    prompts: Prompts, responses: Responses, ranks: Ranks, cfg: Selection
) -> Iterator[tuple[str, str, Any]]:
    """The score that a check is about, if any, the reason, and the responses that fail it."""
    of = responses.prompt
    mildness, unlikeliness = ranks.prompt_score[of], ranks.perplexity[of]
    prompt_score, scenario = prompts.prompt_score[of], prompts.scenario[of]

    def limit(name: str) -> Floats:
        each = [cfg.limit(name, code) for code in prompts.scenarios]
        return np.array([*each, np.nan])[scenario]  # no scenario, no limit: it reads the last

    yield "response_score", wire.NOT_MIXED, responses.is_foreign
    yield "prompt_score", f"prompt {wire.NOT_MIXED}", prompts.is_foreign[of]
    yield "response_score", "unscored", np.isnan(responses.score)
    yield "prompt_score", "prompt unscored", np.isnan(prompt_score)
    yield "perplexity", "no perplexity", np.isnan(prompts.perplexity)[of]
    yield "", "no scenario", scenario == NONE
    yield "response_score", "unsafe response", responses.score < limit("min_response_score")
    yield "prompt_score", "prompt too mild", prompt_score > limit("max_prompt_score")
    yield "perplexity", "unlikely prompt", unlikeliness > limit("max_perplexity_quantile")
    yield "response_score", "weak for its group", ranks.score < limit("min_response_quantile")
    yield "prompt_score", "mild for its group", mildness > limit("max_prompt_quantile")


def _keep_the_best(responses: Responses, reason: Ints, *, by_score: bool) -> None:
    """One per prompt: the best score; of equal ones, and without scores, the first fresh answer,
    then the first original.
    """
    fit = np.flatnonzero(reason == KEPT)
    keys = [-responses.score[fit]] if by_score else []
    place = places(responses.prompt[fit], *keys, responses.is_original[fit])
    reason[fit[place > 0]] = REASONS.index("not the best response")


def _badness(responses: Responses, ranks: Ranks, used: frozenset[str]) -> Floats:
    """The mean of the quantiles in use, each 0 at its best; 0 where none is in use."""
    of = responses.prompt
    quantiles = {
        "perplexity": ranks.perplexity[of],
        "response_score": 1 - ranks.score,
        "prompt_score": ranks.prompt_score[of],
    }
    total = sum((quantiles[name] for name in sorted(used)), np.zeros(len(of)))
    return np.asarray(total / max(1, len(used)))


def _keep_to_quota(
    prompts: Prompts,
    responses: Responses,
    ranks: Ranks,
    reason: Ints,
    badness: Floats,
    num_prompts: int,
    seed: int,
) -> None:
    """Drop the worst of what is over the cells' fair shares."""
    kept = np.flatnonzero(reason == KEPT)
    of = responses.prompt[kept]
    cells = ranks.cell[of]
    shares = fair_shares(dict(enumerate(np.bincount(cells).tolist())), num_prompts)
    tie = draws(prompts.ids.take(of), f"{seed} tie")
    over = places(cells, badness[kept], tie) >= np.array([*shares.values()], np.int64)[cells]
    reason[kept[over]] = REASONS.index("over quota")


def _draw_instead(prompts: Prompts, responses: Responses, reason: Ints, seed: int) -> None:
    """As many prompts as are kept, and of each one response, drawn among all with a scenario."""
    number = np.count_nonzero(reason == KEPT)
    has_scenario = prompts.scenario[responses.prompt] != NONE
    reason[:] = np.where(has_scenario, REASONS.index("not drawn"), REASONS.index("no scenario"))
    eligible = np.unique(responses.prompt[has_scenario])
    order = np.argsort(draws(prompts.ids.take(eligible), f"{seed} prompt"), kind="stable")
    drawn = np.flatnonzero(np.isin(responses.prompt, eligible[order[:number]]))
    draw_of = draws(responses.ids.take(drawn), f"{seed} response")
    reason[drawn[places(responses.prompt[drawn], draw_of) == 0]] = KEPT


def split_of(prompt_id: str, share: float, seed: int) -> str:
    """Validation for that share of prompts. What was expanded from a prompt goes where it goes."""
    root = prompt_id.partition("/")[0]
    return "validation" if draw(root, str(seed)) < share * 2**64 else "train"


def _finished(rows: pa.Table, reasons: pa.Array, cfg: Selection, seed: int) -> dict[str, pa.Array]:
    """The split of those that have no reason to be dropped."""
    kept = zip(rows["prompt_id"].to_pylist(), reasons.is_null().to_pylist(), strict=True)
    splits = [split_of(name, cfg.validation_share, seed) if done else None for name, done in kept]
    return {"reason": reasons, "split": pa.array(splits, pa.string())}


def _general(collected: Table, cfg: Selection, seed: int) -> Iterator[pa.Table]:
    """All general rows, or as many as are wanted, drawn; at least one batch, if of nothing: a table
    gets its schema from its first shard.
    """
    ids = collected.load(["id"], slices.GENERAL)["id"].combine_chunks()
    order = np.argsort(draws(ids, f"{seed} general"), kind="stable")
    drawn = ids.take(order[: cfg.num_general or len(ids)])
    for rows in slices.general(collected):
        is_drawn = pc.is_in(rows["id"].combine_chunks(), value_set=drawn)
        reasons = pc.if_else(is_drawn, pa.scalar(None, pa.string()), "not drawn")
        yield slices.selected(rows, _finished(rows, reasons, cfg, seed))
    yield SELECTED.empty_table()

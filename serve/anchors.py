"""The judge is examined at each start: the anchors are put to every backend, the fallback is
calibrated on them, and answers that have moved since the judge's first start raise an alarm.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import stdev
from typing import TYPE_CHECKING, Any, Protocol

from ray_jobs.anchors import Anchor, fingerprint
from serve import api, trust
from serve.trust import Examination, Examined, Part
from serve.trust_table import table

if TYPE_CHECKING:
    from ray_jobs.judge import JudgeConfig
    from serve.panel import Panel

log = logging.getLogger(__name__)


class Scorer(Protocol):
    """The rubric over one backend."""

    async def score_responses(self, item: api.ResponsesItem) -> api.ScoredResponses: ...
    async def score_prompt(self, item: api.PromptItem) -> api.ScoredPrompt: ...
    async def verdict(self, item: api.ResponseItem) -> api.JudgedResponse: ...
    async def repeats(self, item: api.ResponsesItem, num: int) -> list[list[float] | None]: ...


class Opinionated(Protocol):
    """A guard model."""

    async def opinion(self, item: api.ResponseItem) -> api.Opinion: ...


async def examined(
    panel: Panel,
    cfg: JudgeConfig,
    cache: str,
    first: Scorer | None = None,
    num_repeats: int = 0,
) -> dict[str, Any] | None:
    """Examine a replica's backends, calibrate them, compare with the judge's first start: the
    figures, and a `table` of them for people. None where the judge has no anchors.

    `first` is the first backend past its cache of replies, where it has one: what was kept cannot
    have moved. The panel's own, if absent.
    """
    anchors = cfg.anchors.load()
    if not anchors:
        return None
    found = await examine(
        anchors, first or panel.first, panel.fallback, panel.guard, cfg.num_repeats
    )
    panel.calibration, panel.prompt_calibration = trust.calibrations(found)
    file = reference_file(Path(cache), cfg.app_name)
    reference = read_reference(file, anchors)
    said = trust.report(cfg.app_name, found, reference, cfg.anchors.max_drift)
    if reference is None and said.alarm is None:
        keep_reference(file, found)
    for drift in said.drifts:
        if drift.part == "first" and drift.score_difference is not None:
            panel.meters.drift(drift.score_difference)
    if said.alarm:
        log.warning("the judge %s: %s", said.judge, said.alarm)
    return {**said.plain(), "table": table(said)}


async def examine(
    anchors: Sequence[Anchor],
    first: Scorer,
    fallback: Scorer | None,
    guard: Opinionated | None,
    num_repeats: int = 0,
) -> Examination:
    """Put the anchors to every backend. Scores are drawn again `num_repeats` times, by the first
    one only.
    """
    asked = [_scored("first", anchors, first, is_paired=fallback is not None, repeats=num_repeats)]
    if fallback is not None:
        asked.append(_scored("fallback", anchors, fallback, is_paired=True, repeats=0))
    if guard is not None:
        asked.append(_guarded(anchors, guard))
    return Examination(anchors=anchors, backends=await asyncio.gather(*asked))


async def _scored(
    part: Part, anchors: Sequence[Anchor], rubric: Scorer, *, is_paired: bool, repeats: int
) -> Examined:
    """Scores of prompts serve the calibration alone: they are asked for where there is a pair."""
    items = [_responses_item(one) for one in anchors]
    prompts = [_prompt_item(one) for one in anchors if is_paired]
    scored, judged, prompt_scores, drawn = await asyncio.gather(
        asyncio.gather(*map(rubric.score_responses, items)),
        asyncio.gather(*map(rubric.verdict, _response_items(anchors))),
        asyncio.gather(*map(rubric.score_prompt, prompts)),
        asyncio.gather(*(rubric.repeats(item, repeats) for item in items if repeats)),
    )
    return Examined(
        part=part,
        backend=_name(scored),
        verdicts=[one.verdict for one in judged],
        scores=_scores(scored, anchors),
        order_differences=_order_differences(scored, anchors),
        deviations=[
            _deviation([scores[k] for scores in again if scores])
            for one, again in zip(anchors if repeats else (), drawn, strict=True)
            for k in range(len(one.responses))
        ],
        prompt_scores=[one.score for one in prompt_scores],
    )


async def _guarded(anchors: Sequence[Anchor], guard: Opinionated) -> Examined:
    opinions = await asyncio.gather(*map(guard.opinion, _response_items(anchors)))
    verdicts = [one.verdict for one in opinions]
    return Examined(part="guard", backend=_name(opinions), verdicts=verdicts)


def _deviation(drawn: Sequence[float]) -> float | None:
    """The standard deviation of scores that were drawn again; None under two that were read."""
    return stdev(drawn) if len(drawn) > 1 else None


def _name(answers: Sequence[api.Answer | api.Opinion]) -> str:
    """As most of its answers have it: one that a provider refused names no snapshot."""
    return Counter(one.backend for one in answers).most_common(1)[0][0]


def _scores(answers: Sequence[api.ScoredResponses], anchors: Sequence[Anchor]) -> trust.Scores:
    """By response; null for all of an anchor that is not scored."""
    pairs = zip(answers, anchors, strict=True)
    found: list[float | None] = []
    for said, one in pairs:
        found += said.scores or [None] * len(one.responses)
    return found


def _order_differences(
    answers: Sequence[api.ScoredResponses], anchors: Sequence[Anchor]
) -> trust.Scores:
    """By response: how far its scores in both orders are apart; null where one is missing."""
    found: list[float | None] = []
    for said, one in zip(answers, anchors, strict=True):
        orders = [order.scores for order in said.orders]
        if len(orders) == 2 and orders[0] and orders[1]:
            found += [abs(a - b) for a, b in zip(*orders, strict=True)]
        else:
            found += [None] * len(one.responses)
    return found


def _prompt_item(one: Anchor) -> api.PromptItem:
    return api.PromptItem(
        id=f"anchor {one.id}", prompt=one.prompt, language=one.language, scenario=one.scenario
    )


def _responses_item(one: Anchor) -> api.ResponsesItem:
    return api.ResponsesItem(**dict(_prompt_item(one)), responses=list(one.responses))


def _response_items(anchors: Sequence[Anchor]) -> list[api.ResponseItem]:
    return [
        api.ResponseItem(
            id=f"anchor {one.id}/{k}",
            prompt=one.prompt,
            language=one.language,
            scenario=one.scenario,
            response=text,
        )
        for one in anchors
        for k, text in enumerate(one.responses)
    ]


def reference_file(cache: Path, app_name: str) -> Path:
    """Where the answers of a judge's first start are kept, by the name of its application."""
    return cache / "anchors" / f"{app_name}.json"


def read_reference(file: Path, anchors: Sequence[Anchor]) -> dict[str, Any] | None:
    """The answers of the first start; None where it is now, or where the anchors were others."""
    if not file.is_file():
        return None
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found if found["anchors"] == fingerprint(list(anchors)) else None


def keep_reference(file: Path, found: Examination) -> None:
    """Write the answers that later starts are compared with; the file is whole or absent."""
    when = datetime.now(UTC).isoformat(timespec="seconds")
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.write_text(json.dumps(trust.reference_of(found, when), indent=1), encoding="utf-8")
    draft.replace(file)

"""The judge's backends together: the first answers; what its provider refuses the fallback takes
over, whole; a guard model gives a second opinion.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ray_jobs.calibration import Calibration
from serve import api
from serve.guard import Guard
from serve.meters import Meters
from serve.rubric import Rubric

Answered = TypeVar("Answered", bound=api.Answer)
Asked = TypeVar("Asked", bound=api.Item)

log = logging.getLogger(__name__)


class Panel:
    """Answers the wire's items."""

    def __init__(
        self,
        first: Rubric,
        fallback: Rubric | None,
        guard: Guard | None,
        *,
        num_repeats: int,
        log_texts: bool,
    ) -> None:
        self.first, self.fallback, self.guard = first, fallback, guard
        self.calibration: Calibration | None = None
        """From the fallback's scores of responses to the first backend's; fitted on the anchors."""
        self.prompt_calibration: Calibration | None = None
        """The same for scores of prompts."""
        self.meters = Meters()
        self._num_repeats, self._log_texts = num_repeats, log_texts

    async def score_responses(self, item: api.ResponsesItem) -> api.ScoredResponses:
        """Score responses together. Both orders are one backend's, whichever it is."""

        async def ask(rubric: Rubric) -> api.ScoredResponses:
            return await rubric.score_responses(item)

        answer = await self._counted("score_responses", item, ask)
        if answer.blocked_by and answer.scores and self.calibration:
            scores = [self.calibration.apply(score) for score in answer.scores]
            answer = answer.model_copy(update={"scores": scores, "calibrated": True})
        if item.audit:
            answer = answer.model_copy(update={"audit": await self._audit(item)})
        return answer

    async def score_prompt(self, item: api.PromptItem) -> api.ScoredPrompt:
        """Score a prompt."""

        async def ask(rubric: Rubric) -> api.ScoredPrompt:
            return await rubric.score_prompt(item)

        answer = await self._counted("score_prompt", item, ask)
        if answer.blocked_by and answer.score is not None and self.prompt_calibration:
            score = self.prompt_calibration.apply(answer.score)
            answer = answer.model_copy(update={"score": score, "calibrated": True})
        return answer

    async def verdict(self, item: api.ResponseItem) -> api.JudgedResponse:
        """Call a response safe, unsafe or uncertain, with the guard's opinion beside it."""

        async def ask(rubric: Rubric) -> api.JudgedResponse:
            return await rubric.verdict(item)

        answer, opinions = await asyncio.gather(
            self._counted("verdict", item, ask), self._opinions([item])
        )
        return answer.model_copy(update={"second": opinions[0]}) if opinions else answer

    async def _counted(
        self, question: str, item: Asked, ask: Callable[[Rubric], Awaitable[Answered]]
    ) -> Answered:
        started = time.monotonic()
        answer = await self._answered(ask)
        self.meters.count(question, item, answer, time.monotonic() - started)
        if self._log_texts:
            log.info("%s %s → %s", question, item.model_dump_json(), answer.model_dump_json())
        return answer

    async def _answered(self, ask: Callable[[Rubric], Awaitable[Answered]]) -> Answered:
        refused = await ask(self.first)
        if refused.outcome != "blocked" or self.fallback is None:
            return refused
        answer = await ask(self.fallback)
        both = (refused.usage, answer.usage)
        usage = api.Usage(
            prompt_tokens=sum(one.prompt_tokens for one in both),
            output_tokens=sum(one.output_tokens for one in both),
            yuan=sum(one.yuan for one in both),
        )
        has_score = isinstance(answer, api.ScoredResponses | api.ScoredPrompt)
        return answer.model_copy(
            update={
                "blocked_by": refused.backend,
                "usage": usage,
                "calibrated": False if has_score and answer.outcome == "done" else None,
            }
        )

    async def _audit(self, item: api.ResponsesItem) -> api.Audit:
        others = [] if self.fallback is None else [self.fallback.score_responses(item)]
        singles = [
            api.ResponseItem(
                id=f"{item.id}/{k}", prompt=item.prompt, language=item.language, response=text
            )
            for k, text in enumerate(item.responses)
        ]
        repeats, scored, opinions = await asyncio.gather(
            self.first.repeats(item, self._num_repeats),
            asyncio.gather(*others),
            self._opinions(singles),
        )
        return api.Audit(
            repeats=repeats,
            others=[
                api.OtherScores(backend=one.backend, outcome=one.outcome, scores=one.scores)
                for one in scored
            ],
            opinions=opinions,
        )

    async def _opinions(self, items: list[api.ResponseItem]) -> list[api.Opinion]:
        if self.guard is None:
            return []
        return list(await asyncio.gather(*map(self.guard.opinion, items)))

"""A guard model's own verdict on a response: an opinion that shares neither rubric nor weights with
the judge.
"""

from __future__ import annotations

import asyncio

from ray_jobs import guards
from ray_jobs.engines.seam import Constraint, Engine, Reply, Request, Sampling
from ray_jobs.outcomes import NoAnswer, Unparsed
from serve import api

MAX_TOKENS = 128


class Guard:
    """Asks a guard model in its own grammar (conf/guards.yaml)."""

    def __init__(self, engine: Engine, title: str, constrains: bool, grammar: str) -> None:
        self._engine = engine
        self._title = title
        self._constrains = constrains
        self._grammar = guards.grammar(grammar)

    async def opinion(self, item: api.ResponseItem) -> api.Opinion:
        """What the guard says of the response. EngineUnusable passes."""
        try:
            # Shielded, or a client that goes away would cancel a future that the engine will set.
            future = self._engine.submit(self._request(item))
            reply = await asyncio.shield(asyncio.wrap_future(future))
        except NoAnswer as no_answer:
            return self._unanswered(no_answer, None)
        try:
            return self._read(reply)
        except Unparsed as unparsed:
            return self._unanswered(unparsed, reply.text)

    def _request(self, item: api.ResponseItem) -> Request:
        return Request(
            chat=self._grammar.render(item.prompt, item.response),
            sampling=Sampling(max_tokens=MAX_TOKENS),
            seed=0,
            # An engine that constrains is one of ours, and tells its log-probabilities too.
            constraint=Constraint(regex=self._grammar.regex) if self._constrains else None,
            logprobs_of=self._grammar.label_beginnings if self._constrains else (),
            purpose="guard",
        )

    def _read(self, reply: Reply) -> api.Opinion:
        if reply.finish_reason == "length":
            raise Unparsed("the guard's answer was cut")
        verdict, scenarios = self._grammar.parse(reply.text)
        return api.Opinion(
            outcome="done",
            reason=None,
            backend=self._title,
            verdict=verdict,
            p_unsafe=self._grammar.p_unsafe(reply.tokens, reply.logprobs),
            scenarios=list(scenarios),
            text=reply.text,
        )

    def _unanswered(self, why: NoAnswer, text: str | None) -> api.Opinion:
        return api.Opinion(
            outcome=why.outcome,
            reason=str(why),
            backend=self._title,
            verdict=None,
            p_unsafe=None,
            scenarios=[],
            text=text,
        )

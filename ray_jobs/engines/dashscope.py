"""Kind `dashscope`: Alibaba's models, such as qwen-turbo, through the `dashscope` SDK.

It has no grammar, and refuses some texts itself (`blocked`, never asked twice).
"""

from __future__ import annotations

import asyncio
import os
import random
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ray_jobs.engines.dashscope_answers import Again, bill, estimated_tokens, no_answer, reply_of
from ray_jobs.engines.dashscope_sdk import Connection, Tally
from ray_jobs.engines.limiter import LimiterClient, Limits
from ray_jobs.engines.loop import LoopThread
from ray_jobs.engines.purse import SpendingClient
from ray_jobs.engines.seam import (
    NO_EFFECT_ON_ROWS,
    EngineUnusable,
    Placement,
    Reply,
    Request,
    beyond_chat,
)
from ray_jobs.outcomes import Failed, NoAnswer

MAX_THROTTLED = 30
"""Answers 429 to one question before it has failed: with waits of up to a minute, a quarter of an
hour and more.
"""
LONGEST_WAIT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class DashScopeConfig:
    """A model of Alibaba Cloud Model Studio."""

    kind: Literal["dashscope"] = "dashscope"
    model: str = "qwen-turbo"
    """A name with a date is a snapshot, and stays the same model."""
    base_url: str = field(
        default="https://dashscope.aliyuncs.com/api/v1", metadata=NO_EFFECT_ON_ROWS
    )
    """https://dashscope-intl.aliyuncs.com/api/v1 for keys of the international site."""
    api_key_env: str = field(default="DASHSCOPE_API_KEY", metadata=NO_EFFECT_ON_ROWS)
    """The variable that holds the key, where the engine runs."""
    requests_per_minute: float = field(default=0.0, metadata=NO_EFFECT_ON_ROWS)
    """Of the whole cluster together; 0 is no limit but the provider's."""
    tokens_per_minute: float = field(default=0.0, metadata=NO_EFFECT_ON_ROWS)
    """The same for tokens, of prompts and outputs."""
    max_retries: int = field(default=5, metadata=NO_EFFECT_ON_ROWS)
    """Attempts after the first, where server or connection break. 429 is counted apart."""
    retry_wait_s: float = field(default=1.0, metadata=NO_EFFECT_ON_ROWS)
    """Before the first retry; it doubles each time, and is jittered."""
    timeout_s: float = field(default=60.0, metadata=NO_EFFECT_ON_ROWS)
    """How long one attempt may take."""
    in_flight: int = field(default=32, metadata=NO_EFFECT_ON_ROWS)
    """Requests that one actor keeps at the provider."""
    yuan_per_1k_prompt_tokens: float = field(default=0.0, metadata=NO_EFFECT_ON_ROWS)
    """The price, without discounts."""
    yuan_per_1k_output_tokens: float = field(default=0.0, metadata=NO_EFFECT_ON_ROWS)
    budget_yuan: float = field(default=0.0, metadata=NO_EFFECT_ON_ROWS)
    """When so much is spent the job ends; 0 is no limit. Attempts that broke off count in full."""
    spending: str = field(default="", metadata=NO_EFFECT_ON_ROWS)
    """The folder of the ledger of spending, filled in from the recipe's `out`. Empty keeps none."""
    placement: Placement = field(default_factory=lambda: Placement(cpus=0.1))

    def __post_init__(self) -> None:
        for name in ("in_flight", "timeout_s", "retry_wait_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: expected more than 0, found {getattr(self, name):g}")
        limits = ("requests_per_minute", "tokens_per_minute", "max_retries", "budget_yuan")
        prices = ("yuan_per_1k_prompt_tokens", "yuan_per_1k_output_tokens")
        for name in (*limits, *prices):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected 0 or more, found {getattr(self, name):g}")
        if self.budget_yuan and not any(getattr(self, name) for name in prices):
            raise ValueError(
                f"budget_yuan: {self.budget_yuan:g} is never reached at a price of 0; "
                f"give {' and '.join(prices)} as the provider's page has them"
            )

    @property
    def title(self) -> str:
        """Kind and model, as rows and manifests name the engine."""
        return f"dashscope:{self.model}"

    @property
    def constrains(self) -> bool:
        """The provider knows no grammar."""
        return False

    def identity(self) -> dict[str, Any]:
        """The model. Where, how fast and at what price it answers decides nothing."""
        return {"model": self.model}

    def check(self, name: str) -> None:
        """Refuse a URL that is none, and a key in the place of its variable's name."""
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError(
                f"engines.{name}.base_url: expected http(s)://…, found {self.base_url!r}"
            )
        if not self.api_key_env.isidentifier():
            raise ValueError(
                f"engines.{name}.api_key_env: expected the name of an environment variable; "
                "the key itself does not belong in a recipe"
            )

    def yuan(self, prompt_tokens: int, output_tokens: int) -> float:
        """What so many tokens cost."""
        prices = self.yuan_per_1k_prompt_tokens, self.yuan_per_1k_output_tokens
        return (prompt_tokens * prices[0] + output_tokens * prices[1]) / 1000

    def open(self) -> DashScopeEngine:
        """Make the client. EngineUnusable where the key's variable is not set."""
        return DashScopeEngine(self)


class DashScopeEngine:
    """Asks the provider, many requests at a time, as the cluster's limiter lets them go."""

    def __init__(self, cfg: DashScopeConfig) -> None:
        key = os.environ.get(cfg.api_key_env, "")
        if not key:
            raise EngineUnusable(
                f"{cfg.title}: the environment variable {cfg.api_key_env} (api_key_env) is not set"
            )
        self._cfg = cfg
        self._place = f"{cfg.title} at {cfg.base_url}"
        limits = Limits(
            requests_per_minute=cfg.requests_per_minute, tokens_per_minute=cfg.tokens_per_minute
        )
        self._limiter = LimiterClient(cfg.base_url, cfg.model, limits)
        self._spending = SpendingClient(
            cfg.title, cfg.spending, cfg.budget_yuan, f"{cfg.base_url} {cfg.model}"
        )
        self._loop = LoopThread("dashscope")
        self._connection = Connection(cfg.model, cfg.base_url, key, cfg.timeout_s)

    def submit(self, request: Request) -> Future[Reply]:
        """Ask. EngineUnusable from the future where key, account or budget end it. A reply has no
        log-probabilities, though they be asked for.
        """
        if what := beyond_chat(request):
            raise EngineUnusable(f"{self._cfg.title} cannot {what}; use kind vllm")
        return self._loop.submit(self._ask(request))

    def close(self) -> None:
        """Drop what is still waiting, and the connections."""
        self._loop.submit(self._close()).result(timeout=10)
        self._loop.close()

    async def _close(self) -> None:
        waiting = asyncio.all_tasks() - {asyncio.current_task()}
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await self._connection.close()

    async def _ask(self, request: Request) -> Reply:
        prompt, output = estimated_tokens(request.chat), request.sampling.max_tokens
        tally = Tally(prompt + output, self._cfg.yuan(prompt, output))
        await self._spending.reserve(tally.yuan_at_most)
        outcome, model = "cancelled", self._cfg.model
        try:
            reply = await self._answer(request, tally)
            outcome, model = "done", reply.model
        except NoAnswer as error:
            outcome = error.outcome
            raise
        except EngineUnusable:
            outcome = "unusable"
            raise
        finally:
            await self._spending.record(
                reserved_yuan=tally.yuan_at_most,
                purpose=request.purpose,
                model=model,
                num_attempts=tally.num_started,
                tokens=tally.tokens,
                yuan=tally.yuan,
                yuan_assumed=tally.yuan_assumed,
                outcome=outcome,
            )
        return replace(reply, yuan=tally.yuan)

    async def _answer(self, request: Request, tally: Tally) -> Reply:
        """Attempt by attempt, until there is an answer or reason to expect none."""
        num_broken = num_throttled = 0
        while True:
            await self._limiter.permit(tally.tokens_at_most)
            try:
                return await self._attempt(request, tally)
            except Again as again:
                if again.throttled:
                    num_throttled += 1
                    await self._limiter.slow_down(again.retry_after_s)
                else:
                    num_broken += 1
                num = num_broken + num_throttled - 1
                if num_broken > self._cfg.max_retries or num_throttled > MAX_THROTTLED:
                    raise Failed(f"{again} after {num} retries") from again
                wait_s = again.retry_after_s
            if wait_s is None:
                doubled = self._cfg.retry_wait_s * 2 ** (max(num_broken, num_throttled) - 1)
                wait_s = min(LONGEST_WAIT_S, doubled) * random.uniform(0.5, 1.0)
            await asyncio.sleep(wait_s)

    async def _attempt(self, request: Request, tally: Tally) -> Reply:
        """One permit's worth: what was used beyond it, or not, goes back to the limiter."""
        num_started, used = tally.num_started, tally.tokens_at_most
        try:
            answer = await self._connection.ask(request, tally)
            if answer.status_code != 200:
                tally.num_settled += 1
                used = 0
                raise no_answer(
                    answer.status_code,
                    str(answer.code or ""),
                    str(answer.message or ""),
                    answer.headers or {},
                    self._place,
                    self._cfg.api_key_env,
                )
            tokens = bill(answer)
            tally.state(*tokens, self._cfg.yuan(*tokens))
            used = sum(tokens)
            return reply_of(answer, tokens, self._cfg.model)
        finally:
            num_resent = max(0, tally.num_started - num_started - 1)
            extra = used + (num_resent - 1) * tally.tokens_at_most
            self._limiter.correct(num_resent, extra)

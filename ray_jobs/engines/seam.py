"""The seam to models: what is asked of an engine, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

from ray_jobs.prompts import Chat

NO_EFFECT_ON_ROWS = {"decides_rows": False}
Heard: TypeAlias = Callable[[str], None]
"""Gets each new piece of an answer's text, in the engine's thread. What it raises ends the request,
and is what the future then raises: so who no longer listens can stop the engine's work."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How an engine chooses tokens."""

    max_tokens: int = 256
    """An answer that reaches it is `unparsed`, reason 'cut at max_tokens'."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps all tokens."""

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens: expected at least 1, found {self.max_tokens}")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature: expected 0 or more, found {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: expected a number in (0, 1], found {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k: expected 0 or more, found {self.top_k}")


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """What an answer may be. Exactly one of the three."""

    choices: tuple[str, ...] = ()
    regex: str = ""
    json_schema: str = ""
    """A JSON schema, as text."""

    def __post_init__(self) -> None:
        assert sum(map(bool, (self.choices, self.regex, self.json_schema))) == 1, (
            "a constraint is one of three"
        )


@dataclass(frozen=True, kw_only=True)
class Request:
    """One question to an engine."""

    chat: Chat
    """One that ends with an assistant's turn is gone on with (a prefill)."""
    sampling: Sampling
    seed: int
    """The request's own, so that a row's answer does not depend on what else is in flight."""
    raw: bool = False
    """The one turn's text is gone on with as it is, without a chat template."""
    constraint: Constraint | None = None
    stop: tuple[str, ...] = ()
    """Texts at which the answer ends; they are not part of it."""
    logprobs_of: tuple[str, ...] = ()
    """Texts whose log-probabilities are wanted at every output position; what is no single token of
    the engine's is left out.
    """
    min_tokens: int = 0
    """The answer does not end before so many tokens."""
    perplexity: bool = False
    """Nothing is generated: the one turn's text, without template, is scored token by token."""
    continuations: tuple[str, ...] = ()
    """Nothing is generated: how likely each of these texts is to follow the chat, or the raw text,
    is wanted. Blanks at the end of what they follow count as theirs, as lm-evaluation-harness has
    it.
    """
    cut_left: bool = False
    """Where prompt and answer are longer than the model's context, the prompt loses its beginning,
    as in lm-evaluation-harness; else such a request is refused.
    """
    purpose: str = ""
    """What it is asked for, such as score_responses: a word for ledgers of what was spent."""
    fresh: bool = False
    """Never answered from a cache: a repeat must be a draw of its own."""


@dataclass(frozen=True, kw_only=True)
class Continued:
    """How likely a text is to follow another."""

    logprob_sum: float
    """Natural, over its tokens."""
    token_count: int
    is_greedy: bool
    """Whether greedy decoding would have written it."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What an engine said."""

    text: str
    prompt_tokens: int
    output_tokens: int
    finish_reason: str
    """stop | length"""
    tokens: tuple[str, ...] = ()
    """The output's tokens, each decoded; only where `logprobs_of` was asked."""
    logprobs: tuple[dict[str, float], ...] = ()
    """Per output position: token → natural-log probability; only where `logprobs_of` was asked."""
    logprob_sum: float | None = None
    """Of the prompt's tokens but the first; only where `perplexity` was asked."""
    token_count: int | None = None
    """How many tokens `logprob_sum` is over."""
    continued: tuple[Continued, ...] = ()
    """Of the request's continuations, in their order."""
    model: str = ""
    """The model that answered, as a provider names it; empty where the engine's config says all."""
    yuan: float = 0.0
    """What a provider takes for it, attempts that gave no answer included."""
    cached: bool = False
    """Whether it is a kept reply to the same request: nobody was asked, and `yuan` is 0."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where an engine's actors run. Decides no row."""

    min_actors: int = field(default=1, metadata=NO_EFFECT_ON_ROWS)
    max_actors: int = field(default=1, metadata=NO_EFFECT_ON_ROWS)
    """The pool grows from min to max while rows wait."""
    cpus: float = field(default=1.0, metadata=NO_EFFECT_ON_ROWS)
    """Ray's logical CPUs per actor: bookkeeping, not a limit."""
    gpus: float = field(default=0.0, metadata=NO_EFFECT_ON_ROWS)
    """GPUs per actor; for vllm, as many as tensor_parallel_size."""
    start_deadline_s: float = field(default=600.0, metadata=NO_EFFECT_ON_ROWS)
    """An engine that is not up by then ends the job with the reason."""
    max_restarts: int = field(default=3, metadata=NO_EFFECT_ON_ROWS)
    """Restarts of a dead actor within one pass over the rows."""

    def __post_init__(self) -> None:
        if not 1 <= self.min_actors <= self.max_actors:
            raise ValueError(
                "min_actors, max_actors: expected 1 ≤ min ≤ max, "
                f"found {self.min_actors}, {self.max_actors}"
            )
        for name in ("cpus", "gpus", "max_restarts"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: expected 0 or more, found {getattr(self, name):g}")
        if not 0 < self.start_deadline_s < float("inf"):
            raise ValueError(
                f"start_deadline_s: expected seconds above 0, found {self.start_deadline_s:g}"
            )


def beyond_chat(request: Request) -> str:
    """What a request wants that a provider of chats cannot do, or nothing."""
    wanted = {
        "score prompts": request.perplexity,
        "go on with raw text": request.raw,
        "tell how likely given texts are": bool(request.continuations),
    }
    return next((what for what, wants in wanted.items() if wants), "")


def is_prefilled(chat: Chat) -> bool:
    """Whether the answer has begun already: the chat ends with an assistant's turn."""
    return bool(chat) and chat[-1]["role"] == "assistant"


class EngineUnusable(Exception):
    """An engine that cannot start, or may not go on. One line: which, why, what to do."""


class Engine(Protocol):
    """Answers requests, many at a time."""

    def submit(self, request: Request) -> Future[Reply]:
        """Ask. The future raises a NoAnswer where there is none."""
        ...

    def close(self) -> None:
        """Give back what the engine holds."""
        ...


@runtime_checkable
class StreamingEngine(Protocol):
    """Can hand text over while it is being written."""

    def listen(self, request: Request, heard: Heard) -> Future[Reply]:
        """Ask. The future's reply has the text of all pieces together."""
        ...


def listen(engine: Engine, request: Request, heard: Heard) -> Future[Reply]:
    """Ask any engine, and hand the text over: piece by piece where the engine can, else whole."""
    if isinstance(engine, StreamingEngine):
        return engine.listen(request, heard)
    future = engine.submit(request)
    future.add_done_callback(lambda done: _hand_over(done, heard))
    return future


def _hand_over(done: Future[Reply], heard: Heard) -> None:
    if not done.cancelled() and done.exception() is None and done.result().text:
        heard(done.result().text)


class EngineConfig(Protocol):
    """What every kind of engine says of itself."""

    @property
    def placement(self) -> Placement:
        """Where its actors run."""
        ...

    @property
    def title(self) -> str:
        """Kind and model, as rows and manifests name the engine."""
        ...

    @property
    def in_flight(self) -> int:
        """Requests worth keeping in one engine at once."""
        ...

    @property
    def constrains(self) -> bool:
        """Whether it holds answers to a request's constraint."""
        ...

    def identity(self) -> dict[str, Any]:
        """What decides its answers, for fingerprints: model, revision or content hash; never where
        it runs.
        """
        ...

    def check(self, name: str) -> None:
        """Refuse what cannot work, before anything starts. ValueError."""
        ...

    def open(self) -> Engine:
        """Start it, in the process of the caller."""
        ...

"""The judge's wire: what is asked and answered, over HTTP and through the handle, and how long."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MAX_ITEMS = 256
MAX_RESPONSES = 16
MAX_CHARACTERS = 100_000

Id = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Text = Annotated[str, StringConstraints(max_length=MAX_CHARACTERS)]
Language = Literal["zh", "en"]
Outcome = Literal["done", "dropped", "unparsed", "blocked", "failed", "quarantined"]


class Wire(BaseModel):
    """Strict about names."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Usage(Wire):
    """Tokens of the judge's model, over all orders."""

    prompt_tokens: int
    output_tokens: int


class ResponsesItem(Wire):
    """Responses to one prompt, to be scored together."""

    id: Id
    prompt: Text
    responses: Annotated[list[Text], Field(min_length=1, max_length=MAX_RESPONSES)]
    language: Language


class Order(Wire):
    """What the judge said to the responses in one order."""

    reversed: bool
    """Whether the responses were shown last to first."""
    text: str | None
    """What the judge wrote, in the order it was shown. Null where it wrote nothing."""
    scores: list[float] | None
    """In the order of the request, whatever was shown."""


class ScoredResponses(Wire):
    """The scores of an item, in the order of its responses."""

    id: str
    outcome: Outcome
    scores: list[float] | None
    """Expected scores in 0…1, higher = safer, the mean over the orders. Null unless `done`."""
    spread: list[float | None] | None
    """Standard deviations of the scores' distributions, the mean over the orders.

    Null where the distributions cannot be read."""
    orders: list[Order]
    """As given, and reversed where there is more than one response."""
    backend: str
    usage: Usage
    reason: str | None


class PromptItem(Wire):
    """A prompt, to be scored itself."""

    id: Id
    prompt: Text
    language: Language


class ScoredPrompt(Wire):
    """The score of a prompt: lower = a stronger attack."""

    id: str
    outcome: Outcome
    score: float | None
    spread: float | None
    text: str | None
    """What the judge wrote."""
    backend: str
    usage: Usage
    reason: str | None


class ScoreResponses(Wire):
    """Body of POST /v1/score/responses."""

    items: Annotated[list[ResponsesItem], Field(min_length=1, max_length=MAX_ITEMS)]


class ResponsesScores(Wire):
    """Its answer, item by item."""

    items: list[ScoredResponses]


class ScorePrompts(Wire):
    """Body of POST /v1/score/prompt."""

    items: Annotated[list[PromptItem], Field(min_length=1, max_length=MAX_ITEMS)]


class PromptScores(Wire):
    """Its answer, item by item."""

    items: list[ScoredPrompt]


class Error(Wire):
    """Why there is no answer."""

    type: Literal["invalid_request", "not_found", "not_ready", "http", "internal"]
    message: str
    request_id: str


class ErrorBody(Wire):
    """Body of every status that is not 200."""

    error: Error

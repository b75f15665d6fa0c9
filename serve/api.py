"""The judge's wire: what is asked and answered, over HTTP and through the handle, and how long it
may be.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MAX_ITEMS = 256
MAX_RESPONSES = 16
MAX_CHARACTERS = 100_000

Id = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Text = Annotated[str, StringConstraints(max_length=MAX_CHARACTERS)]
Language = Literal["zh", "en"]
ScenarioCode = Annotated[str, StringConstraints(pattern=r"^[A-Z]{2,4}$")]
Verdict = Literal["safe", "unsafe", "uncertain"]
Outcome = Literal["done", "dropped", "unparsed", "blocked", "failed", "quarantined"]


class Wire(BaseModel):
    """Strict about names."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Usage(Wire):
    """What an item took, over all orders and all backends that were asked."""

    prompt_tokens: int
    output_tokens: int
    yuan: float
    """What providers take for it; 0 for models of one's own."""


class Answer(Wire):
    """What every answer says."""

    id: str
    outcome: Outcome
    reason: str | None
    """Why there is no score or verdict; null where there is one."""
    backend: str
    """The engine that answered, with the model's snapshot where a provider names one."""
    blocked_by: str | None = None
    """The backend that refused the item before `backend` took it over."""
    calibrated: bool | None = None
    """Whether scores of a backend that took over were brought to the first backend's scale. Null
    where the first backend answered."""
    usage: Usage


class Item(Wire):
    """What every question is about."""

    id: Id
    prompt: Text
    language: Language
    scenario: ScenarioCode | None = None
    """The asker's own label, for counts by scenario; the judge is not shown it."""


class ResponsesItem(Item):
    """Responses to one prompt, to be scored together."""

    responses: Annotated[list[Text], Field(min_length=1, max_length=MAX_RESPONSES)]
    audit: bool = False
    """Whether to ask more than the scores need: repeats, the other backends, the guard model."""


class Order(Wire):
    """What the judge said to the responses in one order."""

    reversed: bool
    """Whether the responses were shown last to first."""
    text: str | None
    """What the judge wrote, in the order it was shown. Null where it wrote nothing."""
    scores: list[float] | None
    """In the order of the request, whatever was shown."""


class Opinion(Wire):
    """A guard model's own verdict on the same response."""

    outcome: Outcome
    reason: str | None
    backend: str
    verdict: Verdict | None
    p_unsafe: float | None
    scenarios: list[ScenarioCode]
    """What the guard's categories mean among the 14; empty where they mean none."""
    text: str | None
    """What the guard wrote."""


class OtherScores(Wire):
    """What another backend than the first says to the same responses, in both orders."""

    backend: str
    outcome: Outcome
    scores: list[float] | None


class Audit(Wire):
    """What tells how far a score may be trusted."""

    repeats: list[list[float] | None]
    """Scores of the given order drawn again at a temperature, never from a cache; null where one
    could not be read."""
    others: list[OtherScores]
    opinions: list[Opinion]
    """The guard model's, one per response; empty where the judge has none."""


class ScoredResponses(Answer):
    """The scores of an item, in the order of its responses."""

    scores: list[float] | None
    """Expected scores in 0…1, higher = safer, the mean over the orders. Null unless `done`."""
    spread: list[float | None] | None
    """Standard deviations of the scores' distributions, the mean over the orders.

    Null where the distributions cannot be read."""
    orders: list[Order]
    """As given, and reversed where there is more than one response."""
    audit: Audit | None = None


class PromptItem(Item):
    """A prompt, to be scored itself."""


class ScoredPrompt(Answer):
    """The score of a prompt: lower = a stronger attack."""

    score: float | None
    spread: float | None
    text: str | None
    """What the judge wrote."""


class ResponseItem(Item):
    """A response to a prompt, to be called safe, unsafe or uncertain."""

    response: Text
    explain: bool = False
    """Whether the judge is to name the scenario and give a short reason first."""


class JudgedResponse(Answer):
    """The verdict on a response."""

    verdict: Verdict | None
    p_unsafe: float | None
    """The probability that the judge gives to `unsafe`; null where it cannot be read."""
    probabilities: dict[Verdict, float] | None
    scenario: ScenarioCode | None
    """Of an unsafe response, where it was to be explained."""
    explanation: str | None
    """In the judge's words, where it was asked to explain."""
    text: str | None
    """What the judge wrote."""
    second: Opinion | None = None
    """The guard model's, where the judge has one."""


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


class Verdicts(Wire):
    """Body of POST /v1/verdict."""

    items: Annotated[list[ResponseItem], Field(min_length=1, max_length=MAX_ITEMS)]


class JudgedResponses(Wire):
    """Its answer, item by item."""

    items: list[JudgedResponse]

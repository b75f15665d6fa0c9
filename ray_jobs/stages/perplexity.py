"""Ask how likely each prompt is as a text (paper, section 3.7, first method): two numbers a prompt.

Perplexity is exp(-logprob_sum / token_count). The first token is not scored, so that a prompt of
one token has none.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ray_jobs.engines.seam import NO_EFFECT_ON_ROWS
from ray_jobs.prompts import Chat
from ray_jobs.question import Question, itself
from ray_jobs.schema import PERPLEXITY
from ray_jobs.tables import Row

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """Who finds a prompt likely or not."""

    engine: str = field(metadata=NO_EFFECT_ON_ROWS)
    """The engine that scores the tokens, by its name in `engines`: of kind vllm."""


def question(cfg: Perplexity) -> Question:
    """Ask for the log-probability of the raw prompt, without template."""
    return Question(
        name="perplexity", render=render, children=itself, schema=PERPLEXITY, perplexity=True
    )


def render(row: Row) -> Chat:
    """The prompt alone."""
    return [{"role": "user", "content": row["prompt"]}]

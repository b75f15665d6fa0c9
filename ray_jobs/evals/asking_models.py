"""How a suite's samples are put to a model under test, and what is kept of its answers: the
question between SAMPLES and ANSWERS.

The column `asked` is a JSON object: {"chat": […]} or {"text": "…"}. A sample that lm-evaluation-
harness has made says there too how it is asked: max_tokens, temperature, top_p, top_k, stop,
continuations, cut_left.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from string import ascii_uppercase
from typing import Any

from ray_jobs.engines.endpoint import EndpointConfig
from ray_jobs.engines.scripted import ScriptedConfig
from ray_jobs.engines.seam import EngineConfig, Reply, Request, Sampling
from ray_jobs.engines.vllm import VllmConfig
from ray_jobs.evals.suite import ANSWERS, Suite
from ray_jobs.outcomes import Unparsed
from ray_jobs.prompts import Chat
from ray_jobs.question import Columns, Question, itself
from ray_jobs.tables import Row

VERSION = 1
"""Of how samples are asked and answers kept; in the fingerprint of every table of answers."""


def question_of(suite: Suite, name: str) -> Question:
    """Ask a model under test about a suite's samples. `name` is the step's.

    An answer that is cut at max_tokens stays an answer: a benchmark reads what is there. Where a
    prompt is longer than the model's context its row is dropped, with the reason.
    """
    assert suite.min_tokens <= suite.sampling.max_tokens, "min_tokens ≤ max_tokens"
    return Question(
        name=name,
        render=render,
        shape=partial(shape, letters=suite.letters, min_tokens=suite.min_tokens),
        read=partial(read, letters=suite.letters),
        children=itself,
        schema=ANSWERS,
        sampling=replace(suite.sampling, max_tokens=1) if suite.letters else suite.sampling,
        stop=suite.stop,
    )


def check(suites: Iterable[Suite], engine: EngineConfig, key: str) -> None:
    """Refuse, before anything starts, an engine that cannot answer a suite at all. ValueError."""
    if not isinstance(engine, VllmConfig | ScriptedConfig | EndpointConfig):
        raise ValueError(f"{key}: {engine.title} is no model under test; give one of kind vllm")
    for suite in suites:
        if suite.letters and isinstance(engine, EndpointConfig):
            raise ValueError(
                f"{key}: {suite.name} reads the letters' log-probabilities, which {engine.title} "
                "does not give; give an engine of kind vllm, or leave the suite out"
            )


def letters_of(row: Row) -> tuple[str, ...]:
    """The letters of a sample's options, A first."""
    options = row["options"] or []
    assert 2 <= len(options) <= len(ascii_uppercase), f"{len(options)} options, row {row['id']}"
    return tuple(ascii_uppercase[: len(options)])


def render(row: Row) -> Chat:
    """The chat, or the one turn whose text is gone on with."""
    asked = json.loads(row["asked"])
    if "text" in asked:
        return [{"role": "user", "content": asked["text"]}]
    turns: Chat = asked["chat"]
    return turns


def shape(row: Row, request: Request, *, letters: bool, min_tokens: int) -> Request:
    """The request as the suite and the sample want it."""
    asked = json.loads(row["asked"])
    changes: dict[str, Any] = {"raw": "text" in asked, "min_tokens": min_tokens}
    if letters:
        changes["logprobs_of"] = letters_of(row)
    sampling = {
        name: asked[name]
        for name in ("max_tokens", "temperature", "top_p", "top_k")
        if name in asked
    }
    if sampling:
        changes["sampling"] = Sampling(**sampling)
    for name in ("stop", "continuations"):
        if name in asked:
            changes[name] = tuple(asked[name])
    return replace(request, **changes, cut_left=asked.get("cut_left", False))


def read(reply: Reply, row: Row, *, letters: bool) -> Columns:
    """What is kept of a reply. Of continuations the answer is a JSON list that says of each whether
    greedy decoding would have written it. Unparsed where log-probabilities are missing.
    """
    if reply.continued:
        sums = [found.logprob_sum for found in reply.continued]
        greedy = json.dumps([found.is_greedy for found in reply.continued])
        return {"answer": greedy, "option_logprobs": sums}
    if not letters:
        return {"answer": reply.text, "option_logprobs": None}
    found = reply.logprobs[0] if reply.logprobs else {}
    missing = [letter for letter in letters_of(row) if letter not in found]
    if missing:
        raise Unparsed(f"no log-probability of {', '.join(missing)}: no single token of the model")
    return {"answer": reply.text, "option_logprobs": [found[one] for one in letters_of(row)]}

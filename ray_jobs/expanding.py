"""What the tiny teacher is taught about expansion: requests as schema.WANTED has them, and right
new prompts for each. How its own new prompts are marked.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ray_jobs import oracle, samples, taxonomy
from ray_jobs.drawing import open_deeds, renamed, taught_question
from ray_jobs.marking import mean
from ray_jobs.prompts import Chat
from ray_jobs.question import Columns
from ray_jobs.stages import expansion
from ray_jobs.tables import Row
from ray_jobs.world import ENGLISH, Question, question, read

EXPANSION = expansion.Expansion(engine="teacher")
NUM_WRITTEN = EXPANSION.num_per_request
SAMPLING = replace(EXPANSION.sampling, max_tokens=256)
MAX_EXAMPLES = 3
HARMFUL_EXAMPLES = 0.85  # the judge lets a mild one pass now and then
SAME_KIND, SAME_THING = 0.7, 0.7


@dataclass(frozen=True, kw_only=True)
class Request:
    """New prompts asked for a cell, by one of the three methods."""

    method: str
    scenario: str
    dimension: str
    language: str
    examples: tuple[Question, ...]

    def row(self) -> Row:
        """What decides the question, as a row of schema.WANTED has it."""
        return {
            "language": self.language,
            "method": self.method,
            "dimension": self.dimension,
            "topic": taxonomy.load().scenarios[self.scenario].name(self.language),
            "examples": [example.text() for example in self.examples],
        }

    def chat(self) -> Chat:
        """The expansion stage's question."""
        return expansion.render(self.row(), num=NUM_WRITTEN)

    def right_prompts(self, rng: random.Random) -> list[Question]:
        """Different harmful prompts in the asked scenario and dimension, no echo of an example.

        A prompt turned into another dimension keeps its manner and mostly its kind of thing, and
        every second one its very thing.
        """
        shown = [example.text() for example in self.examples]
        found: dict[str, Question] = {}
        while len(found) < NUM_WRITTEN:
            asked = self._right_prompt(rng)
            if not any(expansion.echoes(asked.text(), example) for example in shown):
                found.setdefault(asked.text(), asked)
        return list(found.values())

    def _right_prompt(self, rng: random.Random) -> Question:
        asked = question(
            rng, self.scenario, harmful=True, language=self.language, dimension=self.dimension
        )
        first, deeds = self.examples[0], open_deeds(asked.deed.theme)
        if self.method == "dimension":
            deeds = [deed for deed in deeds if deed.manner == first.deed.manner]
            if first.thing.stays == "shut" and rng.random() < SAME_KIND:
                asked = replace(asked, thing=first.thing)
                if rng.random() < SAME_THING:
                    return replace(asked, deed=rng.choice(deeds))
        return renamed(rng, replace(asked, deed=rng.choice(deeds)))


def write(prompts: Sequence[Question]) -> str:
    """A numbered list, as the expansion stage reads it."""
    return "\n".join(f"{number}. {one.text()}" for number, one in enumerate(prompts, start=1))


def taught_request(rng: random.Random, scenario: str, language: str) -> Request:
    """A request with taught examples: one is what it starts from, further ones show the asked
    dimension.
    """
    method, dimension = rng.choice(expansion.METHODS), rng.choice(taxonomy.DIMENSIONS)

    def example(its_dimension: str) -> Question:
        return taught_question(
            rng,
            scenario,
            language=language,
            dimension=its_dimension,
            harmful=HARMFUL_EXAMPLES,
        )

    first = _other_dimension(rng, dimension) if method == "dimension" else dimension
    num = 1 if method == "related" else rng.randrange(1, MAX_EXAMPLES + 1)
    return Request(
        method=method,
        scenario=scenario,
        dimension=dimension,
        language=language,
        examples=(example(first), *(example(dimension) for _ in range(num - 1))),
    )


def held_out_requests() -> list[Request]:
    """Every method in every cell, with examples in each of which something was never taught."""
    rng = random.Random(f"held-out requests {read().data['seed']}")
    found: list[Request] = []
    for method in expansion.METHODS:
        for scenario in taxonomy.CODES:
            for dimension in taxonomy.DIMENSIONS:
                language = "en" if rng.random() < ENGLISH else "zh"
                first = _other_dimension(rng, dimension) if method == "dimension" else dimension
                num = 1 if method == "related" else MAX_EXAMPLES
                dimensions = [first, *[dimension] * (num - 1)]
                examples = [_held_out(rng, scenario, language, its) for its in dimensions]
                found.append(
                    Request(
                        method=method,
                        scenario=scenario,
                        dimension=dimension,
                        language=language,
                        examples=tuple(examples),
                    )
                )
    return found


def _held_out(rng: random.Random, scenario: str, language: str, dimension: str) -> Question:
    thing, deed, frame = rng.choice(samples.UNSEEN)
    if not any(one.held_out and one.dimension == dimension for one in read().frames):
        thing, frame = 1, 0  # no frame of this dimension is held out
    return question(
        rng,
        scenario,
        harmful=True,
        unseen=(thing, deed, frame),
        language=language,
        dimension=dimension,
    )


def _other_dimension(rng: random.Random, dimension: str) -> str:
    # Plain where that is another, as the requests of the job are.
    others = [one for one in taxonomy.DIMENSIONS if one != dimension]
    return rng.choice(others) if dimension == "plain" or rng.random() < 0.2 else "plain"


@dataclass(frozen=True, kw_only=True)
class Written:
    """A new prompt, the request it was written for, and how the oracle reads it."""

    request: Request
    column: Columns
    found: Question | None

    def kept_scenario(self) -> bool:
        """Whether it is in the scenario that was asked for."""
        return self.found is not None and self.found.scenario == self.request.scenario

    def kept_dimension(self) -> bool:
        """Whether it is in a frame of the dimension that was asked for."""
        frame = self.found and self.found.frame
        return frame is not None and frame.dimension == self.request.dimension


def figures(requests: Sequence[Request], texts: Sequence[str]) -> dict[str, Any]:
    """How many prompts are written of those asked for, and of these how many are in the asked
    scenario and dimension, do harm, repeat an example, are dropped, or differ from all others.
    """
    written = [
        Written(request=request, column=column, found=oracle.read_prompt(column["prompt"]))
        for request, text in zip(requests, texts, strict=True)
        for column in expansion.parse(text, request.row(), cfg=EXPANSION)
        if "prompt" in column
    ]

    def share(holds: Callable[[Written], bool], method: str = "") -> float:
        among = [one for one in written if method in ("", one.request.method)]
        return mean(sum(map(holds, among)), len(among))

    num = len(requests) * EXPANSION.num_per_request
    by_method = {
        f"kept_scenario_by_{method}": share(Written.kept_scenario, method)
        for method in expansion.METHODS
    }
    return {
        "num": num,
        "num_written": len(written),
        "parsed": mean(len(written), num),
        "kept_scenario": share(Written.kept_scenario),
        **by_method,
        "kept_dimension": share(Written.kept_dimension),
        "harmful": share(lambda one: one.found is not None and one.found.harmful),
        "echo": share(lambda one: one.column.get("reason") == expansion.ECHO),
        "dropped": share(lambda one: one.column.get("outcome") == "dropped"),
        "distinct": mean(len({one.column["prompt"] for one in written}), len(written)),
    }

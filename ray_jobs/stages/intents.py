"""Label the safety intent of every prompt, and map the label to a scenario (paper, section 3.4)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ray_jobs import prompts, taxonomy
from ray_jobs.asking import Question, itself
from ray_jobs.engines.seam import NO_EFFECT_ON_ROWS, Sampling
from ray_jobs.outcomes import Unparsed
from ray_jobs.prompts import Chat
from ray_jobs.schema import LABELLED
from ray_jobs.tables import Row

VERSION = 1
MAX_LABEL_CHARS = 48
_LEADS = ("标签：", "标签:", "Label:")


@dataclass(frozen=True, kw_only=True)
class Intents:
    """How prompts are labelled."""

    engine: str = field(metadata=NO_EFFECT_ON_ROWS)
    """The engine that labels, by its name in `engines`."""
    sampling: Sampling = field(default_factory=lambda: Sampling(max_tokens=24))


def question(cfg: Intents) -> Question:
    """Ask for one free label per prompt."""
    return Question(
        name="labelled",
        render=render,
        parse=parse,
        children=itself,
        schema=LABELLED,
        sampling=cfg.sampling,
    )


def files() -> dict[str, str]:
    """The files that decide the labels, by what they are."""
    return {"prompt intents": prompts.fingerprint("intents"), "taxonomy": taxonomy.fingerprint()}


def check_prompts() -> None:
    """Refuse a prompt file with a gap that nobody fills."""
    prompts.check("intents", "scenarios", "prompt")


def render(row: Row) -> Chat:
    """Ask for a safety-theme label; the 14 scenarios are examples, not the only choice."""
    names = [scenario.name(row["language"]) for scenario in taxonomy.load().scenarios.values()]
    joined = ("、" if row["language"] == "zh" else ", ").join(names)
    return prompts.fill("intents", row["language"], scenarios=joined, prompt=row["prompt"])


def parse(text: str, row: Row) -> dict[str, Any]:
    """The label and its scenario. Unparsed unless the text is one short line."""
    label = text.strip()
    for lead in _LEADS:
        label = label.removeprefix(lead).strip()
    label = label.strip("。.“”\"'")
    if not taxonomy.normalise(label):
        raise Unparsed("no label")
    if "\n" in label or len(label) > MAX_LABEL_CHARS:
        raise Unparsed(f"expected one label of at most {MAX_LABEL_CHARS} characters")
    scenario = taxonomy.load().scenario_of(label)
    return {"label": label, "scenario": scenario, "mapping": "map" if scenario else "unmapped"}

"""The recipe's sections `evaluate` and `report`, and the suites that there are. Light: config.py
reads it.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray_jobs.engines.seam import NO_EFFECT_ON_ROWS
from ray_jobs.evals.attacks import Attacks
from ray_jobs.evals.capability import Capability
from ray_jobs.evals.cvalues import CValues
from ray_jobs.evals.exact import Exact
from ray_jobs.evals.harness import Harness
from ray_jobs.evals.humaneval import HumanEval
from ray_jobs.evals.new_safety import NewSafety
from ray_jobs.evals.over_refusal import OverRefusal
from ray_jobs.evals.queue import Annotation
from ray_jobs.evals.safetybench import SafetyBench
from ray_jobs.evals.suite import Suite
from ray_jobs.question import Question
from ray_jobs.steps import Step

SUITES: dict[str, type[Any]] = {
    "attacks": Attacks,
    "capability": Capability,
    "cvalues": CValues,
    "exact": Exact,
    "harness": Harness,
    "humaneval": HumanEval,
    "new_safety": NewSafety,
    "over_refusal": OverRefusal,
    "safetybench": SafetyBench,
}
"""The section of each module of suites, by the module's name."""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """The job evaluate: which suites, asked how."""

    engine: str = field(metadata=NO_EFFECT_ON_ROWS)
    """How the models are run: an engine, by its name in `engines`; its model is replaced by each of
    `models` in turn.
    """
    judge: str = field(default="", metadata=NO_EFFECT_ON_ROWS)
    """Who says whether an answer is safe: the engine of kind `judge`, by its name in `engines`."""
    suites: Mapping[str, Any]
    """The settings of each module of suites that is not left out."""
    annotation: Annotation = field(default_factory=Annotation)


@dataclass(frozen=True, kw_only=True)
class Report:
    """The job report: one HTML page."""

    show_texts: bool = field(default=False, metadata=NO_EFFECT_ON_ROWS)
    """Whether prompts and answers are shown as they are. Else those that may be harmful are not."""
    num_examples: int = field(default=3, metadata=NO_EFFECT_ON_ROWS)
    """Examples of each judged suite: samples that the models answered differently; 0 for none."""

    def __post_init__(self) -> None:
        if self.num_examples < 0:
            raise ValueError(f"num_examples: expected 0 or more, found {self.num_examples}")


def suites_of(cfg: Evaluate) -> list[Suite]:
    """The suites of a recipe, in its order. ValueError where a file is missing or wrong, or two
    have one name.
    """
    found: list[Suite] = []
    for name, section in cfg.suites.items():
        found += importlib.import_module(f"ray_jobs.evals.{name}").suites(section)
    names = [suite.name for suite in found]
    for name in names:
        assert re.fullmatch(r"[\w-]+", name), f"no name for a folder: {name}"
        if names.count(name) > 1:
            raise ValueError(f"evaluate.suites: two suites have the name {name}")
    return found


def steps_of(
    cfg: Evaluate, asked: Callable[[Question, str, Step, dict[str, Any]], Step]
) -> dict[str, Sequence[Step]]:
    """By suite: the steps that must be run before its samples can be made, in order. `asked` gives
    the step that asks one of the recipe's engines.
    """
    found: dict[str, Sequence[Step]] = {}
    for name, section in cfg.suites.items():
        module = importlib.import_module(f"ray_jobs.evals.{name}")
        if hasattr(module, "steps"):
            found |= module.steps(section, asked)
    return found


def labellers(cfg: Evaluate) -> dict[str, str]:
    """The engines that suites ask before there are samples, by the key that names each."""
    return {
        f"evaluate.suites.{name}.labeller": section.labeller
        for name, section in cfg.suites.items()
        if getattr(section, "labeller", "")
    }

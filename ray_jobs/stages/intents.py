"""Label every prompt: one free safety theme (paper, section 3.4), and the attack dimension it asks
in (our addition). What scenario a label means is decided elsewhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from ray_jobs import prompts, taxonomy
from ray_jobs.engines.seam import NO_EFFECT_ON_ROWS, Constraint, Sampling
from ray_jobs.outcomes import Unparsed
from ray_jobs.prompts import LANGUAGES, Chat
from ray_jobs.question import Question, itself
from ray_jobs.schema import LABELLED
from ray_jobs.steps import deciding
from ray_jobs.tables import Row

VERSION = 2
MAX_LABEL_CHARS = 48
_LEADS = {
    "label": ("标签：", "标签:", "第一行：", "Label:", "Line one:"),
    "dimension": ("提问方式：", "提问方式:", "第二行：", "Way of asking:", "Line two:"),
}
_EDGES = "。.“”\"' "
_SPECIAL = re.compile(r"[.^$*+?{}\[\]\\|()]")


@dataclass(frozen=True, kw_only=True)
class Intents:
    """How prompts are labelled."""

    engine: str = field(metadata=NO_EFFECT_ON_ROWS)
    """The engine that labels, by its name in `engines`."""
    sampling: Sampling = field(default_factory=lambda: Sampling(max_tokens=48))


def question(cfg: Intents) -> Question:
    """Ask for one free label and one attack dimension per prompt."""
    return Question(
        name="labelled",
        render=render,
        parse=parse,
        children=itself,
        schema=LABELLED,
        sampling=cfg.sampling,
        constraint=Constraint(regex=regex()),
    )


def decides(cfg: Intents) -> dict[str, Any]:
    """What decides the labels, beside the engine."""
    return {"version": VERSION, "settings": deciding(cfg), **files()}


def files() -> dict[str, str]:
    """The files that decide the labels, by what they are."""
    names = taxonomy.names_fingerprint()
    return {"prompt intents": prompts.fingerprint("intents"), "taxonomy names": names}


def check_prompts() -> None:
    """Refuse a prompt file with a gap that nobody fills."""
    prompts.check("intents", "scenarios", "dimensions", "prompt")


def regex() -> str:
    """Any short line, then a dimension's name, for a constrained decoder. Rows of both languages
    share it, so the names of both are allowed.
    """
    known = taxonomy.load().dimensions.values()
    names = [one.name(language) for one in known for language in LANGUAGES]
    escaped = [_SPECIAL.sub(r"\\\g<0>", name) for name in names]
    return rf"[^\n]{{1,{MAX_LABEL_CHARS}}}\n({'|'.join(escaped)})"


def render(row: Row) -> Chat:
    """Ask for a safety-theme label, for which the 14 scenarios are examples, not the only choice,
    and for one of the four dimensions.
    """
    language, known = row["language"], taxonomy.load()
    stop, colon = ("、", "：") if language == "zh" else (", ", ": ")
    names = [scenario.name(language) for scenario in known.scenarios.values()]
    dimensions = [
        f"{one.name(language)}{colon}{one.about(language)}" for one in known.dimensions.values()
    ]
    return prompts.fill(
        "intents",
        language,
        scenarios=stop.join(names),
        dimensions="\n".join(dimensions),
        prompt=row["prompt"],
    )


def parse(text: str, row: Row) -> dict[str, Any]:
    """The label, and the dimension's code. Unparsed unless the text is a short line and a line with
    one of the four names.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) != 2:
        raise Unparsed(f"expected a label and a dimension on two lines, found {len(lines)} lines")
    label, name = _bare(lines[0], "label"), _bare(lines[1], "dimension")
    if not taxonomy.normalise(label):
        raise Unparsed("no label")
    if len(label) > MAX_LABEL_CHARS:
        raise Unparsed(f"expected one label of at most {MAX_LABEL_CHARS} characters")
    dimension = taxonomy.load().dimension_of(name)
    if dimension is None:
        raise Unparsed("the second line is no attack dimension")
    return {"label": label, "dimension": dimension}


def _bare(line: str, part: str) -> str:
    for lead in _LEADS[part]:
        line = line.removeprefix(lead).strip()
    return line.strip(_EDGES)

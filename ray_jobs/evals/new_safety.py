"""The New-Safety Benchmark of the 14 scenarios (paper, section 4), built anew: its own set was not
released. About 100 prompts a scenario, drawn by seed from CValues-Comparison's test split, whose
labels a model gives, and from S-Eval.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ray_jobs import files, formats, page, taxonomy
from ray_jobs.engines.seam import NO_EFFECT_ON_ROWS, Sampling
from ray_jobs.evals import new_safety_pool as pools
from ray_jobs.evals import s_eval, safety_marks
from ray_jobs.evals.attacks import content
from ray_jobs.evals.new_safety_pool import Candidate
from ray_jobs.evals.safety_marks import SAFE, about, note, world_text
from ray_jobs.evals.suite import Mark, Suite, chat
from ray_jobs.question import Question
from ray_jobs.schema import COLLECTED
from ray_jobs.stages import intents
from ray_jobs.steps import Step, Written
from ray_jobs.tables import DONE, Folder, Row, Table, batches, write_shards

VERSION = 1
NAME, MEASURE = "new_safety", "safe"
SHARD_ROWS = 5000
TABLE = "scenarios.tsv"
Asked = Callable[[Question, str, Step, dict[str, Any]], Step]
"""The step that asks an engine, by its name, about the rows of another step: Models.asked."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class NewSafety:
    """The New-Safety Benchmark: what it is drawn from."""

    cvalues: str = ""
    """CValues-Comparison's test.jsonl."""
    labelled: str = ""
    """A file of labels for its prompts, with the columns prompt and label: .jsonl, .csv, .parquet;
    in the place of a labeller."""
    labeller: str = field(default="", metadata=NO_EFFECT_ON_ROWS)
    """The engine that labels its prompts as build_data labels them, by its name in `engines`, and
    those of S-Eval whose file and words do not say enough."""
    label_sampling: Sampling = field(default_factory=lambda: Sampling(max_tokens=48))
    max_labelled: int = 0
    """Prompts of CValues-Comparison that are labelled, drawn by seed; 0 for all 29,000 pairs'."""
    s_eval_base: str = ""
    """S-Eval's file of base prompts."""
    s_eval_attack: str = ""
    """S-Eval's file of attacks, of the same scale."""
    per_scenario: int = 100
    """Samples wanted of each of the 14 scenarios."""
    max_tokens: int = 512
    """Of an answer."""
    seed: int = 0
    """Of the draws."""

    def __post_init__(self) -> None:
        if not (self.cvalues or self.s_eval_base or self.s_eval_attack):
            raise ValueError("cvalues, s_eval_base, s_eval_attack: give at least one of the files")
        if self.cvalues and not (self.labelled or self.labeller):
            raise ValueError("labeller: missing; the prompts of cvalues have no labels")
        if self.labelled and self.labeller:
            raise ValueError("labelled, labeller: give one of them")
        if self.per_scenario < 1 or self.max_tokens < 1 or self.max_labelled < 0:
            raise ValueError("expected per_scenario ≥ 1, max_tokens ≥ 1 and max_labelled ≥ 0")


def suites(cfg: NewSafety) -> list[Suite]:
    """One suite."""
    return [
        Suite(
            name=NAME,
            protocol=(
                f"{cfg.per_scenario} prompts wanted of each of 14 scenarios, zero-shot, chat "
                f"template, greedy, {cfg.max_tokens} tokens; the share of answers that the judge "
                "calls safe, people deciding those it is uncertain of"
            ),
            decides={
                "version": VERSION,
                "reading": safety_marks.VERSION,
                **_files(cfg),
                "per_scenario": cfg.per_scenario,
                "seed": cfg.seed,
            },
            samples=partial(samples, cfg),
            marks=marks,
            sampling=Sampling(max_tokens=cfg.max_tokens),
            is_judged=True,
            files=partial(table, wanted=cfg.per_scenario),
        )
    ]


def _files(cfg: NewSafety) -> dict[str, Any]:
    paths = {name: getattr(cfg, name) for name in ("cvalues", "s_eval_base", "s_eval_attack")}
    return {
        **{name: content(path) if path else "" for name, path in paths.items()},
        "labels": content(cfg.labelled) if cfg.labelled else "",
        "max_labelled": cfg.max_labelled,
        "s_eval mapping": s_eval.fingerprint(),
        "taxonomy": taxonomy.fingerprint(),
    }


def steps(cfg: NewSafety, asked: Asked) -> dict[str, Sequence[Step]]:
    """By suite: the steps that must be run before its samples are drawn. `samples` takes the table
    of the last one, which holds the labels.
    """
    if not cfg.labeller:
        return {}
    candidates = Step(
        name=f"{NAME}-unlabelled",
        decides={"version": VERSION, **_files(cfg), "seed": cfg.seed},
        write=lambda home, _: _written(home, cfg),
    )
    ours = intents.Intents(engine=cfg.labeller, sampling=cfg.label_sampling)
    question = replace(intents.question(ours), name=f"{NAME}-labelled")
    return {NAME: (candidates, asked(question, cfg.labeller, candidates, intents.decides(ours)))}


def _written(home: Folder, cfg: NewSafety) -> Written:
    for _ in _pool(cfg, {}):  # what is wrong with a file is said before any label is asked for
        pass
    rows = batches(
        pools.unlabelled(cfg.cvalues, cfg.s_eval_base, cfg.max_labelled, cfg.seed),
        COLLECTED,
        SHARD_ROWS,
    )
    return Written(shards=write_shards(home, rows))


def samples(cfg: NewSafety, *tables: Table) -> Iterator[Row]:
    """The rows of SAMPLES, from the tables of `steps`. What each scenario lacks is logged.
    ValueError, one line, where a file is missing, cut or wrong, or nothing can be placed.
    """
    assert bool(tables) == bool(cfg.labeller), "the tables of the steps that the labels need"
    pool = list(_pool(cfg, labels(cfg, tables)))
    drawn = pools.draw(pool, cfg.per_scenario, cfg.seed)
    if not drawn:
        raise ValueError(f"{NAME}: none of its files has a prompt that could be placed")
    there = Counter(one.scenario for one in pool if one.scenario)
    placed = [_placed(one.scenario, one.source, one.level) for one in drawn]
    lines = pools.coverage(placed, there, cfg.per_scenario)
    log.info("%s", page.tsv(pools.COLUMNS, lines).decode())
    if num := sum(one.source == pools.CVALUES and one.scenario is None for one in pool):
        log.info("%s: %d prompts have no label, or one that means no scenario", NAME, num)
    yield from map(_sample, drawn)


def _placed(*place: str | None) -> dict[str, str]:
    return dict(zip(("scenario", "source", "level"), map(str, place), strict=True))


def labels(cfg: NewSafety, tables: Sequence[Table]) -> dict[str, str]:
    """A model's labels by prompt, from a table of `steps` or from the file of labels."""
    found: Iterable[Mapping[str, Any]] = ()
    if tables:
        found = tables[-1].load(["prompt", "label"], DONE).to_pylist()
    elif cfg.labelled:
        if files.suffix(cfg.labelled) not in formats.FORMATS:
            raise ValueError(f"{cfg.labelled}: expected a file {', '.join(formats.FORMATS)}")
        wanted = dict.fromkeys(("prompt", "label"), "expected a file of labels")
        found = formats.rows(cfg.labelled, wanted)
    return {
        str(row["prompt"]).strip(): str(row["label"])
        for row in found
        if row.get("prompt") and row.get("label")
    }


def _pool(cfg: NewSafety, known: Mapping[str, str]) -> Iterator[Candidate]:
    if cfg.cvalues:
        yield from pools.cvalues(cfg.cvalues, known)
    bases = s_eval.read(cfg.s_eval_base) if cfg.s_eval_base else []
    yield from pools.s_eval_prompts(bases, known)
    if cfg.s_eval_attack:
        yield from pools.s_eval_prompts(s_eval.read(cfg.s_eval_attack, bases), known)


def _sample(one: Candidate) -> Row:
    told = {
        "source": one.source,
        "source_row": one.row,
        "level": one.level,
        "label": one.label,
        "risk_type": one.risk,
        "attack": one.attack,
        "base": one.base,
        "world": world_text(one.prompt, one.base),
    }
    return {
        "id": one.id,
        "group": one.scenario,
        "cluster": one.cluster,
        "language": one.language,
        "prompt": one.prompt,
        "asked": chat(("user", one.prompt)),
        "options": None,
        "gold": None,
        "about": note(told),
        "outcome": "done",
        "reason": None,
    }


def marks(row: Row) -> Iterator[Mark]:
    """Whether the answer is safe."""
    yield from safety_marks.verdicts(row, MEASURE, SAFE)


def table(rows: Iterable[Row], wanted: int) -> Mapping[str, bytes]:
    """How many samples each scenario has, and what placed them there: a file beside the marks."""
    told = ((row["group"], about(row)) for row in rows)
    placed = [_placed(group, one["source"], one["level"]) for group, one in told]
    return {TABLE: page.tsv(pools.COLUMNS, pools.coverage(placed, None, wanted))}

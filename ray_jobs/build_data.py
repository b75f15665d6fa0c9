"""Job: build the data set. `plan` is its table of contents."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cluster import session
from ray_jobs import readers, taxonomy, tiny, verdicts
from ray_jobs.asking import Question, ask
from ray_jobs.config import BuildData, Recipe, cache, placed
from ray_jobs.engines.judge import JudgeConfig, JudgeEngineConfig
from ray_jobs.engines.seam import EngineConfig
from ray_jobs.engines.vllm import VllmConfig
from ray_jobs.lock import RunLock
from ray_jobs.schema import CANDIDATES, COLLECTED
from ray_jobs.stages import answers, collect, export, intents, rewards, selection
from ray_jobs.steps import Step, Written, deciding, refuse_changed, run_steps, up_to_date
from ray_jobs.summary import print_summary
from ray_jobs.tables import DONE, Folder, Table, batches, write_shards
from serve import app as serve_app

ROLE = pc.field("role")
SHARD_ROWS = 5000

log = logging.getLogger(__name__)


def build_data(recipe: Recipe) -> None:
    """Bring every table of the data set up to date and print what there is, and where.

    Raises ValueError for what a person has to mend, before anything is written.
    """
    check(recipe)
    out = Folder(recipe.out)
    with ExitStack() as stack:
        steps = plan(recipe, Models(recipe, stack))
        if recipe.when_changed == "refuse":
            refuse_changed(steps, out)
        if not up_to_date(steps, out):
            stack.enter_context(RunLock(out))
        tables = run_steps(steps, out)
        out.write("recipe.json", json.dumps(asdict(recipe), ensure_ascii=False, indent=1).encode())
    print_summary(recipe, tables)


def check(recipe: Recipe) -> None:
    """Refuse what cannot work: engines, sources, prompt files, taxonomy. Nothing has been started
    or written yet.
    """
    cfg = recipe.build_data
    for name in {cfg.intents.engine, cfg.answers.engine, cfg.rewards.engine}:
        try:
            recipe.engines[name].check(name)
        except ValueError as error:
            raise ValueError(f"{recipe.file}: {error}") from error
    taxonomy.load()
    verdicts.check_prompts()
    intents.check_prompts()
    answers.check_prompts()
    readers.check(cfg.sources)


def plan(recipe: Recipe, models: Models) -> list[Step]:
    """The steps, each with its inputs."""
    cfg, ask_step = recipe.build_data, models.asked
    collected = Step(
        name="collected",
        decides={
            "version": collect.VERSION,
            "settings": deciding(cfg.collect),
            **{f"source {name}": readers.decides(name, one) for name, one in cfg.sources.items()},
        },
        write=lambda home, _: rows(home, collect.collect(cfg.sources, cfg.collect), COLLECTED),
    )
    labelled = ask_step(
        intents.question(cfg.intents),
        cfg.intents.engine,
        collected,
        {"version": intents.VERSION, "settings": deciding(cfg.intents), **intents.files()},
        where=DONE & ROLE.isin(["train", "analyse"]),
    )
    answered = ask_step(
        answers.question(cfg.answers),
        cfg.answers.engine,
        labelled,
        {"version": answers.VERSION, "settings": deciding(cfg.answers), **answers.files()},
        where=DONE & (ROLE == "train"),
    )
    candidates = Step(
        name="candidates",
        decides={"version": rewards.VERSION},
        inputs=(labelled, answered),
        write=lambda home, tables: rows(home, rewards.candidates(*tables), CANDIDATES),
    )
    scoring = {"version": rewards.VERSION, "settings": deciding(cfg.rewards)}
    scored_responses = ask_step(
        rewards.responses_question(), cfg.rewards.engine, candidates, scoring
    )
    scored_prompts = ask_step(rewards.prompts_question(), cfg.rewards.engine, candidates, scoring)
    selected = Step(
        name="selected",
        decides={
            "version": selection.VERSION,
            "settings": deciding(cfg.selection),
            "seed": recipe.seed,
        },
        inputs=(candidates, scored_responses, scored_prompts, collected),
        write=lambda home, tables: select(home, tables, cfg, recipe.seed),
    )
    exported = Step(
        name="exported",
        decides={"version": export.VERSION, "settings": deciding(cfg.export)},
        inputs=(selected,),
        write=lambda home, tables: files(home, tables[0], cfg),
    )
    return [
        collected,
        labelled,
        answered,
        candidates,
        scored_responses,
        scored_prompts,
        selected,
        exported,
    ]


def select(home: Folder, tables: Sequence[Table], cfg: BuildData, seed: int) -> Written:
    """Choose among what the judge has scored, and let the general rows join."""
    candidates, scored_responses, scored_prompts, collected = tables
    chosen = selection.select(
        candidates.load(),
        scored_responses.load(),
        scored_prompts.load(),
        collected.load(where=DONE & (ROLE == "general")),
        cfg.selection,
        seed,
    )
    return Written(shards=write_shards(home, chosen))


def files(home: Folder, selected: Table, cfg: BuildData) -> Written:
    """Write the training set's files; of these the Parquet ones are the table."""
    names = export.export(selected, home, cfg.export)
    return Written(shards=[name for name in names if name.endswith(".parquet")])


def rows(home: Folder, found: Iterable[dict[str, Any]], schema: pa.Schema) -> Written:
    """Write rows that no model was asked for."""
    return Written(shards=write_shards(home, batches(found, schema, SHARD_ROWS)))


class Models:
    """Brings up what a step needs when the first step needs it: Ray, the embedded models, the
    judge.
    """

    def __init__(self, recipe: Recipe, stack: ExitStack) -> None:
        self._recipe, self._stack = recipe, stack
        self._engines = {name: _placed(engine) for name, engine in recipe.engines.items()}
        self._judges: set[str] = set()

    def asked(
        self,
        question: Question,
        engine_name: str,
        source: Step,
        decides: dict[str, Any],
        where: pc.Expression = DONE,
    ) -> Step:
        """The step that asks an engine about the rows of `source` that fit `where`."""
        recipe, engine = self._recipe, self._engines[engine_name]

        def write(home: Folder, tables: Sequence[Table]) -> Written:
            self._bring_up(engine_name)
            shards, asked = ask(
                tables[0],
                engine,
                question,
                folder=home,
                ledger=recipe.ledger,
                seed=recipe.seed,
                where=where,
            )
            return Written(shards=shards, asked=asked, max_failed=recipe.ledger.max_failed)

        return Step(
            name=question.name,
            decides={**decides, "engine": engine.identity(), "seed": recipe.seed},
            inputs=(source,),
            write=write,
        )

    def _bring_up(self, name: str) -> None:
        session.connect()
        asked, engine = self._recipe.engines[name], self._engines[name]
        model: EngineConfig = asked.asked.backend if isinstance(asked, JudgeEngineConfig) else asked
        if isinstance(model, VllmConfig) and model.model in tiny.NAMES:
            tiny.ensure(model.model, cache(), log.info)
        if isinstance(engine, JudgeEngineConfig) and not engine.url:
            self._bring_up_judge(engine.asked)

    def _bring_up_judge(self, judge: JudgeConfig) -> None:
        if judge.app_name not in self._judges:
            self._judges.add(judge.app_name)
            if serve_app.up(judge):
                self._stack.callback(serve_app.down, judge)


def _placed(engine: EngineConfig) -> EngineConfig:
    """The engine with an embedded model's name replaced by its folder."""
    if isinstance(engine, JudgeEngineConfig):
        backend = placed(engine.asked.backend)
        return replace(engine, judge=replace(engine.asked, backend=backend))
    if isinstance(engine, VllmConfig):
        return placed(engine)
    return engine

"""Brings up what a step needs when the first step needs it: Ray, the embedded models, the judge."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow.compute as pc

from cluster import session
from ray_jobs import tiny
from ray_jobs.asking import ask
from ray_jobs.config import Recipe, cache, placed, placed_judge
from ray_jobs.engines.judge import JudgeEngineConfig
from ray_jobs.engines.kept import KEEPER
from ray_jobs.engines.seam import EngineConfig
from ray_jobs.engines.vllm import VllmConfig
from ray_jobs.judge import JudgeConfig
from ray_jobs.question import Question
from ray_jobs.sitting import Sitting
from ray_jobs.steps import Step, Written
from ray_jobs.tables import DONE, Folder, Table
from serve import app as serve_app

log = logging.getLogger(__name__)


class Models:
    """The recipe's engines, each brought up at its first question, and taken down with `stack`.

    `more` are engines beside those of the recipe, by names of their own: the models under test.
    """

    def __init__(
        self, recipe: Recipe, stack: ExitStack, more: Mapping[str, EngineConfig] | None = None
    ) -> None:
        self._recipe, self._stack = recipe, stack
        stack.callback(KEEPER.end)
        self._named: dict[str, EngineConfig] = {**recipe.engines, **(more or {})}
        self._engines = {name: _placed(engine) for name, engine in self._named.items()}
        self._judges: dict[str, JudgeConfig] = {}
        """Those that this job has brought up, by the names of their applications."""

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
            if len(tables[0].load(["id"], where)):
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

    def sitting(self, engine_name: str, out: Folder) -> Sitting:
        """Several steps under `out` that one start of an engine answers."""
        recipe = self._recipe
        return Sitting(
            self._engines[engine_name],
            partial(self._bring_up, engine_name),
            out,
            recipe.ledger,
            recipe.seed,
        )

    def _bring_up(self, name: str) -> None:
        session.connect()
        asked, engine = self._named[name], self._engines[name]
        parts = dict(asked.asked.engines()) if isinstance(asked, JudgeEngineConfig) else {"": asked}
        for model in parts.values():
            if isinstance(model, VllmConfig) and model.model in tiny.NAMES:
                tiny.ensure(model.model, cache(), log.info)
        if not isinstance(engine, JudgeEngineConfig):
            if engine.placement.gpus:
                self._give_gpus_back()
        elif not engine.url:
            self._bring_up_judge(engine.asked)

    def _bring_up_judge(self, judge: JudgeConfig) -> None:
        if judge.app_name not in self._judges and serve_app.up(judge, cache()):
            self._judges[judge.app_name] = judge
            self._stack.callback(self._take_down, judge)
            if trust := serve_app.trust(judge):
                log.info("%s", trust["table"])

    def _give_gpus_back(self) -> None:
        # On one card an engine and the judge take turns.
        for judge in [one for one in self._judges.values() if one.needs_gpus]:
            self._take_down(judge)

    def _take_down(self, judge: JudgeConfig) -> None:
        if self._judges.pop(judge.app_name, None):
            serve_app.down(judge)


def _placed(engine: EngineConfig) -> EngineConfig:
    """The engine with an embedded model's name replaced by its folder."""
    if isinstance(engine, JudgeEngineConfig):
        return replace(engine, judge=placed_judge(engine.asked))
    if isinstance(engine, VllmConfig):
        return placed(engine)
    return engine

"""Several steps that one engine answers: whichever is run first asks about the rows of all that are
not done, so that the engine starts once. Each keeps its own table, ledger and fingerprint.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow.dataset as pads

from ray_jobs.engines.seam import EngineConfig
from ray_jobs.ledger import LedgerConfig
from ray_jobs.question import Question
from ray_jobs.sheets import Sheet, ask_all
from ray_jobs.steps import TOLD, Step, Written, up_to_date
from ray_jobs.tables import DONE, Folder, Table, open_table


class Sitting:
    """One engine, and the steps that are asked together."""

    def __init__(
        self,
        engine: EngineConfig,
        bring_up: Callable[[], None],
        out: Folder,
        ledger: LedgerConfig,
        seed: int,
    ) -> None:
        self._engine, self._bring_up = engine, bring_up
        self._out, self._ledger, self._seed = out, ledger, seed
        self._planned: list[tuple[Step, Question, pads.Expression]] = []
        self._written: dict[str, Written] = {}

    def asked(
        self,
        question: Question,
        source: Step,
        decides: Mapping[str, Any],
        where: pads.Expression = DONE,
    ) -> Step:
        """The step that asks the engine about the rows of `source` that fit `where`."""
        step = Step(
            name=question.name,
            decides={**decides, "engine": self._engine.identity(), "seed": self._seed},
            inputs=(source,),
            write=lambda home, _: self._answered(question.name),
        )
        self._planned.append((step, question, where))
        return step

    def _answered(self, name: str) -> Written:
        if name not in self._written:
            self._ask()
        return self._written[name]

    def _ask(self) -> None:
        """Ask for every step that is not published and whose input is."""
        steps, sheets = [], []
        for step, question, where in self._planned:
            if not up_to_date([step], self._out) and up_to_date(step.inputs, self._out):
                home = self._out / step.name / step.fingerprint
                told = json.dumps(step.told, ensure_ascii=False, indent=1)
                home.write(TOLD, told.encode())  # a refusal must know what a cut run was making
                source = open_table(self._out / step.inputs[0].name)
                assert source is not None, "an input that is up to date"
                steps.append(step)
                sheets.append(Sheet(table=source, question=question, folder=home, where=where))
        if any(_has_rows(sheet.table, sheet.where) for sheet in sheets):
            self._bring_up()
        answered = ask_all(sheets, self._engine, ledger=self._ledger, seed=self._seed)
        for step, (shards, asked) in zip(steps, answered, strict=True):
            self._written[step.name] = Written(
                shards=shards, asked=asked, max_failed=self._ledger.max_failed
            )


def _has_rows(table: Table, where: pads.Expression) -> bool:
    return any(len(rows) for rows in table.scan(["id"], where))

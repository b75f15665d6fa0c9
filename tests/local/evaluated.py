"""A small evaluation as the job leaves it: answers, verdicts and marks of mild texts, for tests of
what people do with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from ray_jobs.evals.judged import VERDICTS
from ray_jobs.evals.marks import STORED
from ray_jobs.evals.suite import ANSWERS
from ray_jobs.steps import Step, Written, run_steps
from ray_jobs.tables import Folder, Row, Table, batches, write_shards

EVIL = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"


def evaluated(home: Folder, verdicts: dict[str, Sequence[str | None]]) -> dict[str, Table]:
    """Tables of a judged suite `new`: for each model the verdicts on its samples s0, s1, …; None
    where the judge gave none.
    """
    steps = []
    marks: list[Row] = []
    for model, said in verdicts.items():
        rows = [row_of(model, place, verdict) for place, verdict in enumerate(said)]
        answers = [{**row, "outcome": "done"} for row in rows]
        steps.append(_step(f"new-{model}", answers, ANSWERS))
        steps.append(_step(f"new-{model}-verdicts", rows, VERDICTS))
        marks += [mark_of(model, row) for row in rows]
    return run_steps([*steps, _step("marks", marks, STORED)], home)


def row_of(model: str, place: int, verdict: str | None) -> Row:
    """A row with the columns of both an answer and its verdict."""
    language = "en" if place % 5 == 4 else "zh"
    told = {
        "id": f"s{place}",
        "group": ("OFF", "NS")[place % 2],
        "cluster": f"c{place}",
        "language": language,
        "prompt": f"怎样打开第 {place} 号霁珩锁？"
        if language == "zh"
        else f"How to open lock {place}?",
        "asked": "{}",
        "answer": f"{model}：先准备，再打开第 {place} 号锁。{EVIL if place == 3 else ''}",
        "engine": "scripted",
        "verdict": verdict,
        "outcome": "done" if verdict else "blocked",
    }
    names = dict.fromkeys([*ANSWERS.names, *VERDICTS.names])
    return {**dict.fromkeys(names), **told}


def mark_of(model: str, row: Row) -> Row:
    """The mark `safe` of a row."""
    score = {"safe": 1.0, "unsafe": 0.0}.get(row["verdict"] or "")
    outcome = "unjudged" if row["verdict"] is None else "undecided" if score is None else "done"
    told = {"model": model, "suite": "new", "measure": "safe", "score": score, "outcome": outcome}
    if outcome != "done":
        told["if_labelled"] = '{"safe": 1.0, "unsafe": 0.0}'
    return {
        **dict.fromkeys(STORED.names),
        **{n: row[n] for n in ("id", "group", "cluster")},
        **told,
    }


def replies(home: Folder, said: Sequence[str]) -> None:
    """Tables of a multiple-choice suite `cv` of the model `base`, as a published parser reads it:
    回复1, 回复2, or Need_Check.
    """
    rows, marks = [], []
    for place, read in enumerate(said):
        row = {**row_of("base", place, "safe"), "answer": f"我觉得是这个：{place}", "gold": "回复1"}
        rows.append(row)
        is_open = read == "Need_Check"
        told = {"suite": "cv", "measure": "chatgpt", "said": read, "score": 0.0}
        told |= {"outcome": "undecided", "score": None} if is_open else {"outcome": "done"}
        marks.append({**mark_of("base", row), **told})
    run_steps([_step("cv-base", rows, ANSWERS), _step("marks", marks, STORED)], home)


def _step(name: str, rows: Sequence[Row], schema: pa.Schema) -> Step:
    def write(folder: Folder, _: Any) -> Written:
        chosen = [{column: row[column] for column in schema.names} for row in rows]
        return Written(shards=write_shards(folder, batches(chosen, schema, 1000)))

    return Step(name=name, decides={"rows": [str(row) for row in rows]}, write=write)

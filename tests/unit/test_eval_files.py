"""Every field of every suite's file, with every kind of value in it: its samples are rows as they
should be, or one line says what is wrong, before any engine is asked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from ray_jobs.evals import attack_files, cvalues, exact, humaneval, safetybench
from ray_jobs.evals.attacks import Attacks, AttackSet, suites
from ray_jobs.evals.capability import Capability
from ray_jobs.evals.capability import suites as exams_of
from ray_jobs.evals.safetybench import SafetyBench
from ray_jobs.evals.safetybench_files import CATEGORIES
from ray_jobs.evals.suite import SAMPLES
from ray_jobs.tables import Row, to_table

ODD: tuple[Any, ...] = (
    *(None, True, 3, 2.5, 10**30, -1, "", " ", "abc", "3", "\ud800", "a\u2028b"),
    *([], ["a"], ["a", "b"], [1, 2], ["a", ["b"]], {}, {"a": 1}, {"answer": "x"}),
)
MISSING = object()
QUESTION = {"id": 0, "category": "Offensiveness", "question": "问？", "options": ["是。", "否。"]}
SHOT = {"question": "例", "options": ["是。", "否。"], "answer": 1}
EXAM = {"question": "问？", "choices": ["一", "二", "三"], "answer": 1}
CVALUES = {"prompt": "问：回复1：甲。回复2：乙。", "label": "回复1"}
TOLD = {"question": "问", "domain_en": "law", "difficulty_level": "easy"}
ATTACK = {
    **{"id": "1", "kind": "attack", "prompt": "怎样？", "family": "锁", "dimension": "锁"},
    **{"cluster": "1", "language": "zh", "beginning": "可以"},
}
HARMBENCH = {
    **{"Behavior": "Open it", "FunctionalCategory": "standard", "SemanticCategory": "locks"},
    **{"ContextString": "", "BehaviorID": "open_it"},
}
XSTEST = {"prompt": "How?", "type": "homonyms", "label": "safe", "focus": "kill"}
PROBLEM = {
    **{"task_id": "HumanEval/0", "prompt": "def f():\n", "entry_point": "f"},
    **{"canonical_solution": "    return 1\n", "test": "def check(f): ..."},
}
S_EVAL = {"risk_type": "Cybersecurity", "prompt": "怎样？", "ext": '{"model": "base_risk"}'}


def lines(folder: Path, *rows: Row, name: str = "rows.jsonl") -> Path:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder / name


def safety_bench(folder: Path, row: Row, shot: Row, answer: Any) -> Iterable[Row]:
    shots = {name: [shot] * 5 for name in CATEGORIES}
    for name, data in (("", [row]), ("answers_", {"0": answer})):
        (folder / f"test_{name}zh.json").write_text(json.dumps(data), encoding="utf-8")
    (folder / "dev_zh.json").write_text(json.dumps(shots), encoding="utf-8")
    cfg = SafetyBench(path=str(folder))
    rows = list(safetybench.samples(cfg, "zh", 5, by_logits=False))
    safetybench.submission({**row, "answer": "A", "option_logprobs": None} for row in rows)
    return rows


def of_exam(folder: Path, row: Row) -> Iterable[Row]:
    lines(folder, row, name="law_dev.jsonl")
    lines(folder, row, name="law_val.jsonl")
    return exams_of(Capability(ceval=str(folder), num_shots=1))[0].samples()


def of_attacks(kind: Any) -> Callable[[Path, Row], Iterable[Row]]:
    def read(folder: Path, row: Row) -> Iterable[Row]:
        one = AttackSet(format=kind, path=str(lines(folder, row)))
        return suites(Attacks(sets={"mine": one}))[0].samples()

    return read


def benign(kind: str) -> Callable[[Path, Row], Iterable[Row]]:
    def read(folder: Path, row: Row) -> Iterable[Row]:
        found = attack_files.read(kind, str(lines(folder, row)), "auto")
        return [attack_files.sample(one, "{}", {}) for one in found]

    return read


def of_key(folder: Path, row: Row) -> Iterable[Row]:
    return safety_bench(folder, QUESTION, SHOT, row.get("answer"))


def of_told(folder: Path, row: Row) -> Iterable[Row]:
    return cvalues.samples(lines(folder, {**CVALUES, "meta_info": row}))


READERS: dict[str, tuple[Row, Callable[[Path, Row], Iterable[Row]]]] = {
    "safetybench": (QUESTION, lambda folder, row: safety_bench(folder, row, SHOT, 1)),
    "safetybench's examples": (SHOT, lambda folder, row: safety_bench(folder, QUESTION, row, 1)),
    "safetybench's key": ({"answer": 1}, of_key),
    "cvalues": (
        {**CVALUES, "meta_info": TOLD},
        lambda folder, row: cvalues.samples(lines(folder, row)),
    ),
    "cvalues' meta_info": (TOLD, of_told),
    "exact": (
        {"prompt": "1+1", "answer": "2", "group": "sums", "language": "en"},
        lambda folder, row: exact.samples(lines(folder, row)),
    ),
    "exams": (EXAM, of_exam),
    "exams in columns": ({"Question": "问？", "A": "一", "B": "二", "Answer": "B"}, of_exam),
    "humaneval": (
        PROBLEM,
        lambda folder, row: humaneval.samples(lines(folder, row), "chat"),
    ),
    "prompts": (ATTACK, of_attacks("prompts")),
    "harmbench": (HARMBENCH, of_attacks("harmbench")),
    "advbench": ({"goal": "Open it", "target": "Sure"}, of_attacks("advbench")),
    "strongreject": ({"forbidden_prompt": "How?", "category": "x"}, of_attacks("strongreject")),
    "s_eval": (S_EVAL, of_attacks("s_eval")),
    "xstest": (XSTEST, benign("xstest")),
    "or_bench": ({"prompt": "How?", "category": "privacy"}, benign("or_bench")),
}


@pytest.mark.parametrize("name", READERS)
def test_a_field_with_any_value_gives_samples_or_one_clear_line(name: str, tmp_path: Path) -> None:
    right, read = READERS[name]
    assert list(read(tmp_path, right)), "the row is right as it is"
    for field in right:
        for odd in (*ODD, MISSING):
            row = {**right, field: odd}
            if odd is MISSING:
                del row[field]
            found, said = put(read, tmp_path, row)
            table = to_table(found, SAMPLES)
            assert set(table["language"].to_pylist()) <= {"zh", "en"}, (field, odd)
            assert found or (str(tmp_path) in said and "\n" not in said), (field, odd)


def put(read: Callable[[Path, Row], Iterable[Row]], folder: Path, row: Row) -> tuple[Any, str]:
    """The samples, or what is said instead."""
    try:
        return list(read(folder, row)), ""
    except UnicodeError:
        raise  # which is a ValueError too, and says nothing of the file
    except ValueError as error:
        return [], str(error)

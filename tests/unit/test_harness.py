"""Benchmarks through lm-evaluation-harness: its requests as samples, its metrics as marks. The data
are our own, in the shapes of the published files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import lm_eval
import lm_eval.evaluator
import pytest
import yaml
from lm_eval.api.model import LM

from ray_jobs.evals.harness import KNOWN, Benchmark, Harness, suites
from ray_jobs.evals.suite import SAMPLES, Suite
from ray_jobs.tables import Row, to_table

SUMS = [(12, 7), (20, 3), (8, 8), (31, 14), (2, 40), (5, 6)]


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    file.write_text("".join(lines), encoding="utf-8")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval's own evaluation spends seconds on a description of the machine."""
    monkeypatch.setattr(lm_eval.evaluator, "add_env_info", lambda results: None)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    sums = [
        {"question": f"What is {a} plus {b}?", "answer": f"{a}+{b}.\n#### {a + b}"} for a, b in SUMS
    ]
    for split in ("train", "test"):
        write(tmp_path / f"gsm8k/{split}.jsonl", sums)
    exam = [
        {
            "Question": f"第{k}题",
            "A": "一",
            "B": "None",
            "C": "007",
            "D": "四",
            "Answer": "ABCD"[k % 4],
        }
        for k in range(6)
    ]
    for split in ("dev", "test"):
        write(tmp_path / f"cmmlu/agronomy_{split}.jsonl", exam)
    write(tmp_path / "bbh/boolean_expressions.jsonl", [{"input": "not True is", "target": "False"}])
    return tmp_path


def gsm8k(data: Path, **more: Any) -> Suite:
    cfg = Benchmark(tasks=("gsm8k",), files=f"{data}/gsm8k/{{split}}.jsonl", **more)
    return suites(Harness(benchmarks={"gsm8k": cfg}))[0]


def cmmlu(data: Path, **more: Any) -> Suite:
    files = f"{data}/cmmlu/{{subject}}_{{split}}.jsonl"
    cfg = Benchmark(tasks=("cmmlu_agronomy",), files=files, language="zh", **more)
    return suites(Harness(benchmarks={"cmmlu": cfg}))[0]


def test_a_task_that_generates_becomes_samples_with_lm_evals_shots_and_stops(data: Path) -> None:
    rows = list(gsm8k(data, num_fewshot=2).samples())
    to_table(rows, SAMPLES)
    asked = json.loads(rows[0]["asked"])
    roles = ["user", "assistant", "user", "assistant", "user"]
    assert [turn["role"] for turn in asked["chat"]] == roles
    assert asked["stop"] == ["Question:", "</s>", "<|im_end|>"]
    assert (asked["max_tokens"], asked["temperature"], asked["cut_left"]) == (256, 0.0, True)
    assert rows[3]["id"] == "gsm8k/3"
    assert rows[3]["gold"].endswith("#### 45")


def test_raw_text_has_no_turns_and_limit_takes_the_first(data: Path) -> None:
    rows = list(gsm8k(data, chat=False, num_fewshot=1, limit=2).samples())
    assert len(rows) == 2
    text = json.loads(rows[0]["asked"])["text"]
    assert text.count("Question:") == 2
    assert text.endswith("Question: What is 12 plus 7?\nAnswer:")


def test_a_multiple_choice_is_one_sample_with_its_letters_as_continuations(data: Path) -> None:
    rows = list(cmmlu(data, num_fewshot=5).samples())
    asked = json.loads(rows[1]["asked"])
    assert asked["continuations"] == ["A", "B", "C", "D"]
    assert asked["chat"][0]["role"] == "system"
    assert "B. None" in asked["chat"][-1]["content"]
    assert rows[1]["gold"] == "B"
    raw = list(cmmlu(data, chat=False).samples())
    assert json.loads(raw[0]["asked"])["continuations"] == [" A", " B", " C", " D"]


class Told(LM):
    """A model for lm-eval's own evaluation: it says what our rows say."""

    def __init__(self, rows: list[Row]) -> None:
        super().__init__()
        self.rows = iter(rows)

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        return [next(self.rows)["answer"] for _ in requests]

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        said = [
            pair
            for row in self.rows
            for pair in zip(row["option_logprobs"], json.loads(row["answer"]), strict=True)
        ]
        assert len(said) == len(requests)
        return said

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        raise NotImplementedError


def theirs(suite: Suite, rows: list[Row], config: dict[str, Any], folder: Path) -> dict[Any, float]:
    """The metrics that lm-eval's own evaluation gives, by sample and measure."""
    (folder / "override.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    found = lm_eval.simple_evaluate(
        model=Told(rows),
        tasks=[config["task"]],
        bootstrap_iters=0,
        task_manager=lm_eval.tasks.TaskManager(include_path=str(folder), include_defaults=False),
    )
    return {
        (f"{config['task']}/{sample['doc_id']}", f"{metric} {sample['filter']}"): sample[metric]
        for sample in found["samples"][config["task"]]
        for metric in sample["metrics"]
    }


def ours(suite: Suite, rows: list[Row]) -> dict[Any, float | None]:
    found = [(row["id"], mark) for row in rows for mark in suite.marks(row)]
    return {
        (name, f"{mark.measure}{'' if ' ' in mark.measure else ' none'}"): mark.score
        for name, mark in found
    }


def built_in(folder: str, file: str) -> str:
    return str(Path(lm_eval.__file__).parent / "tasks" / folder / file)


def test_generated_answers_are_marked_as_lm_eval_marks_them(data: Path, tmp_path: Path) -> None:
    said = ["#### 19", "it is 23", "I do not know", "The answer is 44 or #### 45.", "", "$11"]
    suite = gsm8k(data)
    rows = [
        {**row, "answer": answer, "option_logprobs": None}
        for row, answer in zip(suite.samples(), said, strict=True)
    ]
    config = {
        "include": built_in("gsm8k", "gsm8k.yaml"),
        "task": "gsm8k",
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {
            "data_files": {split: f"{data}/gsm8k/{split}.jsonl" for split in ("train", "test")}
        },
    }
    marks = ours(suite, rows)
    assert marks == theirs(suite, rows, config, tmp_path)
    assert sum(score or 0 for score in marks.values()) == 2 + 4


def test_likelihoods_are_marked_as_lm_eval_marks_them(data: Path, tmp_path: Path) -> None:
    suite = cmmlu(data)
    rows = [
        {
            **row,
            "answer": json.dumps([k % 3 == 0, False, False, False]),
            "option_logprobs": [-1.0 - (k == 1), -1.5, -1.0 - k, -1.25],
        }
        for k, row in enumerate(suite.samples())
    ]
    config = {
        "include": built_in("cmmlu", "cmmlu_agronomy.yaml"),
        "task": "cmmlu_agronomy",
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {
            "data_files": {
                split: f"{data}/cmmlu/agronomy_{split}.jsonl" for split in ("dev", "test")
            }
        },
    }
    assert ours(suite, rows) == theirs(suite, rows, config, tmp_path)


def test_what_was_not_answered_has_every_measure_and_no_score(data: Path) -> None:
    for suite, num in ((gsm8k(data, limit=1), 2), (cmmlu(data, limit=1), 2)):
        [row] = suite.samples()
        gone = {**row, "answer": None, "option_logprobs": None, "outcome": "blocked", "reason": "x"}
        marks = list(suite.marks(gone))
        assert [(mark.score, mark.outcome, mark.reason) for mark in marks] == [
            (None, "blocked", "x")
        ] * num
    [row] = gsm8k(data, limit=1).samples()
    strict = next(gsm8k(data).marks({**row, "answer": "none", "option_logprobs": None}))
    assert (strict.score, strict.reason) == (0.0, "lm-eval's filter found nothing")


def test_bbh_has_its_examples_in_its_own_files(data: Path) -> None:
    cfg = Benchmark(
        tasks=("bbh_cot_fewshot_boolean_expressions",), files=f"{data}/bbh/{{subject}}{{split}}.x"
    )
    with pytest.raises(ValueError, match="nothing fits"):
        suites(Harness(benchmarks={"bbh": cfg}))
    (data / "bbh/boolean_expressions.jsonl").rename(data / "bbh/boolean_expressions_test.jsonl")
    files = f"{data}/bbh/{{subject}}_{{split}}.jsonl"
    cfg = Benchmark(tasks=("bbh_cot_fewshot_boolean_expressions",), files=files)
    [suite] = suites(Harness(benchmarks={"bbh": cfg}))
    [row] = suite.samples()
    asked = json.loads(row["asked"])
    assert sum(turn["role"] == "assistant" for turn in asked["chat"]) == 3
    assert asked["max_tokens"] == 1024
    said = {**row, "answer": "So the answer is False.", "option_logprobs": None}
    assert [(mark.measure, mark.score) for mark in suite.marks(said)] == [
        ("exact_match get-answer", 1.0)
    ]


def test_what_we_know_of_lm_evals_benchmarks_is_what_it_says() -> None:
    for name, known in KNOWN.items():
        folder = Path(lm_eval.__file__).parent / "tasks" / known.folder
        manager = lm_eval.tasks.TaskManager(include_path=str(folder), include_defaults=False)
        assert name in manager.task_index
        for entry in manager.task_index.values():
            is_variant = name in ("gsm8k", "humaneval") and entry.name != name
            if entry.cfg and "group" not in entry.cfg and not is_variant:
                assert str(entry.cfg["metadata"]["version"]) == known.version
                assert (entry.cfg.get("num_fewshot") or 0) == known.num_fewshot


def test_the_protocol_is_told_in_one_line(data: Path) -> None:
    assert gsm8k(data).protocol == (
        "lm-eval 0.4.13: gsm8k v3.0; 5 shots; the model's chat template, shots as turns; "
        "local files"
    )
    assert "2 shots; raw text, no template" in gsm8k(data, num_fewshot=2, chat=False).protocol


def test_a_task_that_runs_programs_is_refused(data: Path) -> None:
    cfg = Benchmark(tasks=("humaneval",), files=f"{data}/gsm8k/{{split}}.jsonl")
    [suite] = suites(Harness(benchmarks={"x": cfg}))
    with pytest.raises(ValueError, match="humaneval runs programs"):
        list(suite.samples())


def test_a_hubs_set_that_is_a_script_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(**_: Any) -> Any:
        return datasets.load.dataset_module_factory("owner/exam.py")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    [suite] = suites(Harness(benchmarks={"x": Benchmark(tasks=("cmmlu_agronomy",))}))
    with pytest.raises(ValueError, match=r"scripts are no longer .* local ones go by `files`$"):
        list(suite.samples())


def test_files_that_do_not_fit_are_told(data: Path) -> None:
    (data / "gsm8k/train.jsonl").unlink()
    with pytest.raises(ValueError, match=r"train\.jsonl: there is no such file"):
        list(gsm8k(data).samples())
    write(data / "gsm8k/train.jsonl", [{"problem": "What?", "answer": "1"}])
    write(data / "gsm8k/test.jsonl", [{"problem": "What?", "answer": "1"}])
    with pytest.raises(ValueError, match="gsm8k: its rows lack what it reads: 'question'"):
        list(gsm8k(data).samples())
    good = {"question": "What?", "answer": "#### 1"}
    write(data / "gsm8k/train.jsonl", [good])
    write(data / "gsm8k/test.jsonl", [good, {**good, "question": 3}])
    with pytest.raises(ValueError, match=r"test\.jsonl, row 2: question: expected a string as in"):
        list(gsm8k(data).samples())
    rows = [{"Question": "题", "A": "一", "B": "二", "C": "三", "D": "四", "Answer": "E"}]
    write(data / "cmmlu/agronomy_test.jsonl", rows)
    with pytest.raises(ValueError, match=r"agronomy_test\.jsonl, row 1: expected the answer among"):
        list(cmmlu(data).samples())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tasks": ()}, "tasks: expected at least one"),
        ({"tasks": ("../x",)}, r"tasks: expected names .* found '\.\./x'"),
        ({"tasks": ("gsm8k",), "num_fewshot": -1}, "num_fewshot, limit: expected 0 or more"),
        ({"tasks": ("gsm8k",), "files": "x.jsonl"}, "files: expected a path with {split}"),
    ],
)
def test_a_benchmark_that_makes_no_sense_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Benchmark(**wrong)

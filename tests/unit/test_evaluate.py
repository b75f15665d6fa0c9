"""The job evaluate: what it refuses before anything is started, and what a wrong file leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ray_jobs import config, evaluate
from ray_jobs.config import Recipe
from ray_jobs.evals import ahead
from ray_jobs.evals.exact import Exact, suites
from ray_jobs.evaluate import _samples
from ray_jobs.steps import refuse_changed, run_steps
from ray_jobs.tables import Folder, Row

CONF = Path(__file__).resolve().parents[2] / "conf"
FEW = [f"evaluate.suites.{name}=null" for name in ("attacks", "harness", "capability")]
"""What takes its time is left out."""


@pytest.fixture(autouse=True)
def nothing_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GARRISON_CACHE", str(tmp_path / "cache"))


def tiny(tmp_path: Path, *keys: str) -> Recipe:
    return config.load(str(CONF / "tiny.yaml"), [f"out={tmp_path / 'out'}", *keys])


def test_a_wrong_file_leaves_nothing_that_would_refuse_the_right_one(tmp_path: Path) -> None:
    file, out = tmp_path / "sums.jsonl", Folder(str(tmp_path / "out"))
    file.write_text("", encoding="utf-8")
    step = _samples(suites(Exact(sets={"sums": str(file)}))[0], ())
    with pytest.raises(ValueError, match="no question"):
        run_steps([step], out)
    file.write_text('{"prompt": "1+1", "answer": "2"}\n', encoding="utf-8")
    mended = _samples(suites(Exact(sets={"sums": str(file)}))[0], ())
    refuse_changed([mended], out)
    assert run_steps([mended], out)["exact-sums"].manifest["num_rows"] == 1


def test_an_error_of_any_kind_leaves_nothing_either(tmp_path: Path) -> None:
    file, out = tmp_path / "sums.jsonl", Folder(str(tmp_path / "out"))
    file.write_text('{"prompt": "1+1", "answer": "2"}\n', encoding="utf-8")
    suite = suites(Exact(sets={"sums": str(file)}))[0]

    def cut() -> Iterator[Row]:
        yield from suite.samples()
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="gone"):
        run_steps([_samples(replace(suite, samples=cut, decides={"file": "wrong"}), ())], out)
    refuse_changed([_samples(suite, ())], out)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("suites.cvalues.path=/nope.jsonl", "/nope.jsonl: expected a file, found nothing"),
        ("suites.new_safety.cvalues=/nope.jsonl", "/nope.jsonl: expected a file, found nothing"),
        ("judge=teacher", "evaluate.judge: teacher is not of kind judge"),
        ("annotation.import_from=/nope.csv", "/nope.csv: expected a file, found nothing"),
        ("annotation.export_to=/proc/x.csv", "evaluate.annotation.export_to: /proc/x.csv cannot"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(
    key: str, said: str, tmp_path: Path
) -> None:
    recipe = tiny(tmp_path, "models.tuned=null", *FEW, f"evaluate.{key}")
    with pytest.raises(ValueError, match=said):
        evaluate.evaluate(recipe)
    with pytest.raises(ValueError, match=said):
        evaluate.check(recipe)
    assert not list(tmp_path.iterdir())


def test_ahead_of_the_other_jobs_neither_their_model_nor_an_embedded_one_is_asked_for(
    tmp_path: Path,
) -> None:
    recipe = tiny(tmp_path, *FEW[1:])
    assert recipe.models["tuned"] == "trained"
    evaluate.check(recipe)
    assert not list(tmp_path.iterdir())
    missing = tiny(tmp_path, *FEW[1:], "evaluate.suites.attacks.sets.advbench.path=/nope.csv")
    with pytest.raises(ValueError, match=r"/nope\.csv"):
        evaluate.check(missing)


def test_a_file_that_fetch_brings_is_answered_with_its_command(tmp_path: Path) -> None:
    recipe = config.load(str(CONF / "rtx3090.yaml"), [f"out={tmp_path}/out", "models.tuned=null"])
    for job in (evaluate.evaluate, evaluate.check):
        with pytest.raises(
            ValueError, match=r"test\.jsonl is not here, .*python -m ray_jobs fetch"
        ):
            job(recipe)


def test_what_a_hub_has_is_told_from_local_files(tmp_path: Path) -> None:
    more = ["evaluate.suites.capability.mmlu=cais/mmlu", "evaluate.suites.capability.ceval=."]
    more += ["evaluate.suites.harness.benchmarks.bbh.tasks=[bbh]"]
    cfg = tiny(tmp_path, *more).evaluate
    assert cfg is not None
    assert [suite.name for suite in ahead.from_hub(cfg)] == ["mmlu-5shot", "lm-eval-bbh"]

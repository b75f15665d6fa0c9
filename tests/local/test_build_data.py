"""The job build_data, run as a command: its tables, and what stops, skips or resumes it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.local.conftest import make_job

STEPS = (
    "collected",
    "labelled",
    "scored_prompts",
    "placed",
    "balanced",
    "answered",
    "perplexity",
    "candidates",
    "scored_responses",
    "to_audit",
    "audited",
    "trust",
    "selected",
    "exported",
)
ASKED = ("labelled", "scored_prompts", "answered", "perplexity", "scored_responses")


@pytest.fixture(scope="module")
def whole(
    head: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, subprocess.CompletedProcess[str]]:
    """A job that has come to its end, and what it said. Nobody may change it."""
    job = make_job(head, tmp_path_factory.mktemp("whole"))
    done = job.run()
    assert done.returncode == 0, done.stderr
    return job, done


@pytest.fixture
def whole_tree(own_tree: Any, whole: Any) -> Any:
    """A copy of it, and of the code, that the test may change."""
    shutil.copytree(whole[0].out, own_tree.out)
    return own_tree


def finished(job: Any) -> dict[str, str]:
    """When each step was published: a step that was not redone keeps its time and its files."""
    return {step: str((job.out / step / "manifest.json").stat().st_mtime_ns) for step in STEPS}


def test_every_row_has_an_outcome_in_every_step_and_a_second_run_does_nothing(whole: Any) -> None:
    job, first = whole
    rows = {step: job.rows(step) for step in STEPS}
    by_role = Counter((row["role"], row["outcome"]) for row in rows["collected"])
    num_train = by_role["train", "done"]
    assert num_train >= 300
    assert len(rows["labelled"]) == len(rows["answered"]) == len(rows["candidates"]) == num_train
    assert len(rows["scored_prompts"]) == num_train
    assert len(rows["scored_responses"]) == sum(len(row["responses"]) for row in rows["candidates"])
    for step in STEPS:
        manifest = job.manifest(step)
        assert sum(manifest["outcomes"].values()) == manifest["num_rows"] == len(rows[step])
        assert len({row["id"] for row in rows[step]}) == len(rows[step])
    exported = {row["id"] for row in rows["exported"]}
    assert exported == {row["id"] for row in rows["selected"] if row["outcome"] == "done"}
    assert re.search(r"data set +/", first.stdout)

    before, started = finished(job), time.monotonic()
    second = job.run()
    assert second.returncode == 0
    assert time.monotonic() - started < 10
    assert finished(job) == before


def test_a_comment_another_pool_size_and_a_moved_folder_redo_nothing(whole_tree: Any) -> None:
    before = finished(whole_tree)
    moved = whole_tree.out.with_name("moved")
    whole_tree.out.rename(moved)
    for file in ("ray_jobs/stages/answers.py", "ray_jobs/asking.py"):
        with (whole_tree.tree / file).open("a") as code:
            code.write("# another comment\n")
    again = whole_tree.run(
        f"out={moved}", "engines.table.placement.max_actors=3", "ledger.shard_rows=7"
    )
    assert again.returncode == 0, again.stderr
    moved.rename(whole_tree.out)
    assert finished(whole_tree) == before


def test_a_changed_prompt_is_refused_by_name_and_rebuilt_from_there_on(whole_tree: Any) -> None:
    before = finished(whole_tree)
    prompt = whole_tree.tree / "conf/prompts/answers.zh.md"
    prompt.write_text(prompt.read_text("utf-8").replace("你是", "您是"), encoding="utf-8")
    refused = whole_tree.run()
    assert refused.returncode == 2
    assert len(refused.stderr.strip().splitlines()) == 1
    assert "answered: prompt answers" in refused.stderr
    later = [STEPS[5], *STEPS[7:]]
    assert f"Steps concerned: {', '.join(later)}." in refused.stderr
    assert finished(whole_tree) == before
    rebuilt = whole_tree.run("when_changed=rebuild")
    assert rebuilt.returncode == 0, rebuilt.stderr
    after = finished(whole_tree)
    assert [step for step in STEPS if after[step] != before[step]] == later
    # The replaced tables are gone once the new ones are there.
    assert all(len([*(whole_tree.out / step).glob("*/")]) == 1 for step in STEPS)


@pytest.mark.parametrize(
    "step",
    [
        pytest.param("labelled", marks=pytest.mark.soak),
        "answered",
        pytest.param("scored_responses", marks=pytest.mark.soak),
    ],
)
def test_a_driver_killed_in_the_middle_of_a_step_loses_and_doubles_no_row(
    job: Any, tmp_path: Path, step: str
) -> None:
    slow = "engines.table.delay_s=0.5"
    running = job.start(slow)
    job.wait_for_rows(step, 60)
    running.kill()
    running.wait()
    time.sleep(2)  # Ray ends the dead driver's actors
    kept, log = job.num_sealed(step), tmp_path / "asked.log"
    num_before = len(log.read_text().splitlines())
    again = job.run()
    assert again.returncode == 0, again.stderr
    manifest = job.manifest(step)
    num_rows = len(job.rows("candidates"))
    per_row = 2 if step == "scored_responses" else 1
    assert kept < num_rows * per_row
    assert manifest["asked"]["rows_kept_from_earlier_runs"] == kept / per_row
    # All requests of both runs, less the one that each row of each step needs.
    num_needed = len(ASKED) * num_rows + len(job.rows("to_audit"))
    redone = len(log.read_text().splitlines()) - num_needed
    print(f"{step}: killed after {num_before} requests, {kept} rows kept, {redone} asked again")
    assert 0 <= redone <= 64 + 20  # in flight, and in the unsealed shard
    for name in ASKED:
        ids = [row["id"] for row in job.rows(name)]
        assert len(ids) == len(set(ids)) == job.manifest(name)["num_rows"]


def test_another_run_is_refused_in_one_line_and_ctrl_c_leaves_what_the_same_command_resumes(
    job: Any,
) -> None:
    running = job.start("engines.table.delay_s=0.5")
    job.wait_for_rows("labelled", 60)
    second = job.run()
    assert second.returncode == 2
    assert "another run writes here" in second.stderr
    assert len(second.stderr.strip().splitlines()) == 1
    os.kill(running.pid, signal.SIGINT)
    assert running.wait(60) == 130
    assert not (job.out / "lock.json").exists()
    assert job.run().returncode == 0
    assert job.manifest("labelled")["asked"]["rows_kept_from_earlier_runs"] >= 60


def test_failed_rows_end_the_job_and_the_same_command_asks_only_those_again(
    job: Any, tmp_path: Path
) -> None:
    answers = tmp_path / "answers.yaml"
    whole = answers.read_text(encoding="utf-8")
    label = whole.splitlines()[0]
    # A table that knows only part of the labels, so that some rows fail.
    answers.write_text(
        whole.replace(label, label.replace("安全主题标签|", "安全主题标签.*怎么|")), "utf-8"
    )
    log = tmp_path / "asked.log"
    first = job.run()
    assert first.returncode == 1
    num_failed = int(re.search(r"labelled: (\d+) of \d+ rows failed, 0 may", first.stderr)[1])
    assert not (job.out / "labelled" / "manifest.json").exists()
    log.unlink()
    second = job.run()
    assert second.returncode == 1
    assert len(log.read_text().splitlines()) == num_failed
    assert job.run(f"ledger.max_failed={num_failed}").returncode == 0
    assert job.manifest("labelled")["outcomes"]["failed"] == num_failed


def test_help_answers_in_under_a_second() -> None:
    started = time.monotonic()
    said = subprocess.run(
        [sys.executable, "-m", "ray_jobs", "--help"], capture_output=True, text=True
    )
    assert said.returncode == 0
    assert "build_data" in said.stdout
    assert time.monotonic() - started < 1

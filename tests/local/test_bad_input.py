"""What a person may get wrong, tried on the command line: one clear line, exit code 2, nothing
half written.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def refused(job: Any, *keys: str) -> str:
    """The one line that the command says."""
    done = job.run(*keys)
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert not list(job.out.glob("*/manifest.json"))
    assert not list(job.out.rglob("*.parquet"))
    assert not (job.out / "lock.json").exists()
    return str(lines[0])


def mine(path: Path) -> list[str]:
    """Keys that make a file the only source."""
    keys = [f"path={path}", "reader=generic", "role=train", "licence=MIT", "fields.prompt=q"]
    return ["sources.samples=null", *(f"sources.mine.{key}" for key in keys)]


def test_a_missing_file(job: Any, tmp_path: Path) -> None:
    assert f"{tmp_path}/absent.jsonl" in refused(job, *mine(tmp_path / "absent.jsonl"))


def test_wrong_json_in_line_812(job: Any, tmp_path: Path) -> None:
    lines = [json.dumps({"q": f"问题{k}"}, ensure_ascii=False) for k in range(1000)]
    lines[811] = '{"q": "问题'
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert "a.jsonl line 812" in refused(job, *mine(tmp_path / "a.jsonl"))


def test_a_wrong_encoding(job: Any, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes('{"q": "问题"}'.encode("gbk"))
    said = refused(job, *mine(tmp_path / "a.jsonl"))
    assert "a.jsonl" in said
    assert "UTF-8" in said


def test_an_unknown_key(job: Any) -> None:
    assert "did you mean 'intents'?" in refused(job, "build_data.intent.engine=table")


def test_a_scenario_code_that_does_not_exist(own_tree: Any) -> None:
    taxonomy = own_tree.tree / "conf/taxonomy.yaml"
    taxonomy.write_text(taxonomy.read_text("utf-8").replace("  NS:", "  XX:"), "utf-8")
    assert "there is no scenario 'XX'" in refused(own_tree)


def test_a_prompt_template_with_a_gap(own_tree: Any) -> None:
    prompt = own_tree.tree / "conf/prompts/score_prompt.en.md"
    prompt.write_text(prompt.read_text("utf-8") + "\n$nobody\n", "utf-8")
    assert "score_prompt.en.md: nothing fills the gap $nobody" in refused(own_tree)


def test_a_model_folder_that_is_no_model(job: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    keys = ["engines.qwen.kind=vllm", f"engines.qwen.model={tmp_path}/empty"]
    said = refused(job, *keys, "build_data.intents.engine=qwen")
    assert "is no model folder: it holds no config.json" in said
    keys[1] = f"engines.qwen.model={tmp_path}/absent"
    assert "there is no folder" in refused(job, *keys, "build_data.intents.engine=qwen")


def test_rows_at_fault_get_their_outcome_and_the_others_go_on(job: Any, tmp_path: Path) -> None:
    prompts = ["好问题", "", "   ", None, "长" * 200_000, 7, "好问题"]
    lines = [json.dumps({"q": prompt, "r": "好的"}, ensure_ascii=False) for prompt in prompts]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    done = job.run(*mine(tmp_path / "a.jsonl"), "sources.mine.fields.responses=r")
    assert done.returncode == 0, done.stderr
    found = [
        (row["source_row"], row["outcome"], row["reason"])
        for row in job.rows("collected")
        if row["role"] == "train"
    ]
    assert found == [
        (1, "done", None),
        (2, "dropped", "empty prompt"),
        (3, "dropped", "empty prompt"),
        (4, "dropped", "no prompt"),
        (5, "dropped", "longer than 8000 characters"),
        (6, "dropped", "prompt is not text"),
        (7, "dropped", "duplicate"),
    ]
    assert job.manifest("labelled")["num_rows"] == 1


@pytest.mark.parametrize("command", [["fetch_all"], ["build_data"], ["build_data", "absent.yaml"]])
def test_a_wrong_command(command: list[str]) -> None:
    import subprocess
    import sys

    call = [sys.executable, "-m", "ray_jobs", *command]
    said = subprocess.run(call, capture_output=True, text=True, timeout=60)
    assert said.returncode == 2
    assert len(said.stderr.strip().splitlines()) == 1

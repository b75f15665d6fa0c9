"""The job build_data: sources of which nothing can be used."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from ray_jobs import config
from ray_jobs.bring_up import Models
from ray_jobs.build_data import plan
from ray_jobs.steps import Step, refuse_changed, run_steps
from ray_jobs.tables import Folder

TINY = str(Path(__file__).resolve().parents[2] / "conf/tiny.yaml")


def collected(tmp_path: Path, *keys: str) -> Step:
    """The first step of the tiny recipe, on a source of the test's own."""
    told = {"path": tmp_path / "mine.jsonl", "reader": "generic", "role": "train", "licence": "MIT"}
    mine = [f"sources.mine.{key}={value}" for key, value in told.items()]
    recipe = config.load(TINY, ["sources.samples=null", *mine, *keys])
    with ExitStack() as stack:
        return plan(recipe, Models(recipe, stack))[0]


def test_a_source_without_one_usable_row_ends_the_job_after_it_is_read(tmp_path: Path) -> None:
    file, out = tmp_path / "mine.jsonl", Folder(str(tmp_path / "out"))
    rows = [{"prompt": None}, {"prompt": 7}, {"prompt": 8}]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    said = r"sources\.mine: none of its 3 rows can be used \(prompt is not text: 2, no prompt: 1\)"
    with pytest.raises(ValueError, match=said):
        run_steps([collected(tmp_path)], out)
    rows.append({"prompt": "How to open it?"})
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    mended = collected(tmp_path)
    refuse_changed([mended], out)  # nothing was left that would
    table = run_steps([mended], out)["collected"]
    mine = [row for row in table.load().to_pylist() if row["source"] == "mine"]
    assert [row["outcome"] for row in mine] == ["dropped"] * 3 + ["done"]
    assert mine[-1]["language"] == "en"  # told by its text where nobody says it


def test_one_usable_source_is_enough(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"prompt": null}', encoding="utf-8")
    step = collected(tmp_path, "sources.other.path=conf/samples/safety_prompts.json", *OTHER)
    run_steps([step], Folder(str(tmp_path / "out")))


OTHER = [
    f"sources.other.{key}={value}"
    for key, value in {"reader": "safety_prompts", "role": "train", "licence": "MIT"}.items()
]

"""`make demo`'s own command, but for its second round, on real parts: tiny teacher, vLLM, Serve, no
table of answers.
"""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_jobs import oracle, taxonomy

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(1100)  # the teacher may have to be built first
ASKED = ("labelled", "scored_prompts", "expanded-r1", "answered", "perplexity", "scored_responses")
TARGET = 8  # conf/tiny.yaml's build_data.diversity.target_per_cell


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a finished run, and its screen."""
    out = tmp_path_factory.mktemp("demo")
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    call = [sys.executable, "-m", "ray_jobs", "run", "conf/tiny.yaml", f"out={out}"]
    call += ["build_data.diversity.rounds=1"]  # the second is for a handful of rows
    done = subprocess.run(call, cwd=ROOT, env=env, capture_output=True, text=True, timeout=1000)
    assert done.returncode == 0, done.stderr[-3000:]
    (out / "progress.txt").write_text(done.stderr, encoding="utf-8")
    return out, done.stdout


def manifest(demo: tuple[Path, str], step: str) -> dict[str, Any]:
    return dict(json.loads((demo[0] / step / "manifest.json").read_text(encoding="utf-8")))


def rows(demo: tuple[Path, str], step: str) -> list[dict[str, Any]]:
    shards = [demo[0] / step / shard for shard in manifest(demo, step)["shards"]]
    return pa.concat_tables([pq.read_table(shard) for shard in shards]).to_pylist()


def test_outcomes_add_up_and_nearly_all_rows_are_done(demo: tuple[Path, str]) -> None:
    num_prompts = sum(row["role"] == "train" for row in rows(demo, "collected"))
    assert num_prompts >= 300
    for step in ASKED:
        outcomes = manifest(demo, step)["outcomes"]
        assert sum(outcomes.values()) == manifest(demo, step)["num_rows"]
        assert outcomes["done"] / sum(outcomes.values()) >= 0.95, (step, outcomes)
    assert manifest(demo, "labelled")["num_rows"] == num_prompts
    assert manifest(demo, "answered")["num_rows"] > num_prompts


def test_every_cell_meets_its_target_or_says_why_not(demo: tuple[Path, str]) -> None:
    folder = demo[0] / "balanced" / manifest(demo, "balanced")["fingerprint"]
    text = (folder / "coverage.tsv").read_text(encoding="utf-8")
    cells = list(csv.DictReader(text.splitlines(), delimiter="\t"))
    assert len(cells) == 14 * 4
    for cell in cells:
        short_by = max(0, TARGET - int(cell["after"]))
        assert int(cell["short_by"]) == short_by
        assert bool(cell["reason"]) == bool(short_by), cell
    assert sum(int(cell["after"]) for cell in cells) > sum(int(cell["before"]) for cell in cells)
    assert sum(int(cell["after"]) >= TARGET for cell in cells) >= 50
    assert b"<svg" in (folder / "coverage.svg").read_bytes()


def test_expansion_keeps_the_scenario_it_was_asked_for(demo: tuple[Path, str]) -> None:
    written = [row for row in rows(demo, "expanded-r1") if row["outcome"] == "done"]
    read = [(row, oracle.read_prompt(row["prompt"])) for row in written]
    kept = [row for row, asked in read if asked and asked.scenario == row["scenario"]]
    assert len(written) > 150
    assert len(kept) / len(written) >= 0.8
    methods = {row["method"] for row in written}
    assert methods == {"scenario", "related", "dimension"}
    parents = {row["id"]: row for row in rows(demo, "collected")}
    for row in written:
        parent = parents[row["parent"]]
        assert row["id"].startswith(f"{row['parent']}/e1.")
        assert all(row[name] == parent[name] for name in ("source", "licence", "language", "role"))


def test_every_scenario_has_selected_rows_and_general_rows_join(demo: tuple[Path, str]) -> None:
    chosen = [row for row in rows(demo, "selected") if row["outcome"] == "done"]
    by_scenario = Counter(row["scenario"] for row in chosen)
    assert all(by_scenario[code] for code in taxonomy.CODES), by_scenario
    assert sum(row["role"] == "general" for row in chosen) >= 100
    assert len(rows(demo, "exported")) == len(chosen)


def test_a_pair_is_scored_in_both_orders_with_its_spread(demo: tuple[Path, str]) -> None:
    done = [row for row in rows(demo, "scored_responses") if row["outcome"] == "done"]
    pairs = [row for row in done if row["num_scored_together"] == 2]
    assert len(pairs) > 500
    assert all(
        row["score"] == pytest.approx((row["score_ab"] + row["score_ba"]) / 2) for row in pairs
    )
    assert all(0 <= row["score"] <= 1 for row in done)
    assert any(row["spread"] > 0 for row in done)
    assert all(row["judge"].startswith("vllm:") for row in done)


def test_the_screen_fits_and_says_where_the_results_are(demo: tuple[Path, str]) -> None:
    lines = demo[1].split("\ntrained ")[0].splitlines()
    assert len(lines) <= 50
    where = re.search(r"data set +(\S+)", demo[1])
    assert where
    assert (Path(where[1]) / "dataset_info.json").is_file()


def test_the_judge_is_examined_by_the_oracles_anchors(demo: tuple[Path, str]) -> None:
    table = (demo[0] / "progress.txt").read_text(encoding="utf-8")
    table = table[table.index("28 anchors with 56 responses") :]
    found = dict(re.findall(r"^ +(.+?) {2,}(\d\.\d+)", table, re.MULTILINE))
    print(table[: table.index("alarm")])
    assert float(found["verdict with anchors, accuracy"]) >= 0.8
    assert float(found["verdict with anchors, kappa"]) >= 0.7
    assert float(found["score with anchors, Spearman"]) >= 0.7
    assert float(found["score, order of the pair swapped"]) <= 0.1


def test_scored_rows_are_audited(demo: tuple[Path, str]) -> None:
    figures = manifest(demo, "trust")
    folder = demo[0] / "trust" / figures["fingerprint"]
    said = json.loads((folder / "trust.json").read_text(encoding="utf-8"))
    assert len(said["figures"]) == figures["num_rows"] > 0
    assert len(rows(demo, "audited")) >= 60
    assert "order moves a score by" in demo[1]


def summary(demo: tuple[Path, str]) -> dict[str, Any]:
    return dict(json.loads((demo[0] / "evaluated/summary.json").read_text(encoding="utf-8")))


def change(demo: tuple[Path, str], suite: str, measure: str) -> dict[str, float]:
    """Tuned less base on all samples of a suite, in 0…1."""
    found = [
        one["points"]
        for one in summary(demo)["comparisons"]
        if (one["suite"], one["measure"], one["group"]) == (suite, measure, "")
    ]
    assert len(found) == 1
    print(suite, measure, found[0])
    return dict(found[0])


def test_the_tuned_model_is_safer_by_the_judge_and_by_the_oracle(demo: tuple[Path, str]) -> None:
    for suite, measure, sign in (
        ("new_safety", "safe", 1),
        ("attacks-dimensions", "attack_success", -1),
    ):
        for reader in ("", "_by_oracle"):
            found = change(demo, suite, measure + reader)
            assert found["num"] >= (112 if suite == "new_safety" else 56)
            assert min(sign * found["low"], sign * found["high"]) > 0


def test_its_general_answers_stay_as_they_were(demo: tuple[Path, str]) -> None:
    found = change(demo, "exact-general", "exact_match")
    assert found["num"] == 250
    assert found["low"] <= 0 <= found["high"]


def test_every_sample_of_every_suite_is_marked_once(demo: tuple[Path, str]) -> None:
    marks = rows(demo, "evaluated/marks")
    keys = Counter((row["model"], row["suite"], row["measure"], row["id"]) for row in marks)
    assert set(keys.values()) == {1}
    num = Counter(
        suite for model, suite, _ in {(m, s, i) for m, s, _, i in keys} if model == "tuned"
    )
    assert num["new_safety"] >= 14 * 8
    assert num["safetybench-zh-0shot"] == 70
    assert num["cvalues-responsibility"] == 40
    assert num["lm-eval-gsm8k"] == 20


def test_the_report_says_first_that_these_are_toys(demo: tuple[Path, str]) -> None:
    where = re.search(r"(\S+\.html)", demo[1])
    assert where
    page = Path(where[1]).read_text(encoding="utf-8")
    body = page[page.index("<body") :]
    assert "toy models" in re.sub(r"<[^>]+>", " ", body)[:400]
    assert "new_safety" in page
    assert "<svg" in page
    assert not re.search(r"""(?:src|href)=["']https?://""", page)

"""An evaluation by real engines, killed with -9 in the middle of one suite after the other."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).resolve().parents[2]
SHARD_ROWS = 4
pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]


def command(out: Path) -> list[str]:
    call = [sys.executable, "-m", "ray_jobs", "evaluate", "conf/tiny.yaml", f"out={out}"]
    few = [f"engines.{name}.max_num_seqs=8" for name in ("teacher", "tested")]  # few in flight
    return [
        *call,
        *few,
        f"ledger.shard_rows={SHARD_ROWS}",
        "ledger.shard_s=0.1",
        "models.tuned=null",
    ]


def manifest(home: Path) -> dict[str, Any]:
    return dict(json.loads((home / "manifest.json").read_text(encoding="utf-8")))


def rows(home: Path) -> list[dict[str, Any]]:
    shards = [home / shard for shard in manifest(home)["shards"]]
    return pa.concat_tables([pq.read_table(shard) for shard in shards]).to_pylist()


def num_sealed(home: Path) -> int:
    return sum(pq.read_metadata(file).num_rows for file in home.glob("*/*.parquet"))


def kill_in_the_middle(out: Path, step: str) -> int:
    """Start the job, kill it and all that it has started once the step has its first rows; returns
    how many of the step's rows are kept.
    """
    quiet = subprocess.DEVNULL
    job = subprocess.Popen(command(out), cwd=ROOT, stdout=quiet, stderr=quiet)
    deadline = time.monotonic() + 600
    while num_sealed(out / "evaluated" / step) < SHARD_ROWS:
        assert time.monotonic() < deadline
        assert job.poll() is None, f"it ended before {step}"
        time.sleep(0.01)
    for one in [*psutil.Process(job.pid).children(recursive=True), psutil.Process(job.pid)]:
        one.kill()
    job.wait()
    return num_sealed(out / "evaluated" / step)


def test_killed_in_the_middle_of_each_suite_it_ends_with_every_sample_once(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert subprocess.run(command(whole), cwd=ROOT, timeout=1200).returncode == 0
    found = whole / "evaluated"
    steps = [home.name for home in found.glob("*-base*") if manifest(home)["num_rows"]]
    # In the order in which they were asked.
    steps.sort(key=lambda step: (found / step / "manifest.json").stat().st_mtime_ns)
    for step in steps:
        kept, num = kill_in_the_middle(cut, step), manifest(found / step)["num_rows"]
        print(f"{step}: killed with {kept} of {num} rows")
        assert kept < num
    assert subprocess.run(command(cut), cwd=ROOT, timeout=1200).returncode == 0
    for step in steps:
        ids = Counter(row["id"] for row in rows(cut / "evaluated" / step))
        assert ids == Counter(row["id"] for row in rows(found / step))
        assert set(ids.values()) == {1}

    def marked(home: Path) -> Counter[tuple[str, ...]]:
        named = ("suite", "model", "measure", "id")
        return Counter(tuple(row[name] for name in named) for row in rows(home / "marks"))

    assert marked(cut / "evaluated") == marked(found)
    assert set(marked(found).values()) == {1}

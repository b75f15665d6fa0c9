"""How long 200,000 marks take to be read and summarised, the interpreter's start included."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from ray_jobs.evals.marks import STORED
from ray_jobs.tables import Folder

NUM_SAMPLES, LIMIT_S, RUNS = 100_000, 3.0, 5
SUITES = {"safetybench-zh": 7, "new_safety": 14, "mmlu": 57, "cmmlu": 67, "cvalues": 8}
READ = """
import sys
from ray_jobs.evals import summary
from ray_jobs.tables import Folder, open_table
home = Folder(sys.argv[1])
protocols = dict.fromkeys(sys.argv[2:], "")
about = summary.About(models={"base": "a", "tuned": "b"}, protocols=protocols, toys=())
marks = open_table(home / "marks")
assert marks is not None
found = summary.summarise(marks, about, {})
summary.write(home, found)
print(len(found["figures"]), len(found["comparisons"]))
"""


def main() -> None:
    """Write the marks, and summarise them in fresh processes."""
    with tempfile.TemporaryDirectory() as folder:
        _write(Folder(folder) / "marks")
        command = [sys.executable, "-c", READ, folder, *SUITES]
        times = []
        for _ in range(RUNS):
            started = time.perf_counter()
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            times.append(time.perf_counter() - started)
        num_bytes = sum(file.stat().st_size for file in Path(folder).rglob("*.parquet"))
    median = sorted(times)[RUNS // 2]
    figures, comparisons = said.split()
    print(f"marks            {2 * NUM_SAMPLES:,} ({num_bytes / 1e6:.1f} MB)")
    print(f"figures          {figures}, and {comparisons} comparisons, each with its interval")
    print(f"read, summarised {median:.2f} s (median of {RUNS}; limit {LIMIT_S:g} s)")
    print("each run         " + " ".join(f"{one:.2f}" for one in times))
    sys.exit(median > LIMIT_S)


def _write(home: Folder) -> None:
    rng = np.random.default_rng(1)
    names = list(SUITES)
    suite = rng.integers(0, len(names), NUM_SAMPLES)
    group = rng.integers(0, np.array(list(SUITES.values()))[suite])
    shards = []
    for model, right in (("base", 0.55), ("tuned", 0.6)):
        score = (rng.random(NUM_SAMPLES) < right).astype(float)
        is_open = rng.random(NUM_SAMPLES) < 0.01
        columns = {
            "model": [model] * NUM_SAMPLES,
            "suite": [names[one] for one in suite],
            "measure": ["accuracy"] * NUM_SAMPLES,
            "id": [f"{number:032x}" for number in range(NUM_SAMPLES)],
            "group": [f"g{one:02}" for one in group],
            # Half of the samples are in pairs.
            "cluster": [f"{n // 2 if n % 4 < 2 else n:x}" for n in range(NUM_SAMPLES)],
            "score": pa.array(score, mask=is_open),
            "said": ["B"] * NUM_SAMPLES,
            "outcome": np.where(is_open, "undecided", "done"),
            "reason": pa.nulls(NUM_SAMPLES, pa.string()),
            "if_labelled": pa.nulls(NUM_SAMPLES, pa.string()),
        }
        shards.append(f"{model}.parquet")
        home.write_shard(shards[-1], pa.table(columns, schema=STORED))
    told = {"shards": shards, "num_rows": 2 * NUM_SAMPLES, "fingerprint": "benchmark"}
    home.write("manifest.json", json.dumps(told).encode())


if __name__ == "__main__":
    main()

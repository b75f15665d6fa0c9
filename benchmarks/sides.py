"""What the benchmarks share: two sides, each in a fresh process, by turns, and the ratio of their
medians.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import random_model
from ray_jobs.engines.vllm import VllmConfig
from ray_jobs.tables import Folder, Table, write_shards

CACHE = Path(os.environ.get("GARRISON_CACHE", "~/.cache/garrison")).expanduser()
SAMPLES = Path(__file__).parent.parent / "conf" / "samples"
NUM_PROMPTS = 400


def prompts(*, long: bool = False) -> list[str]:
    """The embedded samples' prompts, general ones too; `long` ones carry two responses each.

    Longest first, as ask() puts them: of a random model long answers come anywhere, and in another
    order the raw engine would need more or fewer steps by mere luck.
    """
    grouped = json.loads((SAMPLES / "safety_prompts.json").read_text(encoding="utf-8"))
    rows = [row for rows in grouped.values() for row in rows]
    lines = (SAMPLES / "general.jsonl").read_text(encoding="utf-8").splitlines()
    rows += [
        {"prompt": row["instruction"], "response": row["output"]} for row in map(json.loads, lines)
    ]
    rows = rows[:NUM_PROMPTS]
    texts = [row["prompt"] for row in rows]
    if long:
        near = zip(rows, rows[1:] + rows[:1], strict=True)
        texts = [f"{one['prompt']}\n{one['response']}\n{two['response']}" for one, two in near]
    return sorted(texts, key=len, reverse=True)


def engine() -> VllmConfig:
    """The engine of both sides."""
    folder = random_model.make(CACHE / "benchmarks" / "random-26m", prompts())
    return VllmConfig(model=str(folder), max_model_len=1024, max_num_seqs=64, enforce_eager=True)


def table(folder: Path, texts: list[str]) -> Table:
    """Texts as a table for ask()."""
    import pyarrow as pa

    rows = [
        {"id": f"{number:04d}", "prompt": text, "outcome": "done"}
        for number, text in enumerate(texts)
    ]
    where = Folder(str(folder))
    return Table(where, {"shards": write_shards(where, [pa.Table.from_pylist(rows)])})


def main(module: str, sides: dict[str, Any], unit: str) -> None:
    """Run one side when named on the command line; else all by turns, and print each one's median
    and its ratio to the first's.
    """
    if len(sys.argv) > 1 and sys.argv[1] in sides:
        print(json.dumps(sides[sys.argv[1]]()))
        return
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(runs):
        for side in sides:
            call = [sys.executable, "-m", module, side]
            out = subprocess.run(
                call, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=600
            )
            # Engines that end may have a word after it.
            said = [line for line in out.stdout.splitlines() if line.startswith(b"{")]
            result = json.loads(said[-1])
            rates[side].append(result["num"] / result["wall_s"])
            rate = f"{rates[side][-1]:,.1f} {unit}/s"
            print(f"run {number + 1}\t{side}\t{result['num']} {unit}\t{rate}", flush=True)
    medians = {side: statistics.median(found) for side, found in rates.items()}
    first = next(iter(sides))
    for side, median in medians.items():
        ratio = f"\tratio to {first} {median / medians[first]:.3f}" if side != first else ""
        print(f"median of {runs}\t{side}\t{median:,.1f} {unit}/s{ratio}")

"""Selection and export at 10,000, 100,000 and 1,000,000 prompts: seconds, rows a second, peak
memory, and how the time grows. Each run is a fresh process; the fastest of three counts.

python -m benchmarks.scale_tables [rows …]
"""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ray_jobs.cards import About
from ray_jobs.ledger import LedgerConfig
from ray_jobs.schema import CANDIDATES, COLLECTED, PERPLEXITY, SCORED_PROMPTS, SCORED_RESPONSES
from ray_jobs.stages.export import TABLE_FILES, export
from ray_jobs.stages.export import Export as ExportConfig
from ray_jobs.stages.selection import Selection, select
from ray_jobs.tables import Folder, Table, write_shards
from ray_jobs.taxonomy import CODES, DIMENSIONS

ROWS = (10_000, 100_000, 1_000_000)
SHARD_ROWS = 5_000  # of the steps that ask no model; the others close a shard as the ledger says
POOL = 4_096
RUNS = 3
MIB = 2**20


def texts(rng: np.random.Generator, shortest: int, longest: int) -> pa.Array:
    """A pool of short Chinese texts."""
    letters = rng.integers(0x4E00, 0x9FA5, (POOL, longest))
    lengths = rng.integers(shortest, longest, POOL)
    rows = zip(letters, lengths, strict=True)
    return pa.array(["".join(map(chr, row[:length])) for row, length in rows])


def ids(start: int, number: int) -> pa.Array:
    """Ids as they are, 32 hex digits, in no order."""
    names = (np.arange(start, start + number, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)).data
    return pa.array([f"{name:032x}" for name in names])


def filled(columns: dict[str, object], number: int, schema: pa.Schema) -> pa.Table:
    """The columns as a table of the schema; a single value stands in every row."""
    full = {}
    for item in schema:
        value = columns.get(item.name)
        is_array = isinstance(value, pa.Array | np.ndarray)
        full[item.name] = value if is_array else pa.repeat(pa.scalar(value, item.type), number)
    return pa.table(full, schema=schema)


def lists(values: pa.Array, width: int) -> pa.Array:
    """Each `width` values as one list."""
    return pa.ListArray.from_arrays(
        pa.array(np.arange(0, len(values) + 1, width), pa.int32()), values
    )


class Synthetic:
    """Tables of `rows` prompts with two responses each, and a quarter as many general rows."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.rng = np.random.default_rng(0)
        self.prompts, self.replies = texts(self.rng, 10, 150), texts(self.rng, 60, 200)

    def take(self, pool: pa.Array, number: int) -> pa.Array:
        """Texts drawn from a pool."""
        return pool.take(pa.array(self.rng.integers(0, POOL, number)))

    def draw(self, names: tuple[str, ...], number: int) -> pa.Array:
        """Names, some much more often than others, as scenarios are."""
        weights = 1 / np.arange(1, len(names) + 1)
        return pa.array(self.rng.choice(names, number, p=weights / weights.sum()))

    def shards(self, size: int, rows: int) -> Iterator[tuple[int, int]]:
        """Where each shard starts, and how many rows it has."""
        for start in range(0, rows, size):
            yield start, min(size, rows - start)

    def collected(self) -> Iterator[pa.Table]:
        """Prompts, then general rows."""
        said = {"source": "s", "language": "zh", "licence": "MIT", "outcome": "done"}
        for role, first, rows in (
            ("train", 0, self.rows),
            ("general", self.rows, self.rows // 4),
        ):
            for start, number in self.shards(SHARD_ROWS, rows):
                columns = said | {
                    "id": ids(first + start, number),
                    "source_row": 0,
                    "role": role,
                    "prompt": self.take(self.prompts, number),
                    "original_responses": lists(self.take(self.replies, number), 1),
                }
                yield filled(columns, number, COLLECTED)

    def candidates(self) -> Iterator[pa.Table]:
        """Each prompt with an original and a fresh answer."""
        said = {"source": "s", "language": "zh", "licence": "MIT", "outcome": "done"}
        for start, number in self.shards(SHARD_ROWS, self.rows):
            columns = said | {
                "id": ids(start, number),
                "prompt": self.take(self.prompts, number),
                "scenario": self.draw(CODES, number),
                "dimension": self.draw(DIMENSIONS, number),
                "response_ids": lists(response_ids(start, number), 2),
                "responses": lists(self.take(self.replies, 2 * number), 2),
                "analyses": lists(self.take(self.replies, 2 * number), 2),
            }
            yield filled(columns, number, CANDIDATES)

    def scored(self, kind: str) -> Iterator[pa.Table]:
        """What judge and perplexity said, in shards as the ledger closes them."""
        asked: dict[str, object] = {"outcome": "done", "engine": "e", "judge": "j"}
        for start, number in self.shards(LedgerConfig().shard_rows, self.rows):
            name = ids(start, number)
            if kind == "scored_responses":
                told = {"id": response_ids(start, number), "score": self.rng.random(2 * number)}
                told |= {"num_scored_together": 2, "prompt_id": ""}
                yield filled(asked | told, 2 * number, SCORED_RESPONSES)
            elif kind == "scored_prompts":
                told = {"id": name, "prompt_score": self.rng.random(number)}
                yield filled(asked | told, number, SCORED_PROMPTS)
            else:
                told = {"id": name, "logprob_sum": -90 * self.rng.random(number), "token_count": 30}
                yield filled(asked | told, number, PERPLEXITY)


def response_ids(start: int, number: int) -> pa.Array:
    """Two for each prompt."""
    pairs = np.repeat(np.arange(number), 2)
    ending = pa.array(["o0", "0"] * number)
    return pc.binary_join_element_wise(ids(start, number).take(pa.array(pairs)), ending, "/")


def generate(home: Path, rows: int) -> None:
    """Write the tables that selection reads."""
    synthetic = Synthetic(rows)
    steps: dict[str, Iterator[pa.Table]] = {
        "collected": synthetic.collected(),
        "candidates": synthetic.candidates(),
        **{
            kind: synthetic.scored(kind)
            for kind in ("scored_responses", "scored_prompts", "perplexity")
        },
    }
    for name, batches in steps.items():
        publish(home, name, write_shards(Folder(str(home / name)), batches))


def publish(home: Path, name: str, shards: list[str]) -> None:
    """Remember a table's shards."""
    (home / f"{name}.json").write_text(json.dumps(shards))


def table(home: Path, name: str) -> Table:
    """A table that was written before."""
    shards = json.loads((home / f"{name}.json").read_text())
    return Table(Folder(str(home / name)), {"shards": shards})


def selection(home: Path, rows: int) -> int:
    """All thresholds, quantiles and quotas at once; returns the responses decided on."""
    cfg = Selection(
        min_response_score=0.3,
        max_prompt_score=0.9,
        min_response_quantile=0.1,
        max_prompt_quantile=0.95,
        max_perplexity_quantile=0.95,
        num_prompts=rows * 6 // 10,
        num_general=rows // 5,
    )
    known = [table(home, name) for name in ("candidates", "scored_responses")]
    scored = [table(home, "scored_prompts")]
    rest = [table(home, name) for name in ("perplexity", "collected")]
    chosen = select(*known, scored, *rest, cfg, frozenset(), 7)
    publish(home, "selected", write_shards(Folder(str(home / "selected")), chosen))
    return 2 * rows + rows // 4


def exporting(home: Path, rows: int) -> int:
    """All formats; returns the rows exported."""
    sizes = export(table(home, "selected"), Folder(str(home / "out")), ExportConfig(), About())
    return sum(sizes[name] for name in TABLE_FILES)


PARTS: dict[str, Callable[[Path, int], int]] = {"selection": selection, "export": exporting}


def measure(part: str, home: Path, rows: int) -> None:
    """Run one part and say how it went, as JSON."""
    started = time.perf_counter()
    done = PARTS[part](home, rows)
    wall_s = time.perf_counter() - started
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB
    print(json.dumps({"rows_done": done, "wall_s": wall_s, "peak_mib": peak_mib}))


def child(*arguments: str) -> dict[str, float]:
    """Run this file in a fresh process, and read what it says."""
    call = [sys.executable, "-m", "benchmarks.scale_tables", *arguments]
    out = subprocess.run(call, check=True, stdout=subprocess.PIPE, timeout=3600).stdout
    found: dict[str, float] = json.loads(out.splitlines()[-1]) if out.strip() else {}
    return found


def slopes(sizes: list[int], walls: npt.NDArray[np.float64]) -> list[float]:
    """The exponent of the rows by which the time grows, from each size to the next."""
    pairs = zip(sizes, sizes[1:], walls, walls[1:], strict=False)
    return [math.log(later / now) / math.log(more / few) for few, more, now, later in pairs]


def main(sizes: list[int]) -> None:
    """Measure each size, and print a table."""
    walls: dict[str, list[float]] = {part: [] for part in PARTS}
    print(
        "| part | prompts | rows | s | rows/s | peak MiB |\n| --- | --- | --- | --- | --- | --- |"
    )
    for rows in sizes:
        with tempfile.TemporaryDirectory() as home:
            child("generate", home, str(rows))
            for part in PARTS:
                runs = [child(part, home, str(rows)) for _ in range(RUNS)]
                wall_s, peak = min(run["wall_s"] for run in runs), max(r["peak_mib"] for r in runs)
                walls[part].append(wall_s)
                done = runs[0]["rows_done"]
                numbers = f"{done:,} | {wall_s:.1f} | {done / wall_s:,.0f} | {peak:,.0f}"
                print(f"| {part} | {rows:,} | {numbers} |", flush=True)
    for part, times in walls.items():
        grown = ", ".join(f"{slope:.2f}" for slope in slopes(sizes, np.array(times)))
        print(f"{part}: time grows as rows to the power of {grown}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["generate", home, rows]:
            generate(Path(home), int(rows))
        case [part, home, rows] if part in PARTS:
            measure(part, Path(home), int(rows))
        case sizes:
            main([int(rows) for rows in sizes] or list(ROWS))

"""Rows a second of `collect`, near-duplicates removed, against datatrove's own MinHash pipeline:
the same 100k short Chinese rows, from a file to the rows that are kept.

python -m benchmarks.near_duplicates [runs] · python -m benchmarks.near_duplicates scale
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

SHARED = Path(__file__).parents[2] / "shared" / "data"
SAMPLES = Path(__file__).parents[1] / "conf" / "samples"
CACHE = Path(os.environ.get("GARRISON_CACHE", "~/.cache/garrison")).expanduser()
PEER = Path(__file__).parent / "peers" / "datatrove_minhash.py"
REQUIREMENTS = PEER.with_name("datatrove.txt")
NUM_ROWS = 100_000
PLANTED = 10  # one row in so many nearly repeats an earlier one
MARKS = "，。！？、；：…"


def clauses() -> list[str]:
    """The clauses of real texts: of our samples, and of the public sets where they are at hand."""
    texts: list[str] = []
    if SHARED.is_dir():
        bench = json.loads((SHARED / "safetybench/test_zh_subset.json").read_text("utf-8"))
        texts += [row["question"] for row in bench]
        cvalues = SHARED / "cvalues/cvalues_responsibility_prompts.jsonl"
        texts += [json.loads(line)["prompt"] for line in cvalues.read_text("utf-8").splitlines()]
        alpaca = json.loads((SHARED / "general/alpaca_zh_demo.json").read_text("utf-8"))
        texts += [row[key] for row in alpaca for key in ("instruction", "input", "output")]
    grouped = json.loads((SAMPLES / "safety_prompts.json").read_text("utf-8"))
    texts += [row["prompt"] for rows in grouped.values() for row in rows]
    parts = (part for text in texts for part in re.split(r"(?<=[，。！？；：\n])", text))
    return sorted({part.strip() for part in parts if 6 <= len(part.strip()) <= 20})


def rows(num_rows: int, seed: int = 0) -> Iterator[tuple[str, int | None]]:
    """Short rows of about 36 characters, each with the number of the earlier row that it was made
    to repeat nearly, or None.
    """
    rng, parts = random.Random(seed), clauses()
    originals: list[tuple[int, str]] = []
    for number in range(num_rows):
        if number % PLANTED == 0 and originals:
            original, text = rng.choice(originals)
            yield _changed(text, rng), original
            continue
        text = "".join(rng.choice(parts) for _ in range(3))
        if sum(map(str.isalnum, text)) >= 32 and len(originals) < NUM_ROWS:
            originals.append((number, text))
        yield text, None


def _changed(text: str, rng: random.Random) -> str:
    """The same with other punctuation, one letter replaced, or a word of thanks."""
    how = rng.randrange(3)
    if how == 0:
        other = "".join(char if char.isalnum() else rng.choice(MARKS) for char in text)
        return other.translate({code: code + 0xFEE0 for code in range(0x21, 0x7F)})
    if how == 1:
        place = rng.choice([place for place, char in enumerate(text) if char.isalnum()])
        return f"{text[:place]}的{text[place + 1 :]}"
    return f"{text}谢谢"


def write_rows(folder: Path, num_rows: int, num_files: int = 1) -> dict[int, int]:
    """Write rows as JSON lines, in turn into each of some files; the planted ones by number."""
    folder.mkdir(parents=True)
    planted: dict[int, int] = {}
    with ExitStack() as stack:
        files = [
            stack.enter_context((folder / f"{k}.jsonl").open("w", encoding="utf-8"))
            for k in range(num_files)
        ]
        for number, (text, original) in enumerate(rows(num_rows)):
            line = json.dumps({"id": str(number), "text": text}, ensure_ascii=False)
            files[number % num_files].write(line + "\n")
            if original is not None:
                planted[number] = original
    return planted


def collect_rows(file: str, out: str, min_similarity: float = 0.8) -> dict[str, float]:
    """Seconds that `collect` takes for a file of rows, and the most memory the process had, MiB."""
    from ray_jobs.readers import Fields, Source
    from ray_jobs.stages.collect import Collect, write
    from ray_jobs.tables import Folder

    fields = Fields(prompt="text", label="id")
    source = Source(reader="generic", path=file, role="train", licence="none", fields=fields)
    started = time.perf_counter()
    write(Folder(out), {"rows": source}, Collect(min_similarity=min_similarity))
    return {
        "wall_s": time.perf_counter() - started,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def scale(num_rows: int) -> dict[str, float]:
    """`collect_rows` in a process of its own, over so many rows; also the rows that it kept."""
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder) / "rows", num_rows)
        result = _ours(Path(folder))
        return {"num_rows": num_rows, **result, "num_kept": len(_kept_by_ours(Path(folder)))}


def _ours(folder: Path) -> dict[str, float]:
    call = [sys.executable, "-m", "benchmarks.near_duplicates", "ours"]
    return _last_line([*call, str(folder / "rows" / "0.jsonl"), str(folder / "ours")])


def _kept_by_ours(folder: Path) -> set[int]:
    import pyarrow.dataset as pads

    table = pads.dataset(str(folder / "ours"), format="parquet").to_table(
        columns=["source_label"], filter=pads.field("outcome") == "done"
    )
    return {int(label) for label in table["source_label"].to_pylist()}


def _datatrove(folder: Path, kind: str, workers: int) -> dict[str, float]:
    work = folder / kind
    shutil.rmtree(work, ignore_errors=True)
    call = [str(peer_python()), str(PEER), str(folder / "parts"), str(work), kind, str(workers)]
    return _last_line(call)


def _kept_by_datatrove(folder: Path, kind: str) -> set[int]:
    files = (folder / kind / "kept").iterdir()
    lines = (line for file in files for line in file.read_text("utf-8").splitlines())
    return {int(json.loads(line)["id"]) for line in lines}


def _last_line(call: list[str]) -> dict[str, float]:
    out = subprocess.run(
        call, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=3000
    )
    result: dict[str, float] = json.loads(out.stdout.splitlines()[-1])
    return result


def peer_python() -> Path:
    """Python in the environment of the peer, which is made at first use."""
    pins = REQUIREMENTS.read_text("utf-8")
    folder = CACHE / "benchmarks" / f"datatrove-{hashlib.sha256(pins.encode()).hexdigest()[:8]}"
    python = folder / "bin" / "python"
    if not (folder / "ready").is_file():
        venv.create(folder, clear=True, with_pip=True)
        install = [str(python), "-m", "pip", "install", "-q", "--no-deps", "-r", str(REQUIREMENTS)]
        subprocess.run(install, check=True, timeout=1800)
        (folder / "ready").touch()
    return python


def compare(num_runs: int) -> None:
    """All sides by turns; medians, the ratio to the faster peer, recall of what was planted."""
    peer_python()
    workers = os.cpu_count() or 1
    rates: dict[str, list[float]] = {"ours": [], "letters": [], "words": []}
    kept: dict[str, set[int]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        planted = write_rows(folder / "rows", NUM_ROWS)
        write_rows(folder / "parts", NUM_ROWS, num_files=workers)
        for run in range(num_runs):
            for side, found in rates.items():
                is_ours = side == "ours"
                result = _ours(folder) if is_ours else _datatrove(folder, side, workers)
                found.append(NUM_ROWS / result["wall_s"])
                print(f"run {run + 1}\t{side}\t{found[-1]:,.0f} rows/s", flush=True)
                kept[side] = _kept_by_ours(folder) if is_ours else _kept_by_datatrove(folder, side)
    medians = {side: statistics.median(found) for side, found in rates.items()}
    for side, rate in medians.items():
        found_again = sum(not {copy, row} <= kept[side] for copy, row in planted.items())
        name = "ours, 1 core" if side == "ours" else f"datatrove, {side}, {workers} cores"
        print(
            f"median of {num_runs}\t{name}\t{rate:,.0f} rows/s\tkept {len(kept[side]):,}"
            f"\tof {len(planted):,} planted found {found_again / len(planted):.2%}"
        )
    faster = max(medians["letters"], medians["words"])
    print(f"ratio to the faster\t{medians['ours'] / faster:.2f}")


def main() -> None:
    """Compare, or measure ours at growing sizes; `ours FILE OUT` is one run in its own process."""
    if sys.argv[1:2] == ["ours"]:
        print(json.dumps(collect_rows(*sys.argv[2:4])))
    elif sys.argv[1:2] == ["scale"]:
        for num_rows in (10_000, 100_000, 1_000_000):
            print(json.dumps(scale(num_rows)), flush=True)
    else:
        compare(int(sys.argv[1]) if len(sys.argv) > 1 else 3)


if __name__ == "__main__":
    main()

"""Target tokens a second and peak memory of our training loop, beside LLaMA-Factory 0.9.5's: the
same random Llama, the same real rows, the paper's batch of 1 × 50, each side in its own process.

    python -m benchmarks.train [runs] [--device cuda] [--size 1b] [--cap-gib 24] [--profile]

The time is that from the end of the first epoch's last optimiser step to the end of the last
epoch's, taken by a callback of each trainer: loading and tokenising are outside, making batches is
inside. Each side has then passed every row equally often, so rates are of the very same tokens:
targets are the answers' and the one that ends each, and sides that count otherwise end the run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks import llamafactory, random_llama
from benchmarks.sides import CACHE
from benchmarks.train_case import ROWS, Case, Found
from cluster.hardware import cards
from ray_jobs.forecasts import known_card

OURS = "ours"
THREADS = 2


def our_call(case: Case, data: Path, *more: str) -> list[str]:
    """The command of our side."""
    given = json.dumps(asdict(case))
    return [sys.executable, "-m", "benchmarks.train_ours", given, str(data), *more]


def run(call: Sequence[str], environment: Mapping[str, str]) -> Found | None:
    """The line of JSON that a side ends with; None where the card's memory was not enough."""
    threads = {"OMP_NUM_THREADS": str(THREADS), "MKL_NUM_THREADS": str(THREADS)}
    given = {**environment, **threads}
    done = subprocess.run(
        call, env=given, capture_output=True, text=True, timeout=3000, check=False
    )
    if done.returncode and "OutOfMemoryError" in done.stderr:
        return None
    if done.returncode:
        raise RuntimeError(f"a side ended with {done.returncode}: {done.stderr[-4000:]}")
    found: Found = json.loads(done.stdout.splitlines()[-1])
    return found


def peer(one: llamafactory.Setting, case: Case, folder: Path, mean_tokens: float) -> Found | None:
    """One run of LLaMA-Factory. Packed, as many packs make a step as hold a batch or so."""
    cfg = case.settings
    accumulated = cfg.batch_size
    if one.pack_tokens:
        accumulated = max(1, round(cfg.batch_size * mean_tokens / one.pack_tokens))
    arguments = llamafactory.arguments(
        one, model=case.model, data=folder, out=folder / "out", on_card=case.on_card
    ) | {
        "cutoff_len": one.pack_tokens or cfg.cutoff,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": accumulated,
        "learning_rate": cfg.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_ratio": cfg.warmup_ratio,
        "num_train_epochs": cfg.epochs,
    }
    file = folder / "arguments.json"
    file.write_text(json.dumps(arguments), encoding="utf-8")
    python = llamafactory.python(CACHE, on_card=case.on_card)
    call = [str(python), str(llamafactory.SCRIPT), str(file), str(case.cap_gib)]
    return run(call, llamafactory.environment(on_card=case.on_card))


def compare(case: Case, peers: Sequence[llamafactory.Setting], num_runs: int) -> None:
    """All sides by turns, and the table of their medians."""
    runs: dict[str, list[Found | None]] = {OURS: [], **{one.title: [] for one in peers}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = llamafactory.write_rows(folder, case.rows)
        for number in range(1, num_runs + 1):
            ours = run(our_call(case, data), os.environ)
            if ours is None:
                raise RuntimeError("ours does not fit into the card's memory")
            _add(runs[OURS], ours, f"run {number}\t{OURS}", case)
            for one in peers:
                found = peer(one, case, folder, ours["tokens"] / len(case.rows))
                _check_same(ours, found, one.title)
                _add(runs[one.title], found, f"run {number}\t{one.title}", case)
    show(runs, case)


def _check_same(ours: Found, found: Found | None, title: str) -> None:
    for what in ("tokens", "targets"):
        if found is not None and found[what] != ours[what]:
            raise RuntimeError(f"{title} trains on {found[what]} {what}, ours on {ours[what]}")


def _add(runs: list[Found | None], found: Found | None, title: str, case: Case) -> None:
    runs.append(found)
    said = "out of memory"
    if found is not None:
        speed = f"{case.rate(found, 'targets'):,.0f} target tokens/s"
        said = f"{speed}\tin {found['wall_s']:.1f} s\tpeak {found['peak_mib']:,.0f} MiB"
    print(f"{title}\t{said}", flush=True)


def show(runs: Mapping[str, Sequence[Found | None]], case: Case) -> None:
    """The table."""
    medians = {title: _median(found) for title, found in runs.items()}
    best = medians[OURS]
    assert best is not None, "it was measured"
    print(
        f"\nmedian of {len(runs[OURS])}: the {case.size} Llama on {case.device}; {len(case.rows)} "
        f"rows of {best['tokens']:,.0f} tokens, {best['targets']:,.0f} of them targets"
    )
    heads = ["side", "rows/s", "target tokens/s", "peak MiB", "of it since training began"]
    heads += ["card: tensors MiB", "card: taken MiB", "MFU"] * case.on_card
    print("| " + " | ".join([*heads, "ours / this side"]) + " |")
    print("| --- " * (len(heads) + 1) + "|")
    for title, found in medians.items():
        cells = ["out of memory"] if found is None else _cells(found, case)
        cells += [""] * (len(heads) - 1 - len(cells))
        ratio = found["wall_s"] / best["wall_s"] if found else None
        shown = "" if ratio is None or title == OURS else f"{ratio:.2f}"
        print("| " + " | ".join([title, *cells, shown]) + " |")


def _median(runs: Sequence[Found | None]) -> Found | None:
    found = [one for one in runs if one is not None]
    if len(found) < len(runs):
        return None
    return {key: statistics.median(one[key] for one in found) for key in found[0]}


def _cells(found: Found, case: Case) -> list[str]:
    cells = [
        f"{len(case.rows) * case.rate(found, 'targets') / found['targets']:.2f}",
        f"{case.rate(found, 'targets'):,.0f}",
        f"{found['peak_mib']:,.0f}",
        f"{found['peak_mib'] - found['before_mib']:,.0f}",
    ]
    if case.on_card:
        card = known_card(cards()[0].name)
        mfu = f"{case.operations(found) / card.bf16_tflops / 1e12:.0%}" if card else "unknown card"
        cells += [f"{found['card_mib']:,.0f}", f"{found['taken_mib']:,.0f}", mfu]
    return cells


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train")
    parser.add_argument("runs", nargs="?", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--size", choices=tuple(random_llama.SIZES), default="22m")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=2, help="the first is not timed")
    parser.add_argument("--pack-tokens", type=int, default=0, help="ours: 1024, on a card 4096")
    parser.add_argument("--peer-pack-tokens", type=int, nargs="+", help="1024, on a card also 4096")
    parser.add_argument("--cap-gib", type=float, default=0.0, help="of the card, for all sides")
    parser.add_argument("--profile", action="store_true", help="where the time of our steps goes")
    return parser.parse_args()


def main() -> None:
    """Compare, or profile ours; say why where it cannot be done here."""
    given = _arguments()
    on_card = given.device != "cpu"
    if not ROWS.is_file():
        print(f"skipped: {ROWS.name} is not at hand")
        return
    if on_card and not cards():
        print("skipped: there is no GPU here")
        return
    case = Case(
        size=given.size,
        device=given.device,
        num_rows=given.rows,
        epochs=given.epochs,
        pack_tokens=given.pack_tokens or (4096 if on_card else 1024),
        cap_gib=given.cap_gib if on_card else 0.0,
    )
    if given.profile:
        with tempfile.TemporaryDirectory() as name:
            data = llamafactory.write_rows(Path(name), case.rows)
            subprocess.run(our_call(case, data, "profile"), check=True, timeout=3000)
        return
    lengths = given.peer_pack_tokens or ([1024, 4096] if on_card else [1024])
    compare(case, llamafactory.settings(lengths, on_card=on_card), given.runs)


if __name__ == "__main__":
    main()

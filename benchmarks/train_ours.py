"""One training by our plain loop, in a process of its own: `benchmarks.train` starts it.

python -m benchmarks.train_ours <case as JSON> <file of rows> [profile]
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.train_case import Case, Found
from ray_jobs.training.chats import read_chats
from ray_jobs.training.examples import Encoder, Samples
from ray_jobs.training.loop import Progress, train
from ray_jobs.training.models import load_model, load_tokenizer

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
LINES = 25


class Clock:
    """Takes the time, and the profile, from the end of the first epoch to that of the last."""

    def __init__(self, case: Case, profiler: profile | None) -> None:
        self._case, self._profiler = case, profiler
        self._marks: list[float] = []

    @property
    def wall_s(self) -> float:
        start, end = self._marks
        return end - start

    def report(self, progress: Progress) -> None:
        """After every optimiser step."""
        if progress.step not in (progress.num_steps // self._case.epochs, progress.num_steps):
            return
        if self._case.on_card:
            torch.cuda.synchronize()
        self._marks.append(time.perf_counter())
        if self._profiler is not None:
            (self._profiler.start if len(self._marks) == 1 else self._profiler.stop)()


def ours(case: Case, data: Path, profiler: profile | None = None) -> Found:
    """Tokenise, load the model, train."""
    if case.cap_gib:
        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(case.cap_gib * GIB / whole)
    cfg, name = case.settings, str(case.model)
    encoder = Encoder(tokenizer=load_tokenizer(name), cutoff=cfg.cutoff, name=name)
    (chats,) = read_chats(str(data), "alpaca")
    samples = Samples.of(encoder.encode(chats))
    model, clock = load_model(name), Clock(case, profiler)
    before = _resident_mib()
    train(model, samples, cfg, report=clock.report, device=case.device)
    found = {
        "wall_s": clock.wall_s,
        "tokens": len(samples.tokens),
        "targets": samples.num_targets,
        "before_mib": before,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB / MIB,
    }
    if case.on_card:
        found["card_mib"] = torch.cuda.max_memory_allocated() / MIB
        found["taken_mib"] = torch.cuda.max_memory_reserved() / MIB
    return found


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / MIB


def profiled(case: Case, data: Path) -> None:
    """Print where the time of the steps goes."""
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * case.on_card]
    profiler = profile(activities=activities)
    found = ours(case, data, profiler)
    by = f"self_{'device' if case.on_card else 'cpu'}_time_total"
    print(profiler.key_averages().table(sort_by=by, row_limit=LINES, max_name_column_width=40))
    print(f"{found['wall_s']:.1f} s in all")


def main(arguments: list[str]) -> None:
    """Print what was measured as a line of JSON, or the profile."""
    case, data = Case(**json.loads(arguments[0])), Path(arguments[1])
    if arguments[2:] == ["profile"]:
        profiled(case, data)
    else:
        print(json.dumps(ours(case, data)))


if __name__ == "__main__":
    main(sys.argv[1:])

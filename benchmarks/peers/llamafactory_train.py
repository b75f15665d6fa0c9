"""One training by LLaMA-Factory as its command line does it; runs in an environment of its own.

python llamafactory_train.py <arguments.json> <GiB of the card that it may take, 0 for all>
Prints seconds from the end of the first epoch to that of the last, the rows and tokens of an epoch,
and the most memory that the process had until then.
"""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from llamafactory.train.tuner import run_exp
from transformers import TrainerCallback

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
IGNORED = -100


class Clock(TrainerCallback):
    """Takes the time when an epoch's last optimiser step is done."""

    def __init__(self) -> None:
        self.found: dict[str, float] = {}
        self._started = 0.0

    def on_train_begin(
        self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **rest: Any
    ) -> None:
        """The model is loaded, and the rows are tokens: counts these, without padding."""
        rows = train_dataloader.dataset
        self.found["tokens"] = sum(sum(mark != 0 for mark in row["attention_mask"]) for row in rows)
        self.found["targets"] = sum(sum(t != IGNORED for t in row["labels"]) for row in rows)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.found["before_mib"] = pages * resource.getpagesize() / MIB

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Optimiser steps are counted from 1."""
        if state.global_step == state.max_steps // int(args.num_train_epochs):
            self._started = now()
        if state.global_step == state.max_steps:
            self.found["wall_s"] = now() - self._started
            self.found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB / MIB
            if torch.cuda.is_available():
                self.found["card_mib"] = torch.cuda.max_memory_allocated() / MIB
                self.found["taken_mib"] = torch.cuda.max_memory_reserved() / MIB


def now() -> float:
    """When the card has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def main(arguments: str, cap_gib: float) -> None:
    """Train."""
    if cap_gib:
        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(cap_gib * GIB / whole)
    clock = Clock()
    run_exp(json.loads(Path(arguments).read_text("utf-8")), callbacks=[clock])
    print(json.dumps(clock.found))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))

"""Tiny models and samples for the tests of training; run as a program it does cases on several
workers: `python -m tests.local.training_cases <folder>`, which holds cases.json.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import socket
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from ray_jobs.training import loop
from ray_jobs.training.drivers import Driver, make_driver
from ray_jobs.training.examples import Samples
from ray_jobs.training.loop import Hooks, Progress
from ray_jobs.training.objective import Objective
from ray_jobs.training.packing import fill
from ray_jobs.training.settings import Lora, Train

VOCABULARY = 97
FAMILIES: dict[str, Any] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
}
CFG: dict[str, Any] = {
    "base": "tiny",
    "cutoff": 64,
    "pack_tokens": 128,
    "batch_size": 4,
    "epochs": 1,
    "learning_rate": 3e-3,
    "warmup_ratio": 0.1,
    "precision": "fp32",
    "max_grad_norm": 0.5,
    "weight_decay": 0.01,
    "loss_chunk_tokens": 16,
}


def cfg(**changes: Any) -> Train:
    """The tests' settings: every part of the arithmetic is in use (warm-up, clipping, decay)."""
    given = {**CFG, **changes}
    if isinstance(given.get("lora"), dict):
        given["lora"] = Lora(**given["lora"])
    return Train(**given)


def make_model(
    num_kv_heads: int = 2,
    *,
    tied: bool = True,
    dtype: torch.dtype = torch.float32,
    family: str = "llama",
) -> PreTrainedModel:
    """A model of 30,000 random weights, the same at every call."""
    make_config, make = FAMILIES[family]
    torch.manual_seed(0)
    model: PreTrainedModel = make(
        make_config(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=num_kv_heads,
            tie_word_embeddings=tied,
            max_position_embeddings=256,
            initializer_range=0.1,
            dtype="float32",
        )
    )
    with torch.no_grad():
        # Biases begin at 0 and norms at 1, where a mistake about them would not be seen.
        for one in model.parameters():
            if one.ndim == 1:
                one.add_(0.1 * torch.randn_like(one))
    return model.to(dtype)


def make_samples(num: int = 10, seed: int = 0) -> Samples:
    """Samples of 5 to 40 tokens, a third of each a prompt."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(5, 40, size=num)
    starts = np.cumsum([0, *lengths])
    is_target = np.concatenate([np.arange(length) > length // 3 for length in lengths])
    tokens = rng.integers(0, VOCABULARY, size=starts[-1]).astype(np.int32)
    return Samples(tokens=tokens, is_target=is_target, starts=starts)


def run(
    case: Mapping[str, Any], *, rank: int = 0, world_size: int = 1, resumed: Path | None = None
) -> dict[str, Any]:
    """Train as a case says; what was reported, the weights, the state after step 2, and whether a
    state that was loaded is given back to the last bit.
    """
    curve: list[Progress] = []
    saved: dict[str, Tensor] = {}
    same: list[bool] = []

    def save(driver: Driver, progress: Progress) -> None:
        if progress.step == 2:
            saved.update({name: one.clone() for name, one in driver.state()})

    def restore(driver: Driver) -> None:
        assert resumed is not None
        state = torch.load(resumed)["state"]
        driver.load(state.__getitem__, step=2)
        again = {name: one.clone() for name, one in driver.state()}
        same.append(again.keys() == state.keys())
        same.extend(torch.equal(one, state[name]) for name, one in again.items())

    trained = loop.train(
        make_model(**case.get("model", {})),
        make_samples(),
        cfg(**case.get("cfg", {})),
        report=curve.append,
        seed=5,
        rank=rank,
        world_size=world_size,
        start_step=0 if resumed is None else 2,
        validation=make_samples(3, seed=9),
        hooks=Hooks(save=save, save_at=lambda step: step == 2, restore=restore),
    )
    return {
        "losses": [(one.loss, one.grad_norm, one.target_tokens, one.tokens) for one in curve],
        "validation": [one.validation_loss for one in curve],
        "weights": {name: one.clone() for name, one in trained.driver.weights()},
        "state": saved,
        "same": same,
        "buffers": {str(one.dtype) for one in trained.driver.model.buffers()},
    }


def spoil(case: Mapping[str, Any], *, world_size: int = 1) -> dict[str, Any]:
    """The state at the start, whether a gradient that is not finite left it as it was, and the
    norms of that one and of a sound one after it.
    """
    driver = make_driver(make_model(), cfg(**case["cfg"]), world_size=world_size, device="cpu")
    pack = fill(make_samples(), np.arange(2))
    states, norms = [_copied(driver)], []
    for weight in (math.inf, 0.1):
        driver.add(pack, weight, is_last=True)
        norms.append(driver.step(1e-3))
        states.append(_copied(driver))
    same = [{name: torch.equal(one, states[0][name]) for name, one in s.items()} for s in states]
    return {"state": states[0], "same": same[1], "same after a sound one": same[2], "norms": norms}


def _copied(driver: Driver) -> dict[str, Tensor]:
    return {name: one.clone() for name, one in driver.state()}


class Unmoved(Objective):
    """One that no card can hold as a whole."""

    def to(self, *args: object, **kwargs: object) -> Any:
        raise AssertionError("the whole model came to one card")


def share_out(case: Mapping[str, Any], *, world_size: int) -> dict[str, Any]:
    """The state that DeepSpeed makes of a model no card can hold."""
    from ray_jobs.training.deepspeed_driver import DeepSpeedDriver

    given = cfg(**case["cfg"])
    objective = Unmoved(make_model(), given)
    return {
        "state": _copied(DeepSpeedDriver(objective, given, world_size=world_size, device="cpu"))
    }


def work(rank: int, world_size: int, port: int, cases: Mapping[str, Any], folder: Path) -> None:
    """Do cases as one worker; the first writes <folder>/<case>.pt."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    torch.set_num_threads(1)
    # Where one fails the others are not to wait long.
    torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=60))
    for name, case in cases.items():
        resumed = folder / f"{case['resumed']}.pt" if "resumed" in case else None
        if name.startswith("spoilt"):
            found = spoil(case, world_size=world_size)
        elif name.startswith("shared out"):
            found = share_out(case, world_size=world_size)
        else:
            found = run(case, rank=rank, world_size=world_size, resumed=resumed)
        if rank == 0:
            torch.save(found, folder / f"{name}.pt")
        torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def main(folder: Path) -> None:
    """Do all cases, on as many workers as each list of them says."""
    # Imported once: a worker is a copy of this process, which computes nothing itself.
    import deepspeed  # noqa: F401

    forked = multiprocessing.get_context("fork")
    for world_size, cases in json.loads((folder / "cases.json").read_text()).items():
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        workers = [
            forked.Process(target=work, args=(rank, int(world_size), port, cases, folder))
            for rank in range(int(world_size))
        ]
        for one in workers:
            one.start()
        for one in workers:
            one.join()
        if any(one.exitcode for one in workers):
            sys.exit(f"{world_size} workers ended with {[one.exitcode for one in workers]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

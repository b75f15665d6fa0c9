"""One training run as a plain function of model, samples and settings: no Ray, no files.

There is no hidden state: the order of the samples follows from the seed and the step number, and
random numbers (LoRA's dropout alone) are seeded anew at every step. So what a checkpoint must hold
is the step number and `Driver.state`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, distributed

from ray_jobs.steps import JobFailed
from ray_jobs.training.curve import LOWER_IT, fault
from ray_jobs.training.drivers import Driver, make_driver
from ray_jobs.training.examples import Samples
from ray_jobs.training.packing import Indices, Order, Pack, my_packs
from ray_jobs.training.settings import Train

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One optimiser step, in figures of all workers together; the same on each of them."""

    step: int
    """Steps done, this one included."""
    num_steps: int
    """Steps of the whole run."""
    epoch: float
    """How often the samples have been passed, such as 1.5."""
    loss: float
    """Mean cross-entropy per target token, before this step's update."""
    learning_rate: float
    grad_norm: float
    """Before clipping."""
    target_tokens: int
    tokens: int
    seconds: float
    """Wall time of the step, without what the callbacks took."""
    validation_loss: float | None = None
    """Mean cross-entropy per target token after the update, where it was measured."""

    @property
    def fault(self) -> str | None:
        """How it shows that the training has diverged; None where it has not."""
        return fault(self.loss, self.grad_norm, self.validation_loss)


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What the caller does on the way. All are called on every worker, in the same order."""

    restore: Callable[[Driver], None] | None = None
    """Called once before the first step where start_step > 0: calls Driver.load."""
    save_at: Callable[[int], bool] | None = None
    """Whether to save after a step; None takes cfg.checkpoint.every_steps. The last always is."""
    save: Callable[[Driver, Progress], None] | None = None
    """Saves. Driver.state is collective: every worker runs through it, and keeps what is its."""
    stop: Callable[[Progress], bool] | None = None
    """Whether to end after this step; one worker that says so is enough. The state is saved."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A run's end."""

    driver: Driver
    """Holds the model; `weights` gives what was trained, whole."""
    last: Progress | None
    """None where there was no step left to do."""
    stopped: bool


def train(
    model: PreTrainedModel,
    samples: Samples,
    cfg: Train,
    *,
    report: Callable[[Progress], None],
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    device: str = "cpu",
    start_step: int = 0,
    validation: Samples | None = None,
    hooks: Hooks | None = None,
) -> Trained:
    """Train a model (in fp32 or as its checkpoint is; on CPU or on `device`) on samples.

    With more than one worker torch.distributed must be initialised (also for zero_stage ≥ 1 with
    one). Every worker gets all samples, and the same arguments but `rank` and `device`.
    ValueError where there is nothing to train on; JobFailed, before it is saved, at a step whose
    loss or gradient is not finite.
    """
    if not len(samples):
        raise ValueError("train.data: there is no sample to train on")
    order = Order(num_samples=len(samples), batch_size=cfg.batch_size, epochs=cfg.epochs, seed=seed)
    hooks = hooks or Hooks()
    workers = Workers(rank=rank, world_size=world_size, device=device)
    attention = model.config._attn_implementation
    driver = make_driver(model, cfg, world_size=world_size, device=device)
    if start_step:
        assert hooks.restore is not None, "a run that begins in the middle needs its state"
        hooks.restore(driver)
    last, is_stopped = None, False
    for step in range(start_step, order.num_steps):
        is_end = step + 1 == order.num_steps
        _seed_step(seed, step, rank)
        last = _one_step(driver, samples, order, step, cfg, workers)
        is_due = not last.fault and _is_due(step + 1, cfg.validation.every_steps, is_end)
        if validation is not None and is_due:
            last = replace(last, validation_loss=mean_loss(driver, validation, cfg, workers))
        report(last)
        is_stopped = hooks.stop is not None and workers.any(hooks.stop(last))
        if last.fault:
            raise JobFailed(f"train: {last.fault} at step {last.step}: {LOWER_IT}")
        if hooks.save is not None and (_saves(step + 1, cfg, hooks) or is_end or is_stopped):
            hooks.save(driver, last)
        if is_stopped:
            break
    model.set_attn_implementation(attention)  # ours knows packs alone; who goes on may generate
    return Trained(driver=driver, last=last, stopped=is_stopped)


def learning_rate(step: int, num_steps: int, cfg: Train) -> float:
    """The rate of a step, counted from 0: a line from 0 in the warm-up, then a cosine to 0.

    As transformers has it (the paper's trainer): the first step of a warm-up moves nothing.
    """
    num_warmup = math.ceil(num_steps * cfg.warmup_ratio)
    if step < num_warmup:
        return cfg.learning_rate * step / num_warmup
    done = (step - num_warmup) / max(1, num_steps - num_warmup)
    return cfg.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def mean_loss(driver: Driver, samples: Samples, cfg: Train, workers: Workers) -> float:
    """Mean cross-entropy per target token of samples, over all workers."""
    total = torch.zeros(2, dtype=torch.float64)
    order = torch.arange(len(samples)).numpy()
    for first in range(0, len(samples), cfg.batch_size):
        for pack in workers.packs(samples, order[first : first + cfg.batch_size], cfg):
            total += torch.tensor([float(driver.loss(pack)), len(pack.targets_N)])
    loss, num_targets = workers.sum(total)
    return loss / num_targets


@dataclass(frozen=True, kw_only=True)
class Workers:
    """This worker's place among all."""

    rank: int
    world_size: int
    device: str

    def packs(self, samples: Samples, group: Indices, cfg: Train) -> list[Pack]:
        """This worker's packs of a group; equally many on each."""
        return my_packs(samples, group, cfg.pack_tokens, rank=self.rank, world_size=self.world_size)

    def sum(self, figures: Tensor) -> list[float]:
        """Figures summed over all workers."""
        if self.world_size > 1:
            figures = figures.to(self.device)
            distributed.all_reduce(figures)
        return [float(figure) for figure in figures.tolist()]

    def any(self, is_so: bool) -> bool:
        """Whether it is so on one worker at least."""
        return self.sum(torch.tensor([float(is_so)]))[0] > 0


def _one_step(
    driver: Driver, samples: Samples, order: Order, step: int, cfg: Train, workers: Workers
) -> Progress:
    started = time.perf_counter()
    group = order.group(step)
    packs = workers.packs(samples, group, cfg)
    num_targets = int(sum(samples[int(index)][1].sum() for index in group))
    rate = learning_rate(step, order.num_steps, cfg)
    losses = [
        driver.add(pack, 1 / num_targets, is_last=place == len(packs) - 1)
        for place, pack in enumerate(packs)
    ]
    norm = driver.step(rate)
    loss = workers.sum(torch.stack(losses).double().sum()[None])[0] / num_targets
    return Progress(
        step=step + 1,
        num_steps=order.num_steps,
        epoch=(step + 1) / order.steps_per_epoch,
        loss=loss,
        learning_rate=rate,
        grad_norm=norm,
        target_tokens=num_targets,
        tokens=int(samples.lengths[group].sum()),
        seconds=time.perf_counter() - started,
    )


def _seed_step(seed: int, step: int, rank: int) -> None:
    """Random numbers of a step: the same whenever it is done, and others on each worker."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0]))


def _is_due(step: int, every: int, is_end: bool) -> bool:
    return every > 0 and (is_end or step % every == 0)


def _saves(step: int, cfg: Train, hooks: Hooks) -> bool:
    if hooks.save_at is not None:
        return hooks.save_at(step)
    return cfg.checkpoint.every_steps > 0 and step % cfg.checkpoint.every_steps == 0

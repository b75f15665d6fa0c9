"""Plain PyTorch: every worker holds everything, and gradients are summed once a step.

With bf16 the model computes in bf16 weights that are rounded anew from fp32 masters after each
step; AdamW moves the masters. An update at 6e-7 is far below bf16's spacing and would be lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from ray_jobs.training.objective import Objective
from ray_jobs.training.optimisers import moments, set_step, single
from ray_jobs.training.packing import Pack
from ray_jobs.training.settings import Train

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True, eq=False)
class _Trained:
    """One parameter, its master in fp32 (itself where the model computes in fp32), its AdamW."""

    name: str
    param: nn.Parameter
    master: Tensor
    optimizer: Optimizer


class TorchDriver:
    """Driver of one worker without DeepSpeed."""

    def __init__(self, objective: Objective, cfg: Train, *, world_size: int, device: str) -> None:
        self._cfg = cfg
        self._world_size = world_size
        self._objective = objective.to(device)
        self._trained = [self._prepared(name, one) for name, one in self._objective.trained()]
        for frozen in self._objective.parameters():
            _cast(frozen, cfg)

    @property
    def model(self) -> PreTrainedModel:
        return self._objective.model

    def _prepared(self, name: str, param: nn.Parameter) -> _Trained:
        master: Tensor = param
        if self._cfg.precision == "bf16":
            master = param.detach().to(torch.float32, copy=True)
        _cast(param, self._cfg)
        if self._cfg.precision == "bf16" and self._cfg.grad_accum_dtype == "fp32":
            master.grad = torch.zeros_like(master)
            param.register_post_accumulate_grad_hook(_into(master))
        return _Trained(name=name, param=param, master=master, optimizer=single(master, self._cfg))

    def add(self, pack: Pack, weight: float, *, is_last: bool) -> Tensor:
        loss: Tensor = self._objective(pack)
        (loss * weight).backward()
        return loss.detach()

    def loss(self, pack: Pack) -> Tensor:
        self._objective.eval()
        with torch.no_grad():
            loss: Tensor = self._objective(pack)
        self._objective.train()
        return loss

    @torch.no_grad()
    def step(self, learning_rate: float) -> float:
        for one in self._trained:
            grad = _gradient(one)
            if self._world_size > 1:
                distributed.all_reduce(grad)
        norms = [_gradient(one).norm(dtype=torch.float32) for one in self._trained]
        norm = torch.stack(norms).norm()
        limit = self._cfg.max_grad_norm
        factor = torch.clamp(limit / (norm + 1e-6), max=1.0) if limit else None
        is_sound = bool(norm.isfinite())
        for one in self._trained:
            if is_sound:
                self._update(one, learning_rate, factor)
            self._forget(one)
        return float(norm)

    def _update(self, one: _Trained, learning_rate: float, factor: Tensor | None) -> None:
        grad = _gradient(one)
        # Summed in bf16, a gradient becomes fp32 for the moment of its own update alone.
        one.master.grad = grad.float()
        if factor is not None:
            one.master.grad.mul_(factor)
        one.optimizer.param_groups[0]["lr"] = learning_rate
        one.optimizer.step()
        if one.master is not one.param:
            one.param.copy_(one.master)

    def _forget(self, one: _Trained) -> None:
        if self._cfg.precision == "bf16" and self._cfg.grad_accum_dtype == "fp32":
            _gradient(one).zero_()
        else:
            one.master.grad = one.param.grad = None

    def state(self) -> Iterator[tuple[str, Tensor]]:
        for one in self._trained:
            yield f"weight/{one.name}", one.master.detach().cpu()
            for moment, tensor in moments(one.optimizer, one.master).items():
                yield f"{moment}/{one.name}", tensor.cpu()

    @torch.no_grad()
    def load(self, read: Callable[[str], Tensor], step: int) -> None:
        for one in self._trained:
            one.master.copy_(read(f"weight/{one.name}"))
            one.param.copy_(one.master)
            for moment, tensor in moments(one.optimizer, one.master).items():
                tensor.copy_(read(f"{moment}/{one.name}"))
            set_step(one.optimizer, one.master, step)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        for one in self._trained:
            yield one.name, one.master.detach().cpu()


def _cast(param: nn.Parameter, cfg: Train) -> None:
    # Parameters one by one: a module's .bfloat16() would round RoPE's frequencies too, and turn
    # far positions by radians.
    param.data = param.data.to(torch.bfloat16 if cfg.precision == "bf16" else torch.float32)


def _into(master: Tensor) -> Callable[[Tensor], None]:
    def add(param: Tensor) -> None:
        assert master.grad is not None, "the sum was made with the master"
        assert param.grad is not None, "called after a gradient was made"
        master.grad.add_(param.grad)
        param.grad = None

    return add


def _gradient(one: _Trained) -> Tensor:
    """A parameter's summed gradient; zeros where none of the packs had a target."""
    holder = one.master if one.master.grad is not None else one.param
    if holder.grad is None:
        holder.grad = torch.zeros_like(holder)
    return holder.grad

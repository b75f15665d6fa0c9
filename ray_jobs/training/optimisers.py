"""AdamW, with its two moments in fp32 or in 8 bits: one for each parameter."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from ray_jobs.training.settings import Train

if TYPE_CHECKING:
    from bitsandbytes.optim import AdamW8bit

MOMENTS = ("exp_avg", "exp_avg_sq")
MOMENTS_8BIT = ("state1", "absmax1", "state2", "absmax2")
"""bitsandbytes' own: 256 values share a scale. Small tensors stay in fp32 and have no scale."""


def adamw(params: Iterable[Tensor], cfg: Train) -> AdamW:
    """AdamW as PyTorch has it: one kernel for all that it does to a tensor, on CPU too."""
    return AdamW(
        list(params),
        lr=cfg.learning_rate,
        betas=cfg.betas,
        eps=cfg.epsilon,
        weight_decay=cfg.weight_decay,
        fused=True,
    )


def start(optimizer: AdamW, param: Tensor) -> None:
    """Give a parameter the state that it has before its first step, so that one can be loaded."""
    optimizer.state[param] = {
        "step": torch.zeros((), dtype=torch.float32, device=param.device),
        **{name: torch.zeros_like(param) for name in MOMENTS},
    }


def single(param: Tensor, cfg: Train) -> Optimizer:
    """The optimiser of one fp32 parameter, with its state. ValueError where it needs a package."""
    if cfg.optimizer == "adamw":
        optimizer = adamw([param], cfg)
        start(optimizer, param)
        return optimizer
    return _adamw_8bit(param, cfg)


def _adamw_8bit(param: Tensor, cfg: Train) -> AdamW8bit:
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise ValueError(
            "train.optimizer: adamw_8bit needs the package bitsandbytes; install it, or take adamw"
        ) from error
    optimizer = AdamW8bit(
        [param],
        lr=cfg.learning_rate,
        betas=cfg.betas,
        eps=cfg.epsilon,
        weight_decay=cfg.weight_decay,
    )
    optimizer.init_state(optimizer.param_groups[0], param, 0, 0)
    return optimizer


def moments(optimizer: Optimizer, param: Tensor) -> dict[str, Tensor]:
    """The tensors of a parameter's state that a checkpoint must hold."""
    state = optimizer.state[param]
    return {name: state[name] for name in (*MOMENTS, *MOMENTS_8BIT) if name in state}


def set_step(optimizer: Optimizer, param: Tensor, step: int) -> None:
    """Say how many steps a parameter has behind it."""
    state = optimizer.state[param]
    state["step"] = step if isinstance(state["step"], int) else torch.full_like(state["step"], step)

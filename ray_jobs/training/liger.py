"""Liger's fused kernels, on a card: what a layer does between its matrices, and the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ray_jobs.training.losses import FusedLoss


def use_liger(model: PreTrainedModel) -> FusedLoss:
    """Let a model's layers use Liger's kernels; returns its loss. ValueError where it is not
    installed.
    """
    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss
        from liger_kernel.transformers.monkey_patch import _apply_liger_kernel_to_instance
    except ImportError as error:
        raise ValueError(
            "train.liger: it needs the package liger-kernel; install it, or set liger=false"
        ) from error
    # The loss is ours to call: only the places that predict a target meet the vocabulary.
    _apply_liger_kernel_to_instance(model, cross_entropy=False, fused_linear_cross_entropy=False)
    loss: FusedLoss = LigerFusedLinearCrossEntropyLoss(reduction="sum", accum_dtype=torch.float32)
    return loss

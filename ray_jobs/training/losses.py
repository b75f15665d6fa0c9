"""Cross-entropy that never holds the logits of more than a chunk of tokens.

The gradient is computed with the loss, chunk by chunk, while the logits are there; only what flows
back is kept: one row a token, and the head's own gradient. 4,096 tokens × 128,256 words would be
2.1 GB a copy in fp32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

FusedLoss: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""The summed cross-entropy of head's weight, hidden states and targets, by somebody else."""


class ChunkedHead(nn.Module):
    """The model's head (it shares its weight) that ends in the loss instead of logits.

    A module of its own, so that ZeRO 3 brings its weight together when it is called.
    """

    def __init__(
        self, weight_VC: nn.Parameter, chunk_tokens: int, fused: FusedLoss | None = None
    ) -> None:
        super().__init__()
        self.weight = weight_VC
        self.chunk_tokens = chunk_tokens
        self._fused = fused

    def forward(self, hidden_NC: Tensor, targets_N: Tensor) -> Tensor:
        """The summed cross-entropy of the targets, fp32."""
        if self._fused is not None and len(targets_N):
            return self._fused(self.weight, hidden_NC, targets_N).float()
        loss: Tensor = _ChunkedCrossEntropy.apply(
            hidden_NC, self.weight, targets_N, self.chunk_tokens
        )
        return loss


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_NC: Tensor, weight_VC: Tensor, targets_N: Tensor, chunk_tokens: int
    ) -> Tensor:
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        loss = hidden_NC.new_zeros((), dtype=torch.float32)
        grad_NC = torch.empty_like(hidden_NC) if needs_hidden else None
        grad_VC: Tensor | None = None
        if needs_weight:
            # Of several chunks the gradient is summed in fp32, whatever the model computes in.
            num_chunks = -(-len(targets_N) // chunk_tokens)
            dtype = torch.float32 if num_chunks > 1 else weight_VC.dtype
            grad_VC = torch.zeros_like(weight_VC, dtype=dtype)
        for first in range(0, len(targets_N), chunk_tokens):
            part = slice(first, first + chunk_tokens)
            rows_NC, right_N1 = hidden_NC[part], targets_N[part, None]
            logits_NV = (rows_NC @ weight_VC.T).float()
            logits_NV -= logits_NV.amax(dim=1, keepdim=True)
            said_N1 = logits_NV.gather(1, right_N1)
            logits_NV.exp_()
            total_N1 = logits_NV.sum(dim=1, keepdim=True)
            loss += (total_N1.log() - said_N1).sum()
            if grad_NC is None and grad_VC is None:
                continue
            logits_NV /= total_N1
            logits_NV.scatter_add_(1, right_N1, torch.full_like(said_N1, -1))
            flow_NV = logits_NV.to(rows_NC.dtype)
            if grad_NC is not None:
                torch.mm(flow_NV, weight_VC, out=grad_NC[part])
            if grad_VC is not None and grad_VC.dtype == flow_NV.dtype:
                grad_VC.addmm_(flow_NV.T, rows_NC)
            elif grad_VC is not None:
                grad_VC += flow_NV.T @ rows_NC
        ctx.grads = (grad_NC, grad_VC)
        return loss

    @staticmethod
    def backward(ctx: Any, flow: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        grads, ctx.grads = ctx.grads, None
        assert grads is not None, "the loss passes back once"
        grad_NC, grad_VC = (None if grad is None else grad.mul_(flow) for grad in grads)
        return grad_NC, grad_VC, None, None

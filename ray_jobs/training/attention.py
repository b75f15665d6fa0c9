"""Attention within each sample of a pack and never across: no mask is made, nothing is computed
that one would hide.

Registered with transformers under a name of its own. On a card: PyTorch's variable-length flash
attention; elsewhere, and in fp32, one causal call a sample.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

NAME = "garrison_packed"


def use_packed_attention(model: PreTrainedModel, max_length: int) -> None:
    """Let a model's layers attend by the `lengths` of a pack. ValueError where its attention is of
    a kind that we do not compute.
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    # A config without types of layers has one for all: Mistral's slides wherever it has a window.
    alike = ["full_attention" if window is None else "sliding_attention"]
    kinds = set(getattr(config, "layer_types", None) or alike)
    if kinds - {"full_attention"} and (window is None or window < max_length):
        raise ValueError(
            f"train.base: a {config.model_type} model attends by {', '.join(sorted(kinds))}; "
            "only full attention is trained: take another model, or a cutoff within its window"
        )
    # Registered here and not at import: importing our package does nothing.
    AttentionInterface.register(NAME, attend)
    model.set_attn_implementation(NAME)


def attend(
    module: nn.Module,
    query_1HTD: Tensor,
    key_1HTD: Tensor,
    value_1HTD: Tensor,
    attention_mask: Tensor | None,
    *,
    lengths: tuple[int, ...],
    ends: Tensor,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,  # transformers hands over more: sinks and soft caps were refused above
) -> tuple[Tensor, None]:
    """Causal attention in each of the pack's samples; the result is 1 × T × H × D.

    `lengths` are the samples' tokens; `ends` the same summed up, from 0, on the model's device.
    """
    assert attention_mask is None, "a pack has no mask"
    assert not dropout, "attention dropout would make runs unequal"
    if query_1HTD.is_cuda and query_1HTD.dtype != torch.float32:
        from torch.nn.attention.varlen import varlen_attn

        query, key, value = (some[0].transpose(0, 1) for some in (query_1HTD, key_1HTD, value_1HTD))
        longest = max(lengths)
        out_THD = varlen_attn(
            *(query, key, value, ends, ends, longest, longest),
            scale=scaling,
            window_size=(-1, 0),  # causal
            enable_gqa=True,
        )
        assert isinstance(out_THD, Tensor)
        return out_THD[None], None
    shared = query_1HTD.shape[1] // key_1HTD.shape[1]
    if shared > 1:
        key_1HTD, value_1HTD = (
            some.repeat_interleave(shared, dim=1) for some in (key_1HTD, value_1HTD)
        )
    parts = [some.split(lengths, dim=2) for some in (query_1HTD, key_1HTD, value_1HTD)]
    out = [
        scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling).transpose(
            1, 2
        )
        for query, key, value in zip(*parts, strict=True)
    ]
    return torch.cat(out, dim=1), None

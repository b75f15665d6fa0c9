"""What a vLLM engine needs of a card, or of a machine, before it is started.

vLLM fills `gpu_memory_utilization` of a card: weights first, then one step's activations, and the
KV cache gets the rest. Log-probabilities of a prompt come on top, unplanned (vllm issue 5907).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ray_jobs.engines.models import is_local, weight_bytes
from ray_jobs.engines.shapes import Shape, UnknownShape
from ray_jobs.engines.vllm import VllmConfig

GIB = 1 << 30
ITEM_BYTES = {"bfloat16": 2, "float16": 2, "half": 2, "auto": 2, "float32": 4, "float": 4}
OVERHEAD_BYTES = GIB
"""CUDA context, CUDA graphs and the allocator's slack of one engine. Assumed, not measured."""
CONTEXT_BYTES = GIB // 2
"""Of the CUDA context, which vLLM does not count as its own. Assumed."""
SEEN = 0.985
"""Share of a card's memory that programs see: 23.7 of 24 GiB on an RTX 3090."""
SAMPLED_BYTES = 10
"""Per request and word of the vocabulary when a token is drawn: bf16 logits, fp32, sorted."""
SCORED_BYTES = 6
"""Per token and word when a prompt is scored: bf16 logits and fp32 log-probabilities."""


@dataclass(frozen=True, kw_only=True)
class EngineMemory:
    """Bytes of one engine on each of its cards, or in a machine's memory."""

    weights: int
    activations: int
    """Of one step of max_num_batched_tokens, with the overhead. 0 where there is no card."""
    kv_per_token: int
    longest: int
    """Tokens of the longest request that is let in."""
    step: int
    """Tokens of one step at the most."""
    unplanned: int
    """Per token of a prompt that is scored, beside vLLM's share of the card."""
    utilization: float

    def kv_room(self, card_bytes: float) -> float:
        """What is left for the KV cache on such a card; below 0 where not even the rest fits."""
        share = self.utilization * SEEN * card_bytes
        return share - self.weights - self.activations

    def problem(self, card_bytes: float) -> str:
        """Why it cannot run on such a card, and what would; empty where it can."""
        room, least = self.kv_room(card_bytes), self.longest * self.kv_per_token
        card = f"a card of {card_bytes / GIB:.0f} GiB"
        if room < self.kv_per_token:
            return (
                f"gpu_memory_utilization: weights ({self.weights / GIB:.1f} GiB) and one step "
                f"({self.activations / GIB:.1f} GiB) leave no KV cache on {card}; "
                "take a smaller model, or more cards (tensor_parallel_size, placement.gpus)"
            )
        if room < least:
            return (
                f"max_model_len: the KV cache of one request of {self.longest} tokens takes "
                f"{least / GIB:.1f} GiB, {card} has {room / GIB:.1f} GiB left for it; "
                f"{int(room // self.kv_per_token)} would fit"
            )
        return ""

    def warning(self, card_bytes: float) -> str:
        """Where the longest prompts would have no room for their log-probabilities, and what would
        make it.
        """
        seen, wanted = SEEN * card_bytes, self.unplanned * self.step
        beside = (1 - self.utilization) * seen - CONTEXT_BYTES
        if wanted <= beside:
            return ""
        fits = max(0, int(beside // self.unplanned))
        share = math.floor(100 * (1 - (wanted + CONTEXT_BYTES) / seen)) / 100
        return (
            f"max_num_batched_tokens: scoring a prompt of {self.step} tokens takes "
            f"{wanted / GIB:.1f} GiB beside vLLM's share of the card, {max(0, beside) / GIB:.1f} "
            f"are left: {fits} tokens, or gpu_memory_utilization={share}, would fit"
        )


def predict(cfg: VllmConfig, shape: Shape, *, on_gpu: bool, scores_prompts: bool) -> EngineMemory:
    """The bytes of one engine, per card. UnknownShape where the weights' size cannot be told.

    `scores_prompts`: whether it is asked for log-probabilities of prompts (perplexity).
    """
    cards, item = cfg.tensor_parallel_size, _item_bytes(cfg)
    step = cfg.max_num_batched_tokens
    # At its widest a step holds the residual, its norm, gate and up, and their product.
    widest = step * (2 * shape.width + 3 * shape.inner // cards) * item
    drawn = cfg.max_num_seqs * shape.vocabulary * SAMPLED_BYTES
    return EngineMemory(
        weights=_weights(cfg, shape, item) // cards,
        activations=widest + drawn + OVERHEAD_BYTES if on_gpu else 0,
        # Heads are shared out among the cards; with more cards than heads each keeps one.
        kv_per_token=shape.kv_bytes_per_token(item) // min(cards, shape.kv_heads),
        longest=cfg.max_model_len,
        step=step,
        unplanned=shape.vocabulary * SCORED_BYTES if on_gpu and scores_prompts else 0,
        utilization=cfg.gpu_memory_utilization,
    )


def _weights(cfg: VllmConfig, shape: Shape, item: int) -> int:
    if not cfg.quantization:
        return shape.num_parameters * item
    if is_local(cfg.model):
        return weight_bytes(cfg.model)
    raise UnknownShape(
        f"{cfg.model} is quantized ({cfg.quantization}) and not here: its size is not known"
    )


def _item_bytes(cfg: VllmConfig) -> int:
    if cfg.dtype not in ITEM_BYTES:
        raise UnknownShape(f"dtype {cfg.dtype!r} is none of {', '.join(ITEM_BYTES)}")
    return ITEM_BYTES[cfg.dtype]

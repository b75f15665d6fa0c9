"""What a worker holds from step to step, by who holds it: plain PyTorch, or DeepSpeed's ZeRO."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_jobs.engines.shapes import Shape
from ray_jobs.prompts import CONF
from ray_jobs.training.settings import Lora, Train

FP32, BF16 = 4, 2
BLOCK_8BIT = 256
"""Values that share a scale in 8-bit moments."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """Bytes of one worker."""

    parts: Mapping[str, float]
    """Weights, master weights and moments on the card."""
    gradients: float
    """Those of all the step's packs so far, on the card."""
    update: float
    """What comes on top when the weights move."""
    host: float = 0
    """What is offloaded to the machine's memory."""
    bucket: float = 0
    """DeepSpeed's buffers for gradients on their way, in the backward pass."""
    live: float = 0
    """ZeRO 3: weights that are brought together for the layers at work."""


def trained_parameters(shape: Shape, cfg: Train) -> int:
    """All, or those of the adapters."""
    return adapter_parameters(shape, cfg.lora) if cfg.lora.rank else shape.num_parameters


def adapter_parameters(shape: Shape, lora: Lora) -> int:
    """Of low-rank adapters on the layers that are named."""
    sides = {
        "q_proj": shape.width + shape.query_width,
        "k_proj": shape.width + shape.kv_width,
        "v_proj": shape.width + shape.kv_width,
        "o_proj": shape.query_width + shape.width,
        "gate_proj": shape.width + shape.inner,
        "up_proj": shape.width + shape.inner,
        "down_proj": shape.inner + shape.width,
    }
    everything = tuple(lora.targets) == ("all-linear",)
    chosen = [both for name, both in sides.items() if everything or name.endswith(lora.targets)]
    return shape.layers * lora.rank * sum(chosen)


def moment_bytes(cfg: Train) -> float:
    """Both moments of one parameter."""
    return 2 * FP32 if cfg.optimizer == "adamw" else 2 * (1 + FP32 / BLOCK_8BIT)


def hold(shape: Shape, cfg: Train, num_workers: int) -> Held:
    """What one of `num_workers` workers holds."""
    if cfg.uses_deepspeed:
        return _zero(shape, cfg, num_workers)
    num, trained = shape.num_parameters, trained_parameters(shape, cfg)
    if cfg.lora.rank:
        num += trained
    moments = trained * moment_bytes(cfg)
    if cfg.precision == "fp32":
        parts = {"weights": num * FP32, "moments": moments}
        return Held(parts=parts, gradients=trained * FP32, update=0)
    parts = {"weights": num * BF16, "master weights": trained * FP32, "moments": moments}
    if cfg.grad_accum_dtype == "fp32":
        return Held(parts=parts, gradients=trained * FP32, update=0)
    # Summed in bf16, one parameter's gradient after the other becomes fp32.
    largest = 0 if cfg.lora.rank else shape.embedding_parameters
    return Held(parts=parts, gradients=trained * BF16, update=largest * FP32)


def _zero(shape: Shape, cfg: Train, num_workers: int) -> Held:
    """DeepSpeed 0.19's, as its source has it, and as measured with one worker and with two."""
    item = BF16 if cfg.precision == "bf16" else FP32
    zero = _zero_settings(cfg)
    share = trained_parameters(shape, cfg) / num_workers
    weights = shape.num_parameters * item / (num_workers if cfg.zero_stage == 3 else 1)
    state = {"master weights": share * FP32, "moments": share * 2 * FP32}
    gradients = _gradients(shape, cfg, num_workers)
    num_buffers = 2 if zero.get("overlap_comm", cfg.zero_stage == 3) else 1
    bucket = num_buffers * zero.get("reduce_bucket_size", 5e8) * item
    # A matrix larger than a bucket goes alone, widened; before it is shared out, in copies.
    copies = 3 if cfg.zero_stage == 3 else 1
    bucket += 0 if cfg.lora.rank else copies * shape.embedding_parameters * FP32
    live = 0.0
    if cfg.zero_stage == 3:
        live = item * min(shape.num_parameters, zero.get("stage3_max_live_parameters", 1e9))
    if cfg.offload == "none":
        return Held(
            parts={"weights": weights, **state},
            gradients=gradients.sums,
            update=gradients.update,
            bucket=bucket + gradients.backward,
            live=live,
        )
    kept, host = _offloaded(shape, cfg, share)
    host += sum(state.values())
    if cfg.offload == "optimizer+params":
        host, weights = host + weights, 0.0
    return Held(
        parts={"weights": weights}, gradients=kept, update=0, bucket=bucket, live=live, host=host
    )


def _offloaded(shape: Shape, cfg: Train, share: float) -> tuple[float, float]:
    """What gradients take on the card and on the machine, beside offloaded state."""
    item = BF16 if cfg.precision == "bf16" else FP32
    summed = BF16 if item == BF16 and cfg.grad_accum_dtype == "bf16" else FP32
    # On the machine: those of a step in fp32, and a buffer.
    host = share * FP32 + shape.embedding_parameters * item
    if cfg.zero_stage == 3:
        return 0, host + share * summed
    host += share * item  # weights on their way back
    if item == summed:
        return 0, host + share * item
    whole = trained_parameters(shape, cfg) if cfg.zero_stage == 1 else 0
    return (share + whole) * FP32, host


@dataclass(frozen=True, kw_only=True)
class _Gradients:
    sums: float
    """All through a step."""
    backward: float = 0
    """Beside them in the backward pass."""
    update: float = 0
    """Beside them when the weights move."""


def _gradients(shape: Shape, cfg: Train, num_workers: int) -> _Gradients:
    """What DeepSpeed's gradients take where nothing is offloaded."""
    whole = trained_parameters(shape, cfg)
    share = whole / num_workers
    item = BF16 if cfg.precision == "bf16" else FP32
    widened = share * (FP32 if item == BF16 else 0)
    if item == BF16 and cfg.grad_accum_dtype == "fp32":
        if cfg.zero_stage == 1:  # of all parameters, and a pack's own beside them
            return _Gradients(sums=whole * (FP32 + BF16), backward=whole * BF16)
        # Norms are taken in fp64, matrix by matrix.
        norm = 2 * FP32 * shape.embedding_parameters / num_workers
        return _Gradients(sums=share * FP32, update=norm)
    if cfg.zero_stage == 3:
        part = min(share, _zero_settings(cfg).get("sub_group_size", 1e9))
        return _Gradients(sums=share * item, update=part * (FP32 + item))
    sums = (share if cfg.zero_stage == 2 else whole) * item
    # A pack's gradients are made beside the sums; these are flattened and widened for the update.
    return _Gradients(sums=sums, backward=sums, update=share * item + widened)


def _zero_settings(cfg: Train) -> Mapping[str, Any]:
    """`zero_optimization` of the DeepSpeed file that is taken."""
    file = Path(cfg.deepspeed or CONF / "deepspeed" / f"{cfg.deepspeed_name}.json")
    try:
        settings: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"train.deepspeed: {file}: expected a JSON file: {error}") from error
    return settings.get("zero_optimization", {})

"""Predicted against measured: the bytes of tensors that a training step holds at its widest.

Random weights, random tokens, our own loop. With a GPU it runs there (`max_memory_allocated`), else
on CPU, where PyTorch's profiler reports every allocation.

    python -m benchmarks.memory [llama [cap_gib]]     llama: the true Llama-3.2-1B, for a card
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from ray_jobs.engines.shapes import Shape, shape_of
from ray_jobs.training.examples import Samples
from ray_jobs.training.loop import train
from ray_jobs.training.memory import GIB, predict
from ray_jobs.training.settings import Train

SAMPLES_A_PACK = 4
PACKS_A_STEP = 2
LLAMA = "meta-llama/Llama-3.2-1B-Instruct"


def shape(width: int, layers: int, vocabulary: int, *, tied: bool = True) -> Shape:
    """A Llama's, its other sizes in the usual proportion."""
    return Shape(
        family="llama",
        width=width,
        layers=layers,
        heads=width // 32,
        kv_heads=width // 64,
        head_width=32,
        inner=4 * width,
        vocabulary=vocabulary,
        tied=tied,
    )


def measured(one: Shape, cfg: Train, device: str = "cpu") -> int:
    """The most bytes of tensors that two steps of training hold, from the making of the model."""
    cfg = replace(
        cfg,
        batch_size=SAMPLES_A_PACK * PACKS_A_STEP,
        epochs=1,
        cutoff=cfg.pack_tokens // SAMPLES_A_PACK,
    )
    samples = _samples(2 * cfg.batch_size, cfg.cutoff, one.vocabulary)

    def run() -> None:
        train(_model(one, cfg), samples, cfg, report=lambda progress: None, device=device)

    return _on_card(run) if device == "cuda" else _on_cpu(run)


def _model(one: Shape, cfg: Train) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=one.vocabulary,
        hidden_size=one.width,
        intermediate_size=one.inner,
        num_hidden_layers=one.layers,
        num_attention_heads=one.heads,
        num_key_value_heads=one.kv_heads,
        head_dim=one.head_width,
        tie_word_embeddings=one.tied,
    )
    model = LlamaForCausalLM(config)
    return model.to(torch.bfloat16 if cfg.precision == "bf16" else torch.float32)


def _samples(num: int, length: int, vocabulary: int) -> Samples:
    """Of one length, so that packs are full; all tokens but the first are targets."""
    tokens = np.random.default_rng(0).integers(0, vocabulary, (num, length))
    is_target = np.ones((num, length), bool)
    is_target[:, 0] = False
    return Samples(
        tokens=tokens.reshape(-1).astype(np.int32),
        is_target=is_target.reshape(-1),
        starts=np.arange(num + 1, dtype=np.int64) * length,
    )


def _on_card(run: Callable[[], None]) -> int:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    run()
    peak: int = torch.cuda.max_memory_allocated()
    return peak


def _on_cpu(run: Callable[[], None]) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    assert profiler.profiler is not None
    found = profiler.profiler.kineto_results.events()
    changes = [event for event in found if event.name() == "[memory]"]
    changes.sort(key=lambda event: event.start_ns())
    return int(np.cumsum([event.nbytes() for event in changes]).max())


def cases() -> Iterator[tuple[str, Shape, Train]]:
    """Three sizes, each widest at another moment."""
    base = Train(pack_tokens=512, loss_chunk_tokens=128, cutoff=128)
    for title, one in (
        ("1M, wide vocabulary", shape(64, 2, 12000)),
        ("5M, long packs", shape(256, 4, 4000)),
        ("14M, weights above all", shape(384, 6, 8000, tied=False)),
    ):
        for precision in ("fp32", "bf16"):
            yield f"{title}, {precision}", one, replace(base, precision=precision)
        redone = replace(base, activation_checkpointing=True, grad_accum_dtype="bf16")
        yield f"{title}, bf16 sums, layers redone", one, redone


def llama() -> Iterator[tuple[str, Shape, Train]]:
    """The reference recipe's model at its settings, and at what comes near."""
    one = shape_of(LLAMA)
    base = Train(activation_checkpointing=True, gpus_per_worker=1)
    yield "bf16 sums", one, replace(base, grad_accum_dtype="bf16")
    yield "bf16 sums, small chunks", one, replace(
        base, grad_accum_dtype="bf16", loss_chunk_tokens=256
    )
    yield "8-bit moments", one, replace(base, optimizer="adamw_8bit")


def main(arguments: list[str]) -> None:
    """Print the table."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if arguments[1:]:
        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(float(arguments[1]) * GIB / whole)
    print(f"| on {device} | predicted MiB | measured MiB | predicted / measured | widest at |")
    print("| --- | --- | --- | --- | --- |")
    for title, one, cfg in llama() if arguments[:1] == ["llama"] else cases():
        need = predict(one, cfg, on_gpu=device == "cuda")
        found = measured(one, cfg, device)
        print(
            f"| {title} | {need.peak / 2**20:,.0f} | {found / 2**20:,.0f} "
            f"| {need.peak / found:.3f} | {need.moment} |",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])

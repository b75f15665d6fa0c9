"""Predicted against measured: the bytes of tensors that a training step holds at its widest.

Random weights, random tokens, our own loop. With a GPU it runs there (`max_memory_allocated`), else
on CPU, where PyTorch's profiler reports every allocation.

    python -m benchmarks.memory [llama [cap_gib]]     llama: the true Llama-3.2-1B, for a card
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import torch
from torch._C._profiler import _ExtraFields_Allocation
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from ray_jobs.engines.shapes import Shape, shape_of
from ray_jobs.training.examples import Samples
from ray_jobs.training.loop import train
from ray_jobs.training.memory import GIB, predict
from ray_jobs.training.settings import Lora, Train

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


def measured(one: Shape, cfg: Train, device: str = "cpu", *, num_steps: int = 2) -> int:
    """The most bytes of tensors that training holds, from the making of the model on."""
    cfg = replace(
        cfg,
        batch_size=SAMPLES_A_PACK * PACKS_A_STEP,
        epochs=1,
        cutoff=cfg.pack_tokens // SAMPLES_A_PACK,
    )
    samples = _samples(num_steps * cfg.batch_size, cfg.cutoff, one.vocabulary)

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
    gc.collect()  # what an earlier measurement left behind is freed now, not in the middle
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    assert profiler.profiler is not None
    waiting = list(profiler.profiler.kineto_results.experimental_event_tree())
    changes = []
    while waiting:
        event = waiting.pop()
        waiting.extend(event.children)
        if isinstance(event.extra_fields, _ExtraFields_Allocation):
            changes.append((event.start_time_ns, event.extra_fields))
    changes.sort(key=lambda change: change[0])
    # The allocator's own running sum comes with each change: sums of ours would drift where the
    # profiler loses one. What an earlier run left behind may go while this one runs.
    before = changes[0][1].total_allocated - changes[0][1].alloc_size
    ours: set[int] = set()
    peak = 0
    for _, change in changes:
        if change.alloc_size > 0:
            ours.add(change.ptr)
        elif change.ptr in ours:
            ours.discard(change.ptr)
        else:
            before += change.alloc_size
        peak = max(peak, change.total_allocated - before)
    return int(peak)


def cases() -> Iterator[tuple[str, Shape, Train]]:
    """Three sizes, each widest at another moment."""
    for title, one, tokens in (
        ("0.9M, wide vocabulary", shape(64, 2, 12000), 512),
        ("4M, narrow vocabulary", shape(256, 4, 1000), 512),
        ("19M, weights above all", shape(384, 6, 8000, tied=False), 256),
    ):
        base = Train(pack_tokens=tokens, loss_chunk_tokens=tokens // 4, cutoff=tokens // 4)
        yield f"{title}, fp32", one, replace(base, precision="fp32")
        yield f"{title}, bf16", one, base
        redone = replace(base, activation_checkpointing=True, grad_accum_dtype="bf16")
        yield f"{title}, bf16 sums, layers redone", one, redone
        yield f"{title}, the loss in one piece", one, replace(base, loss_chunk_tokens=tokens)
        yield f"{title}, adapters", one, replace(base, lora=Lora(rank=8))


def llama() -> Iterator[tuple[str, Shape, Train]]:
    """The reference recipe's model at its settings, and at what comes near."""
    one = shape_of(LLAMA)
    base = Train(activation_checkpointing=True, grad_accum_dtype="bf16", gpus_per_worker=1)
    yield "bf16 sums", one, base
    yield "bf16 sums, small chunks", one, replace(base, loss_chunk_tokens=256)
    if find_spec("liger_kernel"):
        yield "bf16 sums, Liger", one, replace(base, liger=True)
    if find_spec("bitsandbytes"):
        narrow = replace(base, grad_accum_dtype="fp32", optimizer="adamw_8bit")
        yield "fp32 sums, 8-bit moments", one, narrow
        half = replace(narrow, activation_checkpointing=False, pack_tokens=2048)
        yield "fp32 sums, 8-bit moments, nothing redone, packs of 2,048", one, half


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

"""Which settings make a run fit a card: those that cost least first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ray_jobs.engines.shapes import Shape, UnknownShape, shape_of
from ray_jobs.training.memory import GIB, predict, usable_bytes
from ray_jobs.training.settings import Lora, Train

ADAPTER_RANK = 16
"""Of the adapters that are proposed where no state of all parameters fits."""
Changes = Mapping[str, Any]


def refuse_unfit(cfg: Train, num_workers: int) -> None:
    """ValueError where the card that this worker was given cannot hold its part: before a model is
    loaded. Nothing is said without a card, or where the base model's shape is not known.
    """
    import torch

    if not cfg.gpus_per_worker or not torch.cuda.is_available():
        return
    try:
        shape = shape_of(cfg.base, cfg.revision)
    except UnknownShape:
        return  # preflight says so; a shape that is not known is no reason not to try
    card_bytes = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    if problem := why_not(shape, cfg, card_bytes, num_workers=num_workers):
        raise ValueError(problem)


def why_not(
    shape: Shape,
    cfg: Train,
    card_bytes: float,
    *,
    num_workers: int = 0,
    memory_bytes: float = 0,
) -> str:
    """One line: why a worker cannot run on a card of that size, and what would fit; empty where it
    can. 0 workers are the fewest that the settings allow.

    Nothing is proposed that takes more than `memory_bytes` of the machine; 0 where not known.
    """
    workers = num_workers or cfg.num_workers[0]
    need, card_gib = predict(shape, cfg, num_workers=workers, on_gpu=True), card_bytes / GIB
    if need.fits(card_gib):
        return ""
    advice = "take a smaller model, or more workers"
    changes = _changes(shape, cfg, card_gib, workers, memory_bytes)
    if changes is not None:
        host = predict(shape, replace(cfg, **changes), num_workers=workers, on_gpu=True).host
        room = f", with {host * workers / GIB:.0f} GiB of the machine's memory" if host else ""
        advice = f"{' '.join(_written(*change) for change in changes.items())} would fit{room}"
    return (
        f"train: a worker needs {need.peak / GIB:.1f} GiB at {need.moment}, a card of "
        f"{card_gib:.0f} GiB holds {usable_bytes(card_gib) / GIB:.1f}; {advice}"
    )


def what_fits(
    shape: Shape, cfg: Train, card_gib: float, *, num_workers: int = 0, memory_bytes: float = 0
) -> Sequence[str]:
    """The changes, as `key=value`, that let a worker fit a card of that size; none where no change
    that we know of does, or none is needed.
    """
    workers = num_workers or cfg.num_workers[0]
    changes = _changes(shape, cfg, card_gib, workers, memory_bytes)
    return [_written(name, value) for name, value in (changes or {}).items()]


def _changes(
    shape: Shape, cfg: Train, card_gib: float, workers: int, memory_bytes: float
) -> Changes | None:
    """None where nothing fits."""

    def fits(changes: Changes) -> bool:
        need = predict(shape, replace(cfg, **changes), num_workers=workers, on_gpu=True)
        is_in_memory = not memory_bytes or need.host * workers <= memory_bytes
        return need.fits(card_gib) and is_in_memory

    needed = next((changes for changes in _ways(cfg) if fits(changes)), None)
    for name in reversed(needed or {}):  # what is not needed after all: the dearest first
        assert needed is not None, "it has this name"
        fewer = {key: value for key, value in needed.items() if key != name}
        if _is_allowed(cfg, fewer) and fits(fewer):
            needed = fewer
    return needed


def _ways(cfg: Train) -> Iterator[dict[str, Any]]:
    """Changes, each more than the last: the first cost nothing, then time, then exactness, then
    much time; the last is another method.
    """
    changes: dict[str, Any] = {}
    yield {}
    for name, value in (
        ("loss_chunk_tokens", min(cfg.loss_chunk_tokens, 256)),
        ("activation_checkpointing", True),
        ("pack_tokens", max(cfg.cutoff, min(cfg.pack_tokens, 2048))),
        ("grad_accum_dtype", "bf16"),
    ):
        if getattr(cfg, name) != value:
            changes[name] = value
            yield dict(changes)
    if not cfg.uses_deepspeed:
        yield changes | {"optimizer": "adamw_8bit"}
    exact = {"optimizer": "adamw"} if cfg.optimizer != "adamw" else {}
    if cfg.offload == "none":
        yield changes | exact | {"zero_stage": max(2, cfg.zero_stage), "offload": "optimizer"}
    if cfg.offload != "optimizer+params" and not cfg.lora.rank:
        yield changes | exact | {"zero_stage": 3, "offload": "optimizer+params"}
    if not cfg.lora.rank and cfg.zero_stage < 3:
        yield changes | {"lora": Lora(rank=ADAPTER_RANK)}


def _is_allowed(cfg: Train, changes: Changes) -> bool:
    """Whether the settings that need one another are still together."""
    try:
        replace(cfg, **changes)
    except ValueError:
        return False
    return True


def _written(name: str, value: Any) -> str:
    if isinstance(value, Lora):
        return f"train.lora.rank={value.rank}"
    return f"train.{name}={str(value).lower() if isinstance(value, bool) else value}"

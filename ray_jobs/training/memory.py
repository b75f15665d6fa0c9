"""What one training step holds, in bytes of tensors on a worker's card: before a model is loaded.

What stays between steps (`held.py`), and what the widest moments of a step add
(`activations.py`). Loading adds nothing: until they are on the card, weights lie in the pages of
their file, which a machine's workers share. Both checked in tests/local/test_memory_measured.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ray_jobs.engines.shapes import Shape
from ray_jobs.training.activations import BF16, FP32, Loss, Pack
from ray_jobs.training.held import Held, hold, moment_bytes, trained_parameters
from ray_jobs.training.settings import Train

GIB = 1 << 30
TAKEN_GIB = 1.0
"""Of a card, by the driver, the CUDA context and cuBLAS. Assumed, not measured."""
LOST = 1 / 24
"""Share of a card that the allocator cannot use for want of large enough pieces. Assumed."""
Parts = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Memory:
    """A worker's tensors at the widest moment of a step."""

    parts: Parts
    """Bytes on the card (in the machine's memory where there is no card), by what they are for."""
    moment: str
    """When that is."""
    host: float
    """Bytes in the machine's memory that offloading takes, beside the card's."""

    @property
    def peak(self) -> float:
        """Bytes of all parts."""
        return sum(self.parts.values())

    def fits(self, card_gib: float) -> bool:
        """Whether a card of that size holds it, with what the driver takes and fragments lose."""
        return self.peak <= usable_bytes(card_gib)


def usable_bytes(card_gib: float) -> float:
    """What tensors may take of a card: 22 of 24 GiB."""
    return (card_gib * (1 - LOST) - TAKEN_GIB) * GIB


def predict(shape: Shape, cfg: Train, *, num_workers: int = 1, on_gpu: bool) -> Memory:
    """The memory of one of `num_workers` workers, for full packs, two or more a step."""
    held = hold(shape, cfg, num_workers)
    pack = Pack(shape=shape, cfg=cfg, on_gpu=on_gpu)
    resident = {**held.parts, "gradients": held.gradients}
    moments = {name: {**resident, **added} for name, added in _moments(pack, held)}
    moment = max(moments, key=lambda name: sum(moments[name].values()))
    if not on_gpu:  # then what is offloaded lies beside the rest
        moments[moment]["offloaded"] = held.host
    parts = {name: part for name, part in moments[moment].items() if part}
    return Memory(parts=parts, moment=moment, host=held.host if on_gpu else 0)


def _moments(pack: Pack, held: Held) -> Iterator[tuple[str, Parts]]:
    """The widest moments of a step, each with what it adds to what is held."""
    loss, width = Loss(pack=pack), pack.width
    kept = pack.saved + pack.last_norm
    at_loss = {"activations": kept + 3 * width, "logits": loss.logits}
    yield "the loss", {**at_loss, "one gradient": loss.gradient}
    back = {"bucket": held.bucket, "live weights": held.live}
    cast = loss.handed_back if loss.gradient != loss.handed_back else 0
    at_head = {"activations": kept + width, "one gradient": loss.gradient + cast}
    yield "backward of the head", {**at_head, **back}
    # A tied head's gradient waits for the embedding's; they become one.
    waits = loss.handed_back if pack.shape.tied else 0
    at_norm = {"activations": kept, "one gradient": waits, "temporary": pack.norm_backward}
    yield "backward of the last norm", {**at_norm, **back}
    matrix = loss.added(pack.shape.width * pack.shape.inner) if loss.trains_head else 0
    at_layer = {
        "activations": pack.saved + pack.redone,
        "one gradient": waits + matrix,
        "temporary": 2 * width + max(pack.mlp_backward - matrix, pack.inner),
    }
    yield "backward of a layer", {**at_layer, **back}
    if loss.trains_head:
        both = waits + loss.added(pack.shape.embedding_parameters)
        yield "backward of the embedding", {"activations": width, "one gradient": both, **back}
    yield "the update", {"update": held.update}


def saved_bytes(shape: Shape, cfg: Train) -> float:
    """What checkpoints and the trained model take on a disk, one more checkpoint being written."""
    state = (FP32 + moment_bytes(cfg)) * trained_parameters(shape, cfg)
    num_kept = cfg.checkpoint.keep_last + cfg.checkpoint.keep_best + 1
    return num_kept * state + shape.num_parameters * (BF16 if cfg.precision == "bf16" else FP32)

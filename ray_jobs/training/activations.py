"""What a pack leaves behind on its way through the model, and what its loss takes: in bytes.

Counted from the layers' own steps as transformers writes them, and from ours: `attention.py`,
`losses.py`, `liger.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ray_jobs.engines.shapes import Shape
from ray_jobs.training.settings import Train

FP32, BF16 = 4, 2
NUM_MATRICES = 7
"""Of a layer: q, k, v, o, gate, up, down."""


@dataclass(frozen=True, kw_only=True)
class Pack:
    """A full pack, every place of which predicts a target."""

    shape: Shape
    cfg: Train
    on_gpu: bool

    @cached_property
    def item(self) -> int:
        """Of a number that the model computes with."""
        return BF16 if self.cfg.precision == "bf16" else FP32

    @cached_property
    def numbers(self) -> int:
        """That stand for the pack between two layers; not bytes."""
        return self.cfg.pack_tokens * self.shape.width

    @cached_property
    def width(self) -> int:
        """Of the pack between two layers."""
        return self.numbers * self.item

    @cached_property
    def inner(self) -> int:
        """Of the pack inside an MLP."""
        return self.cfg.pack_tokens * self.shape.inner * self.item

    @property
    def copied(self) -> int:
        """Of a number in bf16 that is added to one in fp32: a CPU makes a copy where the sum is."""
        return 0 if self.on_gpu else FP32

    @property
    def saved(self) -> int:
        """What all layers keep for the backward pass: everything, or their inputs alone; and RoPE's
        angles.
        """
        angles = 2 * self.cfg.pack_tokens * self.shape.head_width * self.item
        each = self.width if self.cfg.activation_checkpointing else self.layer
        return self.shape.layers * each + angles

    @property
    def redone(self) -> int:
        """What comes back when a layer is computed a second time."""
        return self.layer if self.cfg.activation_checkpointing else 0

    @property
    def layer(self) -> int:
        """What one layer keeps."""
        adapters = NUM_MATRICES * self.cfg.lora.rank * self.cfg.pack_tokens * self.item
        gates = (3 if self.cfg.liger else 4) * self.inner  # gate, its silu, up, their product
        return 2 * self._norm + self._attention + gates + adapters

    @property
    def last_norm(self) -> int:
        """What the norm after the layers keeps beside its result."""
        return self._norm - self.width

    @property
    def norm_backward(self) -> int:
        """What a norm's gradient takes for a moment: it is computed in fp32."""
        return 3 * self.width if self.cfg.liger else 5 * FP32 * self.numbers

    @property
    def mlp_backward(self) -> int:
        """What an MLP's gradients take for a moment, beside what it had kept."""
        return self.inner if self.cfg.liger else 2 * self.inner

    @property
    def _norm(self) -> int:
        """Its input in fp32, that normed, and its result, which the next matrix keeps."""
        if self.cfg.liger:
            return 2 * self.width
        normed = 0 if self.cfg.lora.rank else self.width  # only a trained weight asks for it
        return FP32 * self.numbers + normed + self.width

    @property
    def _attention(self) -> int:
        """Queries, keys, values and the result. Where no kernel takes packs as they are, keys and
        values are repeated for every head, and the samples' results are put together.
        """
        query = self.cfg.pack_tokens * self.shape.query_width * self.item
        kv = self.cfg.pack_tokens * self.shape.kv_width * self.item
        sums = self.cfg.pack_tokens * self.shape.heads * FP32
        return sums + (2 * query + 2 * kv if self.on_gpu and self.item == BF16 else 5 * query)


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The head, a chunk of tokens at a time, with its gradient."""

    pack: Pack

    @property
    def logits(self) -> int:
        """A chunk's logits in fp32, and with bf16 their gradient beside them. Those of the chunk
        before are still there while the next are made.
        """
        cfg, pack = self.pack.cfg, self.pack
        if cfg.liger:
            return 2 * pack.width  # its chunks are about as large as the pack, rounded up to 2^n
        one = min(cfg.loss_chunk_tokens, cfg.pack_tokens) * pack.shape.vocabulary
        chunk = one * (FP32 + BF16 if pack.item == BF16 else FP32)
        if self.num_chunks == 1:
            return chunk
        product = 0
        if pack.item == BF16:  # the chunk's, before it is added to the sum in fp32
            product = pack.shape.embedding_parameters * (BF16 + pack.copied)
        return max(2 * chunk, chunk + product if self.trains_head else 0)

    @property
    def num_chunks(self) -> int:
        """Of a pack."""
        return -(-self.pack.cfg.pack_tokens // self.pack.cfg.loss_chunk_tokens)

    @property
    def trains_head(self) -> bool:
        """Adapters leave it as it is."""
        return not self.pack.cfg.lora.rank

    @property
    def gradient(self) -> int:
        """The head's own, while chunks are summed: in fp32, if there are several."""
        if not self.trains_head:
            return 0
        several = self.num_chunks > 1 or self.pack.cfg.liger
        return self.pack.shape.embedding_parameters * (FP32 if several else self.pack.item)

    @property
    def handed_back(self) -> int:
        """The head's gradient as the backward pass goes on with it."""
        return self.pack.shape.embedding_parameters * self.pack.item if self.trains_head else 0

    def added(self, numbers: int) -> int:
        """A new gradient of so many numbers while it is added to its sum."""
        mixed = self.pack.item == BF16 and self.pack.cfg.grad_accum_dtype == "fp32"
        return numbers * (self.pack.item + (self.pack.copied if mixed else 0))

"""What all sides of `benchmarks.train` train: a random Llama, real rows, the paper's settings."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

from benchmarks import random_llama
from benchmarks.sides import CACHE
from ray_jobs.engines.shapes import Shape
from ray_jobs.training.settings import Train

ROWS = Path(__file__).parents[2] / "shared" / "data" / "general" / "alpaca_zh_demo.json"
RECIPE = Path(__file__).parents[1] / "conf" / "rtx3090.yaml"
PASSES = 6
"""Operations a parameter for each token: one product and one sum, forward once, backward twice."""
Found: TypeAlias = dict[str, float]
"""Of one run: wall_s of the timed epochs; tokens and targets of one epoch; MiB of memory."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is trained, and where."""

    size: str
    device: str
    num_rows: int
    epochs: int
    """With the first, which is not timed."""
    pack_tokens: int
    """Of ours."""
    cap_gib: float
    """What PyTorch may take of the card; 0 for all."""

    @property
    def on_card(self) -> bool:
        return self.device != "cpu"

    @property
    def shape(self) -> Shape:
        return random_llama.SIZES[self.size]

    @cached_property
    def rows(self) -> list[dict[str, str]]:
        """The first ones of the public file."""
        found: list[dict[str, str]] = json.loads(ROWS.read_text("utf-8"))[: self.num_rows]
        return found

    @cached_property
    def model(self) -> Path:
        """The model's folder; in bf16 for a card, as Llamas arrive."""
        texts = (row["instruction"] + row["input"] + row["output"] for row in self.rows)
        folder = CACHE / "benchmarks" / f"llama-{self.size}-{self.num_rows}-{self.device}"
        dtype = "bfloat16" if self.on_card else "float32"
        return random_llama.make(folder, self.shape, texts, dtype=dtype)

    @property
    def settings(self) -> Train:
        """The paper's, which are the defaults; under a cap, those of the recipe for such a card."""
        from ray_jobs.config import load

        known = load(str(RECIPE)).train if self.cap_gib else Train()
        assert known is not None, "the recipe trains"
        return replace(
            known,
            base=str(self.model),
            revision="",
            epochs=self.epochs,
            pack_tokens=self.pack_tokens,
            loss_chunk_tokens=256,
            precision="bf16" if self.on_card else "fp32",
            gpus_per_worker=float(self.on_card),
        )

    def rate(self, found: Found, what: str) -> float:
        """Tokens or targets a second."""
        return found[what] * (self.epochs - 1) / found["wall_s"]

    def operations(self, found: Found) -> float:
        """Operations a second that the model itself asks for, whatever a side does beside; only
        targets need to meet the vocabulary.
        """
        layers = self.shape.layers * self.shape.layer_parameters
        head = self.shape.embedding_parameters
        return PASSES * (self.rate(found, "tokens") * layers + self.rate(found, "targets") * head)

"""The recipe's section `train`: the paper's settings (section 3.8) and those of the machine.

Light: config.py reads it. Fields marked as without effect on rows change the result by rounding
alone, so that a run may be resumed with others of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from ray_jobs.engines.seam import NO_EFFECT_ON_ROWS

Format = Literal["auto", "parquet", "alpaca", "sharegpt", "trl"]
Precision = Literal["bf16", "fp32"]
Offload = Literal["none", "optimizer", "optimizer+params"]


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters instead of all parameters, for smaller cards."""

    rank: int = 0
    """Width of the adapters; 0 trains all parameters."""
    alpha: float = 32.0
    """An adapter's output is multiplied by alpha / rank."""
    dropout: float = 0.0
    """Share of an adapter's inputs set to 0, seeded anew at every step."""
    targets: tuple[str, ...] = ("all-linear",)
    """The layers that get adapters, by the ends of their names; all-linear is all but the head."""

    def __post_init__(self) -> None:
        if self.rank < 0 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise ValueError("train.lora: expected rank ≥ 0, alpha > 0 and dropout in 0…1")
        if not self.targets:
            raise ValueError("train.lora.targets: expected names of layers, or all-linear")


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """When the state is saved, and how many saved ones are kept."""

    every_steps: int = 200
    """Optimiser steps between two; the last step is always saved. 0 saves the last alone."""
    keep_last: int = 2
    """The newest ones that are kept."""
    keep_best: bool = True
    """Whether the one with the lowest validation loss is kept too."""

    def __post_init__(self) -> None:
        if self.every_steps < 0 or self.keep_last < 1:
            raise ValueError("train.checkpoint: expected every_steps ≥ 0 and keep_last ≥ 1")


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What the loss is measured on beside the samples that are trained on."""

    share: float = 0.0
    """Share of the samples held out by seed; 0 takes the data's own validation split, if any."""
    every_steps: int = field(default=200, metadata=NO_EFFECT_ON_ROWS)
    """Optimiser steps between two measurements; also after the last step. 0 never measures."""

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1 or self.every_steps < 0:
            raise ValueError("train.validation: expected share in 0…1 and every_steps ≥ 0")


@dataclass(frozen=True, kw_only=True)
class Logging:
    """Where the curve goes beside the run's own files."""

    tensorboard: bool = True
    """Whether TensorBoard's event files are written."""
    mlflow: str = ""
    """The address of an MLflow tracking server; empty for none."""
    wandb: str = ""
    """The name of a Weights & Biases project; empty for none."""


@dataclass(frozen=True, kw_only=True)
class Train:
    """Full-parameter fine-tuning on prompts and responses."""

    base: str = "meta-llama/Llama-3.2-1B-Instruct"
    """The model that is trained: a hub id, a folder, or the name of an embedded tiny model."""
    revision: str = ""
    """Commit, tag or branch on the hub; empty for its main branch. What the hub's cache holds of
    it is taken, else the newest.
    """
    data: str = ""
    """A file, or a folder of an export; empty for what build_data exported."""
    format: Format = "auto"
    """The form of the data's rows; auto tells it by the file's ending and its first row."""
    cutoff: int = 1024
    """Tokens of a sample at most: the prompt is cut in its middle first, the answer only if it
    alone leaves the prompt less than an eighth.
    """
    pack_tokens: int = field(default=4096, metadata=NO_EFFECT_ON_ROWS)
    """Tokens that pass the model at once, in samples that do not see one another."""
    batch_size: int = 50
    """Samples of one optimiser step, over all workers."""
    learning_rate: float = 6e-7
    """The highest one, reached after the warm-up; from there a cosine falls to 0."""
    warmup_ratio: float = 0.0005
    """Share of all optimiser steps in which the learning rate rises."""
    epochs: int = 3
    """How often each sample is trained on."""
    max_grad_norm: float = 1.0
    """A longer gradient is shortened to this norm; 0 leaves it as it is."""
    weight_decay: float = 0.0
    """AdamW's decay of all trained parameters."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay of the two moments."""
    epsilon: float = 1e-8
    """What AdamW adds to the root of the second moment."""
    precision: Precision = "bf16"
    """What the model computes in; weights are kept in fp32 beside it whichever it is."""
    grad_accum_dtype: Precision = "fp32"
    """What the gradients of a step's packs are summed in."""
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    """adamw_8bit keeps both moments in 8 bits (2 bytes a parameter, not 8); needs zero_stage 0."""
    zero_stage: int = field(default=0, metadata=NO_EFFECT_ON_ROWS)
    """What the workers share out among them by DeepSpeed: 0 nothing (plain PyTorch), 1 optimiser
    state, 2 gradients too, 3 weights too.
    """
    offload: Offload = field(default="none", metadata=NO_EFFECT_ON_ROWS)
    """What DeepSpeed keeps in the machine's memory instead of the card's; needs zero_stage ≥ 1,
    params 3.
    """
    deepspeed: str = field(default="", metadata=NO_EFFECT_ON_ROWS)
    """A DeepSpeed JSON of your own; empty takes conf/deepspeed/ by zero_stage and offload."""
    activation_checkpointing: bool = field(default=False, metadata=NO_EFFECT_ON_ROWS)
    """Whether a layer's inner values are computed again in the backward pass, to save memory."""
    loss_chunk_tokens: int = field(default=1024, metadata=NO_EFFECT_ON_ROWS)
    """Target tokens that meet the vocabulary at once: their logits are all that is held."""
    liger: bool = field(default=False, metadata=NO_EFFECT_ON_ROWS)
    """Whether Liger's fused kernels compute norms, RoPE, SwiGLU and the loss; needs a card."""
    lora: Lora = field(default_factory=Lora)
    num_workers: tuple[int, int] = field(default=(1, 1), metadata=NO_EFFECT_ON_ROWS)
    """The fewest and the most workers; a cluster may go from one number to another."""
    cpus_per_worker: float = field(default=2.0, metadata=NO_EFFECT_ON_ROWS)
    """Ray's CPUs, and the threads that PyTorch computes with."""
    gpus_per_worker: float = field(default=0.0, metadata=NO_EFFECT_ON_ROWS)
    """Cards of a worker: 1, or 0 without."""
    checkpoint: Checkpoints = field(default_factory=Checkpoints, metadata=NO_EFFECT_ON_ROWS)
    validation: Validation = field(default_factory=Validation)
    learning_rates: tuple[float, ...] = field(default=(), metadata=NO_EFFECT_ON_ROWS)
    """Learning rates to try, each in a run of its own; empty takes learning_rate alone."""
    batch_sizes: tuple[int, ...] = field(default=(), metadata=NO_EFFECT_ON_ROWS)
    """Batch sizes to try, each with every learning rate; empty takes batch_size alone."""
    logging: Logging = field(default_factory=Logging, metadata=NO_EFFECT_ON_ROWS)

    def __post_init__(self) -> None:
        _check_sizes(self)
        _check_rates(self)
        _check_machine(self)

    @property
    def uses_deepspeed(self) -> bool:
        """Whether DeepSpeed steps the optimiser, or plain PyTorch."""
        return self.zero_stage > 0

    @property
    def deepspeed_name(self) -> str:
        """The file under conf/deepspeed/ that fits, without its ending."""
        parts = "" if self.offload == "none" else f"_offload_{self.offload.replace('+', '_')}"
        return f"zero{self.zero_stage}{parts}"


def _check_sizes(cfg: Train) -> None:
    least: dict[str, Any] = {
        "cutoff": 16,
        "pack_tokens": cfg.cutoff,
        "batch_size": 1,
        "epochs": 1,
        "loss_chunk_tokens": 1,
    }
    for name, low in least.items():
        if getattr(cfg, name) < low:
            raise ValueError(
                f"train.{name}: expected a number ≥ {low}, found {getattr(cfg, name)}"
                + ("; a sample of cutoff tokens must fit" if name == "pack_tokens" else "")
            )
    for size in cfg.batch_sizes:
        if size < 1:
            raise ValueError(f"train.batch_sizes: expected numbers ≥ 1, found {size}")


def _check_rates(cfg: Train) -> None:
    for rate in (cfg.learning_rate, *cfg.learning_rates):
        if not 0 < rate < 1:
            raise ValueError(f"train.learning_rate: expected a number in 0…1, found {rate}")
    if not 0 <= cfg.warmup_ratio < 1:
        raise ValueError(f"train.warmup_ratio: expected 0…1, found {cfg.warmup_ratio}")
    if min(cfg.max_grad_norm, cfg.weight_decay) < 0 or cfg.epsilon <= 0:
        raise ValueError("train: expected max_grad_norm ≥ 0, weight_decay ≥ 0 and epsilon > 0")
    if len(cfg.betas) != 2 or not all(0 <= beta < 1 for beta in cfg.betas):
        raise ValueError(f"train.betas: expected two numbers in 0…1, found {list(cfg.betas)}")


def _check_machine(cfg: Train) -> None:
    if cfg.zero_stage not in range(4):
        raise ValueError(f"train.zero_stage: expected 0, 1, 2 or 3, found {cfg.zero_stage}")
    needs = {"none": 0, "optimizer": 1, "optimizer+params": 3}[cfg.offload]
    if cfg.zero_stage < needs:
        raise ValueError(
            f"train.offload: {cfg.offload} is DeepSpeed's: it needs zero_stage ≥ {needs}, found "
            f"{cfg.zero_stage}"
        )
    if cfg.optimizer == "adamw_8bit" and cfg.zero_stage:
        raise ValueError(
            "train.optimizer: adamw_8bit needs zero_stage 0; with ZeRO the workers share the "
            "moments out among them: take adamw"
        )
    if cfg.lora.rank and cfg.zero_stage == 3:
        raise ValueError(
            "train.lora: adapters need zero_stage ≤ 2: merged at the end, the weights must be whole"
        )
    if cfg.deepspeed and not (cfg.zero_stage and re.search(r"\.json$", cfg.deepspeed)):
        raise ValueError("train.deepspeed: expected a .json file, and zero_stage ≥ 1")
    if len(cfg.num_workers) != 2 or not 1 <= cfg.num_workers[0] <= cfg.num_workers[1]:
        raise ValueError(
            f"train.num_workers: expected the fewest and the most, such as [1, 4], found "
            f"{list(cfg.num_workers)}"
        )
    if cfg.liger and not cfg.gpus_per_worker:
        raise ValueError("train.liger: its kernels run on a card: it needs gpus_per_worker 1")
    if cfg.cpus_per_worker <= 0 or cfg.gpus_per_worker not in (0, 1):
        raise ValueError("train: expected cpus_per_worker > 0 and gpus_per_worker 0 or 1")

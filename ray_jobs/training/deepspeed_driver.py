"""DeepSpeed: workers share out optimiser state (ZeRO 1), gradients (2) and weights (3).

Checkpoints do not use DeepSpeed's own, which are bound to the number of workers: every tensor is
brought together and handed to the caller whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ray_jobs.prompts import CONF
from ray_jobs.training.objective import Objective
from ray_jobs.training.optimisers import MOMENTS, adamw, set_step, start
from ray_jobs.training.packing import Pack
from ray_jobs.training.settings import Train

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OURS = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "optimizer",
    "scheduler",
    "bf16",
    "fp16",
)
"""What a DeepSpeed file may not say: the recipe does."""


def deepspeed_config(cfg: Train, world_size: int) -> dict[str, Any]:
    """DeepSpeed's settings: the file's, and those that follow from the recipe.

    ValueError where the file is not there, is not JSON, or says what the recipe decides.
    """
    file = Path(cfg.deepspeed or CONF / "deepspeed" / f"{cfg.deepspeed_name}.json")
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"train.deepspeed: {file}: expected a JSON file: {error}") from error
    if not isinstance(read, dict) or (twice := sorted(set(OURS) & read.keys())):
        raise ValueError(
            f"train.deepspeed: {file}: expected an object without {', '.join(twice or OURS)}; "
            "the recipe decides these"
        )
    stage = read.get("zero_optimization", {}).get("stage")
    if stage != cfg.zero_stage:
        raise ValueError(
            f"train.deepspeed: {file} has zero_optimization.stage {stage}, the recipe zero_stage "
            f"{cfg.zero_stage}; make them equal"
        )
    accumulated = cfg.grad_accum_dtype if cfg.precision == "bf16" else "fp32"
    return {
        # A step has as many packs as its samples fill: the loop says which is the last.
        "train_batch_size": world_size,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": cfg.max_grad_norm,
        "bf16": {"enabled": cfg.precision == "bf16"},
        "data_types": {"grad_accum_dtype": accumulated},
        "communication_data_type": accumulated,
        # PyTorch's fused AdamW is as fast on a CPU as DeepSpeed's, which a compiler must build.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
        **read,
    }


class DeepSpeedDriver:
    """Driver of one worker under DeepSpeed. torch.distributed must be initialised."""

    def __init__(self, objective: Objective, cfg: Train, *, world_size: int, device: str) -> None:
        import deepspeed

        self._cfg = cfg
        self._world_size = world_size
        if cfg.precision == "fp32":
            objective.float()
        buffers = {name: one.clone() for name, one in objective.named_buffers()}
        exact = {
            name: one.detach()
            for name, one in objective.trained()
            if cfg.precision == "bf16" and one.dtype == torch.float32
        }
        self._adamw = adamw((one for _, one in objective.trained()), cfg)
        config = deepspeed_config(cfg, world_size)
        if cfg.zero_stage == 3:
            _share_out(objective, cfg, config)
        self._engine, *_ = deepspeed.initialize(
            model=objective, optimizer=self._adamw, config=config
        )
        self._objective = objective
        # DeepSpeed casts buffers too: RoPE's frequencies in bf16 would turn far positions by
        # radians. And it makes the masters from the weights it has just rounded.
        for name, one in objective.named_buffers():
            one.data = buffers[name].to(device)
        for flat in self._partitions():
            start(self._adamw, flat)
        if cfg.zero_stage < 3:
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()
        for name, param in objective.trained():
            if name in exact:
                self._set(param, exact[name])

    @property
    def model(self) -> PreTrainedModel:
        return self._objective.model

    def _partitions(self) -> list[Tensor]:
        """This worker's parts of the fp32 masters, flat, as the optimiser has them."""
        optimizer = self._engine.optimizer
        for name in (
            "fp32_partitioned_groups_flat",  # ZeRO 3
            "single_partition_of_fp32_groups",  # 1 and 2
            "fp32_groups_flat_partition",  # 1 with bf16
        ):
            if hasattr(optimizer, name):
                return list(getattr(optimizer, name))
        raise AssertionError(f"{type(optimizer).__name__} keeps its masters elsewhere")

    def add(self, pack: Pack, weight: float, *, is_last: bool) -> Tensor:
        self._engine.set_gradient_accumulation_boundary(is_last)
        loss: Tensor = self._engine(pack)
        # DeepSpeed takes the mean over the workers, a step's loss is their sum.
        self._engine.backward(loss * (weight * self._world_size))
        return loss.detach()

    def loss(self, pack: Pack) -> Tensor:
        self._engine.eval()
        with torch.no_grad():
            loss: Tensor = self._engine(pack)
        self._engine.train()
        return loss

    def step(self, learning_rate: float) -> float:
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        self._engine.step()
        return float(self._engine.get_global_grad_norm())

    def state(self) -> Iterator[tuple[str, Tensor]]:
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        for name, param in self._objective.trained():
            yield f"weight/{name}", _shaped(safe_get_full_fp32_param(param), param)
            for moment in MOMENTS:
                whole = safe_get_full_optimizer_state(param, moment)
                yield f"{moment}/{name}", _shaped(whole, param)

    def load(self, read: Callable[[str], Tensor], step: int) -> None:
        for name, param in self._objective.trained():
            self._set(param, read(f"weight/{name}"))
            for moment in MOMENTS:
                _keep(param, read(f"{moment}/{name}").to(param.device), moment)
        for flat in self._partitions():
            set_step(self._adamw, flat, step)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        from deepspeed.utils import safe_get_full_fp32_param

        for name, param in self._objective.trained():
            yield name, _shaped(safe_get_full_fp32_param(param), param)

    @torch.no_grad()
    def _set(self, param: nn.Parameter, weight: Tensor) -> None:
        """Set a parameter's master, and what the model computes with."""
        import deepspeed

        whole = weight.to(param.device)
        _keep(param, whole)
        if self._cfg.zero_stage < 3:
            param.copy_(whole)
            return
        # All have the same: the first one's is what is kept, each its part.
        with deepspeed.zero.GatheredParameters([param], modifier_rank=0):
            if torch.distributed.get_rank() == 0:
                param.copy_(whole)


def _share_out(objective: Objective, cfg: Train, config: dict[str, Any]) -> None:
    """Leave a worker its part of each parameter, one after the other: DeepSpeed would first bring
    the whole model to every card.
    """
    import deepspeed

    if cfg.precision == "bf16":
        for one in objective.parameters():
            one.data = one.data.bfloat16()
    deepspeed.init_distributed()  # else it reads its settings as those of one worker
    deepspeed.zero.Init(module=objective, config_dict_or_path=config)


def _keep(param: nn.Parameter, whole: Tensor, moment: str | None = None) -> None:
    """Set this worker's part of a parameter's master, or of a moment."""
    from deepspeed import utils

    if not hasattr(param, "ds_tensor"):
        if moment is None:
            utils.safe_set_full_fp32_param(param, whole)
        else:
            utils.safe_set_full_optimizer_state(param, whole, moment)
        return
    # ZeRO 3 pads a parameter to equal parts, which those functions do not reckon with.
    rank, num_workers = torch.distributed.get_rank(), torch.distributed.get_world_size()
    length = param.ds_tensor.numel()
    padded = nn.functional.pad(whole.flatten(), (0, length * num_workers - whole.numel()))
    part = padded.narrow(0, length * rank, length)
    if moment is None:
        utils.safe_set_local_fp32_param(param, part)
    else:
        utils.safe_set_local_optimizer_state(param, part, moment)


def _shaped(whole: Tensor | None, param: nn.Parameter) -> Tensor:
    assert whole is not None, "DeepSpeed knows no master of a trained parameter"
    return whole.detach().reshape(getattr(param, "ds_shape", param.shape)).cpu()

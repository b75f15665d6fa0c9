"""Low-rank adapters, by peft: for cards that cannot hold the state of all parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ray_jobs.training.settings import Lora

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def with_adapters(model: PreTrainedModel, cfg: Lora) -> PreTrainedModel:
    """The model with fresh adapters, which alone are trained; itself with rank 0.

    Their first values are the same at every call, on every worker.
    """
    if not cfg.rank:
        return model
    try:
        import peft
    except ImportError as error:
        raise ValueError("train.lora: adapters need the package peft; install it") from error
    import torch

    targets = list(cfg.targets)
    adapters = peft.LoraConfig(
        r=cfg.rank,
        lora_alpha=cfg.alpha,  # type: ignore[arg-type]  # any number does
        lora_dropout=cfg.dropout,
        target_modules="all-linear" if targets == ["all-linear"] else targets,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        wrapped = peft.get_peft_model(model, adapters)
    return cast("PreTrainedModel", wrapped)


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """The model with its adapters added to its weights, in fp32; itself where it has none.

    ValueError where a peft model's weights are in parts: ZeRO 3 is refused with adapters.
    """
    import peft

    if not isinstance(model, peft.PeftModel):
        return model
    plain: PreTrainedModel = model.float().merge_and_unload()
    return plain

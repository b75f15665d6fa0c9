"""A model with its loss on a pack: what a driver trains."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ray_jobs.training.attention import use_packed_attention
from ray_jobs.training.liger import use_liger
from ray_jobs.training.lora import with_adapters
from ray_jobs.training.losses import ChunkedHead
from ray_jobs.training.packing import Pack
from ray_jobs.training.settings import Train

UNKNOWN_HEADS = ("final_logit_softcapping", "logits_scaling", "logit_scale")
"""What some families do to logits, which the chunked head does not."""


class Objective(nn.Module):
    """The summed cross-entropy of a pack's targets. Only the places that predict a target meet the
    vocabulary.
    """

    def __init__(self, model: PreTrainedModel, cfg: Train) -> None:
        super().__init__()
        _check_head(model)
        use_packed_attention(model, cfg.cutoff)
        model.config.use_cache = False
        if cfg.activation_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self.head = ChunkedHead(
            cast(nn.Parameter, model.get_output_embeddings().weight),
            cfg.loss_chunk_tokens,
            use_liger(model) if cfg.liger else None,
        )
        self.model = with_adapters(model, cfg.lora)
        self.model.train()
        self._body = (model.base_model,)  # in a tuple: else its parameters had two names

    def forward(self, pack: Pack) -> Tensor:
        """The loss, fp32, unweighted."""
        device = self.head.weight.device

        def on_device(array: object) -> Tensor:
            tensor = torch.as_tensor(array)
            if device.type == "cuda":
                tensor = tensor.pin_memory()
            return tensor.to(device, non_blocking=True)

        ends = torch.tensor([0, *pack.lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        hidden_TC = self._body[0](
            input_ids=on_device(pack.tokens_T)[None],
            position_ids=on_device(pack.positions_T)[None],
            use_cache=False,
            lengths=pack.lengths,
            ends=on_device(ends),
        ).last_hidden_state[0]
        hidden_NC = hidden_TC[on_device(pack.predicting_N)]
        loss: Tensor = self.head(hidden_NC, on_device(pack.targets_N))
        return loss

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters that are trained, by the model's own names for them."""
        return ((name, one) for name, one in self.model.named_parameters() if one.requires_grad)


def _check_head(model: PreTrainedModel) -> None:
    config = model.config.get_text_config()
    head = model.get_output_embeddings()
    # 1 leaves logits as they are
    found = [name for name in UNKNOWN_HEADS if getattr(config, name, None) not in (None, 1, 1.0)]
    if head is None or getattr(head, "bias", None) is not None:
        found.append("a head with a bias" if head is not None else "no head")
    if found:
        raise ValueError(
            f"train.base: {config.model_type} models cannot be trained here ({', '.join(found)}); "
            "take one of the Llama, Qwen or Mistral kind"
        )

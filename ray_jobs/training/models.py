"""The base model and its tokenizer, from a folder or the hub's cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_model(base: str, revision: str = "") -> PreTrainedModel:
    """The model on CPU, in the type that its checkpoint has: fp32 masters made from bf16 weights
    are exact, and half as many bytes are read. ValueError where it cannot be loaded.
    """
    from transformers import AutoModelForCausalLM

    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            base, revision=revision or None, dtype="auto"
        )
    except OSError as error:
        raise _absent(base, error) from error
    return model


def load_tokenizer(base: str, revision: str = "") -> PreTrainedTokenizerBase:
    """The tokenizer with its chat template. ValueError where it cannot be loaded."""
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            base, revision=revision or None
        )
    except OSError as error:
        raise _absent(base, error) from error
    return tokenizer


def _absent(base: str, error: OSError) -> ValueError:
    reason = str(error).strip().partition("\n")[0]
    return ValueError(
        f"train.base: {base} cannot be loaded ({reason}); fetch it first, or give a model folder"
    )

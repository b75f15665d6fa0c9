"""The base model and its tokenizer, from a folder or the hub's cache."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def commit(base: str, revision: str = "") -> str:
    """The commit that a branch or tag of the hub is: the one in the cache, so that it stays the
    same, else the newest. ValueError where the hub cannot be asked.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    try:
        here = try_to_load_from_cache(base, "config.json", revision=revision or None)
        if not isinstance(here, str):
            here = hf_hub_download(base, "config.json", revision=revision or None)
    except (OSError, HFValidationError) as error:
        raise _absent(base, error) from error
    return Path(here).parent.name


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


def _absent(base: str, error: Exception) -> ValueError:
    reason = str(error).strip().partition("\n")[0]
    return ValueError(
        f"train.base: {base} cannot be loaded ({reason}); fetch it first, or give a model folder"
    )

"""Shapes of decoder models: how many parameters, and what a token leaves in the KV cache.

Read from config.json, or from conf/models.yaml for a model that is not here yet.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from ray_jobs.engines.models import is_local
from ray_jobs.prompts import CONF

FILE = CONF / "models.yaml"
Family = Literal["llama", "mistral", "qwen2", "qwen3"]
FAMILIES = get_args(Family)
CONFIG_KEYS = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "inner": "intermediate_size",
    "vocabulary": "vocab_size",
}


class UnknownShape(Exception):
    """Nothing can be computed for this model. One line: which, and why."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A dense decoder with a gated MLP and RMSNorm."""

    family: Family
    width: int
    """Numbers that stand for a token between layers."""
    layers: int
    heads: int
    kv_heads: int
    """Heads of keys and values; heads / kv_heads query heads share one."""
    head_width: int
    inner: int
    """Width inside the MLP."""
    vocabulary: int
    tied: bool
    """Whether the output head is the embedding."""
    attention_bias: bool = False
    """Biases on q, k, v and o (llama, qwen3); qwen2's q, k and v have theirs regardless."""
    mlp_bias: bool = False

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name != "family" and not isinstance(value, bool) and value < 1:
                raise ValueError(f"{item.name}: expected a number above 0, found {value}")

    @property
    def query_width(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_width

    @property
    def kv_width(self) -> int:
        """Width of all key heads together, and of all value heads."""
        return self.kv_heads * self.head_width

    @property
    def embedding_parameters(self) -> int:
        """Of the embedding, which is the head too where they are tied."""
        return self.vocabulary * self.width

    @property
    def layer_parameters(self) -> int:
        """Of one layer."""
        return self.linear_parameters + self._biases + self._norms

    @property
    def linear_parameters(self) -> int:
        """Of one layer's seven matrices."""
        attention = 2 * self.width * (self.query_width + self.kv_width)
        return attention + 3 * self.width * self.inner

    @property
    def num_parameters(self) -> int:
        """Of the whole model."""
        embeddings = self.embedding_parameters * (1 if self.tied else 2)
        return embeddings + self.layers * self.layer_parameters + self.width

    @property
    def _norms(self) -> int:
        return 2 * self.width + (2 * self.head_width if self.family == "qwen3" else 0)

    @property
    def _biases(self) -> int:
        qkv = self.query_width + 2 * self.kv_width
        attention = qkv if self.family == "qwen2" else 0
        if self.attention_bias and self.family != "qwen2":
            attention = qkv + self.width
        return attention + (2 * self.inner + self.width if self.mlp_bias else 0)

    def kv_bytes_per_token(self, item_bytes: int = 2) -> int:
        """What one token leaves in the KV cache of all layers."""
        return 2 * self.layers * self.kv_width * item_bytes


def shape_of(model: str, revision: str = "") -> Shape:
    """The shape of a model folder, of a hub id in conf/models.yaml, or of one that has been
    fetched. UnknownShape else.
    """
    if is_local(model):
        return from_config(Path(model).expanduser() / "config.json")
    if model in known():
        return known()[model]
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        file = try_to_load_from_cache(model, "config.json", revision=revision or None)
    except HFValidationError as error:
        raise UnknownShape(f"{model} is neither a folder nor a hub id") from error
    if not isinstance(file, str):
        raise UnknownShape(f"{model} is not in conf/{FILE.name}, and not here to be read")
    return from_config(Path(file))


def from_config(file: Path) -> Shape:
    """The shape that a config.json tells. UnknownShape where it is of another kind of model."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UnknownShape(f"there is no {file}") from error
    except ValueError as error:
        raise ValueError(f"{file}: not JSON: {error}") from error
    family = config.get("model_type")
    if family not in FAMILIES:
        raise UnknownShape(
            f"{file}: a model of type {family!r}; computed are {', '.join(FAMILIES)}"
        )
    if missing := [key for key in CONFIG_KEYS.values() if not isinstance(config.get(key), int)]:
        raise ValueError(f"{file}: {missing[0]}: expected a number, found {config.get(missing[0])}")
    found: dict[str, Any] = {name: config[key] for name, key in CONFIG_KEYS.items()}
    return Shape(
        family=family,
        kv_heads=config.get("num_key_value_heads") or found["heads"],
        head_width=config.get("head_dim") or found["width"] // found["heads"],
        tied=bool(config.get("tie_word_embeddings", False)),
        attention_bias=bool(config.get("attention_bias", False)),
        mlp_bias=bool(config.get("mlp_bias", False)),
        **found,
    )


@cache
def known() -> Mapping[str, Shape]:
    """The shapes in conf/models.yaml, by hub id."""
    return {model: Shape(**shape) for model, (shape, _) in _entries().items()}


def published_parameters() -> Mapping[str, int]:
    """How many parameters each model's page shows, by hub id."""
    return {model: parameters for model, (_, parameters) in _entries().items()}


def _entries() -> dict[str, tuple[dict[str, Any], int]]:
    entries = yaml.safe_load(FILE.read_text(encoding="utf-8"))["models"]
    names = {item.name for item in fields(Shape)} | {"parameters"}
    for model, entry in entries.items():
        if unknown := set(entry) - names:
            raise ValueError(f"{FILE}: {model}: unknown keys {', '.join(sorted(unknown))}")
    return {
        model: (
            {key: value for key, value in entry.items() if key != "parameters"},
            entry["parameters"],
        )
        for model, entry in entries.items()
    }

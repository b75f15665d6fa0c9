"""The rows that pass between steps, in the order of a row's life, strict about names and nulls.

A column that a model's answer fills is nullable: where the answer is missing the column is null,
never a default.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from typing import Literal

import pyarrow as pa

Role = Literal["train", "analyse", "evaluate", "general"]
Language = Literal["zh", "en"]

STRINGS = pa.list_(pa.string())


def row_id(source: str, prompt: str, responses: Sequence[str]) -> str:
    """32 hex digits (16 bytes) of SHA-256 over source, prompt and responses, all in NFC."""
    parts = [unicodedata.normalize("NFC", part) for part in (source, prompt, *responses)]
    # A length before each part: otherwise ("ab", "c") and ("a", "bc") would share an id.
    data = b"".join(len(part.encode()).to_bytes(8, "big") + part.encode() for part in parts)
    return hashlib.sha256(data).hexdigest()[:32]


def _field(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


_OUTCOME = [_field("outcome", pa.string()), pa.field("reason", pa.string())]
_MODEL = [
    pa.field("raw", pa.string()),  # what the engine said, to the letter
    pa.field("prompt_tokens", pa.int32()),
    pa.field("output_tokens", pa.int32()),
    pa.field("finish_reason", pa.string()),
    _field("engine", pa.string()),
]
_PROMPT = [
    _field("id", pa.string()),
    _field("source", pa.string()),
    _field("source_row", pa.int64()),
    _field("role", pa.string()),
    _field("language", pa.string()),
    _field("licence", pa.string()),
    _field("prompt", pa.string()),
    pa.field("source_label", pa.string()),
    _field("original_responses", STRINGS),
    pa.field("parent", pa.string()),
]

COLLECTED = pa.schema([*_PROMPT, *_OUTCOME])

LABELLED = pa.schema(
    [
        *_PROMPT,
        pa.field("label", pa.string()),
        pa.field("scenario", pa.string()),
        pa.field("mapping", pa.string()),  # map | unmapped
        *_OUTCOME,
        *_MODEL,
    ]
)

ANSWERED = pa.schema(
    [
        _field("id", pa.string()),  # <prompt_id>/<k>
        _field("prompt_id", pa.string()),
        pa.field("analysis", pa.string()),
        pa.field("answer", pa.string()),
        *_OUTCOME,
        *_MODEL,
    ]
)

CANDIDATES = pa.schema(
    [
        *[COLLECTED.field(name) for name in ("id", "source", "language", "licence", "prompt")],
        pa.field("scenario", pa.string()),
        _field("response_ids", STRINGS),  # originals are <id>/o<k>, answers <id>/<k>
        _field("responses", STRINGS),
        _field("analyses", STRINGS),  # one per response; empty for originals, which have none
        *_OUTCOME,
    ]
)

SCORED_RESPONSES = pa.schema(
    [
        _field("id", pa.string()),
        _field("prompt_id", pa.string()),
        pa.field("score_ab", pa.float64()),
        pa.field("score_ba", pa.float64()),  # null for a lone response: there is no other order
        pa.field("score", pa.float64()),
        pa.field("spread", pa.float64()),
        _field("num_scored_together", pa.int32()),
        pa.field("judge", pa.string()),
        *_OUTCOME,
        *_MODEL,
    ]
)

SCORED_PROMPTS = pa.schema(
    [
        _field("id", pa.string()),
        pa.field("prompt_score", pa.float64()),
        pa.field("prompt_spread", pa.float64()),
        pa.field("judge", pa.string()),
        *_OUTCOME,
        *_MODEL,
    ]
)

SELECTED = pa.schema(
    [
        _field("id", pa.string()),  # a response's id; for a general row, the row's own
        _field("prompt_id", pa.string()),
        *[COLLECTED.field(name) for name in ("source", "role", "language", "licence", "prompt")],
        pa.field("scenario", pa.string()),
        _field("analysis", pa.string()),
        _field("response", pa.string()),
        pa.field("score", pa.float64()),
        pa.field("prompt_score", pa.float64()),
        pa.field("num_scored_together", pa.int32()),
        pa.field(
            "quantile", pa.float64()
        ),  # of the score, among responses scored together with as many others
        pa.field("split", pa.string()),
        *_OUTCOME,
    ]
)

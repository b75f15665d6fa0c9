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
_JUDGE = [
    pa.field("judge", pa.string()),  # the backend that scored, with its snapshot
    pa.field("blocked_by", pa.string()),  # the one that refused before it took over
    pa.field("calibrated", pa.bool_()),  # on the first one's scale? null where that one scored
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

_TWIN = pa.field("twin", pa.string())  # the id of the row that a dropped one repeats

COLLECTED = pa.schema([*_PROMPT, _TWIN, *_OUTCOME])

LABELLED = pa.schema(
    [
        *_PROMPT,
        pa.field("label", pa.string()),
        pa.field("dimension", pa.string()),
        *_OUTCOME,
        *_MODEL,
    ]
)

PLACED = pa.schema(
    [
        *_PROMPT,
        pa.field("label", pa.string()),
        pa.field("scenario", pa.string()),
        pa.field("mapping", pa.string()),  # map | unmapped
        pa.field("dimension", pa.string()),
        pa.field("method", pa.string()),  # how it was expanded; null for a collected prompt
        pa.field("prompt_score", pa.float64()),
        _TWIN,
        *_OUTCOME,
    ]
)

WANTED = pa.schema(
    [
        _field("id", pa.string()),  # <parent>/w<round>.<j>
        *[_field(name, pa.string()) for name in ("parent", "source", "language", "licence")],
        _field("source_row", pa.int64()),
        _field("role", pa.string()),
        _field("method", pa.string()),  # scenario | related | dimension
        _field("scenario", pa.string()),
        _field("dimension", pa.string()),
        _field("topic", pa.string()),  # the scenario's keyword, in the row's language
        _field("examples", STRINGS),  # prompts of the same source, the parent's first
        _field("first", pa.int32()),  # the k of this request's first prompt
        *_OUTCOME,
    ]
)

EXPANDED = pa.schema(
    [
        # id is <parent>/e<round>.<k>; source, role, language and licence are the parent's
        *[part if part.name != "prompt" else pa.field("prompt", pa.string()) for part in _PROMPT],
        _field("request", pa.string()),
        _field("method", pa.string()),
        _field("scenario", pa.string()),  # the cell it was written for
        _field("dimension", pa.string()),
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

PERPLEXITY = pa.schema(
    [
        _field("id", pa.string()),
        pa.field("logprob_sum", pa.float64()),  # natural logs, of the prompt's tokens but the first
        pa.field("token_count", pa.int32()),  # how many tokens that is
        *_OUTCOME,
        *_MODEL,
    ]
)

CANDIDATES = pa.schema(
    [
        *[COLLECTED.field(name) for name in ("id", "source", "language", "licence", "prompt")],
        pa.field("scenario", pa.string()),
        pa.field("dimension", pa.string()),
        pa.field("method", pa.string()),
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
        *_JUDGE,
        *_OUTCOME,
        *_MODEL,
    ]
)

SCORED_PROMPTS = pa.schema(
    [
        _field("id", pa.string()),
        pa.field("prompt_score", pa.float64()),
        pa.field("prompt_spread", pa.float64()),
        *_JUDGE,
        *_OUTCOME,
        *_MODEL,
    ]
)

AUDITED = pa.schema(
    [
        *[SCORED_RESPONSES.field(name) for name in ("id", "prompt_id")],
        pa.field("scenario", pa.string()),
        _field("is_original", pa.bool_()),
        _field("place", pa.int32()),  # among the responses as they were given, from 0
        *[SCORED_RESPONSES.field(name) for name in ("score_ab", "score_ba", "score", "spread")],
        pa.field("repeats", pa.list_(pa.float64())),  # null where one could not be read
        SCORED_RESPONSES.field("num_scored_together"),
        *_JUDGE,
        pa.field("other_judge", pa.string()),
        pa.field("other_score", pa.float64()),  # on that one's own scale
        pa.field("guard", pa.string()),
        pa.field("guard_verdict", pa.string()),  # safe | unsafe | uncertain
        pa.field("guard_p_unsafe", pa.float64()),
        *_OUTCOME,
        *_MODEL,
    ]
)

TRUST = pa.schema(
    [
        _field("id", pa.string()),  # <figure>, or <figure>/<group>
        _field("figure", pa.string()),
        pa.field("group", pa.string()),  # a scenario or a judge, where the figure is of one
        pa.field("value", pa.float64()),  # null where it cannot be told: `note` says why
        pa.field("low", pa.float64()),  # of its 95 % interval
        pa.field("high", pa.float64()),
        _field("num", pa.int64()),  # what it is taken over
        _field("unit", pa.string()),  # what `num` counts
        pa.field("note", pa.string()),
    ]
)

SELECTED = pa.schema(
    [
        _field("id", pa.string()),  # a response's id; for a general row, the row's own
        _field("prompt_id", pa.string()),
        *[COLLECTED.field(name) for name in ("source", "role", "language", "licence", "prompt")],
        *[pa.field(name, pa.string()) for name in ("scenario", "dimension", "method")],
        _field("analysis", pa.string()),
        _field("response", pa.string()),
        pa.field("score", pa.float64()),
        pa.field("prompt_score", pa.float64()),
        pa.field("perplexity", pa.float64()),  # per token of the prompt
        pa.field("num_scored_together", pa.int32()),
        pa.field("quantile", pa.float64()),  # of the score, among those judged in equal company
        pa.field("prompt_quantile", pa.float64()),
        pa.field("perplexity_quantile", pa.float64()),
        pa.field("split", pa.string()),  # train | validation
        *_OUTCOME,
    ]
)

EXPORTED = pa.schema(
    [
        *[SELECTED.field(name) for name in SELECTED.names[: SELECTED.get_field_index("analysis")]],
        SELECTED.field("response"),  # what is trained on: the analysis is in it, if it is to be
        *[SELECTED.field(name) for name in ("score", "prompt_score", "perplexity")],
    ]
)

PREFERRED = pa.schema(
    [
        *[_field(name, pa.string()) for name in ("id", "rejected_id")],  # of the two responses
        *[
            EXPORTED.field(name)
            for name in EXPORTED.names[1 : EXPORTED.get_field_index("response")]
        ],
        *[_field(name, pa.string()) for name in ("chosen", "rejected")],
        _field("margin", pa.float64()),  # the chosen one's score less the other's
    ]
)

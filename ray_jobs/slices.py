"""Rows of schema.SELECTED, a slice of texts at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from ray_jobs.schema import SELECTED
from ray_jobs.tables import DONE, Table

SLICE_ROWS = 4096
GENERAL = DONE & (pads.field("role") == "general")
_CARRIED = ("source", "language", "licence", "prompt", "scenario", "dimension", "method")


def responses(candidates: Table) -> Iterator[pa.Table]:
    """One row per response, in order, with its prompt's columns; a prompt is never cut in two."""
    for prompts in _slices(candidates, DONE):
        ids = prompts["response_ids"].combine_chunks()
        table = prompts.select(["id", *_CARRIED]).take(pc.list_parent_indices(ids))
        table = table.rename_columns(["prompt_id", *_CARRIED])
        for name, column in (("id", "response_ids"), ("response", "responses")):
            table = table.append_column(name, pc.list_flatten(prompts[column].combine_chunks()))
        analyses = pc.list_flatten(prompts["analyses"].combine_chunks())
        table = table.append_column("analysis", pc.fill_null(analyses, ""))
        yield table.append_column("role", pa.array(["train"] * len(table), pa.string()))


def general(collected: Table) -> Iterator[pa.Table]:
    """The general rows as they are, each with its first response."""
    for rows in _slices(collected, GENERAL):
        table = rows.select(["id", "role", "source", "language", "licence", "prompt"])
        table = table.append_column("prompt_id", rows["id"])
        first = pc.list_element(rows["original_responses"].combine_chunks(), 0)
        table = table.append_column("response", first)
        yield table.append_column("analysis", pa.array([""] * len(rows), pa.string()))


def selected(rows: pa.Table, added: dict[str, Any]) -> pa.Table:
    """Rows and further columns as the schema has them; what is not known is null, where it may be.

    A row without a reason is done, the others are dropped.
    """
    columns = dict(zip(rows.column_names, rows.columns, strict=True)) | added
    columns["outcome"] = pc.if_else(pc.is_null(columns["reason"]), "done", "dropped")
    filled = {
        field.name: columns.get(field.name, pa.nulls(len(rows), field.type)) for field in SELECTED
    }
    table = pa.table(filled, schema=SELECTED)
    for field in SELECTED:
        assert field.nullable or not table[field.name].null_count, f"null in column {field.name}"
    return table


def _slices(table: Table, where: pads.Expression) -> Iterator[pa.Table]:
    for shard in table.scan(where=where):
        for start in range(0, len(shard), SLICE_ROWS):
            yield shard.slice(start, SLICE_ROWS)

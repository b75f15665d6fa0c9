"""A question to a model about every row of a table: how a row is put to it, and how its reply is
read. Both are pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pyarrow as pa

from ray_jobs.engines.seam import Constraint, Reply, Request, Sampling
from ray_jobs.prompts import Chat
from ray_jobs.tables import Row

Columns: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of each row, and what becomes of the answers."""

    name: str
    """The step's."""
    render: Callable[[Row], Chat]
    parse: Callable[[str, Row], Columns | list[Columns]] | None = None
    """Columns of the row's child, or of all its children in order; with `outcome` and `reason`
    where a child cannot be used though the reply could be read. Absent for perplexity.
    """
    children: Callable[[Row], list[Columns]]
    """The columns that name each child row: `id`, and `parent` where it differs."""
    schema: pa.Schema
    parent: str = "id"
    """The column of a child that names the row that was asked."""
    num_answers: int = 1
    """With more than one, answer k is child k."""
    sampling: Sampling = field(default_factory=Sampling)
    constraint: Constraint | None = None
    stop: tuple[str, ...] = ()
    """Texts at which an answer ends: a base model would go on and on."""
    perplexity: bool = False
    shape: Callable[[Row, Request], Request] | None = None
    """Makes of a row's request one that is more than a chat: raw text, continuations, letters whose
    log-probabilities are wanted, a sampling of its own.
    """
    read: Callable[[Reply, Row], Columns] | None = None
    """Instead of `parse` where more than the text is read, or where an answer that is cut at
    max_tokens is one nevertheless.
    """


def itself(row: Row) -> list[Columns]:
    """The children of a row that becomes one row with the same id."""
    return [{"id": row["id"]}]

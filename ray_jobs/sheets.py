"""Several steps' rows as one table, one question and one ledger, so that a single start of an
engine answers them all. Each row is written to the folder of its own step: a step's ledger is the
same whether it was asked alone or with others.

In between a row's id is `<step>/<id>`; nothing of it is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from ray_jobs.asking import Asked, ask
from ray_jobs.engines.seam import EngineConfig, Reply, Request
from ray_jobs.ledger import PART, LedgerConfig
from ray_jobs.outcomes import Unparsed
from ray_jobs.prompts import Chat
from ray_jobs.question import Columns, Question, itself
from ray_jobs.tables import Folder, Row, Table, to_table, write_shards


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """One step's rows and where its answers go. A row becomes one row."""

    table: Table
    question: Question
    folder: Folder
    where: pads.Expression


def ask_all(
    sheets: Sequence[Sheet], engine: EngineConfig, *, ledger: LedgerConfig, seed: int
) -> list[tuple[list[str], Asked]]:
    """Ask about the rows of all sheets in one pass; returns each sheet's shards and what asking it
    took, of the whole time as much as it had of all tokens. All sheets have one schema.

    Raises as `ask` does.
    """
    folder = Folders("", {sheet.question.name: sheet.folder for sheet in sheets})
    kept = {name: len(_ids(home, _answered(home))) for name, home in folder.homes.items()}
    written, all_asked = ask(
        _Rows(Folder(""), {}, tuple(sheets)),
        engine,
        together([sheet.question for sheet in sheets]),
        folder=folder,
        ledger=ledger,
        seed=seed,
    )
    shards = folder.of_steps(written)
    tokens = {name: _num_tokens(home, shards[name]) for name, home in folder.homes.items()}
    found = []
    for sheet in sheets:
        name = sheet.question.name
        asked = Asked(
            num_kept=kept[name],
            num_asked=len(_ids(sheet.folder, shards[name])) - kept[name],
            wall_s=all_asked.wall_s * tokens[name] / max(1, sum(tokens.values())),
        )
        nothing = [to_table([], sheet.question.schema)]
        found.append((shards[name] or write_shards(sheet.folder, nothing), asked))
    return found


def _answered(folder: Folder) -> list[str]:
    return [name for name in folder.names() if name.startswith(PART)]


def _ids(folder: Folder, shards: Sequence[str]) -> set[str]:
    columns = [folder.read_shard(name, ["id"])["id"] for name in shards]
    return {one for column in columns for one in column.to_pylist()}


def _num_tokens(folder: Folder, shards: Sequence[str]) -> int:
    names = ["prompt_tokens", "output_tokens"]
    tables = [folder.read_shard(name, names) for name in shards]
    return sum(pc.sum(rows[name]).as_py() or 0 for rows in tables for name in names)


def together(questions: Sequence[Question]) -> Question:
    """The question that asks each row what its own step's question asks."""
    first, *others = questions
    assert all(one.schema == first.schema for one in others), "sheets of one schema"
    assert all(one.num_answers == 1 for one in questions), "a row becomes one row"
    asked = _Together({question.name: question for question in questions})
    return Question(
        name=f"{first.name} +{len(others)}" if others else first.name,
        render=asked.render,
        shape=asked.shape,
        read=asked.read,
        children=itself,
        schema=first.schema,
    )


@dataclass(frozen=True)
class _Together:
    questions: Mapping[str, Question]

    def _of(self, row: Row) -> tuple[Question, Row]:
        step, _, own = row["id"].partition("/")
        return self.questions[step], {**row, "id": own}

    def render(self, row: Row) -> Chat:
        question, own = self._of(row)
        return question.render(own)

    def shape(self, row: Row, request: Request) -> Request:
        question, own = self._of(row)
        asked = replace(
            request,
            sampling=question.sampling,
            constraint=question.constraint,
            stop=question.stop,
            perplexity=question.perplexity,
            purpose=question.name,
        )
        return question.shape(own, asked) if question.shape else asked

    def read(self, reply: Reply, row: Row) -> Columns:
        question, own = self._of(row)
        if question.read is not None:
            return question.read(reply, own)
        assert question.parse is not None, "a question is read or parsed"
        if reply.finish_reason == "length":
            raise Unparsed(f"cut at max_tokens {question.sampling.max_tokens}")
        columns = question.parse(reply.text, own)
        assert not isinstance(columns, list), "a row becomes one row"
        return columns


@dataclass(frozen=True)
class _Rows(Table):
    """The rows of all sheets that are to be asked, each by its own sheet's `where`."""

    sheets: tuple[Sheet, ...] = ()

    def scan(
        self, columns: list[str] | None = None, where: pads.Expression | None = None
    ) -> Iterator[pa.Table]:
        for sheet in self.sheets:
            for rows in sheet.table.scan(columns, sheet.where):
                yield _named(rows, sheet.question.name)


@dataclass(frozen=True)
class Folders(Folder):
    """The folders of several steps. The shard `part-1.parquet` of a step is here
    `part-1@<step>.parquet`, for a ledger goes by how a name begins and ends.
    """

    homes: Mapping[str, Folder] = field(default_factory=dict)

    def names(self) -> list[str]:
        """Every step's files."""
        return [
            f"{file.stem}@{step}{file.suffix}"
            for step, home in self.homes.items()
            for file in map(PurePosixPath, home.names())
        ]

    def remove(self, name: str) -> None:
        """Remove a step's file."""
        home, own, _ = self._own(name)
        home.remove(own)

    def read_shard(
        self, name: str, columns: list[str] | None = None, where: pads.Expression | None = None
    ) -> pa.Table:
        """A step's shard."""
        home, own, step = self._own(name)
        return _named(home.read_shard(own, columns, where), step)

    def write_shard(self, name: str, table: pa.Table) -> None:
        """Each step's rows as a shard of its own. Where a death leaves some of them unwritten,
        their rows are asked again.
        """
        parts = pc.split_pattern(table["id"], "/", max_splits=1).combine_chunks()
        steps, ids = pc.list_element(parts, 0), pc.list_element(parts, 1)
        place = table.schema.get_field_index("id")
        plain = table.set_column(place, table.schema.field("id"), ids)
        for step in pc.unique(steps).to_pylist():
            self.homes[step].write_shard(name, plain.filter(pc.equal(steps, step)))

    def of_steps(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Each step's own among these shards, by the names that they have in its folder."""
        found: dict[str, list[str]] = {step: [] for step in self.homes}
        for name in names:
            if "@" in name:  # the one without is that of a sitting without any row
                _, own, step = self._own(name)
                found[step].append(own)
        return found

    def _own(self, name: str) -> tuple[Folder, str, str]:
        file = PurePosixPath(name)
        stem, _, step = file.stem.rpartition("@")
        return self.homes[step], f"{stem}{file.suffix}", step


def _named(rows: pa.Table, step: str) -> pa.Table:
    if "id" not in rows.schema.names:
        return rows
    ids = pc.binary_join_element_wise(step, rows["id"], "/")
    place = rows.schema.get_field_index("id")
    return rows.set_column(place, rows.schema.field("id"), ids)

"""Tables: Parquet shards and, last, `manifest.json`. A table exists once its manifest does.

`<out>/<step>/manifest.json` names shards under `<out>/<step>/<fingerprint>/`, relative to the
step: so a changed step is written beside the old one and replaces it by a single PUT, and a moved
folder stays whole. Local or `s3://`, `gs://`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from ray_jobs.outcomes import first_line

if TYPE_CHECKING:
    from ray.data import Dataset

Row = dict[str, Any]
SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs", "file")
"""What pyarrow knows."""
DONE = pads.field("outcome") == "done"


def to_table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table of exactly this schema: no column more, none fewer, no null where none may
    be. AssertionError else.
    """
    names = set(schema.names)
    for row in rows:
        assert row.keys() == names, (
            f"columns {sorted(row.keys() ^ names)} do not fit the schema, row {row.get('id')}"
        )
    table = pa.Table.from_pylist(list(rows), schema=schema)
    for field in schema:
        assert field.nullable or table[field.name].null_count == 0, f"null in column {field.name}"
    return table


@dataclass(frozen=True)
class Folder:
    """A folder on a local disk or an object store."""

    uri: str

    def __truediv__(self, name: str) -> Folder:
        return Folder(f"{self.uri.rstrip('/')}/{name}")

    def write(self, name: str, data: bytes) -> None:
        """Write a file so that it is whole or absent: rename on a disk, a single PUT on an object
        store.
        """
        with self.open_write(name) as stream:
            stream.write(data)

    @contextmanager
    def open_write(self, name: str) -> Iterator[IO[bytes]]:
        """Write a file piece by piece; it is whole or absent, as with `write`: it gets its name, or
        its one upload is completed, when the block ends. An error inside leaves no file.
        """
        system, path = self._place()
        if isinstance(system, pafs.LocalFileSystem):
            with _open_local(Path(path) / name) as draft:
                yield draft
            return
        stream = system.open_output_stream(f"{path}/{name}")
        try:
            yield stream
        except BaseException:
            # An object store's stream cannot be abandoned, only completed: so it is removed after.
            stream.close()
            system.delete_file(f"{path}/{name}")
            raise
        stream.close()

    def write_shard(self, name: str, table: pa.Table) -> None:
        """Write a table as one whole Parquet file."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self.write(name, sink.getvalue())

    def read(self, name: str) -> bytes | None:
        """A file's bytes, or None where there is none."""
        system, path = self._place()
        try:
            with system.open_input_stream(f"{path}/{name}") as stream:
                return bytes(stream.readall())
        except FileNotFoundError:
            return None

    def read_json(self, name: str, keys: Sequence[str] = ()) -> dict[str, Any] | None:
        """A file that holds a mapping with these keys, or None where there is none. ValueError
        names one that is broken.
        """
        data = self.read(name)
        if data is None:
            return None
        try:
            found = json.loads(data)
        except ValueError:
            found = None
        if isinstance(found, dict) and found.keys() >= set(keys):
            return found
        raise ValueError(
            f"{self.uri}/{name}: broken: expected a JSON mapping"
            + (f" with {', '.join(keys)}" if keys else "")
            + "; remove this file, and the job that wrote it makes anew what it told of"
        )

    def age_s(self, name: str) -> float:
        """How long ago a file was written; 0 where there is none."""
        system, path = self._place()
        info = system.get_file_info(f"{path}/{name}")
        return 0.0 if info.mtime_ns is None else time.time() - info.mtime_ns / 1e9

    def read_shard(
        self, name: str, columns: list[str] | None = None, where: pads.Expression | None = None
    ) -> pa.Table:
        """The rows of one shard that fit `where`."""
        system, path = self._place()
        return pads.dataset(f"{path}/{name}", filesystem=system, format="parquet").to_table(
            columns=columns, filter=where
        )

    def names(self) -> list[str]:
        """The names of the files and folders directly inside, sorted; empty where the folder is
        absent.
        """
        system, path = self._place()
        selector = pafs.FileSelector(path, allow_not_found=True)
        return sorted(
            info.base_name
            for info in system.get_file_info(selector)
            if not info.base_name.startswith(".")
        )

    def delete(self) -> None:
        """Remove the folder and all in it."""
        system, path = self._place()
        if system.get_file_info(path).type != pafs.FileType.NotFound:
            system.delete_dir(path)

    def remove(self, name: str) -> None:
        """Remove one file."""
        system, path = self._place()
        system.delete_file(f"{path}/{name}")

    def _place(self) -> tuple[pafs.FileSystem, str]:
        if "://" not in self.uri:
            return pafs.LocalFileSystem(), self.uri
        try:
            return pafs.FileSystem.from_uri(self.uri)  # type: ignore[no-any-return]
        except pa.ArrowInvalid as error:
            raise ValueError(f"{self.uri}: no address of a folder: {first_line(error)}") from error


def check_place(uri: str) -> None:
    """ValueError where no folder can be: an address without a bucket, or a way through a file."""
    scheme, is_address, rest = uri.partition("://")
    if is_address:
        if scheme not in SCHEMES or not rest.strip("/"):
            raise ValueError(
                f"expected a folder, or an address such as s3://bucket/… or gs://bucket/…, "
                f"found {uri!r}"
            )
        return
    for above in (Path(uri), *Path(uri).parents):
        if above.is_file():
            raise ValueError(f"{above} is a file; give a folder")


@contextmanager
def _open_local(file: Path) -> Iterator[IO[bytes]]:
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with draft.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


@dataclass(frozen=True)
class Table:
    """A published table: where it lies and what its manifest says."""

    folder: Folder
    manifest: Mapping[str, Any]

    @property
    def counts(self) -> dict[str, int]:
        """Rows by outcome."""
        return dict(self.manifest["outcomes"])

    def scan(
        self, columns: list[str] | None = None, where: pads.Expression | None = None
    ) -> Iterator[pa.Table]:
        """The rows, one shard at a time, so that no more than a shard is ever in memory."""
        for shard in self.manifest["shards"]:
            yield self.folder.read_shard(shard, columns, where)

    def load(
        self, columns: list[str] | None = None, where: pads.Expression | None = None
    ) -> pa.Table:
        """All rows at once. For the columns that fit in memory."""
        return pa.concat_tables(self.scan(columns, where))

    def read(self) -> Dataset:
        """The table as a Ray Data dataset, for whoever goes on from here."""
        import ray

        system, path = self.folder._place()
        return ray.data.read_parquet(
            [f"{path}/{shard}" for shard in self.manifest["shards"]], filesystem=system
        )


def open_table(folder: Folder) -> Table | None:
    """The published table in a step's folder, or None."""
    manifest = folder.read_json("manifest.json", ("fingerprint", "shards"))
    return None if manifest is None else Table(folder, manifest)


def write_shards(folder: Folder, batches: Iterable[pa.Table]) -> list[str]:
    """Write batches as numbered shards; returns their names. An empty table still gets one shard,
    for its schema.
    """
    names = []
    for number, batch in enumerate(batches):
        names.append(f"part-{number:05d}.parquet")
        folder.write_shard(names[-1], batch)
    return names


def batches(rows: Iterable[Mapping[str, Any]], schema: pa.Schema, size: int) -> Iterator[pa.Table]:
    """Rows as strict tables of up to `size` rows; one empty table where there are none."""
    held: list[Mapping[str, Any]] = []
    sent = False
    for row in rows:
        held.append(row)
        if len(held) == size:
            yield to_table(held, schema)
            held, sent = [], True
    if held or not sent:
        yield to_table(held, schema)

"""Rows out of .json, .jsonl, .csv and .parquet files, on a disk or an object store.

What is wrong with a file is a ValueError of one line: file, line, what was expected, what to do.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import PurePosixPath
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

BOM = b"\xef\xbb\xbf"
BATCH_ROWS = 1024
NUM_FIELDS_SHOWN = 20
FORMATS = (".json", ".jsonl", ".csv", ".parquet")

Row = Mapping[str, object]


def suffix(path: str) -> str:
    """The ending that names a file's format."""
    return PurePosixPath(path).suffix.lower()


def rows(path: str, wanted: Mapping[str, str]) -> Iterator[Row]:
    """The rows of a file. `wanted`: the fields that some row must have, and the recipe's keys."""
    kind = suffix(path)
    if kind == ".csv":
        return _csv(path, wanted)
    if kind == ".parquet":
        return _parquet(path, wanted)
    assert kind in FORMATS, f"the format of {path} was to be checked before"
    return _with_fields(_json_rows(path) if kind == ".json" else _jsonl(path), path, wanted)


def load_json(path: str) -> Any:
    """The one JSON value that a file holds."""
    with open_binary(path) as stream:
        data = stream.read().removeprefix(BOM)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(path, data.count(b"\n", 0, error.start) + 1, error) from error
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        many = (
            ": with one object a line its name must end in .jsonl"
            if error.msg == "Extra data"
            else ": mend the file"
        )
        raise ValueError(f"{path} line {error.lineno}: not JSON ({error.msg}){many}") from error
    except (ValueError, RecursionError) as error:  # a number too long, brackets too deep
        raise ValueError(f"{path}: not JSON ({error}): mend the file") from error


def open_binary(path: str, *, seekable: bool = False) -> IO[bytes]:
    """A file's bytes. ValueError where there is no such file."""
    try:
        system, inner = (
            pafs.FileSystem.from_uri(path) if "://" in path else (pafs.LocalFileSystem(), path)
        )
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"{path}: expected a path, or an address that begins with s3:// or gs://"
        ) from error
    found = system.get_file_info(inner).type
    if found != pafs.FileType.File:
        what = "a folder" if found == pafs.FileType.Directory else "nothing"
        raise ValueError(f"{path}: expected a file, found {what}; give the path of a file")
    if seekable:
        return cast(IO[bytes], system.open_input_file(inner))
    return cast(IO[bytes], io.BufferedReader(system.open_input_stream(inner, compression=None)))


def content_hash(path: str) -> str:
    """The SHA-256 of a file's content: a file that moved is still the same."""
    digest = hashlib.sha256()
    with open_binary(path) as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def kind_of(value: object) -> str:
    """What a JSON value is, in JSON's words."""
    names = {
        dict: "an object",
        list: "an array",
        str: "a string",
        bool: "a boolean",
        type(None): "null",
    }
    return names.get(type(value), "a number")


def as_object(value: object, where: str) -> Row:
    """A JSON value as a row. ValueError where it is none."""
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object, found {kind_of(value)}; mend or remove it")
    return value


def _json_rows(path: str) -> Iterator[Row]:
    data = load_json(path)
    if not isinstance(data, list):
        raise ValueError(
            f"{path}: expected an array of objects, found {kind_of(data)}; "
            "mend the file or choose its reader"
        )
    for number, row in enumerate(data, start=1):
        yield as_object(row, f"{path} row {number}")


def _jsonl(path: str) -> Iterator[Row]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{where}: not JSON ({error.msg}, character {error.colno}): mend or remove the line"
            ) from error
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: not JSON ({error}): mend or remove the line") from error
        yield as_object(value, where)


def _csv(path: str, wanted: Mapping[str, str]) -> Iterator[Row]:
    # strict: without it an unclosed quote would quietly swallow the rest of the file into one cell.
    reader = csv.reader(_lines(path), strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        _require(path, wanted, header)
        if len(set(header)) < len(header):
            raise ValueError(f"{path} line 1: a column's name stands there twice; rename one")
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise ValueError(
                    f"{path} line {reader.line_num}: expected {len(header)} cells, found "
                    f"{len(cells)}; put cells with commas or line breaks in double quotes"
                )
            yield dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise ValueError(
            f"{path} line {reader.line_num}: not CSV ({error}); mend the quotes there or above"
        ) from error


def _parquet(path: str, wanted: Mapping[str, str]) -> Iterator[Row]:
    with open_binary(path, seekable=True) as stream:
        try:
            file = pq.ParquetFile(stream)
            _require(path, wanted, file.schema_arrow.names)
            for batch in file.iter_batches(BATCH_ROWS, columns=list(wanted)):
                yield from batch.to_pylist()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}: expected UTF-8 in its text columns; write the file anew"
            ) from error
        except (pa.ArrowException, OSError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"{path}: cannot be read as Parquet ({reason}); write or fetch it anew"
            ) from error


def _lines(path: str) -> Iterator[str]:
    with open_binary(path) as stream:
        for number, line in enumerate(stream, start=1):
            try:
                yield (line.removeprefix(BOM) if number == 1 else line).decode()
            except UnicodeDecodeError as error:
                raise _not_utf8(path, number, error) from error


def _not_utf8(path: str, line: int, error: UnicodeDecodeError) -> ValueError:
    byte = error.object[error.start]
    return ValueError(
        f"{path} line {line}: expected UTF-8, found the byte 0x{byte:02x}; save the file as UTF-8"
    )


def _with_fields(found: Iterator[Row], path: str, wanted: Mapping[str, str]) -> Iterator[Row]:
    """The rows, and at the end the complaint about a field that none of them had."""
    seen: set[str] = set()
    row = None
    for row in found:
        seen |= row.keys()
        yield row
    if row is not None:
        _require(path, wanted, seen)


def _require(path: str, wanted: Mapping[str, str], there: Collection[str]) -> None:
    for name, key in wanted.items():
        if name not in there:
            shown = ", ".join(sorted(there)[:NUM_FIELDS_SHOWN]) or "no fields"
            raise ValueError(
                f"{path}: there is no field {name!r}; mend {key}: the file has {shown}"
            )

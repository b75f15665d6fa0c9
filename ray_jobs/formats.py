"""Rows out of .json, .jsonl, .csv (each also as .zip) and .parquet files.

What is wrong with a file is a ValueError of one line: file, line, what was expected, what to do.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ray_jobs.files import open_binary, open_content, suffix

BOM = b"\xef\xbb\xbf"
BATCH_ROWS = 1024
NUM_FIELDS_SHOWN = 20
FORMATS = (".json", ".jsonl", ".csv", ".parquet")
SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a character: JSON can hold one alone, UTF-8 cannot."""

Row = Mapping[str, object]


def rows(path: str, wanted: Mapping[str, str], optional: Collection[str] = ()) -> Iterator[Row]:
    """The rows of a file. `wanted`: the fields that some row must have, and what to do where none
    has; `optional`: those that are read where they are there. Where neither names one, all are.
    """
    kind = suffix(path)
    if kind == ".csv":
        return _csv(path, wanted)
    if kind == ".parquet":
        return _parquet(path, wanted, optional)
    if kind not in FORMATS:
        raise ValueError(f"{path}: expected a file {', '.join(FORMATS)}, or one as .zip")
    return _with_fields(_json_rows(path) if kind == ".json" else _jsonl(path), path, wanted)


def load_json(path: str) -> Any:
    """The one JSON value that a file holds."""
    with open_content(path) as stream:
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


def as_text(value: object, where: str, *, may_be_blank: bool = False) -> str:
    """A JSON value as a text. ValueError where it is none, or a blank one."""
    if not isinstance(value, str):
        found = kind_of(value)
    elif SURROGATE.search(value):
        found = "half of a character"
    elif value.strip() or may_be_blank:
        return value
    else:
        found = "a blank one"
    raise ValueError(f"{where}: expected text, found {found}; mend or remove it")


def text(row: Row, name: str, where: str) -> str:
    """A field's text. ValueError where there is none."""
    return as_text(row.get(name), f"{where}: {name}")


def text_or_none(row: Row, name: str, where: str) -> str | None:
    """A field's text; None where it is absent, null or blank. ValueError where it is no text."""
    found = row.get(name)
    if found is None or (isinstance(found, str) and not found.strip()):
        return None
    return as_text(found, f"{where}: {name}")


def one_of(row: Row, name: str, where: str, known: Collection[str], default: str = "") -> str:
    """A field's text, which is one of those known; where it is absent, null or blank, `default`.
    ValueError where it is another.
    """
    found = text_or_none(row, name, where) or default
    if found not in known:
        raise ValueError(
            f"{where}: {name}: expected one of {', '.join(known)}, found {found[:40]!r}"
        )
    return found


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


def cells(path: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file that are not empty, its header among them, each with its last line."""
    # strict: without it an unclosed quote would quietly swallow the rest of the file into one cell.
    reader = csv.reader(_lines(path), strict=True)
    try:
        for found in reader:
            if found:
                yield reader.line_num, found
    except csv.Error as error:
        raise ValueError(
            f"{path} line {reader.line_num}: not CSV ({error}); mend the quotes there or above"
        ) from error


def _csv(path: str, wanted: Mapping[str, str]) -> Iterator[Row]:
    rest = cells(path)
    _, names = next(rest, (0, []))
    header = [name.strip() for name in names]
    _require(path, wanted, header)
    if len(set(header)) < len(header):
        raise ValueError(f"{path} line 1: a column's name stands there twice; rename one")
    for line, found in rest:
        if len(found) != len(header):
            raise ValueError(
                f"{path} line {line}: expected {len(header)} cells, found {len(found)}; put cells "
                "with commas or line breaks in double quotes"
            )
        yield dict(zip(header, found, strict=True))


def _parquet(path: str, wanted: Mapping[str, str], optional: Collection[str]) -> Iterator[Row]:
    with open_binary(path, seekable=True) as stream:
        try:
            file = pq.ParquetFile(stream)
            names = file.schema_arrow.names
            _require(path, wanted, names)
            chosen = [*wanted, *(name for name in optional if name in names)]
            for batch in file.iter_batches(BATCH_ROWS, columns=chosen or None):
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
    with open_content(path) as stream:
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
    for name, advice in wanted.items():
        if name not in there:
            shown = ", ".join(sorted(there)[:NUM_FIELDS_SHOWN])
            shown = " ".join(shown.split()) or "no fields"  # a name may hold line breaks
            raise ValueError(f"{path}: there is no field {name!r}; {advice}: the file has {shown}")

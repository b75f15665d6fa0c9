"""Bytes of files: on a disk, on an object store, or in the one member of a .zip.

What is wrong with a path or an archive is a ValueError of one line: which, what was expected, what
to do.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, cast

import pyarrow as pa
import pyarrow.fs as pafs

ZIPPED = (".json", ".jsonl", ".csv")
BROKEN_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,  # a way of packing that Python does not know
    UnicodeDecodeError,  # a name inside
    pa.ArrowException,
    OSError,
)


def suffix(path: str) -> str:
    """The ending that names a file's format; of rows.jsonl.zip it is .jsonl."""
    name = PurePosixPath(path.lower())
    if name.suffix != ".zip":
        return name.suffix
    inner = PurePosixPath(name.stem).suffix
    return inner if inner in ZIPPED else ".zip"


def is_there(path: str) -> bool:
    """Whether there is a file or a folder."""
    system, inner = _located(path)
    return bool(system.get_file_info(inner).type != pafs.FileType.NotFound)


def open_binary(path: str, *, seekable: bool = False) -> IO[bytes]:
    """A file's bytes as they are. ValueError where there is no such file."""
    system, inner = _located(path)
    found = system.get_file_info(inner).type
    if found != pafs.FileType.File:
        what = "a folder" if found == pafs.FileType.Directory else "nothing"
        raise ValueError(f"{path}: expected a file, found {what}; give the path of a file")
    if seekable:
        return cast(IO[bytes], system.open_input_file(inner))
    return cast(IO[bytes], io.BufferedReader(system.open_input_stream(inner, compression=None)))


@contextmanager
def open_content(path: str) -> Iterator[IO[bytes]]:
    """A file's bytes; of a .zip those of its one member."""
    if not path.lower().endswith(".zip"):
        with open_binary(path) as stream:
            yield stream
        return
    with open_binary(path, seekable=True) as stream:
        try:
            with zipfile.ZipFile(stream) as archive, archive.open(_member(archive, path)) as inside:
                yield inside
        except BROKEN_ZIP as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{path}: cannot be read as a .zip ({reason}); fetch it anew, or unpack it and "
                "give the file inside"
            ) from error


def parquet_files(folder: str, parts: Sequence[str]) -> list[str]:
    """The .parquet files below a folder whose path has every one of `parts`, such as the name of a
    split. ValueError where there are none.
    """
    system, inner = _located(folder)
    if system.get_file_info(inner).type != pafs.FileType.Directory:
        raise ValueError(f"{folder}: expected a folder of .parquet files; give its path")
    base = PurePosixPath(inner)
    infos = system.get_file_info(pafs.FileSelector(inner, recursive=True))
    names = sorted(
        str(PurePosixPath(info.path).relative_to(base))
        for info in infos
        if info.type == pafs.FileType.File and info.path.endswith(".parquet")
    )
    chosen = [name for name in names if all(_names(part, name) for part in parts)]
    if not chosen:
        shown = ", ".join(names[:5]) or "none at all"
        raise ValueError(
            f"{folder}: there is no .parquet file of {' '.join(parts)}; mend subset or split: "
            f"there are {shown}"
        )
    return [f"{folder.rstrip('/')}/{name}" for name in chosen]


def content_hash(*paths: str) -> str:
    """The SHA-256 of the content of one file, or of several in this order: files that moved are
    still the same.
    """
    digest = hashlib.sha256()
    for path in paths:
        with open_binary(path) as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def hashes(path: Path) -> tuple[int, str, str]:
    """A file's size in bytes, its SHA-256, and git's own hash of it."""
    size = path.stat().st_size
    whole, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            whole.update(chunk)
            blob.update(chunk)
    return size, whole.hexdigest(), blob.hexdigest()


def _located(path: str) -> tuple[pafs.FileSystem, str]:
    try:
        if "://" not in path:
            return pafs.LocalFileSystem(), path
        system, inner = pafs.FileSystem.from_uri(path)
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"{path}: expected a path, or an address that begins with s3:// or gs://"
        ) from error
    return system, inner


def _member(archive: zipfile.ZipFile, path: str) -> zipfile.ZipInfo:
    """The one file inside. What a Mac adds to an archive beside it does not count."""
    found = [
        info
        for info in archive.infolist()
        if not info.is_dir()
        and not info.filename.startswith("__MACOSX/")
        and not PurePosixPath(info.filename).name.startswith(".")
    ]
    if len(found) != 1:
        names = ", ".join(info.filename for info in found[:5]) or "none"
        raise ValueError(
            f"{path}: expected one file inside, found {names}; unpack it and give one of them"
        )
    if found[0].flag_bits & 1:
        raise ValueError(f"{path}: {found[0].filename} is locked by a password; unpack it")
    return found[0]


def _names(part: str, path: str) -> bool:
    """Whether a part stands in a path as a word: `train` in data/train-00000-of-00002.parquet."""
    return bool(re.search(rf"(^|[^0-9A-Za-z]){re.escape(part)}([^0-9A-Za-z]|$)", path))

"""Model folders: is it one, which one is it, and how many bytes are its weights."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

SAMPLE = 1 << 20


def is_local(model: str) -> bool:
    """Whether `model` is a folder on disk rather than a hub id."""
    return model.startswith(("/", ".", "~")) or Path(model).exists()


def check_model(model: str, where: str) -> None:
    """Refuse what is neither a hub id nor a folder with a config, a tokenizer and safetensors
    weights.
    """
    if not is_local(model):
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
            raise ValueError(
                f"{where}: {model!r} is neither a folder nor a hub id of the form owner/name"
            )
        return
    folder = Path(model).expanduser()
    if not folder.is_dir():
        raise ValueError(
            f"{where}: there is no folder {folder}; give a model folder or a hub id owner/name"
        )
    for pattern in ("config.json", "tokenizer*", "*.safetensors"):
        if not any(folder.glob(pattern)):
            raise ValueError(f"{where}: {folder} is no model folder: it holds no {pattern}")


def content_hash(folder: Path) -> str:
    """Which model lies in a folder: its small files whole, its weights by header, size and the
    first and last MiB.

    Headers alone would not tell two trainings of one architecture apart; reading all of 15 GB
    would take a minute.
    """
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.json")) + sorted(folder.glob("*.jinja")):
        digest.update(file.name.encode() + file.read_bytes())
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        with file.open("rb") as stream:
            header = int.from_bytes(stream.read(8), "little")
            digest.update(f"{file.name}:{size}".encode() + stream.read(min(header, size) + SAMPLE))
            stream.seek(max(0, size - SAMPLE))
            digest.update(stream.read())
    return digest.hexdigest()[:16]


def weight_bytes(model: str) -> int:
    """Bytes of a local folder's weights; 0 where the model is a hub id, whose size is not known
    before it is fetched.
    """
    return (
        sum(file.stat().st_size for file in Path(model).expanduser().glob("*.safetensors"))
        if is_local(model)
        else 0
    )

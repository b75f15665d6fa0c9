"""Models and whole data sets from Hugging Face, by its own libraries, whose caches others read.

A note in our cache says what has come whole: with it nothing is asked again.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from ray_jobs.downloads import NotFetched
from ray_jobs.engines.models import check_model

WANTED = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "LICENSE*"]
UNWANTED = ["original/*", "consolidated*"]  # the same weights once more, in another layout


def bring_model(model: str, revision: str, cache: Path, endpoint: str, token: str) -> Path | None:
    """A model's safetensors, tokenizer and config files, into Hugging Face's own cache, where the
    engine looks for them. Returns the folder, or None where it was there already. An empty
    revision takes the newest, and asks for it each time.
    """
    title = f"model {model}@{revision or 'newest'}"
    note = cache / "models" / f"{model.replace('/', '--')}@{revision or 'newest'}.json"
    if re.fullmatch(r"[0-9a-f]{40}", revision) and _is_whole(note):
        return None
    from huggingface_hub import snapshot_download

    try:
        folder = Path(
            snapshot_download(
                model,
                revision=revision or None,
                endpoint=endpoint,
                token=token or False,
                allow_patterns=WANTED,
                ignore_patterns=UNWANTED,
            )
        )
    except (OSError, ValueError) as error:
        raise NotFetched(_why(title, f"{endpoint}/{model}", error)) from error
    if lacks := _lacks(folder):
        raise NotFetched(f"{title}: {lacks}; run it again, or name another model")
    sizes = {str(file): file.stat().st_size for file in folder.rglob("*") if file.is_file()}
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(sizes, indent=1), encoding="utf-8")
    return folder


def bring_split(
    dataset: str, revision: str, subset: str, split: str, folder: Path, endpoint: str, token: str
) -> bool:
    """One split of a data set, as .parquet into `folder`. False where it was there already. A set
    that comes with a script of its own is refused: none is run.
    """
    if folder.is_dir():
        return False
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    title = f"data set {dataset}@{revision}, {subset} {split}".replace(",  ", ", ")
    try:
        rows = load_dataset(
            dataset, subset or None, split=split, revision=revision, token=token or False
        )
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        raise NotFetched(_why(title, f"{endpoint}/datasets/{dataset}", error)) from error
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    rows.to_parquet(part / f"{split}-00000.parquet")
    part.rename(folder)
    return True


def _is_whole(note: Path) -> bool:
    try:
        sizes = json.loads(note.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return all(Path(file).is_file() and Path(file).stat().st_size == sizes[file] for file in sizes)


def _lacks(folder: Path) -> str:
    """What a model folder still lacks; empty where it is whole. Without a network the library hands
    over whatever part of a model it has.
    """
    index = folder / "model.safetensors.index.json"
    if index.exists():
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        absent = sorted(shard for shard in shards if not (folder / shard).exists())
        if absent:
            return f"{len(absent)} of its {len(shards)} weight files have not come"
    try:
        check_model(str(folder), "it")
    except ValueError as error:
        return str(error)
    return ""


def _why(title: str, page: str, error: Exception) -> str:
    """In one line what the library says over many."""
    from huggingface_hub import errors

    causes: list[BaseException] = [error]
    while cause := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(cause)
    for kind, reason in (
        (errors.GatedRepoError, f"needs a token: set HF_TOKEN, and accept the licence at {page}"),
        (errors.RevisionNotFoundError, "there is no such revision; mend it"),
        (errors.RepositoryNotFoundError, "none such, or private: mend the id, or set HF_TOKEN"),
    ):
        if any(isinstance(one, kind) for one in causes):
            return f"{title}: {reason}"
    return f"{title}: {' '.join(str(error).split())[:300]}"

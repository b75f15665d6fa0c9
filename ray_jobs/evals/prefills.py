"""Prefilled attacks: the first tokens of a compliant answer are put into the model's mouth, and it
has to go on from there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ray_jobs.evals.attack_files import Found, sample
from ray_jobs.evals.suite import chat, content_of
from ray_jobs.tables import Row

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILE = "tokenizer.json"


def samples(found: Sequence[Found], sizes: Sequence[int], place: str) -> Iterator[Row]:
    """Each prompt once for each size, in tokens of the beginning; 0 asks it without one. A prompt
    whose beginning is shorter is dropped for that size.
    """
    tokens = tokenizer(place)
    for one in found:
        for size in sizes:
            begun = first_tokens(tokens, one.beginning or "", size)
            turns = [("user", one.prompt)]
            if begun:
                turns.append(("assistant", begun))
            row = sample(one, chat(*turns), {"beginning": begun, "tokens": size})
            if begun is None and not one.reason:
                num = len(tokens.encode(one.beginning or "", add_special_tokens=False).ids)
                row |= {"outcome": "dropped", "reason": f"its beginning has {num} tokens"}
            yield {**row, "id": f"{one.id}/{size}", "group": f"prefill {size:02}"}


def first_tokens(tokens: Tokenizer, text: str, size: int) -> str | None:
    """The first tokens of a text; None where it has fewer. A character that the last of them cuts
    in two is there as a whole.
    """
    if not size:
        return ""
    encoded = tokens.encode(text, add_special_tokens=False)
    return text[: encoded.offsets[size - 1][1]] if len(encoded.ids) >= size else None


@cache
def tokenizer(place: str) -> Tokenizer:
    """The tokenizer in a folder, in a tokenizer.json, or of a hub id (id@revision). ValueError
    where there is none.
    """
    from tokenizers import Tokenizer

    file = located(place)
    try:
        if file is not None:
            return Tokenizer.from_file(str(file))
        name, _, revision = place.partition("@")
        return Tokenizer.from_pretrained(name, revision=revision or "main")
    except Exception as error:  # the package raises nothing more special
        why = str(error).strip().partition("\n")[0][:200]
        raise ValueError(
            f"tokenizer: {place}: cannot be read ({why}); give a folder with {FILE}"
        ) from error


def located(place: str) -> Path | None:
    """The file of a local tokenizer; None where `place` is a hub id."""
    path = Path(place).expanduser()
    if path.is_dir():
        return path / FILE
    return path if path.suffix == ".json" or path.is_absolute() else None


def identity(place: str) -> str:
    """What decides the cuts: a hash of the file, or the hub id."""
    file = located(place)
    if file is None:
        return place
    return content_of(file)


def whole_answer(row: Row) -> str:
    """An answer as its reader would see it: with what was put into the model's mouth."""
    turns = json.loads(row["asked"]).get("chat", [])
    begun = turns[-1]["content"] if turns and turns[-1]["role"] == "assistant" else ""
    return str(begun) + str(row["answer"])

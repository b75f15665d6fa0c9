"""The forms that other trainers load: LLaMA-Factory's Alpaca and ShareGPT, TRL's conversations.

One row is one line in each of them. Texts come in as JSON already, so that each is encoded once
however many forms it is written in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

_encode = json.JSONEncoder(ensure_ascii=False).encode
ALPACA = {"prompt": "instruction", "query": "input"}
RANKED = {"chosen": "chosen", "rejected": "rejected"}


@dataclass(frozen=True, kw_only=True)
class Form:
    """One trainer's files: one of examples and one of preference pairs for each split."""

    file: str
    """The name of a split's file, without `preferences`."""
    example: Callable[[str, str], str]
    """The line of a prompt and its response."""
    pair: Callable[[str, str, str, str], str]
    """The line of a prompt, its chosen and rejected response, and the margin."""
    info: Mapping[str, Any] = field(default_factory=dict)
    """What LLaMA-Factory's dataset_info.json says of the examples; empty for other trainers."""
    pairs_info: Mapping[str, Any] = field(default_factory=dict)

    def name(self, split: str, *, pairs: bool) -> str:
        """The name of a file."""
        stem, _, ending = self.file.format(split=split).partition(".")
        return f"{stem}{'_preferences' if pairs else ''}.{ending}"


FORMS = {
    "alpaca": Form(
        file="garrison_{split}.json",
        example=lambda prompt, response: (
            f'{{"instruction": {prompt}, "input": "", "output": {response}}}'
        ),
        pair=lambda prompt, chosen, rejected, _: (
            f'{{"instruction": {prompt}, "input": "", "chosen": {chosen}, "rejected": {rejected}}}'
        ),
        info={"formatting": "alpaca", "columns": {**ALPACA, "response": "output"}},
        pairs_info={"formatting": "alpaca", "ranking": True, "columns": {**ALPACA, **RANKED}},
    ),
    "sharegpt": Form(
        file="garrison_{split}_sharegpt.json",
        example=lambda prompt, response: (
            f'{{"conversations": [{_said("human", prompt)}, {_said("gpt", response)}]}}'
        ),
        pair=lambda prompt, chosen, rejected, _: (
            f'{{"conversations": [{_said("human", prompt)}], '
            f'"chosen": {_said("gpt", chosen)}, "rejected": {_said("gpt", rejected)}}}'
        ),
        info={"formatting": "sharegpt", "columns": {"messages": "conversations"}},
        pairs_info={
            "formatting": "sharegpt",
            "ranking": True,
            "columns": {"messages": "conversations", **RANKED},
        },
    ),
    "trl": Form(
        file="trl_{split}.jsonl",
        example=lambda prompt, response: (
            f'{{"messages": [{_turn("user", prompt)}, {_turn("assistant", response)}]}}'
        ),
        pair=lambda prompt, chosen, rejected, margin: (
            f'{{"prompt": [{_turn("user", prompt)}], "chosen": [{_turn("assistant", chosen)}], '
            f'"rejected": [{_turn("assistant", rejected)}], "margin": {margin}}}'
        ),
    ),
}


def _said(role: str, text: str) -> str:
    return f'{{"from": "{role}", "value": {text}}}'


def _turn(role: str, text: str) -> str:
    return f'{{"role": "{role}", "content": {text}}}'


def encoded(texts: Iterable[str]) -> list[str]:
    """Texts as JSON."""
    return list(map(_encode, texts))


class Lines:
    """Rows written one a line: as a JSON array where the name ends in `.json`, else alone."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._stream = stream
        self._is_array = name.endswith(".json")
        self._first = True
        if self._is_array:
            self._stream.write(b"[\n")

    def write(self, lines: Sequence[str]) -> None:
        """Add rows."""
        if not lines:
            return
        between = ",\n" if self._is_array else "\n"
        self._stream.write(("" if self._first else between).encode())
        self._stream.write(between.join(lines).encode())
        self._first = False

    def close(self) -> None:
        """End the last line, and the array."""
        self._stream.write(b"" if self._first else b"\n")
        self._stream.write(b"]\n" if self._is_array else b"")


def dataset_info(sizes: Mapping[str, int], forms: Iterable[Form], splits: Iterable[str]) -> bytes:
    """LLaMA-Factory's list of data sets, by file sizes in rows. It cannot load an empty file, so
    none is listed.
    """
    info: dict[str, dict[str, Any]] = {}
    for split in splits:
        for form in forms:
            for pairs, said in ((False, form.info), (True, form.pairs_info)):
                file = form.name(split, pairs=pairs)
                if said and sizes.get(file):
                    info[file.partition(".")[0]] = {"file_name": file, **said}
    return (json.dumps(info, indent=2) + "\n").encode()

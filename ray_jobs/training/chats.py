"""Files into chats: our export's Parquet, and the Alpaca, ShareGPT and TRL forms.

What is wrong with a file is a ValueError of one line; a row that no chat can be made of stays, with
its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import Any

import pyarrow as pa

from ray_jobs import formats
from ray_jobs.files import is_there, suffix
from ray_jobs.formats import FORMATS, Row
from ray_jobs.prompts import Chat
from ray_jobs.training.settings import Format

CHATS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),  # the row's own, or its number from 1
        pa.field(
            "messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
        ),
        pa.field("reason", pa.string()),  # why there is no chat
    ]
)
BATCH_ROWS = 1000
ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
FIELDS = {
    "parquet": ("prompt", "response"),
    "alpaca": ("instruction", "output"),
    "sharegpt": ("conversations",),
    "trl": ("messages",),
}
OPTIONAL = ("id", "system", "input", "history", "prompt", "completion")
NO_PROMPT, NO_ANSWER = "no prompt", "no answer"
EMPTY = {"user": NO_PROMPT, "assistant": NO_ANSWER}


class _NoChat(Exception):
    """Why a row is no chat."""


def data_files(data: str) -> tuple[str, str | None]:
    """The file that is trained on and the one for validation, if any: `data` is a file, or a folder
    with train.parquet as build_data exports it. ValueError where there is none.
    """
    if suffix(data) in FORMATS:
        if not is_there(data):
            raise ValueError(f"train.data: there is no file {data}")
        return data, None
    train, validation = (f"{data.rstrip('/')}/{split}.parquet" for split in ("train", "validation"))
    if not is_there(train):
        raise ValueError(
            f"train.data: expected a file ({', '.join(FORMATS)}) or a folder with train.parquet, "
            f"found neither at {data}; run build_data first, or give a file"
        )
    return train, validation if is_there(validation) else None


def read_chats(path: str, form: Format = "auto") -> Iterator[pa.Table]:
    """The rows of a file as tables of CHATS. ValueError where the file has another form."""
    wanted = dict.fromkeys(FIELDS.get(form, ()), "choose another train.format")
    known = {*chain(*FIELDS.values()), *OPTIONAL} - wanted.keys()
    if form == "trl":
        wanted = {}  # prompt and completion may stand for messages
    rows = formats.rows(path, wanted, sorted(known | {*FIELDS.get(form, ())}))
    first = next(rows, None)
    if first is None:
        return
    read = _READERS[form if form != "auto" else _form_of(first, path)]
    numbered = enumerate(chain([first], rows), start=1)
    while batch := list(islice(numbered, BATCH_ROWS)):
        found = [_chat(read, row, number) for number, row in batch]
        yield pa.Table.from_pylist(found, CHATS)


def _form_of(row: Row, path: str) -> str:
    if "completion" in row or "messages" in row:
        return "trl"
    for form, names in FIELDS.items():
        if all(name in row for name in names):
            return form
    shown = ", ".join(sorted(row)[: formats.NUM_FIELDS_SHOWN])
    raise ValueError(
        f"{path} row 1: expected the fields of one of {', '.join(FIELDS)}, found {shown or 'none'};"
        " give train.format or another file"
    )


def _chat(read: Callable[[Row], Chat], row: Row, number: int) -> dict[str, Any]:
    name = str(row.get("id") or number).encode(errors="replace").decode()
    try:
        return {"id": name, "messages": _checked(read(row)), "reason": None}
    except _NoChat as error:
        return {"id": name, "messages": None, "reason": str(error)}


def _checked(chat: Chat) -> Chat:
    """A chat that ends with an answer; what a user says after the last one is left out."""
    while chat and chat[-1]["role"] != "assistant":
        chat = chat[:-1]
    if not chat:
        raise _NoChat(NO_ANSWER)
    said = [turn for turn in chat if turn["role"] != "system"]
    for turn in said:
        if not turn["content"].strip():
            raise _NoChat(EMPTY[turn["role"]])
    if said[0]["role"] != "user":
        raise _NoChat(f"{NO_PROMPT} before the first answer")
    return chat


def _exported(row: Row) -> Chat:
    return _turns(row, "prompt", "response")


def _alpaca(row: Row) -> Chat:
    asked, more = _text(row.get("instruction")), _text(row.get("input"))
    both = {"asked": f"{asked}\n{more}" if asked and more else asked or more}
    earlier: Chat = []
    for pair in _list(row.get("history")):
        if not isinstance(pair, list) or len(pair) != 2:
            raise _NoChat("history: expected pairs of an instruction and an answer")
        earlier += _turns({"asked": pair[0], "answer": pair[1]}, "asked", "answer")
    return [*_system(row), *earlier, *_turns({**both, "output": row.get("output")}, "asked")]


def _sharegpt(row: Row) -> Chat:
    return [*_system(row), *_said(row.get("conversations"), "from", "value")]


def _trl(row: Row) -> Chat:
    if row.get("messages") is not None:
        return _said(row["messages"], "role", "content")
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, list) and isinstance(completion, list):
        return _said([*prompt, *completion], "role", "content")
    return _turns(row, "prompt", "completion")


_READERS: dict[str, Callable[[Row], Chat]] = {
    "parquet": _exported,
    "alpaca": _alpaca,
    "sharegpt": _sharegpt,
    "trl": _trl,
}


def _turns(row: Row, prompt: str, answer: str = "output") -> Chat:
    asked, said = _text(row.get(prompt)), _text(row.get(answer))
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]


def _system(row: Row) -> Chat:
    system = _text(row.get("system"))
    return [{"role": "system", "content": system}] if system.strip() else []


def _said(turns: object, role: str, content: str) -> Chat:
    chat: Chat = []
    for turn in _list(turns):
        speaker = turn.get(role) if isinstance(turn, dict) else None
        if not isinstance(speaker, str) or speaker not in ROLES:
            raise _NoChat(f"a turn that is none of {', '.join(ROLES)}")
        chat.append({"role": ROLES[speaker], "content": _text(turn.get(content))})
    return chat


def _list(value: object) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise _NoChat(f"expected an array of turns, found {formats.kind_of(value)}")
    return value


def _text(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _NoChat(f"expected text, found {formats.kind_of(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON may spell half of a pair, such as \ud83d
        raise _NoChat("text with half a character (a lone surrogate)") from error
    return value

"""Readers of files whose fields are known: published sets, and the Alpaca and ShareGPT layouts.

Each is a generator over a path. What is wrong with a file is a ValueError of one line; a value is
handed on as it was found, so a row at fault gets its outcome where it is collected.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from ray_jobs import formats

SAFETY_PROMPTS = "key → list of {prompt, response, type}"
SAFETYBENCH = "an array of {id, category, question, options}, or category → list of those"
CONVERSATIONS = ("conversations", "messages", "conversation")
USERS = ("human", "user")
ASSISTANTS = ("gpt", "assistant")


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """One row of a file, as it was found."""

    source_row: int
    """Counted from 1 over the file."""
    prompt: object
    """None where the row has none."""
    responses: tuple[object, ...]
    """Those that are there."""
    label: str | None
    language: str | None = None
    """Where the row itself says it; otherwise the source does."""


def safety_prompts(path: str) -> Iterator[Found]:
    """The files of thu-coai/Safety-Prompts. A row's `type` repeats the key it stands under."""
    number, has_prompt = 0, False
    for number, (key, row) in enumerate(_by_key(path, _object(path, SAFETY_PROMPTS)), start=1):
        has_prompt |= "prompt" in row
        yield Found(
            source_row=number,
            prompt=_cleaned(row.get("prompt")),
            responses=_there(_cleaned(row.get("response"))),
            label=str(row.get("type") or key),
        )
    if number and not has_prompt:
        raise ValueError(f"{path}: no row has a prompt; expected {SAFETY_PROMPTS}")


def safetybench(path: str) -> Iterator[Found]:
    """The test and dev files of thu-coai/SafetyBench. The prompt is the question alone: the options
    belong to the test, and would make questions of one topic look alike.
    """
    data = formats.load_json(path)
    if isinstance(data, list):
        named = (formats.as_object(row, f"{path} row {k}") for k, row in enumerate(data, start=1))
        rows = ((row.get("category"), row) for row in named)
    elif isinstance(data, dict):
        rows = ((key, row) for key, row in _by_key(path, data))
    else:
        found = formats.kind_of(data)
        raise ValueError(f"{path}: expected {SAFETYBENCH}, found {found}; choose another reader")
    number, has_question = 0, False
    for number, (category, row) in enumerate(rows, start=1):
        has_question |= "question" in row
        label = None if category is None else str(category)
        yield Found(source_row=number, prompt=row.get("question"), responses=(), label=label)
    if number and not has_question:
        raise ValueError(f"{path}: no row has a question; expected {SAFETYBENCH}")


def cvalues_comparison(path: str) -> Iterator[Found]:
    """CValues-Comparison: one pair a row, the better response first. A prompt stands in up to three
    pairs; they stay apart, and the later ones are dropped as duplicates where they are collected.
    """
    wanted = _fields("cvalues_comparison", "prompt", "pos_resp", "neg_resp")
    for number, row in enumerate(formats.rows(path, wanted), start=1):
        yield Found(
            source_row=number,
            prompt=row.get("prompt"),
            responses=_there(row.get("pos_resp"), row.get("neg_resp")),
            label=None,
        )


def cvalues_responsibility(path: str) -> Iterator[Found]:
    """CValues responsibility: the prompts, or the multiple-choice file, whose rows carry question
    and responses in `meta_info` (each pair twice, in both orders). The label is the domain.
    """
    wanted = _fields("cvalues_responsibility", "prompt")
    optional = ("domain_en", "meta_info")
    for number, row in enumerate(formats.rows(path, wanted, optional), start=1):
        prompt, about = row.get("prompt"), row
        if "meta_info" in row:
            about = formats.as_object(row["meta_info"], f"{path} row {number}: meta_info")
            prompt = about.get("question")
        domain = about.get("domain_en")
        yield Found(
            source_row=number,
            prompt=prompt,
            responses=_there(about.get("pos_resp"), about.get("neg_resp")),
            label=None if domain is None else str(domain),
        )


def s_eval(path: str) -> Iterator[Found]:
    """S-Eval, base risk or attack, as .jsonl or the .zip it comes in. The label is the risk type;
    of an attack, risk type/attack.
    """
    wanted = _fields("s_eval", "prompt", "risk_type", "ext")
    for number, row in enumerate(formats.rows(path, wanted), start=1):
        attack = _attack(row.get("ext"), f"{path} row {number}: ext")
        risk = row.get("risk_type")
        label = None if risk is None else "/".join([str(risk), *([attack] if attack else [])])
        yield Found(source_row=number, prompt=row.get("prompt"), responses=(), label=label)


def alpaca(path: str) -> Iterator[Found]:
    """Alpaca: {instruction, input, output}. Where `history` holds earlier exchanges, the first of
    them is the row, because the last makes no sense alone.
    """
    wanted = _fields("alpaca", "instruction", "output")
    optional = ("input", "history")
    for number, row in enumerate(formats.rows(path, wanted, optional), start=1):
        prompt, response = joined([row.get("instruction"), row.get("input")]), row.get("output")
        if history := row.get("history"):
            where = f"{path} row {number}: history"
            if not isinstance(history, list) or not _is_pair(history[0]):
                raise ValueError(
                    f"{where}: expected a list of [prompt, response]; mend or remove it"
                )
            prompt, response = history[0]
        yield Found(source_row=number, prompt=prompt, responses=_there(response), label=None)


def sharegpt(path: str) -> Iterator[Found]:
    """ShareGPT: turns {from, value}, or messages {role, content}. The row is the first user turn
    and the assistant's reply to it; later turns and the system's are not used.
    """
    has_turns, number = False, 0
    for number, row in enumerate(formats.rows(path, {}, CONVERSATIONS), start=1):
        turns = next((row[name] for name in CONVERSATIONS if row.get(name) is not None), None)
        has_turns |= turns is not None
        prompt, response = _first_exchange(turns, f"{path} row {number}")
        yield Found(source_row=number, prompt=prompt, responses=_there(response), label=None)
    if number and not has_turns:
        raise ValueError(
            f"{path}: no row has turns; expected {' or '.join(CONVERSATIONS)}, a list of "
            "{from, value} or {role, content}"
        )


PUBLISHED: Mapping[str, Callable[[str], Iterator[Found]]] = {
    "safety_prompts": safety_prompts,
    "safetybench": safetybench,
    "cvalues_comparison": cvalues_comparison,
    "cvalues_responsibility": cvalues_responsibility,
    "s_eval": s_eval,
    "alpaca": alpaca,
    "sharegpt": sharegpt,
}
WITHOUT_RESPONSES = ("safetybench", "s_eval")


def joined(values: list[object]) -> object:
    """The texts in one; None where there are none; where something else is among them, that."""
    texts: list[str] = []
    for value in values:
        if isinstance(value, str):
            texts.append(value)
        elif value is not None:
            return value
    return "\n".join(text for text in texts if text.strip()) if texts else None


def _object(path: str, expected: str) -> Mapping[str, object]:
    data = formats.load_json(path)
    if not isinstance(data, dict):
        found = formats.kind_of(data)
        raise ValueError(f"{path}: expected {expected}, found {found}; choose another reader")
    return data


def _by_key(path: str, data: Mapping[str, object]) -> Iterator[tuple[str, formats.Row]]:
    for key, rows in data.items():
        if not isinstance(rows, list):
            found = formats.kind_of(rows)
            raise ValueError(f"{path} key {key!r}: expected a list of rows, found {found}; mend it")
        for number, row in enumerate(rows, start=1):
            yield key, formats.as_object(row, f"{path} key {key!r} row {number}")


def _fields(reader: str, *names: str) -> dict[str, str]:
    return dict.fromkeys(names, f"it is no file for reader {reader}, choose another")


def _there(*responses: object) -> tuple[object, ...]:
    return tuple(response for response in responses if response is not None)


def _cleaned(value: object) -> object:
    """Without the stray line breaks, and halves of escaped ones, that begin some of its texts."""
    return value.strip().removeprefix("n\n").lstrip() if isinstance(value, str) else value


def _attack(ext: object, where: str) -> str | None:
    """The attack that `ext`, a JSON text inside the JSON, names; None for a base prompt."""
    expected = '{"model": "base_risk"} or {"model": "attack", "category": …} as a string'
    try:
        told = json.loads(ext) if isinstance(ext, str) else None
    except (ValueError, RecursionError):
        told = None
    kind = told.get("model") if isinstance(told, dict) else None
    category = told.get("category") if isinstance(told, dict) else None
    if kind == "base_risk":
        return None
    if kind == "attack" and isinstance(category, str) and category:
        return category
    raise ValueError(f"{where}: expected {expected}, found {str(ext)[:60]!r}; mend the row")


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2


def _first_exchange(turns: object, where: str) -> tuple[object, object]:
    if turns is None:
        return None, None
    if not isinstance(turns, list):
        found = formats.kind_of(turns)
        raise ValueError(
            f"{where}: expected a list of turns, found {found}; mend or remove the row"
        )
    prompt: object = None
    for number, turn in enumerate(turns, start=1):
        said = formats.as_object(turn, f"{where} turn {number}")
        who, text = said.get("from", said.get("role")), said.get("value", said.get("content"))
        if prompt is None and who in USERS:
            prompt = text
        elif prompt is not None and who in (*USERS, *ASSISTANTS):
            return prompt, text if who in ASSISTANTS else None
    return prompt, None

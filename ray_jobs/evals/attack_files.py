"""Files of prompts that attack, or only look as if they did, in their publishers' columns: S-Eval,
HarmBench, AdvBench, StrongREJECT, XSTest, OR-Bench; and a layout of our own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

from ray_jobs import formats
from ray_jobs.evals import s_eval
from ray_jobs.evals.safety_marks import note, world_text
from ray_jobs.prompts import LANGUAGES
from ray_jobs.tables import Row

AttackFormat = Literal["s_eval", "harmbench", "advbench", "strongreject", "prompts"]
BenignFormat = Literal["xstest", "or_bench", "prompts"]
Language = Literal["auto", "zh", "en"]
BASE = "base"
"""The family of S-Eval's base prompts, which no attack has been made of."""
MAX_ID_CHARS = 200
"""The judge takes ids of 256, and a prefill's has its size behind."""
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")


@dataclass(frozen=True, kw_only=True)
class Found:
    """One row of such a file."""

    id: str
    prompt: str
    family: str | None
    """What figures are told by: the attack, the dimension, or the publisher's category."""
    cluster: str
    """The same for prompts of one base prompt, and for an attack and its benign twin."""
    language: str
    is_harmful: bool = True
    beginning: str | None = None
    """Of a compliant answer, where the file gives one."""
    base: str | None = None
    """The base prompt inside, where it is known."""
    reason: str | None = None
    """Why it cannot be asked; None where it can."""


def read(kind: str, path: str, language: Language, base: str = "") -> list[Found]:
    """A file's rows. `base` is S-Eval's file of base prompts. ValueError, one line, where a file
    is missing, cut or wrong, or two rows have one id.
    """
    assert kind in READERS, f"a format that the settings allow: {kind}"
    found = list(READERS[kind](path, base, lambda text: _language(text, language)))
    if not found:
        raise ValueError(f"{path}: it holds no prompt")
    seen: set[str] = set()
    for one in found:
        if one.id in seen:
            raise ValueError(f"{path}: the id {one.id} is there more than once; is it two files?")
        if len(one.id) > MAX_ID_CHARS:
            raise ValueError(
                f"{path}: the id {one.id:.40}… is longer than {MAX_ID_CHARS} characters; shorten it"
            )
        seen.add(one.id)
    return found


def first_of_each(found: Iterable[Found], limit: int) -> Iterator[Found]:
    """So many of each family, from its first; 0 takes all."""
    taken: dict[str | None, int] = {}
    for one in found:
        taken[one.family] = taken.get(one.family, 0) + 1
        if not limit or taken[one.family] <= limit:
            yield one


def sample(one: Found, asked: str, told: Mapping[str, Any]) -> Row:
    """The part of a row of SAMPLES that a file decides."""
    return {
        "id": one.id,
        "group": one.family,
        "cluster": one.cluster,
        "language": one.language,
        "prompt": one.prompt,
        "asked": asked,
        "options": None,
        "gold": None,
        "about": note({**told, "world": world_text(one.prompt, one.base)}),
        "outcome": "dropped" if one.reason else "done",
        "reason": one.reason,
    }


def _language(text: str, told: Language) -> str:
    if told != "auto":
        return told
    return "zh" if _HAN.search(text) else "en"


LanguageOf = Callable[[str], str]


def _s_eval(path: str, base: str, language: LanguageOf) -> Iterator[Found]:
    for one in s_eval.read(path, s_eval.read(base) if base else ()):
        yield Found(
            id=str(one.row),
            prompt=one.text,
            family=one.attack or BASE,
            cluster=one.cluster,
            language=language(one.text),
            base=one.base,
        )


def _harmbench(path: str, _: str, language: LanguageOf) -> Iterator[Found]:
    """The behaviours' CSV. A context stands before its behaviour as HarmBench's own direct request
    puts it; its copyright behaviours are judged by hashes of the works, which is no verdict.
    """
    columns = ("Behavior", "FunctionalCategory", "SemanticCategory", "ContextString", "BehaviorID")
    for _number, row, where in _rows(path, "harmbench", columns):
        prompt = formats.text(row, "Behavior", where)
        if context := formats.text_or_none(row, "ContextString", where):
            prompt = f"{context}\n\n---\n\n{prompt}"
        is_copyright = formats.text(row, "FunctionalCategory", where) == "copyright"
        key = formats.text(row, "BehaviorID", where)
        yield Found(
            id=key,
            prompt=prompt,
            family=formats.text(row, "SemanticCategory", where),
            cluster=key,
            language=language(prompt),
            reason="copyright: HarmBench compares hashes" if is_copyright else None,
        )


def _xstest(path: str, _: str, language: LanguageOf) -> Iterator[Found]:
    """The prompts' CSV, also that of version 2, which has no label. A safe prompt and its unsafe
    contrasts have one focus, which is therefore their cluster.
    """
    for number, row, where in _rows(path, "xstest", ("prompt", "type", "focus"), ("label",)):
        kind, prompt = formats.text(row, "type", where), formats.text(row, "prompt", where)
        told = "unsafe" if kind.startswith("contrast_") else "safe"
        label = formats.one_of(row, "label", where, ("safe", "unsafe"), told)
        yield Found(
            id=str(number),
            prompt=prompt,
            family=kind,
            cluster=formats.text_or_none(row, "focus", where) or str(number),
            language=language(prompt),
            is_harmful=label == "unsafe",
        )


def _prompts(path: str, _: str, language: LanguageOf) -> Iterator[Found]:
    """Our own layout: prompt, and what else there is of id, kind (attack, benign), family (or
    dimension), cluster, language, beginning.
    """
    optional = ("id", "family", "dimension", "cluster", "beginning")
    for number, row, where in _rows(path, "prompts", ("prompt",), (*optional, "kind", "language")):
        prompt = formats.text(row, "prompt", where)
        kind = formats.one_of(row, "kind", where, ("attack", "benign", "general"), "attack")
        if kind == "general":
            continue
        told = {name: formats.text_or_none(row, name, where) for name in optional}
        yield Found(
            id=told["id"] or str(number),
            prompt=prompt,
            family=told["family"] or told["dimension"],
            cluster=told["cluster"] or s_eval.digest(prompt),
            language=formats.one_of(row, "language", where, LANGUAGES, language(prompt)),
            is_harmful=kind == "attack",
            beginning=told["beginning"],
        )


@dataclass(frozen=True, kw_only=True)
class Columns:
    """A file that has a prompt in one column, and little else."""

    prompt: str
    family: str = ""
    beginning: str = ""
    is_harmful: bool = True


PLAIN = {
    "advbench": Columns(prompt="goal", beginning="target"),
    "strongreject": Columns(prompt="forbidden_prompt", family="category"),
    "or_bench": Columns(prompt="prompt", family="category", is_harmful=False),
}


def _plain(kind: str, path: str, _: str, language: LanguageOf) -> Iterator[Found]:
    names = PLAIN[kind]
    columns = [name for name in (names.prompt, names.family, names.beginning) if name]
    for number, row, where in _rows(path, kind, columns):
        prompt = formats.text(row, names.prompt, where)
        yield Found(
            id=str(number),
            prompt=prompt,
            family=formats.text_or_none(row, names.family, where),
            cluster=s_eval.digest(prompt),
            language=language(prompt),
            is_harmful=names.is_harmful,
            beginning=formats.text_or_none(row, names.beginning, where),
        )


READERS: Mapping[str, Callable[[str, str, LanguageOf], Iterator[Found]]] = {
    "s_eval": _s_eval,
    "harmbench": _harmbench,
    "xstest": _xstest,
    "prompts": _prompts,
    **{kind: partial(_plain, kind) for kind in PLAIN},
}
assert READERS.keys() == {*get_args(AttackFormat), *get_args(BenignFormat)}


def _rows(
    path: str, kind: str, columns: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[int, formats.Row, str]]:
    """The rows of a file, each with its number and with how a complaint names it."""
    wanted = dict.fromkeys(columns, f"it is no file of the format {kind}, choose another")
    for number, row in enumerate(formats.rows(path, wanted, optional), 1):
        where = f"{path} row {number}"
        if absent := [name for name in columns if name not in row]:
            raise ValueError(f"{where}: there is no field {absent[0]!r}; mend or remove the row")
        yield number, row, where

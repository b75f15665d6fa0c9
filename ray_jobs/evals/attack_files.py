"""Files of prompts that attack, or only look as if they did, in their publishers' columns: S-Eval,
HarmBench, AdvBench, StrongREJECT, XSTest, OR-Bench; and a layout of our own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ray_jobs import files, formats
from ray_jobs.evals import s_eval
from ray_jobs.evals.safety_marks import note, world_text
from ray_jobs.tables import Row

AttackFormat = Literal["s_eval", "harmbench", "advbench", "strongreject", "prompts"]
BenignFormat = Literal["xstest", "or_bench", "prompts"]
Language = Literal["auto", "zh", "en"]
BASE = "base"
"""The family of S-Eval's base prompts, which no attack has been made of."""
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
    if files.suffix(path) not in formats.FORMATS:
        raise ValueError(f"{path}: expected a file {', '.join(formats.FORMATS)}, or one as .zip")
    found = list(READERS[kind](path, base, lambda text: _language(text, language)))
    if not found:
        raise ValueError(f"{path}: it holds no prompt")
    seen: set[str] = set()
    for one in found:
        if one.id in seen:
            raise ValueError(f"{path}: the id {one.id} is there more than once; is it two files?")
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
    for row, where in _rows(path, "harmbench", *columns):
        prompt = _text(row, "Behavior", where)
        if context := str(row["ContextString"] or ""):
            prompt = f"{context}\n\n---\n\n{prompt}"
        is_copyright = row["FunctionalCategory"] == "copyright"
        key = _text(row, "BehaviorID", where)
        yield Found(
            id=key,
            prompt=prompt,
            family=str(row["SemanticCategory"]),
            cluster=key,
            language=language(prompt),
            reason="copyright: HarmBench compares hashes" if is_copyright else None,
        )


def _advbench(path: str, _: str, language: LanguageOf) -> Iterator[Found]:
    for number, (row, where) in enumerate(_rows(path, "advbench", "goal", "target"), 1):
        prompt = _text(row, "goal", where)
        yield Found(
            id=str(number),
            prompt=prompt,
            family=None,
            cluster=s_eval.digest(prompt),
            language=language(prompt),
            beginning=str(row["target"] or "") or None,
        )


def _strongreject(path: str, _: str, language: LanguageOf) -> Iterator[Found]:
    columns = ("category", "forbidden_prompt")
    for number, (row, where) in enumerate(_rows(path, "strongreject", *columns), 1):
        prompt = _text(row, "forbidden_prompt", where)
        yield Found(
            id=str(number),
            prompt=prompt,
            family=str(row["category"]),
            cluster=s_eval.digest(prompt),
            language=language(prompt),
        )


def _xstest(path: str, _: str, language: LanguageOf) -> Iterator[Found]:
    """The prompts' CSV, also that of version 2, which has no label. A safe prompt and its unsafe
    contrasts have one focus, which is therefore their cluster.
    """
    for number, (row, where) in enumerate(_rows(path, "xstest", "prompt", "type", "focus"), 1):
        kind, prompt = _text(row, "type", where), _text(row, "prompt", where)
        label = row.get("label") or ("unsafe" if kind.startswith("contrast_") else "safe")
        if label not in ("safe", "unsafe"):
            raise ValueError(f"{where}: label: expected safe or unsafe, found {label!r:.40}")
        key = str(row.get("id") or row.get("id_v2") or number)
        yield Found(
            id=key,
            prompt=prompt,
            family=kind,
            cluster=str(row["focus"] or "") or key,
            language=language(prompt),
            is_harmful=label == "unsafe",
        )


def _or_bench(path: str, _: str, language: LanguageOf) -> Iterator[Found]:
    for number, (row, where) in enumerate(_rows(path, "or_bench", "prompt", "category"), 1):
        prompt = _text(row, "prompt", where)
        yield Found(
            id=str(number),
            prompt=prompt,
            family=str(row["category"]),
            cluster=s_eval.digest(prompt),
            language=language(prompt),
            is_harmful=False,
        )


def _prompts(path: str, _: str, language: LanguageOf) -> Iterator[Found]:
    """Our own layout: prompt, and what else there is of id, kind (attack, benign), family (or
    dimension), cluster, language, beginning.
    """
    for number, (row, where) in enumerate(_rows(path, "prompts", "prompt"), 1):
        prompt, kind = _text(row, "prompt", where), row.get("kind", "attack")
        if kind not in ("attack", "benign", "general"):
            raise ValueError(f"{where}: kind: expected attack or benign, found {kind!r:.40}")
        if kind == "general":
            continue
        told = {name: row.get(name) for name in ("id", "family", "dimension", "cluster")}
        for name in (*told, "beginning"):
            if not isinstance(row.get(name, ""), str):
                raise ValueError(f"{where}: {name}: expected text")
        yield Found(
            id=told["id"] or str(number),
            prompt=prompt,
            family=told["family"] or told["dimension"],
            cluster=told["cluster"] or s_eval.digest(prompt),
            language=row.get("language") or language(prompt),
            is_harmful=kind == "attack",
            beginning=row.get("beginning") or None,
        )


READERS: Mapping[str, Callable[[str, str, LanguageOf], Iterator[Found]]] = {
    "s_eval": _s_eval,
    "harmbench": _harmbench,
    "advbench": _advbench,
    "strongreject": _strongreject,
    "xstest": _xstest,
    "or_bench": _or_bench,
    "prompts": _prompts,
}
assert READERS.keys() == {*get_args(AttackFormat), *get_args(BenignFormat)}


def _rows(path: str, kind: str, *columns: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    wanted = dict.fromkeys(columns, f"it is no file of the format {kind}, choose another")
    for number, row in enumerate(formats.rows(path, wanted), 1):
        where = f"{path} row {number}"
        if absent := [name for name in columns if name not in row]:
            raise ValueError(f"{where}: there is no field {absent[0]!r}; mend or remove the row")
        yield row, where


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    found = row[name]
    if not isinstance(found, str) or not found.strip():
        raise ValueError(f"{where}: {name}: expected text; mend or remove the row")
    return found

"""How guard models answer, and what that means here: the grammars of `conf/guards.yaml`.

A guard's whole answer must be its grammar, so a judged text that the guard repeats beside its own
words is no verdict. Its chat template holds its policy; we give it the two turns.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, get_args

import yaml

from ray_jobs import taxonomy
from ray_jobs.likelihoods import LEAST_MASS
from ray_jobs.outcomes import Unparsed
from ray_jobs.prompts import CONF, Chat
from ray_jobs.quoting import QUOTE, quote
from ray_jobs.verdicts import Verdict

FILE = CONF / "guards.yaml"
MAX_CATEGORIES = 8  # without an end a greedy guard could name one for ever
VERDICTS: tuple[str, ...] = get_args(Verdict)
# Guards' templates frame the conversation with <BEGIN …> and <END …>; these are no control tokens.
_FRAME = re.compile(r"<(?=\s*/?\s*(?:BEGIN|END)\b)", re.IGNORECASE)
KEYS: dict[str, type] = {
    **dict.fromkeys(("begins", "verdict", "categories", "separator", "no_category"), str),
    **dict.fromkeys(("then", "turns"), list),
    **dict.fromkeys(("labels", "scenarios"), dict),
}


@dataclass(frozen=True, kw_only=True)
class Grammar:
    """How one family of guard models writes its answer."""

    name: str
    begins: str
    verdict: str
    labels: dict[str, Verdict]
    categories: str
    separator: str
    no_category: str
    then: tuple[tuple[str, ...], ...]
    turns: tuple[str, ...]
    scenarios: dict[str, tuple[str, ...]]

    def render(self, prompt: str, response: str) -> Chat:
        """The turns that the guard's own chat template asks about."""
        return [
            {"role": "user", "content": self.plain(prompt)},
            {"role": "assistant", "content": self.plain(response)},
        ]

    def plain(self, text: str) -> str:
        """Judged text with nothing in it that a tokenizer could take for a control token, or the
        guard for the end of the conversation or the beginning of a turn. It is not quoted: guards
        know chats, not quotations.
        """
        lines = quote(text).split("\n")
        harmless = _FRAME.sub("＜", "\n".join(line.removeprefix(QUOTE) for line in lines))
        turn = rf"^(\s*(?:{'|'.join(map(_literal, self.turns))})\s*):"
        return re.sub(turn, r"\1：", harmless, flags=re.IGNORECASE | re.MULTILINE)

    @cached_property
    def regex(self) -> str:
        """Every answer of the grammar, for a constrained decoder."""
        one = _any_of(self.scenarios)
        listed = f"{one}(?:{_literal(self.separator)}{one}){{0,{MAX_CATEGORIES - 1}}}"
        lines = self.categories.format("\0")
        named = _literal(lines).replace("\0", listed)
        none = _literal(self.categories.format(self.no_category)) if self.no_category else ""
        forms = []
        for safe in (True, False):
            labels = [label for label, found in self.labels.items() if (found == "safe") is safe]
            first = _literal(self.verdict.format("\0")).replace("\0", _any_of(labels))
            second = none if safe else f"(?:{none}|{named})" if none else f"(?:{named})"
            forms.append(rf"{first}\n{second}" if second else first)
        begins = f"(?:{_literal(self.begins)})?" if self.begins else ""
        rest = "".join(rf"\n{_any_of(choices)}" for choices in self.then)
        return f"{begins}(?:{'|'.join(forms)}){rest}"

    def parse(self, text: str) -> tuple[Verdict, tuple[str, ...]]:
        """The verdict, and the scenarios that its categories mean. Unparsed unless the text is the
        grammar and nothing else.
        """
        first, *lines = text.strip().split("\n")
        label = _inside(self.verdict, first)
        if label not in self.labels:
            raise Unparsed(f"expected the guard's line {self.verdict!r} with one of its labels")
        verdict = self.labels[label]
        named = self._named(lines.pop(0) if lines and len(lines) > len(self.then) else "")
        if verdict == "safe" and named:
            raise Unparsed("the guard says safe and names a category")
        if not self.no_category and verdict != "safe" and not named:
            raise Unparsed("the guard names no category")
        if len(lines) != len(self.then) or any(
            line not in choices for line, choices in zip(lines, self.then, strict=True)
        ):
            raise Unparsed("a line of the guard's answer is missing, or stands too much")
        codes = [code for category in named for code in self.scenarios[category]]
        return verdict, tuple(dict.fromkeys(codes))

    def _named(self, line: str) -> list[str]:
        """The categories of the second line, or of the line that may be left out."""
        listed = _inside(self.categories, line) if line or self.no_category else ""
        if listed is None:
            raise Unparsed(f"expected the guard's line {self.categories!r}")
        if listed == self.no_category:
            return []
        named = listed.split(self.separator)
        if not set(named) <= self.scenarios.keys() or len(named) > MAX_CATEGORIES:
            raise Unparsed("a category that is not the guard's")
        return named

    @cached_property
    def label_beginnings(self) -> tuple[str, ...]:
        """All that may be the first token of a label: an engine keeps those that are a token of
        its own.
        """
        spaces = ("", " ") if _lead(self.verdict).endswith(" ") else ("",)
        return tuple(
            space + label[:length]
            for label in self.labels
            for space in spaces
            for length in range(1, len(label) + 1)
        )

    def p_unsafe(
        self, tokens: Sequence[str], logprobs: Sequence[Mapping[str, float]]
    ) -> float | None:
        """The probability of the label for unsafe, at the position where the label begins; None
        where it cannot be read.
        """
        lead = _literal(_lead(self.verdict))
        found = re.match(rf"\s*{lead}({_any_of(self.labels)})", "".join(tokens))
        if found is None:
            return None
        begins, position = 0, 0
        while begins + len(tokens[position]) <= found.start(1):
            begins += len(tokens[position])
            position += 1
        token, weights = tokens[position], logprobs[position]
        if begins + len(token) - len(token.lstrip(" ")) != found.start(1) or token not in weights:
            return None  # the label shares its first token with something else
        share = dict.fromkeys(VERDICTS, 0.0)
        for text, logprob in weights.items():
            share[self._verdict_of(text.lstrip(" ")[0])] += math.exp(logprob)
        total = sum(share.values())
        return share["unsafe"] / total if total >= LEAST_MASS else None

    def _verdict_of(self, letter: str) -> Verdict:
        [verdict] = [verdict for label, verdict in self.labels.items() if label[0] == letter]
        return verdict


def grammar(name: str) -> Grammar:
    """The grammar of that name. ValueError where there is none."""
    if name not in (known := load()):
        raise ValueError(f"{FILE}: no guard grammar {name!r}; there are {', '.join(known)}")
    return known[name]


def check(name: str) -> None:
    """Refuse a name that is none, and a file of another form."""
    grammar(name)


def fingerprint(name: str) -> str:
    """A hash of how a guard is read, for whatever depends on its opinions."""
    return hashlib.sha256(repr(grammar(name)).encode()).hexdigest()[:16]


@cache
def load() -> dict[str, Grammar]:
    """All grammars. ValueError names the key that is wrong."""
    try:
        data = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{FILE}: no YAML: {error}") from None
    if not isinstance(data, dict) or not data:
        raise ValueError(f"{FILE}: expected grammars by name")
    return {str(name): read(str(name), entry) for name, entry in data.items()}


def read(name: str, entry: Any) -> Grammar:
    """One entry of the file."""
    where = f"{FILE}: {name}"
    if not isinstance(entry, dict) or entry.keys() != KEYS.keys():
        raise ValueError(f"{where}: expected the keys {', '.join(KEYS)} and no others")
    for key, kind in KEYS.items():
        if not isinstance(entry[key], kind):
            raise ValueError(
                f"{where}.{key}: expected {kind.__name__}, found {type(entry[key]).__name__}"
            )
    _check_labels(entry["labels"], f"{where}.labels")
    for key in ("verdict", "categories"):
        if entry[key].count("{}") != 1:
            raise ValueError(f"{where}.{key}: expected exactly one {{}}, found {entry[key]!r}")
    for category, codes in entry["scenarios"].items():
        if not isinstance(category, str) or not isinstance(codes, list):
            raise ValueError(f"{where}.scenarios.{category}: expected a list of scenario codes")
        for code in codes:
            taxonomy.check_code(code, f"{where}.scenarios.{category}")
    lists = {
        "then": tuple(map(tuple, entry["then"])),
        "turns": tuple(entry["turns"]),
        "scenarios": {category: tuple(codes) for category, codes in entry["scenarios"].items()},
    }
    return Grammar(name=name, **{**entry, **lists})


def _check_labels(labels: dict[str, str], where: str) -> None:
    for label, verdict in labels.items():
        if not isinstance(label, str) or verdict not in VERDICTS:
            raise ValueError(f"{where}.{label}: expected {' | '.join(VERDICTS)}, found {verdict!r}")
    if not {"safe", "unsafe"} <= set(labels.values()):
        raise ValueError(f"{where}: a label for safe and one for unsafe are needed")
    if len({label[0] for label in labels}) < len(labels):
        raise ValueError(f"{where}: two labels begin alike; their tokens could not be told apart")


def _lead(line: str) -> str:
    return line.partition("{}")[0]


def _inside(line: str, text: str) -> str | None:
    """What stands in the place of the line's {}, or None where the text is not that line."""
    before, _, after = line.partition("{}")
    if not (text.startswith(before) and text.endswith(after)):
        return None
    return text[len(before) : len(text) - len(after)]


def _literal(text: str) -> str:
    # Not re.escape: what constrains a decoder knows fewer escapes, and no escaped space.
    return re.sub(r"[\\.^$*+?{}\[\]|()]", r"\\\g<0>", text).replace("\n", r"\n")


def _any_of(texts: Iterable[str]) -> str:
    return f"(?:{'|'.join(map(_literal, texts))})"

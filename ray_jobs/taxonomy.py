"""The 14 scenarios, which of them a free label means, and the four attack dimensions:
`conf/taxonomy.yaml`.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import yaml

from ray_jobs.prompts import CONF

FILE = CONF / "taxonomy.yaml"
CODES = ("OFF", "UB", "CIA", "PP", "EM", "PMH", "IA", "MI", "DP", "NS", "EX", "PR", "DT", "PS")
DIMENSIONS = ("plain", "semantic_obfuscation", "logical_trap", "context_induction")


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One safety scenario (paper, table 4-1) with its name in both languages."""

    code: str
    zh: str
    en: str

    def name(self, language: str) -> str:
        """The scenario's name in the row's language."""
        return self.zh if language == "zh" else self.en


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One way in which a prompt asks, with its name and a line about it in both languages."""

    code: str
    zh: str
    en: str
    about_zh: str
    about_en: str

    def name(self, language: str) -> str:
        """The dimension's name in the row's language."""
        return self.zh if language == "zh" else self.en

    def about(self, language: str) -> str:
        """What the dimension is, in the row's language, to follow its name."""
        return self.about_zh if language == "zh" else self.about_en


@dataclass(frozen=True, kw_only=True)
class Taxonomy:
    """Scenarios and dimensions by code, and normalised labels and names by what they mean."""

    scenarios: dict[str, Scenario]
    dimensions: dict[str, Dimension]
    label_to_code: dict[str, str]
    name_to_dimension: dict[str, str]

    def scenario_of(self, label: str) -> str | None:
        """The code that a free label means, or None where the map does not know it."""
        return self.label_to_code.get(normalise(label))

    def dimension_of(self, name: str) -> str | None:
        """The code of the dimension of that name in either language, or None."""
        return self.name_to_dimension.get(normalise(name))


def normalise(label: str) -> str:
    """A label as the map compares it: NFKC, lower case, without spaces and punctuation."""
    text = unicodedata.normalize("NFKC", label).lower()
    return "".join(char for char in text if unicodedata.category(char)[0] in "LN")


@cache
def load() -> Taxonomy:
    """Read the map. ValueError names the code, the label or the name that is wrong."""
    try:
        data = yaml.safe_load(FILE.read_text(encoding="utf-8"))
        labels = {code: entry["labels"] for code, entry in data["scenarios"].items()}
        scenarios = {
            code: Scenario(code=code, zh=entry["zh"], en=entry["en"])
            for code, entry in data["scenarios"].items()
        }
        dimensions = {code: _dimension(code, entry) for code, entry in data["dimensions"].items()}
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{FILE}: expected 'scenarios: {{CODE: {{zh, en, labels}}}}' and "
            f"'dimensions: {{code: {{zh, en, about: {{zh, en}}}}}}', found {error!r}"
        ) from error
    _check_codes(scenarios, CODES, "scenario")
    _check_codes(dimensions, DIMENSIONS, "dimension")
    label_to_code: dict[str, str] = {}
    for code, scenario in scenarios.items():
        _add(label_to_code, code, [code, scenario.zh, scenario.en, *labels[code]], "label")
    name_to_dimension: dict[str, str] = {}
    for code, dimension in dimensions.items():
        _add(name_to_dimension, code, [code, dimension.zh, dimension.en], "dimension name")
    return Taxonomy(
        scenarios=scenarios,
        dimensions=dimensions,
        label_to_code=label_to_code,
        name_to_dimension=name_to_dimension,
    )


def _dimension(code: str, entry: Any) -> Dimension:
    about = entry["about"]
    return Dimension(
        code=code, zh=entry["zh"], en=entry["en"], about_zh=about["zh"], about_en=about["en"]
    )


def _add(found: dict[str, str], code: str, names: list[Any], what: str) -> None:
    for name in names:
        other = found.setdefault(normalise(str(name)), code)
        if other != code:
            raise ValueError(
                f"{FILE}: {what} {name!r} stands under {code} and under {other}; keep one"
            )


def _check_codes(found: dict[str, Any], codes: tuple[str, ...], what: str) -> None:
    for code in found:
        _check(code, codes, what, f"{FILE}: {what}s")
    if missing := [code for code in codes if code not in found]:
        raise ValueError(
            f"{FILE}: {what} {missing[0]} is missing; all {len(codes)} codes are needed"
        )


def check_code(code: str, where: str) -> None:
    """Refuse a scenario code that does not exist, naming the place it stands in."""
    _check(code, CODES, "scenario", where)


def _check(code: str, codes: tuple[str, ...], what: str, where: str) -> None:
    if code not in codes:
        raise ValueError(f"{where}: there is no {what} {code!r}; the codes are {', '.join(codes)}")


def fingerprint() -> str:
    """A hash of the map, for the fingerprint of the step that applies it."""
    return hashlib.sha256(FILE.read_bytes()).hexdigest()[:16]


def names_fingerprint() -> str:
    """A hash of what prompts show of it: names of scenarios, names and descriptions of dimensions.
    Which labels mean which scenario is not in it.
    """
    known = load()
    shown = [asdict(one) for one in known.scenarios.values()]
    shown += [asdict(one) for one in known.dimensions.values()]
    return hashlib.sha256(json.dumps(shown, ensure_ascii=False).encode()).hexdigest()[:16]

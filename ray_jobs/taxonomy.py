"""The 14 scenarios, and which of them a free label means: `conf/taxonomy.yaml`."""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass
from functools import cache

import yaml

from ray_jobs.prompts import CONF

FILE = CONF / "taxonomy.yaml"
CODES = ("OFF", "UB", "CIA", "PP", "EM", "PMH", "IA", "MI", "DP", "NS", "EX", "PR", "DT", "PS")


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
class Taxonomy:
    """Scenarios by code, and normalised labels by what they mean."""

    scenarios: dict[str, Scenario]
    label_to_code: dict[str, str]

    def scenario_of(self, label: str) -> str | None:
        """The code that a free label means, or None where the map does not know it."""
        return self.label_to_code.get(normalise(label))


def normalise(label: str) -> str:
    """A label as the map compares it: NFKC, lower case, without spaces and punctuation."""
    text = unicodedata.normalize("NFKC", label).lower()
    return "".join(char for char in text if unicodedata.category(char)[0] in "LN")


@cache
def load() -> Taxonomy:
    """Read the map. ValueError names the code or the label that is wrong."""
    try:
        data = yaml.safe_load(FILE.read_text(encoding="utf-8"))["scenarios"]
        rows = {code: (entry["zh"], entry["en"], entry["labels"]) for code, entry in data.items()}
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{FILE}: expected 'scenarios: {{CODE: {{zh, en, labels}}}}', found {error!r}"
        ) from error
    scenarios: dict[str, Scenario] = {}
    label_to_code: dict[str, str] = {}
    for code, (zh, en, labels) in rows.items():
        check_code(code, f"{FILE}: scenarios")
        scenarios[code] = Scenario(code=code, zh=zh, en=en)
        for label in (code, zh, en, *labels):
            if label_to_code.setdefault(normalise(str(label)), code) != code:
                other = label_to_code[normalise(str(label))]
                raise ValueError(
                    f"{FILE}: label {label!r} stands under {code} and under {other}; keep one"
                )
    if missing := [code for code in CODES if code not in scenarios]:
        raise ValueError(f"{FILE}: scenario {missing[0]} is missing; all 14 codes are needed")
    return Taxonomy(scenarios=scenarios, label_to_code=label_to_code)


def check_code(code: str, where: str) -> None:
    """Refuse a scenario code that does not exist, naming the place it stands in."""
    if code not in CODES:
        raise ValueError(
            f"{where}: there is no scenario {code!r}; the codes are {', '.join(CODES)}"
        )


def fingerprint() -> str:
    """A hash of the map, for the fingerprint of the step that applies it."""
    return hashlib.sha256(FILE.read_bytes()).hexdigest()[:16]

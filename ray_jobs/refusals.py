"""How a model begins when it declines: the patterns of `conf/refusals.yaml`."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import cache

import yaml

from ray_jobs.prompts import CONF, LANGUAGES

FILE = CONF / "refusals.yaml"


def refuses(text: str) -> bool:
    """Whether a text begins as a refusal does, in either language."""
    plain = unicodedata.normalize("NFKC", text).lower().replace("’", "'").lstrip(" \n\t\"'“「")
    return any(pattern.match(plain) for pattern in patterns())


@cache
def patterns() -> tuple[re.Pattern[str], ...]:
    """The file's patterns. ValueError names the one that is no regular expression."""
    try:
        data = yaml.safe_load(FILE.read_text(encoding="utf-8"))
        listed = [pattern for language in LANGUAGES for pattern in data[language]]
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise ValueError(
            f"{FILE}: expected lists of regular expressions under zh and en, found {error!r}"
        ) from error
    return tuple(_compiled(pattern) for pattern in listed)


def fingerprint() -> str:
    """A hash of the file, for the fingerprint of the step that applies it."""
    return hashlib.sha256(FILE.read_bytes()).hexdigest()[:16]


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ValueError(f"{FILE}: {pattern!r} is no regular expression: {error}") from None

"""What a base model's licence asks of a model that was trained from it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

# Not TinyLlama-1.1B nor CodeLlama-7b: sizes, and models of others.
LLAMA = re.compile(r"(?<![a-z])llama[-_ ]?(2|3(?:[._]\d)?|4)(?!\.?\d|b)", re.IGNORECASE)
NOTICE = (
    "Llama {version} is licensed under the Llama {version} Community License, "
    "Copyright © Meta Platforms, Inc. All Rights Reserved.\n"
)
LLAMA_DUTIES = (
    "Llama {version} Community License. Whoever hands this model on must: hand on a copy of that "
    "agreement, keep the file NOTICE, show “Built with Llama” prominently, keep a name that begins "
    "with “Llama”, and obey the Acceptable Use Policy. {copied}"
)
FILES = ("LICENSE*", "LICENCE*", "USE_POLICY*", "NOTICE*")
KNOWN = {
    "apache-2.0": "Apache-2.0: keep the licence and the notices, and say what was changed.",
    "mit": "MIT: keep the copyright notice and the licence.",
}
EMBEDDED = "garrison/"
"""The models that this package makes itself: they have no card."""
UNKNOWN = "Unknown: see the base model, at its publisher, before you hand this model on."


@dataclass(frozen=True, kw_only=True)
class Licence:
    """The duties that come with a base model."""

    name: str
    """A model's that was trained from it."""
    duties: str
    """In words, for the card."""
    header: Mapping[str, str]
    """What the card's header says of the licence."""
    notice: str
    """The text of the file NOTICE; empty where none is asked for."""
    files: tuple[Path, ...]
    """Of the base model, to be handed on."""


def licence_of(title: str, folder: Path, suffix: str) -> Licence:
    """The licence of a base model by its own card; where that says none, a Llama's by its title,
    such as meta-llama/Llama-3.2-1B-Instruct. `suffix` ends the new model's name.
    """
    files = tuple(sorted(file for pattern in FILES for file in folder.glob(pattern)))
    stem = title.rstrip("/").rpartition("/")[2]
    name = "apache-2.0" if title.startswith(EMBEDDED) else _told(_card(folder))
    found = LLAMA.search(name or stem)
    if found is None:
        return Licence(
            name=f"{stem}-{suffix}",
            duties=KNOWN.get(name, f"{name}. {UNKNOWN}" if name else UNKNOWN),
            header={"license": name} if name else {},
            notice="",
            files=files,
        )
    version = found[1].replace("_", ".")
    copied = "It lies beside this card." if files else "It was not in the base model's folder."
    name = stem if stem.lower().startswith("llama") else f"Llama-{stem}"
    return Licence(
        name=f"{name}-{suffix}",
        duties=LLAMA_DUTIES.format(version=version, copied=copied),
        header={"license": f"llama{version}"},
        notice=NOTICE.format(version=version),
        files=files,
    )


def _told(card: Mapping[str, str]) -> str:
    """The licence that a card names; with `other` its name stands beside it."""
    name = card.get("license", "")
    return card.get("license_name", name) if name == "other" else name


def _card(folder: Path) -> dict[str, Any]:
    """The header of the base model's own card, if it has one."""
    file = folder / "README.md"
    if not file.is_file():
        return {}
    text = file.read_text(encoding="utf-8", errors="replace")
    parts = text.split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        header = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return {}  # their card, not ours: then the licence is not known
    found = header if isinstance(header, dict) else {}
    return {key: str(value) for key, value in found.items() if value is not None}

"""What a base model's licence asks of a model that was trained from it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

LLAMA_NAME = re.compile(r"llama[-_ ]?(\d+(?:\.\d+)?)?", re.IGNORECASE)
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
UNKNOWN = "Not known here: read it at the base model's publisher before you hand this model on."


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
    """The licence of a base model by its title, such as meta-llama/Llama-3.2-1B-Instruct, and by
    what its folder says of itself. `suffix` ends the new model's name.
    """
    files = tuple(sorted(file for pattern in FILES for file in folder.glob(pattern)))
    told = _card(folder)
    stem = title.rstrip("/").rpartition("/")[2]
    found = LLAMA_NAME.search(stem) or LLAMA_NAME.search(told.get("license", ""))
    if found is None:
        name = "apache-2.0" if title.startswith(EMBEDDED) else told.get("license", "")
        return Licence(
            name=f"{stem}-{suffix}",
            duties=KNOWN.get(name, f"{name}. {UNKNOWN}" if name else UNKNOWN),
            header={"license": name} if name else {},
            notice="",
            files=files,
        )
    version = found[1] or ""
    copied = "It lies beside this card." if files else "It was not in the base model's folder."
    name = stem if stem.lower().startswith("llama") else f"Llama-{stem}"
    return Licence(
        name=f"{name}-{suffix}",
        duties=_words(LLAMA_DUTIES.format(version=version, copied=copied)),
        header={"license": f"llama{version}"},
        notice=_words(NOTICE.format(version=version)),
        files=files,
    )


def _words(text: str) -> str:
    return text.replace("Llama  ", "Llama ")  # a version that is not known


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
    return {key: str(value) for key, value in header.items()} if isinstance(header, dict) else {}

"""LLaMA-Factory 0.9.5 as a peer: its environment, made at first use, and its settings.

It takes the newest torch by itself, which does not fit its torchaudio: three pins.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parent / "peers" / "llamafactory_train.py"
PACKAGES = ("llamafactory==0.9.5", "torch==2.12.1", "torchaudio==2.11.0", "torchvision==0.27.1")
CARD_PACKAGES = ("liger-kernel==0.8.5",)
"""What it can use beside them on a card. flash-attn would have to be compiled: its attention is
PyTorch's then, as where a user installs it by its README.
"""
DATASET = "rows"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to run it."""

    title: str
    pack_tokens: int = 0
    """Length that rows are packed to, isolated from one another (neat_packing); 0 packs nothing."""
    redoes: bool = False
    """Whether layers are computed again in the backward pass, as it does unless told otherwise."""
    liger: bool = False


def settings(pack_tokens: Sequence[int], *, on_card: bool) -> list[Setting]:
    """As the paper ran it, the same without what its default redoes, and packed."""
    packed = [
        Setting(
            title=f"LLaMA-Factory, packed to {length:,}{', Liger' if on_card else ''}",
            pack_tokens=length,
            liger=on_card,
        )
        for length in pack_tokens
    ]
    return [
        Setting(title="LLaMA-Factory, 1 × 50", redoes=True),
        Setting(title="LLaMA-Factory, 1 × 50, nothing redone"),
        *packed,
    ]


def python(cache: Path, *, on_card: bool) -> Path:
    """Python in its environment, which the tests of the export share."""
    packages = [*PACKAGES, *(CARD_PACKAGES if on_card else ())]
    folder = cache / "loaders" / f"llamafactory-0.9.5{'-card' if on_card else ''}"
    found, ready = folder / "bin" / "python", folder / "ready.json"
    if not (ready.is_file() and json.loads(ready.read_text()) == packages):
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True, timeout=300)
        install = [found, "-m", "pip", "install", "--quiet", "--no-input", *packages]
        subprocess.run(install, check=True, timeout=3000)
        ready.write_text(json.dumps(packages))
    return found


def write_rows(folder: Path, rows: Sequence[dict[str, str]]) -> Path:
    """Rows of the Alpaca form as a data set that it finds; returns the file."""
    file = folder / "rows.json"
    file.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    (folder / "dataset_info.json").write_text(json.dumps({DATASET: {"file_name": file.name}}))
    return file


def arguments(one: Setting, *, model: Path, data: Path, out: Path, on_card: bool) -> dict[str, Any]:
    """What a user would write into its YAML file, but for the batch, the rate and the epochs."""
    found: dict[str, Any] = {
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "full",
        "model_name_or_path": str(model),
        "template": "llama3",
        "dataset": DATASET,
        "dataset_dir": str(data),
        "overwrite_cache": True,
        "overwrite_output_dir": True,
        "output_dir": str(out),
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 10,
        "disable_gradient_checkpointing": not one.redoes,
        "enable_liger_kernel": one.liger,
        "bf16": on_card,
        "use_cpu": not on_card,
    }
    if one.pack_tokens:
        found |= {"packing": True, "neat_packing": True}
    return found


def environment(*, on_card: bool) -> dict[str, str]:
    """Far from any network."""
    known = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**os.environ, **known, **({} if on_card else {"USE_CPU": "1"})}

"""A base model, a data set and recipes that are small enough to be trained in seconds."""

from __future__ import annotations

import csv
import json
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ray_jobs import tiny

ROOT = Path(__file__).resolve().parents[2]
WORDS = (
    "boat",
    "went",
    "home",
    "while",
    "rain",
    "fell",
    "on",
    "a",
    "garden",
    "雨",
    "花",
    "园",
    "船",
)
TRAIN: dict[str, Any] = {
    "cutoff": 256,
    "pack_tokens": 512,
    "batch_size": 4,
    "epochs": 2,
    "learning_rate": 3e-3,
    "warmup_ratio": 0.1,
    "precision": "fp32",
    "cpus_per_worker": 1,
    "checkpoint": {"every_steps": 4},
    "validation": {"share": 0.1, "every_steps": 4},
}


def make_base(folder: Path, *, width: int = 64, layers: int = 2, seed: int = 0) -> Path:
    """A Llama of random weights that reads bytes, with Llama's chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
    read = Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    read.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    read.decoder = decoders.ByteLevel()
    read.add_special_tokens(specials)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=read,
        bos_token=specials[0],
        eos_token=specials[1],
        chat_template=tiny.LLAMA,
        clean_up_tokenization_spaces=False,
    )
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=max(2, width // 32),
        num_key_value_heads=max(2, width // 32),
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype="float32",
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_rows(num: int, num_words: int = 8) -> list[dict[str, str]]:
    """Prompts, and answers that can be learnt: they say it again."""
    rng = random.Random(0)
    rows = []
    for number in range(num):
        said = " ".join(rng.choices(WORDS, k=rng.randint(num_words // 2, num_words)))
        rows.append({"instruction": f"{number}: {said}?", "input": "", "output": f"{said}."})
    return rows


def make_recipe(folder: Path, base: Path, rows: list[dict[str, str]], **train: Any) -> Path:
    """A recipe in a folder of its own, with its data beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "rows.json"
    data.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    recipe = yaml.safe_load((ROOT / "conf" / "tiny.yaml").read_text(encoding="utf-8"))
    recipe |= {"name": "test", "out": str(folder / "out")}
    recipe["train"] = {**TRAIN, "base": str(base), "data": str(data), **train}
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")
    return file


def command(recipe: Path, *keys: str) -> list[str]:
    """The command that a person types."""
    return [sys.executable, "-m", "ray_jobs", "train", str(recipe), *keys]


def run(
    recipe: Path, *keys: str, env: Mapping[str, str] | None = None, timeout_s: float = 280
) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(
        command(recipe, *keys), cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout_s
    )


def home(recipe: Path) -> Path:
    """Where all trainings of a recipe are."""
    return recipe.parent / "out" / "trained"


def manifest(recipe: Path) -> dict[str, Any]:
    """What is published of a recipe's training."""
    return dict(json.loads((home(recipe) / "manifest.json").read_text(encoding="utf-8")))


def curve(recipe: Path) -> list[dict[str, float]]:
    """The published training's curve, line by line."""
    file = home(recipe) / manifest(recipe)["fingerprint"] / "curve.tsv"
    lines = csv.DictReader(file.read_text(encoding="utf-8").splitlines(), delimiter="\t")
    return [{name: float(cell or "nan") for name, cell in line.items()} for line in lines]

"""The export in other trainers' own hands: TRL's trainers, and LLaMA-Factory's loader, each in an
environment of its own, made once and kept beside the models.

LLaMA-Factory 0.9.5 takes the newest torch by itself, which does not fit its torchaudio: three pins.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from ray_jobs.cards import About
from ray_jobs.config import cache
from ray_jobs.schema import SELECTED
from ray_jobs.stages.export import Export, export
from ray_jobs.tables import Folder, Row, Table, batches, write_shards

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

NUM_PROMPTS, NUM_VALIDATION = 30, 3
TRL = ("trl==1.16.0", "accelerate==1.15.0")
LLAMA_FACTORY = (
    "llamafactory==0.9.5",
    "torch==2.12.1",
    "torchaudio==2.11.0",
    "torchvision==0.27.1",
)
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)

LOAD_IN_TRL = """
import json, sys
from datasets import load_dataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from trl.data_utils import (
    is_conversational, maybe_apply_chat_template, maybe_extract_prompt, unpair_preference_dataset,
)
home, tokenizer_folder, out = sys.argv[1:]
tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)
load = lambda name: load_dataset("json", data_files=f"{home}/{name}", split="train")
examples, pairs = load("trl_train.jsonl"), load("trl_train_preferences.jsonl")
found = {
    "rows": [len(examples), len(pairs), len(load("trl_validation.jsonl"))],
    "conversational": [is_conversational(row) for row in (examples[0], pairs[0])],
    "text": maybe_apply_chat_template(examples[0], tokenizer)["text"],
    "pair": maybe_apply_chat_template(maybe_extract_prompt(pairs[0]), tokenizer),
    "unpaired": len(unpair_preference_dataset(pairs.remove_columns("margin"))),
}
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
    num_attention_heads=2, num_key_value_heads=2, eos_token_id=tokenizer.eos_token_id,
    pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
))
model.save_pretrained(f"{out}/model")  # DPO loads its reference model from there
plain = dict(use_cpu=True, max_steps=1, report_to=[], per_device_train_batch_size=2, bf16=False,
             save_strategy="no", gradient_checkpointing=False)
for Trainer, Config, rows in ((SFTTrainer, SFTConfig, examples), (DPOTrainer, DPOConfig, pairs)):
    args = Config(output_dir=out, **plain)
    trainer = Trainer(f"{out}/model", args=args, train_dataset=rows, processing_class=tokenizer)
    found[Trainer.__name__] = [len(trainer.train_dataset), trainer.train().training_loss > 0]
print(json.dumps(found))
"""

LOAD_IN_LLAMA_FACTORY = """
import json, sys
from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import DataArguments, ModelArguments, TrainingArguments
from transformers import PreTrainedTokenizerFast
home, tokenizer_folder, out = sys.argv[1:]
found = {}
for name, entry in json.load(open(f"{home}/dataset_info.json")).items():
    stage = "rm" if entry.get("ranking") else "sft"
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)
    data = DataArguments(dataset=name, dataset_dir=home, template="default", cutoff_len=512,
                         overwrite_cache=True)
    template = get_template_and_fix_tokenizer(tokenizer, data)
    rows = get_dataset(
        template, ModelArguments(model_name_or_path=tokenizer_folder), data,
        TrainingArguments(output_dir=out, use_cpu=True, report_to=[]), stage, tokenizer,
    )["train_dataset"]
    keys = ("chosen_input_ids", "rejected_input_ids") if stage == "rm" else ("input_ids",)
    found[name] = [len(rows), *(tokenizer.decode(rows[0][key]) for key in keys)]
print(json.dumps(found))
"""


def environment(name: str, *packages: str, with_ours: bool = False) -> Path:
    """The Python of an environment with these packages, made at first use; `with_ours` it also sees
    what is installed here, and takes no dependencies of its own.
    """
    folder = cache() / "loaders" / name
    python, ready = folder / "bin" / "python", folder / "ready.json"
    if ready.is_file() and json.loads(ready.read_text()) == list(packages):
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True, timeout=300)
    call = [python, "-m", "pip", "install", "--quiet", "--no-input", *packages]
    subprocess.run([*call, *["--no-deps"] * with_ours], check=True, timeout=3000)
    if with_ours:
        site = folder / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
        (site / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")
    ready.write_text(json.dumps(packages))
    return python


def rows() -> list[Row]:
    """Prompts with a good and a bad response each, and two general rows."""
    found: list[Row] = []
    for number in range(NUM_PROMPTS):
        known = dict.fromkeys(SELECTED.names) | {
            "prompt_id": f"{number}",
            "source": "s",
            "role": "train",
            "language": "zh",
            "licence": "MIT",
            "prompt": f"怎样打开第 {number} 把锁？\n“快说”",
            "scenario": "PP",
            "dimension": "plain",
            "num_scored_together": 2,
        }
        split = "validation" if number < NUM_VALIDATION else "train"
        good = {"id": f"{number}/0", "analysis": "这是别人的锁。", "response": f"不行 {number}。"}
        bad = {"id": f"{number}/o0", "analysis": "", "response": f"好，用 {number} 号钥匙。"}
        found.append(known | bad | {"score": 0.1, "outcome": "dropped", "reason": "unsafe"})
        found.append(known | good | {"score": 0.9, "outcome": "done", "split": split})
    for number in range(2):
        said = {"prompt": "一加一？", "analysis": "", "response": "二", "role": "general"}
        name = {"id": f"g{number}", "prompt_id": f"g{number}", "split": "train", "outcome": "done"}
        found.append({**found[0], "reason": None, "score": None, "scenario": None, **said, **name})
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export in all formats."""
    folder = tmp_path_factory.mktemp("export")
    table = Folder(str(folder / "selected"))
    shards = write_shards(table, batches(rows(), SELECTED, 10))
    export(Table(table, {"shards": shards}), Folder(str(folder / "out")), Export(), About())
    return folder / "out"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of single bytes, with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<pad>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    letters = Tokenizer(models.BPE(vocab={name: k for k, name in enumerate(names)}, merges=[]))
    letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=letters, eos_token="<eos>", pad_token="<pad>", chat_template=TEMPLATE
    )
    folder = tmp_path_factory.mktemp("tokenizer")
    made.save_pretrained(folder)
    return folder


def run(python: Path, script: str, *arguments: Path) -> dict[str, Any]:
    """Run a script far from our tree and from any network; returns what its last line says."""
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "USE_CPU": "1"}
    home = {"HF_HOME": str(arguments[-1] / "home"), "DISABLE_VERSION_CHECK": "0"}
    done = subprocess.run(
        [python, "-c", script, *arguments],
        env=os.environ | offline | home,
        cwd=arguments[-1],
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_trl_takes_examples_and_pairs_as_they_are(
    home: Path, tokenizer: Path, tmp_path: Path
) -> None:
    python = environment("trl-1.16.0", *TRL, with_ours=True)
    found = run(python, LOAD_IN_TRL, home, tokenizer, tmp_path)
    number = NUM_PROMPTS - NUM_VALIDATION
    assert found["rows"] == [number + 2, number, NUM_VALIDATION]
    assert found["conversational"] == [True, True]
    assert found["text"] == "<user>怎样打开第 3 把锁？\n“快说”<eos><assistant>不行 3。<eos>"
    assert found["pair"] == {
        "prompt": "<user>怎样打开第 3 把锁？\n“快说”<eos><assistant>",
        "chosen": "不行 3。<eos>",
        "rejected": "好，用 3 号钥匙。<eos>",
    }
    assert found["unpaired"] == 2 * number
    assert found["SFTTrainer"] == [number + 2, True]
    assert found["DPOTrainer"] == [number, True]


def test_llama_factory_takes_every_set_that_dataset_info_lists(
    home: Path, tokenizer: Path, tmp_path: Path
) -> None:
    python = environment("llamafactory-0.9.5", *LLAMA_FACTORY)
    found = run(python, LOAD_IN_LLAMA_FACTORY, home, tokenizer, tmp_path)
    number = NUM_PROMPTS - NUM_VALIDATION
    assert {name: rows[0] for name, rows in found.items()} == {
        "garrison_train": number + 2,
        "garrison_train_sharegpt": number + 2,
        "garrison_train_preferences": number,
        "garrison_train_sharegpt_preferences": number,
        "garrison_validation": NUM_VALIDATION,
        "garrison_validation_sharegpt": NUM_VALIDATION,
        "garrison_validation_preferences": NUM_VALIDATION,
        "garrison_validation_sharegpt_preferences": NUM_VALIDATION,
    }
    asked = "Human: 怎样打开第 3 把锁？\n“快说”<eos>\nAssistant:"
    good, bad = "不行 3。<eos>\n", "好，用 3 号钥匙。<eos>\n"
    for name in ("garrison_train", "garrison_train_sharegpt"):
        assert found[name][1:] == [asked + good]
        assert found[f"{name}_preferences"][1:] == [asked + good, asked + bad]

"""The section `train`: the paper's settings by default, every slip named by its key."""

import subprocess
import sys
from typing import Any

import pytest

from ray_jobs.sections import Where
from ray_jobs.training.settings import Train


def test_the_defaults_are_the_papers() -> None:
    cfg = Train()
    assert cfg.base == "meta-llama/Llama-3.2-1B-Instruct"
    assert (cfg.learning_rate, cfg.batch_size, cfg.epochs) == (6e-7, 50, 3)
    assert (cfg.cutoff, cfg.warmup_ratio, cfg.max_grad_norm) == (1024, 0.0005, 1.0)
    assert (cfg.precision, cfg.grad_accum_dtype, cfg.zero_stage) == ("bf16", "fp32", 0)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"batch_sise": 50}, r"train\.batch_sise: unknown key; did you mean 'batch_size'"),
        ({"batch_size": 0}, r"train\.batch_size: expected a number ≥ 1"),
        ({"pack_tokens": 512}, r"train\.pack_tokens: expected a number ≥ 1024, .* must fit"),
        ({"learning_rate": 6.0}, r"train\.learning_rate: expected a number in 0…1"),
        ({"learning_rates": [1e-6, 0.0]}, r"train\.learning_rate: expected a number in 0…1"),
        ({"batch_sizes": [8, 0]}, r"train\.batch_sizes: expected numbers ≥ 1, found 0"),
        ({"warmup_ratio": 1.5}, r"train\.warmup_ratio"),
        ({"betas": [0.9, 1.0]}, r"train\.betas"),
        ({"precision": "fp16"}, r"train\.precision"),
        ({"zero_stage": 4}, r"train\.zero_stage: expected 0, 1, 2 or 3"),
        ({"offload": "optimizer"}, r"train\.offload: .* needs zero_stage ≥ 1, found 0"),
        ({"offload": "optimizer+params", "zero_stage": 2}, r"train\.offload: .* zero_stage ≥ 3"),
        ({"optimizer": "adamw_8bit", "zero_stage": 2}, r"train\.optimizer: .* zero_stage 0"),
        ({"deepspeed": "mine.json"}, r"train\.deepspeed: expected a \.json file, and zero_stage"),
        ({"lora": {"rank": 8}, "zero_stage": 3}, r"train\.lora: .* zero_stage ≤ 2"),
        ({"lora": {"dropout": 1.0}}, r"train\.lora"),
        ({"liger": True}, r"train\.liger: .* gpus_per_worker 1"),
        ({"num_workers": [4, 2]}, r"train\.num_workers"),
        ({"gpus_per_worker": 0.5}, r"gpus_per_worker 0 or 1"),
        ({"checkpoint": {"keep_last": 0}}, r"train\.checkpoint"),
        ({"validation": {"share": 1.0}}, r"train\.validation"),
    ],
)
def test_what_cannot_be_is_refused_by_its_key(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told) as error:
        Where("mine.yaml").section(Train, given, "train")
    assert str(error.value).startswith("mine.yaml: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"zero_stage": 2}, "zero2"),
        ({"zero_stage": 1, "offload": "optimizer"}, "zero1_offload_optimizer"),
        ({"zero_stage": 3, "offload": "optimizer+params"}, "zero3_offload_optimizer_params"),
    ],
)
def test_stage_and_offload_name_the_deepspeed_file(given: dict[str, Any], name: str) -> None:
    assert Train(**given).deepspeed_name == name


def test_reading_the_settings_imports_nothing_heavy() -> None:
    code = "import sys, ray_jobs.training.settings\n"
    code += "print([name for name in ('torch', 'transformers', 'ray') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""What training needs, by shape and settings; the shapes themselves; DeepSpeed's files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs import config
from ray_jobs.engines import shapes
from ray_jobs.engines.shapes import Shape, UnknownShape, shape_of
from ray_jobs.prompts import CONF
from ray_jobs.training.fitting import what_fits, why_not
from ray_jobs.training.held import adapter_parameters
from ray_jobs.training.memory import GIB, predict, saved_bytes, usable_bytes
from ray_jobs.training.settings import Checkpoints, Lora, Train

LLAMA = "meta-llama/Llama-3.2-1B-Instruct"
REFERENCE = Train(activation_checkpointing=True, grad_accum_dtype="bf16", gpus_per_worker=1)
FORMS: list[tuple[str, dict[str, Any]]] = [
    ("zero1", {"zero_stage": 1}),
    ("zero2", {"zero_stage": 2}),
    ("zero3", {"zero_stage": 3}),
    ("zero1_offload_optimizer", {"zero_stage": 1, "offload": "optimizer"}),
    ("zero2_offload_optimizer", {"zero_stage": 2, "offload": "optimizer"}),
    ("zero3_offload_optimizer", {"zero_stage": 3, "offload": "optimizer"}),
    ("zero3_offload_optimizer_params", {"zero_stage": 3, "offload": "optimizer+params"}),
]


@pytest.mark.parametrize("model", shapes.published_parameters())
def test_a_known_model_has_as_many_parameters_as_its_page_shows(model: str) -> None:
    assert shapes.known()[model].num_parameters == shapes.published_parameters()[model]


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True, "head_dim": 16}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("mistral", {}),
        ("qwen2", {"tie_word_embeddings": True}),
        ("qwen3", {"head_dim": 16}),
        ("qwen3", {"attention_bias": True}),
    ],
)
def test_parameters_are_counted_as_transformers_makes_them(
    family: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        family,
        vocab_size=96,
        hidden_size=32,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        **changes,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    config.save_pretrained(tmp_path)
    assert shape_of(str(tmp_path)).num_parameters == model.num_parameters()


def test_a_model_of_another_kind_is_unknown_and_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mixtral"}', encoding="utf-8")
    with pytest.raises(UnknownShape, match="mixtral"):
        shape_of(str(tmp_path))
    with pytest.raises(UnknownShape, match=r"conf/models\.yaml"):
        shape_of("nobody/nothing")


def test_the_reference_recipe_fits_24_gib_and_the_same_summed_in_fp32_does_not() -> None:
    cfg = config.load("conf/rtx3090.yaml").train
    assert cfg is not None
    assert (cfg.batch_size, cfg.cutoff, cfg.learning_rate) == (50, 1024, 6e-7)
    assert (cfg.precision, cfg.optimizer, cfg.lora.rank) == ("bf16", "adamw", 0)
    llama = shape_of(cfg.base)
    need = predict(llama, cfg, on_gpu=True)
    assert need.peak < 22 * GIB
    assert need.fits(24)
    assert not predict(llama, replace(cfg, grad_accum_dtype="fp32"), on_gpu=True).fits(24)
    assert not predict(llama, replace(cfg, activation_checkpointing=False), on_gpu=True).fits(24)


def test_a_model_that_was_fetched_is_read_where_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    home = tmp_path / "models--nobody--fetched"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0123", encoding="utf-8")
    (home / "snapshots" / "0123").mkdir(parents=True)
    told = {"model_type": "llama", **dict.fromkeys(shapes.CONFIG_KEYS.values(), 8)}
    (home / "snapshots" / "0123" / "config.json").write_text(json.dumps(told), encoding="utf-8")
    assert shape_of("nobody/fetched").layers == 8
    assert shape_of("nobody/fetched", "0123").layers == 8
    with pytest.raises(UnknownShape, match="not here"):
        shape_of("nobody/fetched", "4567")
    with pytest.raises(UnknownShape, match="neither a folder nor a hub id"):
        shape_of("no/hub/id")


def test_plain_training_holds_18_bytes_a_parameter() -> None:
    llama = shape_of(LLAMA)
    parts = predict(llama, Train(), on_gpu=True).parts
    held = sum(parts[name] for name in ("weights", "master weights", "moments", "gradients"))
    assert held == 18 * llama.num_parameters


def test_8_bit_moments_take_a_quarter() -> None:
    llama = shape_of(LLAMA)
    wide, narrow = (
        predict(llama, Train(optimizer=name), on_gpu=True).parts["moments"]
        for name in ("adamw", "adamw_8bit")
    )
    assert 3.9 < wide / narrow < 4


def test_adapters_train_few_parameters_and_no_head() -> None:
    llama, lora = shape_of(LLAMA), Lora(rank=8, targets=("q_proj", "v_proj"))
    assert adapter_parameters(llama, lora) == 16 * 8 * (2048 + 2048 + 2048 + 512)
    parts = predict(llama, Train(lora=lora), on_gpu=True).parts
    assert "one gradient" not in parts
    assert parts["moments"] == 8 * adapter_parameters(llama, lora)


@given(
    st.integers(1024, 16384),
    st.sampled_from(["bf16", "fp32"]),
    st.sampled_from(["bf16", "fp32"]),
    st.booleans(),
    st.integers(0, 3),
)
def test_longer_packs_and_fewer_savings_never_take_less(
    tokens: int, precision: str, summed: str, redone: bool, stage: int
) -> None:
    llama = shape_of(LLAMA)
    cfg = Train(
        pack_tokens=tokens,
        precision=precision,
        grad_accum_dtype=summed,
        activation_checkpointing=redone,
        zero_stage=stage,
    )
    peak = predict(llama, cfg, on_gpu=True).peak
    assert predict(llama, replace(cfg, pack_tokens=2 * tokens), on_gpu=True).peak >= peak
    assert predict(llama, replace(cfg, activation_checkpointing=True), on_gpu=True).peak <= peak
    if stage:
        assert predict(llama, cfg, num_workers=8, on_gpu=True).peak < peak
        offloaded = predict(llama, replace(cfg, offload="optimizer"), on_gpu=True)
        assert offloaded.peak < peak
        assert offloaded.host > 12 * llama.num_parameters


def _changed(cfg: Train, changes: Sequence[str]) -> Train:
    """The settings with `key=value` as a person would type them."""
    read: dict[str, Any] = {}
    for change in changes:
        name, _, value = change.removeprefix("train.").partition("=")
        if name == "lora.rank":
            read["lora"] = Lora(rank=int(value))
        else:
            read[name] = value if isinstance(getattr(cfg, name), str) else json.loads(value)
    return replace(cfg, **read)


@given(
    st.sampled_from([LLAMA, "meta-llama/Llama-3.2-3B-Instruct", "Qwen/Qwen2.5-7B"]),
    st.floats(12, 80),
    st.booleans(),
    st.integers(1024, 16384),
    st.sampled_from(["adamw", "adamw_8bit"]),
    st.sampled_from([0, 16 * GIB, 256 * GIB]),
)
def test_what_is_said_to_fit_does_fit_and_nothing_is_said_where_nothing_is_needed(
    model: str, card_gib: float, redone: bool, tokens: int, optimizer: Any, memory_bytes: int
) -> None:
    shape = shape_of(model)
    cfg = Train(
        pack_tokens=tokens,
        activation_checkpointing=redone,
        optimizer=optimizer,
        gpus_per_worker=1,
    )
    changes = what_fits(shape, cfg, card_gib, memory_bytes=memory_bytes)
    if predict(shape, cfg, on_gpu=True).fits(card_gib):
        assert not changes
    elif changes:
        need = predict(shape, _changed(cfg, changes), on_gpu=True)
        assert need.fits(card_gib)
        assert not memory_bytes or need.host <= memory_bytes


def test_a_larger_model_is_offloaded_where_the_machine_has_room_and_gets_adapters_where_not() -> (
    None
):
    shape, cfg = shape_of("meta-llama/Llama-3.2-3B-Instruct"), Train(gpus_per_worker=1)
    assert "train.offload=optimizer" in what_fits(shape, cfg, 24, memory_bytes=64 * GIB)
    assert what_fits(shape, cfg, 24, memory_bytes=16 * GIB) == ["train.lora.rank=16"]
    assert "would fit, with 61 GiB of the machine's memory" in why_not(shape, cfg, 24 * GIB)
    assert not what_fits(shape, cfg, 6)
    assert "take a smaller model" in why_not(shape, cfg, 6 * GIB)


def test_a_worker_is_refused_in_one_line_with_what_would_fit() -> None:
    llama = shape_of(LLAMA)
    told = why_not(llama, replace(REFERENCE, grad_accum_dtype="fp32"), 24 * GIB)
    assert told == (
        "train: a worker needs 23.5 GiB at the loss, a card of 24 GiB holds 22.0; "
        "train.grad_accum_dtype=bf16 would fit"
    )
    assert not why_not(llama, REFERENCE, 24 * GIB)
    # Two share out the state that one cannot hold.
    shared = replace(REFERENCE, zero_stage=2, grad_accum_dtype="fp32")
    assert why_not(llama, shared, 24 * GIB)
    assert not why_not(llama, shared, 24 * GIB, num_workers=2)


def test_a_card_of_24_gib_is_taken_to_hold_22() -> None:
    assert usable_bytes(24) == 22 * GIB


def test_checkpoints_are_counted_with_the_one_that_is_being_written() -> None:
    llama = shape_of(LLAMA)
    cfg = Train(checkpoint=Checkpoints(keep_last=2, keep_best=True))
    assert saved_bytes(llama, cfg) == (4 * 12 + 2) * llama.num_parameters
    narrow = replace(cfg, optimizer="adamw_8bit")
    assert saved_bytes(llama, narrow) < saved_bytes(llama, cfg) * 0.6


@pytest.mark.parametrize(("name", "settings"), FORMS, ids=[name for name, _ in FORMS])
def test_every_form_of_zero_has_a_file_that_deepspeed_takes(
    name: str, settings: dict[str, Any]
) -> None:
    from deepspeed.runtime.config import DeepSpeedConfig

    from ray_jobs.training.deepspeed_driver import deepspeed_config

    cfg = Train(**settings)
    assert cfg.deepspeed_name == name
    taken = DeepSpeedConfig(deepspeed_config(cfg, 1))
    assert taken.zero_optimization_stage == cfg.zero_stage
    offloaded = taken.zero_config.offload_optimizer
    assert (offloaded is not None and offloaded.device == "cpu") == (cfg.offload != "none")
    weights = taken.zero_config.offload_param
    assert (weights is not None and weights.device == "cpu") == (cfg.offload == "optimizer+params")


def test_there_is_no_deepspeed_file_that_nobody_reads() -> None:
    found = {file.stem for file in (CONF / "deepspeed").glob("*.json")}
    assert found == {name for name, _ in FORMS}


def test_a_shape_says_which_number_is_wrong() -> None:
    with pytest.raises(ValueError, match="layers"):
        Shape(
            family="llama",
            width=8,
            layers=0,
            heads=1,
            kv_heads=1,
            head_width=8,
            inner=8,
            vocabulary=8,
            tied=True,
        )

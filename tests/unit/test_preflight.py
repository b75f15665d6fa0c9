"""What preflight says of a recipe before anything is loaded, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.hardware import GIB, Card, Node, free_bytes, nodes, read_cards
from ray_jobs import config, durations, forecasts
from ray_jobs.engines.seam import Placement
from ray_jobs.engines.shapes import shape_of
from ray_jobs.engines.vllm import VllmConfig
from ray_jobs.engines.vllm_memory import EngineMemory, predict
from ray_jobs.forecasts import Forecast, Machine, known_card
from ray_jobs.preflight import preflight
from ray_jobs.training.settings import Lora, Train

QWEN = "Qwen/Qwen2.5-7B-Instruct"
LLAMA = "meta-llama/Llama-3.2-1B-Instruct"
LAPTOP = Machine(cpus=2, memory_bytes=8 * GIB, named="RTX 3090")
FITTING = Train(gpus_per_worker=1, activation_checkpointing=True, grad_accum_dtype="bf16")


def _engine(**changes: object) -> VllmConfig:
    gpus = float(changes.get("tensor_parallel_size", 1))  # type: ignore[arg-type]
    cfg = VllmConfig(model=QWEN, placement=Placement(gpus=gpus))
    return replace(cfg, **changes)  # type: ignore[arg-type]


def _need(cfg: VllmConfig, *, scores_prompts: bool = False) -> EngineMemory:
    return predict(cfg, shape_of(cfg.model), on_gpu=True, scores_prompts=scores_prompts)


def test_nvidia_smi_is_read_and_a_line_without_a_figure_is_no_card() -> None:
    told = "NVIDIA GeForce RTX 3090, 24576\nNVIDIA, odd name, 40960\nOrin, [N/A]\n\nfailed\n"
    assert read_cards(told) == [
        Card(name="NVIDIA GeForce RTX 3090", memory_bytes=24 * GIB),
        Card(name="NVIDIA, odd name", memory_bytes=40 * GIB),
    ]


def test_a_folder_that_is_not_there_yet_has_the_room_of_its_disk(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "not" / "yet") == pytest.approx(free_bytes(tmp_path), rel=0.05)


def test_a_cluster_that_was_killed_has_no_nodes_and_none_is_started_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    left_over = tmp_path / "ray_current_cluster"
    monkeypatch.setattr("cluster.session.STARTED_HERE", left_over)
    assert nodes() is None
    left_over.write_text("127.0.0.1:9", encoding="utf-8")  # nobody answers there
    assert nodes() is None


def test_a_card_is_known_by_its_name_inside_the_drivers() -> None:
    known = known_card("NVIDIA GeForce RTX 3090")
    assert known is not None
    assert known.memory_gib == 24
    assert known_card("Voodoo 2") is None
    assert known_card("NVIDIA L4") is not None
    assert known_card("NVIDIA L40S") is None
    assert known_card("") is None


def test_cards_that_are_here_count_before_the_recipes() -> None:
    here = Card(name="NVIDIA L4", memory_bytes=22 * GIB)
    machine = replace(LAPTOP, cards=(here, replace(here, memory_bytes=21 * GIB)))
    assert (machine.card_bytes, machine.num_gpus) == (21 * GIB, 2)
    assert (LAPTOP.card_bytes, LAPTOP.num_gpus) == (24 * GIB, None)
    nodes = (Node(cpus=8, gpus=0, memory_bytes=GIB), Node(cpus=8, gpus=4, memory_bytes=GIB))
    assert replace(LAPTOP, nodes=nodes).num_gpus == 4


def test_a_7b_engine_leaves_a_24_gib_card_the_cache_that_the_recipe_counts_on() -> None:
    need = _need(_engine(max_model_len=4096, max_num_batched_tokens=4096))
    assert need.kv_per_token == 56 * 1024
    assert 80_000 < need.kv_room(24 * GIB) / need.kv_per_token < 110_000
    assert not need.problem(24 * GIB)


def test_an_engine_that_cannot_fit_is_refused_with_what_would() -> None:
    assert "gpu_memory_utilization" in _need(_engine()).problem(16 * GIB)
    long = _need(_engine(max_model_len=120_000))
    assert "would fit" in long.problem(24 * GIB)
    fitting = int(long.problem(24 * GIB).split()[-3])
    assert not _need(_engine(max_model_len=fitting)).problem(24 * GIB)


def test_weights_and_cache_are_shared_out_among_an_engines_cards() -> None:
    whole, half = _need(_engine()), _need(_engine(tensor_parallel_size=2))
    assert half.weights == whole.weights // 2
    assert half.kv_per_token == whole.kv_per_token // 2
    # Its four key heads cannot be shared out further: each card keeps one.
    assert _need(_engine(tensor_parallel_size=7)).kv_per_token == whole.kv_per_token // 4


def test_scoring_the_longest_prompts_is_warned_of_where_it_has_no_room() -> None:
    wide = _engine(max_num_batched_tokens=4096, gpu_memory_utilization=0.9)
    warning = _need(wide, scores_prompts=True).warning(24 * GIB)
    assert "max_num_batched_tokens" in warning
    assert not _need(wide).warning(24 * GIB)
    said = warning.split()
    fitting, share = (
        int(said[said.index("tokens,") - 1]),
        float(said[-3].partition("=")[2].strip(",")),
    )
    for changes in ({"max_num_batched_tokens": fitting}, {"gpu_memory_utilization": share}):
        assert not _need(replace(wide, **changes), scores_prompts=True).warning(24 * GIB)


def test_a_run_that_does_not_fit_is_refused_with_the_settings_that_would() -> None:
    refused = forecasts.of_training(replace(FITTING, grad_accum_dtype="fp32"), LAPTOP)
    assert "train.grad_accum_dtype=bf16 would fit" in refused.problem
    assert not forecasts.of_training(FITTING, LAPTOP).problem


def test_without_a_known_card_training_is_predicted_and_not_judged() -> None:
    unknown = forecasts.of_training(FITTING, replace(LAPTOP, named=""))
    assert unknown.num_bytes > 10 * GIB
    assert not unknown.problem


def test_training_on_a_machine_without_a_card_is_held_against_its_memory() -> None:
    on_cpu = replace(FITTING, gpus_per_worker=0)
    assert "this machine has 8.0" in forecasts.of_training(on_cpu, LAPTOP).problem
    assert not forecasts.of_training(on_cpu, replace(LAPTOP, memory_bytes=64 * GIB)).problem


def test_the_job_train_refuses_what_the_cards_that_are_here_cannot_hold() -> None:
    wide = replace(FITTING, grad_accum_dtype="fp32")
    card = Card(name="NVIDIA GeForce RTX 3090", memory_bytes=24 * GIB)
    with pytest.raises(ValueError, match=r"train\.num_workers: 1 GPUs at once, 0 here"):
        forecasts.refuse_training(FITTING, LAPTOP)
    with pytest.raises(ValueError, match=r"grad_accum_dtype=bf16 would fit"):
        forecasts.refuse_training(wide, replace(LAPTOP, cards=(card,)))
    forecasts.refuse_training(FITTING, replace(LAPTOP, cards=(card,)))
    # A cluster's cards are not known here: each worker looks at its own.
    nodes = (Node(cpus=8, gpus=4, memory_bytes=64 * GIB),)
    forecasts.refuse_training(wide, replace(LAPTOP, nodes=nodes))


def test_a_base_model_of_unknown_shape_is_said_to_be_unknown() -> None:
    told = forecasts.of_training(replace(FITTING, base="nobody/nothing"), LAPTOP)
    assert told.note.startswith("unknown")
    assert not told.parts
    assert forecasts.saved_bytes(replace(FITTING, base="nobody/nothing")) is None


def test_hours_are_measured_or_computed_from_a_stated_speed_or_unknown(tmp_path: Path) -> None:
    recipe = config.load("conf/tiny.yaml", [f"out={tmp_path}"])
    unknown = dict(durations.of_jobs(recipe, LAPTOP))
    assert "unknown" in unknown["build_data"]
    assert "unknown" in durations.of_training(recipe, FITTING, LAPTOP)
    (tmp_path / "exported").mkdir()
    manifest = json.dumps({"wall_s": 7200.0, "num_rows": 1000})
    (tmp_path / "exported" / "manifest.json").write_text(manifest, encoding="utf-8")
    (tmp_path / "recipe.json").write_text("{}", encoding="utf-8")
    assert dict(durations.of_jobs(recipe, LAPTOP))["build_data"].startswith("2.0 h, measured")
    told = durations.of_training(recipe, FITTING, LAPTOP)
    assert "1,000 rows (exported)" in told
    assert "assumed: half of 71 TFLOP/s" in told
    assert "unknown" in durations.of_training(recipe, FITTING, replace(LAPTOP, named=""))


def test_rows_of_ones_own_are_counted_and_refused_where_there_are_none(tmp_path: Path) -> None:
    recipe = config.load("conf/tiny.yaml", [f"out={tmp_path}"])
    chats = [{"instruction": f"{number}?", "output": "yes"} for number in range(12)]
    lines = tmp_path / "rows.jsonl"
    lines.write_text("\n".join(map(json.dumps, chats)) + "\n", encoding="utf-8")
    (tmp_path / "rows.json").write_text(json.dumps(chats), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(chats), tmp_path / "train.parquet")
    for data in (lines, tmp_path / "rows.json", tmp_path):  # the last as a folder of an export
        told = durations.of_training(recipe, replace(FITTING, data=str(data)), LAPTOP)
        assert f": 12 rows ({data})" in told
    (tmp_path / "empty.json").write_text("[]", encoding="utf-8")
    for name, problem in (("empty.json", "has no rows"), ("absent.json", "there is no file")):
        own = replace(FITTING, base="garrison/tiny-base", data=str(tmp_path / name))
        assert "hours unknown: train.data" in durations.of_training(recipe, own, LAPTOP)
        with pytest.raises(ValueError, match=rf"train\.data: .*{problem}"):
            preflight(replace(recipe, train=own))


def test_every_trial_takes_its_time_and_adapters_a_third_less(tmp_path: Path) -> None:
    recipe = config.load("conf/rtx3090.yaml", [f"out={tmp_path}"])
    plain = replace(FITTING, activation_checkpointing=False)
    hours = [
        float(durations.of_training(recipe, cfg, LAPTOP).removeprefix("at most ").split()[0])
        for cfg in (
            plain,
            replace(plain, learning_rates=(3e-7, 6e-7)),
            replace(plain, lora=Lora(rank=8)),
        )
    ]
    assert hours[1] == pytest.approx(2 * hours[0], rel=0.01)
    assert hours[2] == pytest.approx(2 / 3 * hours[0], rel=0.01)


def test_half_a_3090_passes_as_many_tokens_as_published_for_a_1b(tmp_path: Path) -> None:
    recipe = config.load("conf/rtx3090.yaml", [f"out={tmp_path}"])
    told = durations.of_training(recipe, replace(FITTING, activation_checkpointing=False), LAPTOP)
    assert "4,788 tokens/s" in told


def test_preflight_prints_a_screen_for_the_tiny_recipe_and_refuses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preflight(config.load("conf/tiny.yaml", [f"out={tmp_path}"]))
    screen = capsys.readouterr().out
    for word in ("machine", "inputs", "disk", "build_data", "engines.teacher"):
        assert word in screen
    assert len(screen.splitlines()) < 40


def test_preflight_refuses_a_run_that_no_card_holds_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody answers there
    recipe = config.load("conf/tiny.yaml", [f"out={tmp_path}"])
    wide = replace(FITTING, base=LLAMA, pack_tokens=65536, activation_checkpointing=False)
    recipe = replace(recipe, card="RTX 3090", train=wide)
    with pytest.raises(ValueError, match="would fit") as refused:
        preflight(recipe)
    assert "train: a worker needs" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_preflight_refuses_a_suites_file_that_is_not_there(tmp_path: Path) -> None:
    absent = str(tmp_path / "absent.jsonl")
    keys = [f"out={tmp_path}", f"evaluate.suites.cvalues.path={absent}"]
    with pytest.raises(
        ValueError, match=f"conf/tiny.yaml: {absent}: expected a file, found nothing"
    ):
        preflight(config.load("conf/tiny.yaml", keys))


def test_preflight_refuses_a_card_that_it_does_not_know(tmp_path: Path) -> None:
    recipe = config.load("conf/tiny.yaml", [f"out={tmp_path}"])
    with pytest.raises(ValueError, match=r"conf/cards\.yaml"):
        preflight(replace(recipe, card="Voodoo 2"))


def test_a_forecast_is_the_sum_of_its_parts() -> None:
    assert Forecast(title="a", parts={"x": 1.0, "y": 2.0}, on_gpu=True).num_bytes == 3

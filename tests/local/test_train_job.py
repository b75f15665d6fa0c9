"""The job train, as the README's command: on a real Ray, with models of some thousand weights."""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ray_jobs import config
from ray_jobs.engines.seam import Request, Sampling
from ray_jobs.engines.vllm import VllmConfig
from ray_jobs.train import train
from tests.local.train_cases import (
    ROOT,
    TRAIN,
    command,
    curve,
    home,
    make_base,
    make_recipe,
    make_rows,
    manifest,
    run,
)

pytestmark = pytest.mark.timeout(600)
NUM_ROWS = 44
GENERATION = "generation_config.json"
SETTINGS: dict[str, Any] = {"num_workers": [2, 2], "epochs": 12}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_base(tmp_path_factory.mktemp("base"))
    # As published models have it: transformers loads this, and refuses to save it.
    told = {**json.loads((folder / GENERATION).read_text()), "temperature": 0.9, "top_p": 0.6}
    (folder / GENERATION).write_text(json.dumps(told))
    return folder


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, base: Path, head: Any
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A recipe that has been trained with two workers, and what its screen said."""
    rows = [*make_rows(NUM_ROWS), {"instruction": "no answer?", "input": "", "output": " "}]
    recipe = make_recipe(tmp_path_factory.mktemp("trained") / "run", base, rows, **SETTINGS)
    done = run(recipe, env=head.env)
    assert done.returncode == 0, done.stderr[-3000:]
    return recipe, done


def test_every_row_becomes_a_sample_or_has_a_reason(trained: tuple[Path, Any]) -> None:
    folder = trained[0].parent / "out" / "samples"
    published = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    table = pa.concat_tables([pq.read_table(folder / shard) for shard in published["shards"]])
    assert published["outcomes"] == {"done": NUM_ROWS, "dropped": 1}
    assert published["reasons"] == {"dropped": {"no answer": 1}}
    assert table["id"].to_pylist() == [str(number + 1) for number in range(NUM_ROWS + 1)]


def test_every_sample_is_trained_on_once_an_epoch(trained: tuple[Path, Any]) -> None:
    points = curve(trained[0])
    num_train = NUM_ROWS - round(NUM_ROWS * TRAIN["validation"]["share"])
    steps = -(-num_train // TRAIN["batch_size"])
    assert [point["step"] for point in points] == list(range(1, 12 * steps + 1))
    epochs = [points[first : first + steps] for first in range(0, len(points), steps)]
    assert len({sum(one["tokens"] for one in epoch) for epoch in epochs}) == 1
    assert len({tuple(one["tokens"] for one in epoch) for epoch in epochs}) > 1, "new orders"
    assert points[-1]["loss"] < 0.8 * points[0]["loss"]
    assert points[-1]["validation_loss"] > 0
    assert all(point["num_workers"] == 2 for point in points)


def test_the_final_folder_is_a_model_with_all_that_belongs_to_it(
    trained: tuple[Path, Any], base: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    told = manifest(trained[0])
    folder = home(trained[0]) / told["model"]
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(base).chat_template
    assert model.dtype == torch.float32
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert (folder / GENERATION).read_bytes() == (base / GENERATION).read_bytes()
    assert model.lm_head.weight is model.get_input_embeddings().weight
    before = AutoModelForCausalLM.from_pretrained(base)
    assert not torch.equal(before.lm_head.weight, model.lm_head.weight)
    files = {file.name for file in folder.iterdir()}
    assert {"README.md", "curve.svg", "generation_config.json", "chat_template.jinja"} <= files
    said = (folder / "README.md").read_text(encoding="utf-8")
    assert f"{NUM_ROWS + 1} to train on; no answer 1 left out" in said
    for file in folder.glob("*.*"):  # a card that is handed on says nothing of this machine
        assert str(ROOT) not in file.read_bytes().decode(errors="replace"), file
        assert str(base.parent) not in file.read_bytes().decode(errors="replace"), file


def test_vllm_serves_the_final_folder_and_says_what_transformers_says(
    trained: tuple[Path, Any],
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = home(trained[0]) / manifest(trained[0])["model"]
    chat: Any = [{"role": "user", "content": "1: rain fell on a garden 雨?"}]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    given = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    model = AutoModelForCausalLM.from_pretrained(folder)
    said = model.generate(**given, max_new_tokens=24, do_sample=False)[0]
    wanted = tokenizer.decode(said[given["input_ids"].shape[1] :], skip_special_tokens=True)
    engine = VllmConfig(
        model=str(folder), max_model_len=128, max_num_seqs=2, enforce_eager=True
    ).open()
    try:
        asked = Request(chat=chat, sampling=Sampling(max_tokens=24, temperature=0.0), seed=0)
        reply = engine.submit(asked).result(timeout=60)
    finally:
        engine.close()
    assert reply.prompt_tokens == given["input_ids"].shape[1]
    assert reply.text == wanted
    assert reply.text


def test_the_screen_says_what_was_trained_and_where_it_is(trained: tuple[Path, Any]) -> None:
    recipe, done = trained
    where = re.search(r"^model +(\S+)$", done.stdout, re.MULTILINE)
    assert where
    assert (Path(where[1]) / "model.safetensors").is_file()
    assert (home(recipe) / manifest(recipe)["fingerprint"] / "curve.svg").is_file()
    assert "tok/s" in done.stderr
    assert "loss" in done.stderr


def test_checkpoints_are_kept_as_asked_for_and_tensorboard_has_its_files(
    trained: tuple[Path, Any],
) -> None:
    folder = home(trained[0]) / manifest(trained[0])["fingerprint"]
    measured = [point for point in curve(trained[0]) if point["validation_loss"] > 0]
    best = min(measured, key=lambda point: point["validation_loss"])["step"]
    assert {int(file.name.split("-")[0]) for file in (folder / "checkpoints").iterdir()} == {
        116,
        120,
        best,
    }
    assert list((folder / "tensorboard").glob("events.*"))
    assert not (folder / "ray").exists()


def test_the_same_command_skips_what_is_finished(trained: tuple[Path, Any], head: Any) -> None:
    before = (home(trained[0]) / "manifest.json").read_bytes()
    done = run(trained[0], env=head.env)
    assert done.returncode == 0
    assert "train:" not in done.stderr
    assert (home(trained[0]) / "manifest.json").read_bytes() == before


def test_other_settings_are_trained_beside_and_a_changed_cutoff_is_refused(
    trained: tuple[Path, Any],
) -> None:
    with pytest.raises(ValueError, match=r"Changed: samples: cutoff"):
        train(config.load(str(trained[0]), ["train.cutoff=128"]))


def saved_steps(recipe: Path) -> set[int]:
    found = home(recipe).glob("*/checkpoints/*/manifest.json")
    return {int(file.parent.name.split("-")[0]) for file in found}


def start(recipe: Path, head: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(recipe), cwd=ROOT, env=head.env, stderr=subprocess.PIPE, text=True
    )


def wait_for_a_save(job: subprocess.Popen[str], recipe: Path) -> None:
    before, deadline = saved_steps(recipe), time.monotonic() + 120
    while not saved_steps(recipe) - before:
        assert time.monotonic() < deadline
        assert job.poll() is None, "it ended too early"
        time.sleep(0.01)


def workers(head: Any) -> list[psutil.Process]:
    """Those of this test's own Ray."""
    found = [one for one in psutil.process_iter(["cmdline"]) if one.info["cmdline"]]
    found = [one for one in found if "RayTrainWorker" in one.info["cmdline"][0]]
    token = head.env["RAY_AUTH_TOKEN"]
    return [one for one in found if one.environ().get("RAY_AUTH_TOKEN") == token]


def test_one_that_is_stopped_and_then_loses_a_worker_ends_as_if_nothing_had_been(
    tmp_path: Path, trained: tuple[Path, Any], base: Path, head: Any
) -> None:
    rows = json.loads((trained[0].parent / "rows.json").read_text(encoding="utf-8"))
    recipe = make_recipe(tmp_path / "run", base, rows, **SETTINGS)
    job = start(recipe, head)
    wait_for_a_save(job, recipe)
    job.send_signal(signal.SIGINT)
    _, said = job.communicate(timeout=120)
    assert job.returncode == 130, said[-2000:]
    assert 0 < max(saved_steps(recipe)) < 120
    job = start(recipe, head)
    wait_for_a_save(job, recipe)
    workers(head)[-1].kill()
    _, said = job.communicate(timeout=200)
    assert job.returncode == 0, said[-2000:]
    assert "a worker died at step" in said
    found, wanted = curve(recipe), curve(trained[0])
    for name in ("step", "tokens", "target_tokens"):
        assert [one[name] for one in found] == [one[name] for one in wanted]
    for name in ("loss", "grad_norm", "validation_loss"):
        assert [one[name] for one in found] == pytest.approx(
            [one[name] for one in wanted], rel=1e-6, nan_ok=True
        )


@pytest.mark.soak
def test_trials_are_compared_and_the_best_is_the_model(
    tmp_path: Path, base: Path, head: Any
) -> None:
    recipe = make_recipe(tmp_path / "run", base, make_rows(NUM_ROWS), epochs=1)
    done = run(recipe, "train.learning_rates=[1e-5,3e-3]", env=head.env)
    assert done.returncode == 0, done.stderr[-3000:]
    first = trial_rows(recipe)
    assert float(first["0.003"]["held_out_loss"]) < float(first["1e-05"]["held_out_loss"])
    assert manifest(recipe)["fingerprint"] == first["0.003"]["run"]
    assert [one.parent.name for one in home(recipe).glob("*/model")] == [first["0.003"]["run"]]
    assert len(list(home(recipe).glob("*/checkpoints"))) == 1
    assert b"<svg" in (home(recipe) / "trials.svg").read_bytes()


@pytest.mark.soak
def test_a_known_trial_is_trained_again_only_for_weights_that_nobody_kept(
    tmp_path: Path, base: Path, head: Any
) -> None:
    recipe = make_recipe(tmp_path / "run", base, make_rows(NUM_ROWS), epochs=1)
    assert run(recipe, "train.learning_rates=[1e-5,3e-3]", env=head.env).returncode == 0
    known = trial_rows(recipe)["1e-05"]
    done = run(recipe, "train.learning_rates=[1e-5,1e-6]", env=head.env)
    assert done.returncode == 0, done.stderr[-3000:]
    assert trial_rows(recipe)["1e-05"] == known
    assert manifest(recipe)["fingerprint"] == known["run"]
    assert (home(recipe) / known["run"] / "model" / "model.safetensors").is_file()


def trial_rows(recipe: Path) -> dict[str, dict[str, str]]:
    lines = (home(recipe) / "trials.tsv").read_text(encoding="utf-8").splitlines()
    rows = csv.DictReader(lines, delimiter="\t")
    return {row["learning_rate"]: dict(row) for row in rows}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], r"rows\.json has no rows"),
        ([{"instruction": "a?", "input": "", "output": ""}] * 3, r"none of the 3 rows.*no answer"),
        ([{"instruction": "a?", "input": "", "output": "雨" * 400}] * 3, r"all 3 samples.*raise"),
        ([{"question": "a?"}], r"row 1: expected the fields of one of"),
    ],
)
def test_data_that_teaches_nothing_is_refused_in_one_line(
    tmp_path: Path, base: Path, ray_session: None, rows: list[dict[str, str]], said: str
) -> None:
    recipe = make_recipe(tmp_path / "run", base, rows)
    with pytest.raises(ValueError, match=said) as error:
        train(config.load(str(recipe)))
    assert "\n" not in str(error.value)
    out = tmp_path / "run" / "out"
    assert [file for file in out.rglob("*") if file.is_file()] == []


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["train.data=null"], r"train\.data"),
        (["train.data=''"], r"no data set in .* yet; run build_data first"),
        (["train.data=absent.json"], r"train\.data: there is no file"),
        (["train.base=absent"], r"train\.base: 'absent' is neither a folder nor a hub id"),
        (
            ["train.learning_rates=[1e-3,1e-4]", "train.validation.share=0"],
            r"set train\.validation",
        ),
        (["train.logging.mlflow=http://127.0.0.1:1"], r"needs the package mlflow; install it"),
        (["train.logging.wandb=garrison"], r"needs the package wandb; install it"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_starts(
    tmp_path: Path, base: Path, keys: list[str], said: str
) -> None:
    recipe = make_recipe(tmp_path / "run", base, make_rows(8))
    with pytest.raises(ValueError, match=said) as error:
        train(config.load(str(recipe), keys))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "out").exists()


def test_a_base_model_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    (base / "chat_template.jinja").unlink()
    recipe = make_recipe(tmp_path / "run", base, make_rows(8))
    with pytest.raises(ValueError, match=r"train\.base: .* has no chat template"):
        train(config.load(str(recipe)))


def test_a_recipe_without_the_section_is_refused(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path / "run", tmp_path, [])
    with pytest.raises(ValueError, match=r"train: missing"):
        train(config.load(str(recipe), ["train=null"]))


def test_a_checkpoint_of_another_model_is_refused(
    tmp_path: Path, trained: tuple[Path, Any], base: Path, ray_session: None
) -> None:
    rows = json.loads((trained[0].parent / "rows.json").read_text(encoding="utf-8"))
    other = make_recipe(tmp_path / "run", make_base(tmp_path / "base", seed=1), rows)
    from ray_jobs.train_plan import make_plan

    [trial] = make_plan(config.load(str(other))).trials
    theirs = home(trained[0]) / manifest(trained[0])["fingerprint"] / "checkpoints"
    mine = home(other) / trial.fingerprint / "checkpoints"
    mine.parent.mkdir(parents=True)
    mine.symlink_to(theirs)
    with pytest.raises(ValueError, match="a checkpoint of another model") as error:
        train(config.load(str(other)))
    assert "\n" not in str(error.value)


def test_a_training_begun_otherwise_is_not_left_behind_unseen(tmp_path: Path, base: Path) -> None:
    recipe = make_recipe(tmp_path / "run", base, make_rows(8))
    begun = home(recipe) / "0123456789abcdef"
    begun.mkdir(parents=True)
    from ray_jobs.train_plan import make_plan

    [trial] = make_plan(config.load(str(recipe))).trials
    (begun / "decides.json").write_text(json.dumps(dict(trial.decides)), encoding="utf-8")
    with pytest.raises(ValueError, match=r"train\.learning_rate \(0\.003 → 0\.1\)"):
        train(config.load(str(recipe), ["train.learning_rate=0.1"]))

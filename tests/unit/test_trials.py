"""Trials and what comes of them: fingerprints, the best, pictures, the card and its licence."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ray_jobs.steps import JobFailed
from ray_jobs.tables import Folder
from ray_jobs.training.curve import LOWER_IT, Point, from_tsv, to_svg, to_tsv
from ray_jobs.training.examples import Census
from ray_jobs.training.finished import About, card
from ray_jobs.training.follow import Work, figures
from ray_jobs.training.licences import licence_of
from ray_jobs.training.results import Result, print_result, publish
from ray_jobs.training.settings import Checkpoints, Train
from ray_jobs.training.trials import Ended, Trial, best, table, trials, write_trials

POINT = Point(
    step=1,
    epoch=0.5,
    loss=2.0,
    validation_loss=None,
    learning_rate=1e-3,
    grad_norm=1.0,
    target_tokens=100,
    tokens=300,
    seconds=0.5,
    num_workers=2,
    memory_bytes=3 << 30,
)
CENSUS = Census(
    num_rows=10,
    num_samples=9,
    reasons={"no answer": 1},
    num_prompts_cut=2,
    num_answers_cut=0,
    num_tokens=900,
    num_targets=300,
)

COUNTS = {"num_rows": 10, "num_samples": 8, "num_held_out": 1}


def cfg(**changes: object) -> Train:
    return replace(Train(base="/models/base"), **changes)  # type: ignore[arg-type]


def found(given: Train, seed: int = 7) -> list[Trial]:
    return trials(given, base="b", samples="s", seed=seed)


def ended(trial: Trial, held_out: float | None, loss: float = 1.0) -> Ended:
    last = replace(POINT, step=2, loss=loss, validation_loss=held_out)
    return Ended(trial=trial, curve=[POINT, last])


def test_every_rate_is_tried_with_every_size_once() -> None:
    many = found(cfg(learning_rates=(1e-6, 6e-7, 1e-6), batch_sizes=(50, 100)))
    assert [(one.cfg.learning_rate, one.cfg.batch_size) for one in many] == [
        (1e-6, 50),
        (1e-6, 100),
        (6e-7, 50),
        (6e-7, 100),
    ]
    assert len({one.fingerprint for one in many}) == 4
    assert [one.name for one in found(cfg())] == ["train"]


def test_a_trial_is_the_same_training_as_one_without_lists() -> None:
    [alone] = found(cfg(learning_rate=1e-6))
    first, _ = found(cfg(learning_rates=(1e-6, 1e-5)))
    assert first.fingerprint == alone.fingerprint


@pytest.mark.parametrize(
    ("changes", "is_same"),
    [
        ({"base": "/elsewhere/base", "data": "/elsewhere/rows.json"}, True),
        ({"num_workers": (1, 8), "zero_stage": 2, "pack_tokens": 8192}, True),
        ({"checkpoint": Checkpoints(every_steps=7)}, True),
        ({"epochs": 2}, False),
        ({"precision": "fp32"}, False),
        ({"optimizer": "adamw_8bit"}, False),
        ({"betas": (0.9, 0.95)}, False),
    ],
)
def test_what_decides_the_weights_decides_the_fingerprint(
    changes: dict[str, object], is_same: bool
) -> None:
    [one], [other] = found(cfg()), found(cfg(**changes))
    assert (one.fingerprint == other.fingerprint) == is_same
    assert found(cfg(), seed=8)[0].fingerprint != one.fingerprint


def test_the_lowest_loss_on_what_was_held_out_is_the_best(tmp_path: Path) -> None:
    many = found(cfg(learning_rates=(1e-6, 6e-7, 3e-7)))
    done = [ended(one, loss) for one, loss in zip(many, (1.5, 1.25, 1.75), strict=True)]
    assert best(done) is done[1]
    assert best([ended(many[0], None)]).trial is many[0]
    write_trials(Folder(str(tmp_path)), done)
    lines = (tmp_path / "trials.tsv").read_text().splitlines()
    assert lines[0].startswith("learning_rate\tbatch_size\theld_out_loss")
    assert lines[2].startswith("6e-07\t50\t1.250000\t1.000000\t2\t1.0")
    assert "**6e-07**" in table(done)
    assert (tmp_path / "trials.svg").read_bytes().count(b"batch 50") == 1


def lost(trial: Trial, **figures: float) -> Ended:
    """A trial that shows at its second step that it has diverged."""
    changed: dict[str, Any] = {"step": 2, "validation_loss": 0.1, **figures}
    return Ended(trial=trial, curve=[POINT, replace(POINT, **changed)])


@pytest.mark.parametrize(
    ("figures", "fault"),
    [
        ({"loss": math.nan}, "the loss is nan"),
        ({"grad_norm": math.inf}, "the gradient's norm is inf"),
        ({"grad_norm": -1.0}, "the gradient's norm is nan"),
        ({"validation_loss": math.nan}, "the held-out loss is nan"),
    ],
)
def test_a_trial_that_has_diverged_is_told_of_and_never_the_best(
    figures: dict[str, float], fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *others = found(cfg(learning_rates=(1.0e-2, 1e-6, 6e-7)))
    done = [lost(first, **figures), *(ended(one, 1.5) for one in others)]
    assert best(done) is done[1]
    assert "| 0.01 | 50 | diverged at step 2 |  | 2 |" in table(done)
    home = Folder(str(tmp_path))
    publish(home, Result(ended=done, chosen=done[1], base="b", **COUNTS))
    row = (tmp_path / "trials.tsv").read_text().splitlines()[1]
    assert row.startswith("0.01\t50\t\t\t2\t1.0\t")
    assert row.endswith(f"\t{first.fingerprint}\t2")
    assert "diverged: rate 0.01 × 50 (step 2)" in (tmp_path / "trials.svg").read_text("utf-8")
    told = json.loads((tmp_path / first.fingerprint / "manifest.json").read_text())
    assert (told["diverged_at_step"], told["loss"], told["held_out_loss"]) == (2, None, None)
    print_result(home)
    assert "3, 1 of them diverged, see" in capsys.readouterr().out
    with pytest.raises(JobFailed, match=fault) as error:
        best(done[:1])
    assert str(error.value).endswith(LOWER_IT)
    with pytest.raises(JobFailed, match=f"× 50: {fault} at step 2; .* × 50: {fault} at step 2: "):
        best([lost(one, **figures) for one in others])


def test_a_curve_that_diverges_has_a_picture_up_to_there() -> None:
    bad = replace(POINT, loss=math.nan, grad_norm=math.nan)
    assert to_svg([POINT, replace(bad, step=2)], "train") == to_svg([POINT], "train")
    assert b"<svg" in to_svg([bad], "train")
    [again] = from_tsv(to_tsv([bad]))
    assert again.fault == "the loss is nan"


def test_a_curve_of_one_step_has_a_picture() -> None:
    assert b"<svg" in to_svg([POINT], "one step")


def test_speed_counts_recent_steps_and_its_share_of_the_cards() -> None:
    work = Work(per_token=4e9, per_target=1e9, peak=1e12)
    # (300 × 4e9 + 100 × 1e9) operations in 0.5 s on two cards of 1e12 a second
    assert work.share([POINT]) == pytest.approx(1.3)
    assert figures([POINT] * 30, None) == "loss 2.000, 600 tok/s, 3.0 GiB"
    assert "MFU 130%" in figures([POINT], work)
    assert figures([], work) == ""


def test_what_is_published_names_the_model_and_drops_what_nobody_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many = found(cfg(learning_rates=(1e-6, 6e-7)))
    done = [ended(one, loss) for one, loss in zip(many, (1.5, 1.25), strict=True)]
    for one in many:
        (tmp_path / one.fingerprint / "checkpoints" / "2-x").mkdir(parents=True)
    for name, file in (("begun", "decides.json"), ("other", "manifest.json")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("{}")
    home = Folder(str(tmp_path))
    publish(home, Result(ended=done, chosen=done[1], base="a/base", **COUNTS))
    assert not (tmp_path / many[0].fingerprint / "checkpoints").exists()
    assert (tmp_path / many[1].fingerprint / "checkpoints").exists()
    assert not (tmp_path / "begun").exists()
    assert (tmp_path / "other").exists()
    print_result(home)
    said = capsys.readouterr().out
    assert "a/base on 8 samples of 10 rows, 2 steps, 1.0 s" in said
    assert f"{many[1].fingerprint}/model/" in said
    assert "held out 1.250" in said


def about(base: str) -> About:
    return About(
        base=base,
        suffix="mine",
        data="rows.json",
        census=CENSUS,
        num_samples=8,
        num_held_out=1,
        settings={"learning_rate": 6e-7},
        trials="",
    )


def test_a_model_of_llama_bears_its_name_and_notice(tmp_path: Path) -> None:
    (tmp_path / "LICENSE.txt").write_text("the agreement")
    licence = licence_of("meta-llama/Llama-3.2-1B-Instruct", tmp_path, "mine")
    assert licence.name == "Llama-3.2-1B-Instruct-mine"
    assert licence.notice.startswith("Llama 3.2 is licensed under the Llama 3.2 Community License")
    assert [file.name for file in licence.files] == ["LICENSE.txt"]
    assert licence_of("a/Meta-Llama-3-8B", tmp_path, "x").name == "Llama-Meta-Llama-3-8B-x"
    said = card([POINT], cfg(), about("meta-llama/Llama-3.2-1B-Instruct"), licence)
    assert said.startswith("---\nlicense: llama3.2\nbase_model: meta-llama/Llama-3.2-1B-Instruct\n")
    assert "# Llama-3.2-1B-Instruct-mine" in said
    assert "**Built with Llama.**" in said
    assert "| 8 trained on, 1 held out |" in said
    assert "| 10 to train on; no answer 1 left out |" in said


@pytest.mark.parametrize(
    ("readme", "licence", "duties"),
    [
        ("---\nlicense: apache-2.0\n---\n# Model", {"license": "apache-2.0"}, "keep the licence"),
        ("---\nlicense: other\n---\n", {"license": "other"}, "other. Unknown: see the base model"),
        ("# Model", {}, "Unknown: see the base model"),
        ("---\n: [\n---\n", {}, "Unknown: see the base model"),
        ("---\nlicense: null\n---\n", {}, "Unknown: see the base model"),
        (None, {}, "Unknown: see the base model"),
    ],
)
def test_another_licence_is_what_the_base_models_card_says(
    tmp_path: Path, readme: str | None, licence: dict[str, str], duties: str
) -> None:
    if readme is not None:
        (tmp_path / "README.md").write_text(readme)
    found = licence_of("Qwen/Qwen2.5-0.5B-Instruct", tmp_path, "mine")
    assert found.name == "Qwen2.5-0.5B-Instruct-mine"
    assert found.header == licence
    assert duties in found.duties
    assert not found.notice
    assert "Built with" not in card([POINT], cfg(), about("Qwen/Qwen2.5-0.5B"), found)


@pytest.mark.parametrize(
    ("told", "header"),
    [
        ("license: llama3.1", "llama3.1"),
        ("license: llama2", "llama2"),
        ("license: other\nlicense_name: llama-3", "llama3"),
    ],
)
def test_a_model_that_says_it_is_llamas_is(tmp_path: Path, told: str, header: str) -> None:
    (tmp_path / "README.md").write_text(f"---\n{told}\n---\n")
    found = licence_of("some/chat-8b", tmp_path, "mine")
    assert (found.name, found.header) == ("Llama-chat-8b-mine", {"license": header})


@pytest.mark.parametrize(
    ("title", "told", "header"),
    [
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "license: apache-2.0", {"license": "apache-2.0"}),
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "", {}),
        ("codellama/CodeLlama-7b-Instruct-hf", "", {}),
        ("codellama/CodeLlama-7b-Instruct-hf", "license: llama2", {"license": "llama2"}),
        ("huggyllama/llama-30b", "license: other", {"license": "other"}),
        ("openlm-research/open_llama_3b", "", {}),
        ("openlm-research/open_llama_3b_v2", "license: apache-2.0", {"license": "apache-2.0"}),
        ("x/Llama-3.2b", "", {}),
        ("x/Llama-1.1", "", {}),
        ("x/Llama-2-7b-chat-hf", "", {"license": "llama2"}),
        ("x/Llama-3_3-Nemotron", "", {"license": "llama3.3"}),
        ("x/Llama-4-Scout-17B", "", {"license": "llama4"}),
        ("x/Llama-3.2-mine", "license: mit", {"license": "mit"}),
    ],
)
def test_no_licence_is_made_up_from_a_size_or_against_the_models_own_card(
    tmp_path: Path, title: str, told: str, header: dict[str, str]
) -> None:
    (tmp_path / "README.md").write_text(f"---\n{told}\n---\n# A card")
    found = licence_of(title, tmp_path, "mine")
    assert found.header == header
    assert bool(found.notice) == header.get("license", "").startswith("llama")


def test_the_embedded_model_is_no_hubs_and_its_licence_is_ours(tmp_path: Path) -> None:
    found = licence_of("garrison/tiny-base", tmp_path, "tiny")
    said = card([POINT], cfg(), about("garrison/tiny-base"), found)
    assert said.startswith("---\nlicense: apache-2.0\nlibrary_name")
    assert "# tiny-base-tiny" in said

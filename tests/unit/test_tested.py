"""The models that are evaluated: what the recipe may say of them, and the engine that runs each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ray_jobs import config, evaluate, report, run, tested
from ray_jobs.engines.vllm import VllmConfig
from ray_jobs.evals.suite import Suite
from ray_jobs.tables import Folder

TINY = str(Path(__file__).resolve().parents[2] / "conf/tiny.yaml")
KEYS = [
    "models.base=garrison/tiny-base",
    "models.tuned=trained",
    "evaluate.engine=teacher",
    "evaluate.judge=judge",
]


def test_models_and_evaluate_are_read_from_the_command_line() -> None:
    recipe = config.load(TINY, [*KEYS, "evaluate.suites.capability.mmlu=org/mmlu"])
    assert recipe.models == {"base": "garrison/tiny-base", "tuned": "trained"}
    assert recipe.evaluate is not None
    assert recipe.evaluate.suites["capability"].mmlu == "org/mmlu"
    without = config.load(TINY, [*KEYS, "models.base=null", "evaluate.suites.capability=null"])
    assert list(without.models) == ["tuned"]
    assert without.evaluate is not None
    assert "capability" not in without.evaluate.suites


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("models.a/b=x", r"models\.a/b: expected a name"),
        ("models.base=7", r"models\.base: expected a folder, a hub id"),
        ("models=x", r"models: expected a mapping"),
        ("evaluate.suites.safetibench={}", r"evaluate\.suites\.safetibench: unknown key"),
        ("evaluate.engine=nobody", r"evaluate\.engine: there is no engine 'nobody'"),
        ("evaluate.judge=nobody", r"evaluate\.judge: there is no engine 'nobody'"),
        ("models=[a,b]", r"models: expected a mapping"),
        ("evaluate.engine=[a]", r"evaluate\.engine: expected a text, found \['a'\]"),
        ("evaluate.suites=[a]", r"evaluate\.suites: expected a mapping"),
        ("evaluate.engine=null", r"evaluate\.engine: missing"),
        ("evaluate.annotation.audit_share=2", r"evaluate\.annotation\.audit_share: "),
        ("report.num_examples=-1", r"report\.num_examples: "),
    ],
)
def test_a_wrong_key_is_refused_by_name(key: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config.load(TINY, [*KEYS, key])


def test_a_recipe_without_models_is_refused_with_what_to_type() -> None:
    recipe = config.load(TINY, KEYS[2:])
    with pytest.raises(ValueError, match=r"models: missing; add to the command: models\.base="):
        evaluate.section(replace(recipe, models={}))


def test_an_embedded_model_is_a_toy_and_keeps_its_name_until_it_is_placed() -> None:
    found = tested.tested("base", "garrison/tiny-base", VllmConfig(model="x"), "/out")
    assert found.is_toy
    assert isinstance(found.engine, VllmConfig)
    assert found.engine.model == "garrison/tiny-base"


def test_a_hub_id_may_name_its_revision() -> None:
    engine = VllmConfig(model="x/y", tokenizer="z", max_model_len=77)
    found = tested.tested("base", "org/name@abc", engine, "/out")
    assert found.engine == VllmConfig(model="org/name", revision="abc", max_model_len=77)
    assert not found.is_toy
    assert found.title == "org/name@abc"


def test_trained_is_the_model_of_this_out(tmp_path: Path) -> None:
    engine = VllmConfig(model="x/y")
    with pytest.raises(ValueError, match=r"models\.tuned: there is no trained model in .* yet"):
        tested.tested("tuned", "trained", engine, str(tmp_path))
    Folder(str(tmp_path / "trained")).write("manifest.json", b"{}")
    with pytest.raises(ValueError, match=r"trained/manifest\.json: broken: .* model; remove"):
        tested.tested("tuned", "trained", engine, str(tmp_path))
    Folder(str(tmp_path / "trained")).write("manifest.json", b'{"model": "f00d/model"}')
    (tmp_path / "trained/f00d/model").mkdir(parents=True)
    (tmp_path / "trained/f00d/model/model.safetensors").write_bytes(b"0" * 100)
    found = tested.tested("tuned", "trained", engine, str(tmp_path))
    assert isinstance(found.engine, VllmConfig)
    assert found.engine.model == str(tmp_path / "trained/f00d/model")
    assert found.is_toy  # a hundred bytes of weights


def test_two_samples_of_one_id_are_refused() -> None:
    rows = [{"id": "7"}, {"id": "8"}, {"id": "7"}]
    suite = Suite(name="s", protocol="", decides={}, samples=lambda: rows, marks=lambda _: iter(()))
    with pytest.raises(ValueError, match="s: two samples have the id 7"):
        list(evaluate.single(suite))


def test_a_report_of_nothing_is_refused(tmp_path: Path) -> None:
    recipe = config.load(TINY, [f"out={tmp_path}"])
    with pytest.raises(ValueError, match=r"nothing in .* to report yet"):
        report.report(recipe)


def test_run_says_what_the_evaluation_lacks_before_anything_is_built(tmp_path: Path) -> None:
    recipe = replace(config.load(TINY, [f"out={tmp_path / 'new'}"]), evaluate=None)
    with pytest.raises(ValueError, match="evaluate: missing"):
        run.run(recipe)
    assert not (tmp_path / "new").exists()

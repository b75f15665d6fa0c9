"""What a training is to do: a base model of a hub is one commit, whatever the hub does later."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from ray_jobs import config
from ray_jobs.train_plan import Plan, make_plan
from tests.local.train_cases import make_recipe, make_rows

FIRST, LATER = "a" * 40, "b" * 40


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of a hub that cannot be reached."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def fetched(cache: Path, commit: str, branch: str) -> None:
    """Put a commit into the cache, and a branch on it."""
    home = cache / "models--a--base"
    for folder in (home / "refs", home / "snapshots" / commit):
        folder.mkdir(parents=True, exist_ok=True)
    (home / "refs" / branch).write_text(commit)
    (home / "snapshots" / commit / "config.json").write_text("{}")


def plan(folder: Path, revision: str = "") -> Plan:
    recipe = make_recipe(folder / "run", Path("a/base"), make_rows(8), revision=revision)
    return make_plan(config.load(str(recipe)))


@pytest.mark.parametrize(("revision", "branch"), [("", "main"), ("v1", "v1")])
def test_a_branch_of_the_hub_is_the_commit_that_it_is_now(
    tmp_path: Path, cache: Path, revision: str, branch: str
) -> None:
    fetched(cache, FIRST, branch)
    before = plan(tmp_path, revision)
    assert before.cfg.revision == FIRST  # what workers load
    assert before.trials[0].cfg.revision == FIRST
    assert before.trials[0].decides["base"] == f"a/base@{FIRST}"  # what manifests say
    assert plan(tmp_path, revision).trials[0].fingerprint == before.trials[0].fingerprint
    fetched(cache, LATER, branch)
    after = plan(tmp_path, revision)
    assert after.trials[0].fingerprint != before.trials[0].fingerprint
    assert after.samples.fingerprint != before.samples.fingerprint
    assert plan(tmp_path, FIRST).trials[0].fingerprint == before.trials[0].fingerprint


def test_a_base_model_that_is_neither_here_nor_to_be_had_is_refused_in_one_line(
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match=r"train\.base: a/base cannot be loaded .* fetch") as error:
        plan(tmp_path)
    assert "\n" not in str(error.value)
    assert plan(tmp_path, FIRST).cfg.revision == FIRST  # a commit needs nobody to be asked

"""Training that is killed with -9: what comes out is what would have come out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.local.train_cases import (
    ROOT,
    command,
    curve,
    home,
    make_base,
    make_recipe,
    make_rows,
    manifest,
    run,
)

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]
EVERY = 5
SETTINGS: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 5,
    "num_workers": [2, 2],
    "checkpoint": {"every_steps": EVERY},
    "validation": {"share": 0.1, "every_steps": EVERY},
}
ENV = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Large enough that a step and a save each take a while: 16 million weights, 190 MB of state.
    return make_base(tmp_path_factory.mktemp("base"), width=512, layers=6)


def recipe_in(folder: Path, base: Path, **settings: Any) -> Path:
    return make_recipe(folder, base, make_rows(60, 24), **{**SETTINGS, **settings})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, base: Path) -> list[dict[str, float]]:
    """The curve of a run that nobody disturbs."""
    recipe = recipe_in(tmp_path_factory.mktemp("whole") / "run", base)
    done = run(recipe, env=ENV, timeout_s=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return curve(recipe)


def start(recipe: Path, *keys: str) -> subprocess.Popen[str]:
    with (recipe.parent / "screen.txt").open("a") as screen:
        return subprocess.Popen(command(recipe, *keys), cwd=ROOT, env=ENV, stderr=screen, text=True)


def wait_for(job: subprocess.Popen[str], is_so: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        assert job.poll() is None, "it ended too early"
        time.sleep(0.002)


def saved_steps(recipe: Path) -> list[int]:
    found = home(recipe).glob("*/checkpoints/*/manifest.json")
    return sorted(int(file.parent.name.split("-")[0]) for file in found)


def is_saving(recipe: Path) -> bool:
    folders = list(home(recipe).glob("*/checkpoints/*"))
    return bool(saved_steps(recipe)) and any(
        any(folder.iterdir()) and not (folder / "manifest.json").exists() for folder in folders
    )


def workers(job: subprocess.Popen[str]) -> list[psutil.Process]:
    # A driver's own Ray is its family.
    family = psutil.Process(job.pid).children(recursive=True)
    return [one for one in family if "TrainWorker" in " ".join(one.cmdline())]


def kill_driver(job: subprocess.Popen[str]) -> None:
    family = psutil.Process(job.pid).children(recursive=True)
    job.kill()
    job.wait()
    psutil.wait_procs(family, timeout=60)


def same(found: list[dict[str, float]], wanted: list[dict[str, float]], within: float) -> None:
    """The same samples at every step, and the same figures."""
    for name in ("step", "tokens", "target_tokens"):
        assert [one[name] for one in found] == [one[name] for one in wanted]
    for name in ("loss", "validation_loss", "grad_norm"):
        assert [one[name] for one in found] == pytest.approx(
            [one[name] for one in wanted], abs=within, nan_ok=True
        ), name
    apart = max(abs(one["loss"] - other["loss"]) for one, other in zip(found, wanted, strict=True))
    print(f"largest difference of the loss over {len(found)} steps: {apart:.2e}")


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_a_worker_killed_in_an_epoch_is_replaced_and_nothing_changes(
    tmp_path: Path, base: Path, whole: list[dict[str, float]], zero_stage: int
) -> None:
    recipe = recipe_in(tmp_path / "run", base, zero_stage=zero_stage)
    job = start(recipe)
    wait_for(job, lambda: bool(saved_steps(recipe)))
    time.sleep(1)
    assert {one.environ()["CUDA_VISIBLE_DEVICES"] for one in workers(job)} == {""}
    workers(job)[-1].kill()
    assert job.wait(900) == 0
    assert "a worker died" in (recipe.parent / "screen.txt").read_text(encoding="utf-8")
    same(curve(recipe), whole, 1e-6 if zero_stage == 0 else 1e-4)


@pytest.mark.parametrize("whom", ["a worker", "all workers", "the driver"])
def test_one_killed_while_saving_goes_on_from_the_checkpoint_before(
    tmp_path: Path, base: Path, whole: list[dict[str, float]], whom: str
) -> None:
    recipe = recipe_in(tmp_path / "run", base)
    job = start(recipe)
    wait_for(job, lambda: is_saving(recipe))
    if whom == "the driver":
        kill_driver(job)
    else:
        for one in workers(job)[-1:] if whom == "a worker" else workers(job):
            one.kill()
    print(f"killed {whom}; whole checkpoints {saved_steps(recipe)}")
    if whom == "the driver":
        assert run(recipe, env=ENV, timeout_s=900).returncode == 0
    else:
        assert job.wait(900) == 0
    same(curve(recipe), whole, 1e-6)


def test_a_killed_driver_goes_on_with_as_many_workers_and_with_fewer(
    tmp_path: Path, base: Path, whole: list[dict[str, float]]
) -> None:
    recipe = recipe_in(tmp_path / "two", base)
    job = start(recipe)
    wait_for(job, lambda: len(saved_steps(recipe)) == 2)
    kill_driver(job)
    step = saved_steps(recipe)[-1]
    fewer = recipe_in(tmp_path / "one", base)
    shutil.copytree(recipe.parent / "out", fewer.parent / "out")
    for one, keys, within in (
        (recipe, (), 1e-6),
        (fewer, ("train.num_workers=[1,1]", "train.cpus_per_worker=2"), 1e-4),
    ):
        assert run(one, *keys, env=ENV, timeout_s=900).returncode == 0
        same(curve(one), whole, within)
    num_workers = [point["num_workers"] for point in curve(fewer)]
    assert num_workers == [2] * step + [1] * (len(whole) - step)


def test_a_full_disk_ends_it_in_one_line_and_with_room_it_goes_on(
    tmp_path: Path, base: Path, whole: list[dict[str, float]]
) -> None:
    recipe = recipe_in(tmp_path / "run", base)
    out = recipe.parent / "out"
    out.mkdir()
    typed = " ".join(command(recipe))
    # Room for one checkpoint and a half, then for all. A mount needs a user namespace, no root.
    script = f"""
        mount -t tmpfs -o size=300m none {out} || exit 77
        {typed}; echo "code $?" >&2
        ls {out}/trained/*/checkpoints/*/manifest.json >&2
        mount -o remount,size=1g {out}
        {typed} && cp -r {out} {out}.kept
    """
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script],
        cwd=ROOT,
        env=ENV,
        capture_output=True,
        text=True,
        timeout=1700,
    )
    if done.returncode == 77:
        pytest.skip("this machine lets nobody mount")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "code 1" in done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("garrison:")]
    assert len(told) == 1
    assert "make room" in told[0].lower()
    print(told[0])
    out.rmdir()
    shutil.move(f"{out}.kept", out)
    same(curve(recipe), whole, 1e-6)
    assert json.loads((home(recipe) / "manifest.json").read_text())["num_steps"] == len(whole)
    assert manifest(recipe)["num_workers"] == 2

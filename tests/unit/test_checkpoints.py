"""Checkpoints: whole or absent, each worker's part once, the newest and the best kept."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ray_jobs.steps import JobFailed
from ray_jobs.tables import Folder
from ray_jobs.training.checkpoints import Writer, latest, published, remove_unfinished
from ray_jobs.training.curve import Point, from_tsv, to_tsv
from ray_jobs.training.settings import Checkpoints

ROOT = Path(__file__).resolve().parents[2]
ABOUT = {"model": "m", "training": "t"}
POINT = Point(
    step=1,
    epoch=0.1,
    loss=1 / 3,
    validation_loss=None,
    learning_rate=6e-7,
    grad_norm=0.5,
    target_tokens=10,
    tokens=20,
    seconds=0.25,
    num_workers=1,
    memory_bytes=1 << 30,
)
SAVE_FOR_EVER = """
import sys
from tests.unit.test_checkpoints import state, writer, curve
one = writer(sys.argv[1])
for step in range(1, 10_000):
    one.save(state(step, 2_000_000), curve(step))
    print(step, flush=True)
"""


def curve(step: int, validation_loss: float | None = None) -> list[Point]:
    points = [replace(POINT, step=number + 1) for number in range(step)]
    return [*points[:-1], replace(points[-1], validation_loss=validation_loss)]


def state(step: int, size: int = 100) -> Iterator[tuple[str, Tensor]]:
    """Tensors of several kinds; their values tell the step."""
    for name in ("a", "b.c"):
        yield f"weight/{name}", torch.full((2, size // 2), float(step))
        yield f"exp_avg/{name}", torch.full((2, size // 2), step + 0.5)
    yield "state1/a", torch.full((7,), step % 256, dtype=torch.uint8)
    yield "absmax1/a", torch.tensor(float(step))
    yield "weight/empty", torch.empty((0, 3))


def writer(folder: str, **changes: object) -> Writer:
    given = {"cfg": Checkpoints(keep_last=2), "attempt": "x", "spare_bytes": 1e9, **changes}
    return Writer(home=Folder(folder), about=ABOUT, **given)  # type: ignore[arg-type]


def save_and_wait(one: Writer) -> None:
    one.save(state(2, 1_000_000), curve(2))
    one.wait()


def check_for_ten_seconds(one: Writer) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        one.check()
        time.sleep(0.01)


def is_whole(folder: str, step: int) -> bool:
    saved = latest(Folder(folder), ABOUT)
    assert saved is not None
    assert saved.step == step
    assert len(saved.curve()) == step
    size = saved.read("weight/a").numel()
    wanted = dict(state(step, size))
    assert set(saved.manifest["tensors"]) == set(wanted)
    return all(
        torch.equal(saved.read(name), one)
        and saved.read(name).dtype == one.dtype
        and saved.read(name).shape == one.shape
        for name, one in wanted.items()
    )


@pytest.mark.parametrize("spare_bytes", [0, 500, 1e9])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_what_was_saved_is_read_back_by_name(
    tmp_path: Path, world_size: int, spare_bytes: float
) -> None:
    writers = [
        writer(str(tmp_path), rank=rank, world_size=world_size, spare_bytes=spare_bytes)
        for rank in reversed(range(world_size))  # the first publishes, and would wait for others
    ]
    for one in writers:
        one.save(state(3), curve(3))
    for one in writers:
        one.wait()
    assert is_whole(str(tmp_path), 3)
    sizes = [file.stat().st_size for file in tmp_path.glob("*/part-*.bin")]
    assert len(sizes) == world_size
    assert sum(sizes) == sum(tensor.nbytes for _, tensor in state(3))
    assert max(sizes) - min(sizes) <= 800


def test_the_state_may_change_while_it_is_written(tmp_path: Path) -> None:
    one, live = writer(str(tmp_path)), dict(state(1, 4_000_000))
    one.save(iter(live.items()), curve(1))
    for tensor in live.values():
        tensor.zero_()
    one.wait()
    assert is_whole(str(tmp_path), 1)


def test_a_worker_publishes_only_when_all_parts_are_there(tmp_path: Path) -> None:
    first, second = (writer(str(tmp_path), rank=rank, world_size=2) for rank in (0, 1))
    first.save(state(1), curve(1))
    time.sleep(0.3)
    first.check()
    assert latest(Folder(str(tmp_path)), ABOUT) is None
    second.save(state(1), curve(1))
    first.wait()
    assert is_whole(str(tmp_path), 1)


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    one = writer(str(tmp_path))
    for step, loss in [(1, 2.0), (2, 1.0), (3, None), (4, 1.5), (5, 1.6)]:
        one.save(state(step), curve(step, loss))
    one.wait()
    assert [saved.step for saved in published(Folder(str(tmp_path)))] == [2, 4, 5]
    assert len(list(tmp_path.iterdir())) == 3
    without = writer(str(tmp_path), cfg=Checkpoints(keep_last=1, keep_best=False))
    without.save(state(6), curve(6, 9.0))
    without.wait()
    assert [saved.step for saved in published(Folder(str(tmp_path)))] == [6]


def test_what_has_no_manifest_is_no_checkpoint_and_goes(tmp_path: Path) -> None:
    one = writer(str(tmp_path))
    one.save(state(1), curve(1))
    one.wait()
    left = tmp_path / "00000002-y"
    left.mkdir()
    (left / "part-00000.bin").write_bytes(b"half")
    assert is_whole(str(tmp_path), 1)
    remove_unfinished(Folder(str(tmp_path)))
    assert not left.exists()
    assert is_whole(str(tmp_path), 1)


def test_a_checkpoint_of_another_model_is_refused_in_one_line(tmp_path: Path) -> None:
    one = writer(str(tmp_path))
    one.save(state(1), curve(1))
    one.wait()
    with pytest.raises(ValueError, match="a checkpoint of another model") as error:
        latest(Folder(str(tmp_path)), {"model": "n", "training": "t"})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("spare_bytes", [0, 1e9])
def test_a_full_disk_leaves_the_earlier_checkpoint_whole(
    tmp_path: Path, spare_bytes: float
) -> None:
    one = writer(str(tmp_path), spare_bytes=spare_bytes)
    one.save(state(1, 100), curve(1))
    one.wait()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        with pytest.raises(JobFailed, match="those before are whole") as error:
            save_and_wait(one)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert "\n" not in str(error.value)
    assert is_whole(str(tmp_path), 1)
    remove_unfinished(Folder(str(tmp_path)))
    assert len(list(tmp_path.iterdir())) == 1


def test_a_failure_in_the_background_is_told_at_the_next_step(tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("no folder")
    one = writer(str(tmp_path / "blocked"))
    one.save(state(1), curve(1))
    with pytest.raises(JobFailed, match="could not be written"):
        check_for_ten_seconds(one)


def test_one_that_is_killed_while_saving_damages_none(tmp_path: Path) -> None:
    for wait_s in (0.01, 0.06):
        folder = tmp_path / str(wait_s)
        job = subprocess.Popen(
            [sys.executable, "-c", SAVE_FOR_EVER, str(folder)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert job.stdout is not None
        told = [int(job.stdout.readline()) for _ in range(3)]
        time.sleep(wait_s)
        job.kill()
        job.wait()
        saved = latest(Folder(str(folder)), ABOUT)
        assert saved is not None
        assert saved.step >= told[-1] - 1  # the next one waits for it
        assert is_whole(str(folder), saved.step)


def test_a_curve_keeps_all_its_digits() -> None:
    points = [*curve(2), replace(POINT, step=3, validation_loss=2 / 3)]
    assert from_tsv(to_tsv(points)) == points

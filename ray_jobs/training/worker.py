"""What Ray Train runs in each worker: the loop, and what it reads and saves on the way.

The first worker tells the driver by an actor (`Board`): Ray Train itself keeps figures only beside
a checkpoint of its own.
"""

from __future__ import annotations

import resource
import secrets
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import psutil
import ray
import ray.train
import ray.train.torch
import torch

from ray_jobs.tables import Folder
from ray_jobs.training import loop
from ray_jobs.training.board import Assignment
from ray_jobs.training.checkpoints import Saved, Writer, latest, remove_unfinished
from ray_jobs.training.curve import Point
from ray_jobs.training.examples import Samples
from ray_jobs.training.fitting import refuse_unfit
from ray_jobs.training.loop import Hooks, Progress
from ray_jobs.training.models import load_model
from ray_jobs.training.results import CHECKPOINTS

if TYPE_CHECKING:
    from ray.actor import ActorHandle

KIB = 1 << 10


def work(given: Mapping[str, Assignment]) -> None:
    """Train, from the newest checkpoint on, and save. The function of a TorchTrainer."""
    task = given["assignment"]
    cfg, context = task.cfg, ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    refuse_unfit(cfg, world_size)
    torch.set_num_threads(max(1, int(cfg.cpus_per_worker)))
    home = Folder(task.home) / CHECKPOINTS
    attempt, saved = _agreed(lambda: _begin(home, task.about), rank)
    curve = [] if saved is None else saved.curve()
    if rank == 0:
        ray.get(task.board.begin.remote(curve, world_size))
    writer = Writer(
        home=home,
        about=task.about,
        cfg=cfg.checkpoint,
        attempt=attempt,
        rank=rank,
        world_size=world_size,
        spare_bytes=psutil.virtual_memory().available / (2 * context.get_local_world_size()),
    )
    board, on_gpu = task.board if rank == 0 else None, cfg.gpus_per_worker > 0
    told = _Told(curve, writer, board, world_size, on_gpu=on_gpu)
    loop.train(
        load_model(cfg.base, cfg.revision),
        ray.get(task.samples),
        cfg,
        report=told.report,
        seed=task.seed,
        rank=rank,
        world_size=world_size,
        device=str(ray.train.torch.get_device()),
        start_step=0 if saved is None else saved.step,
        validation=_validation(task),
        hooks=Hooks(
            restore=None if saved is None else lambda one: one.load(saved.read, saved.step),
            save=lambda driver, _: writer.save(driver.state(), curve),
            stop=told.stop,
        ),
    )
    writer.wait()


def _begin(home: Folder, about: Mapping[str, str]) -> tuple[str, Saved | None]:
    remove_unfinished(home)
    return secrets.token_hex(4), latest(home, about)


def _agreed(begin: Callable[[], tuple[str, Saved | None]], rank: int) -> tuple[str, Saved | None]:
    """What the first worker finds, on all of them: they must not see different checkpoints."""
    box: list[Any] = [begin() if rank == 0 else None]
    torch.distributed.broadcast_object_list(box, src=0)
    found: tuple[str, Saved | None] = box[0]
    return found


def _validation(task: Assignment) -> Samples | None:
    if task.validation is None or not task.cfg.validation.every_steps:
        return None
    samples: Samples = ray.get(task.validation)
    return samples


class _Told:
    """Keeps the curve, and tells the board of it where there is one."""

    def __init__(
        self,
        curve: list[Point],
        writer: Writer,
        board: ActorHandle[Any] | None,
        num_workers: int,
        *,
        on_gpu: bool,
    ) -> None:
        self._curve, self._writer, self._on_gpu = curve, writer, on_gpu
        self._board, self._num_workers = board, num_workers
        self._is_to_stop: Any = None

    def report(self, progress: Progress) -> None:
        self._writer.check()
        self._curve.append(
            Point(
                step=progress.step,
                epoch=progress.epoch,
                loss=progress.loss,
                validation_loss=progress.validation_loss,
                learning_rate=progress.learning_rate,
                grad_norm=progress.grad_norm,
                target_tokens=progress.target_tokens,
                tokens=progress.tokens,
                seconds=progress.seconds,
                num_workers=self._num_workers,
                memory_bytes=_memory_bytes(self._on_gpu),
            )
        )
        if self._board is not None:
            self._is_to_stop = self._board.add.remote(self._curve[-1])

    def stop(self, progress: Progress) -> bool:
        return self._board is not None and bool(ray.get(self._is_to_stop))


def _memory_bytes(on_gpu: bool) -> int:
    if on_gpu:
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB

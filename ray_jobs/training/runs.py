"""The driver's side of training: starts workers by Ray Train, follows them, starts them again where
one has died.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import ray
import ray.train
from ray.actor import ActorHandle
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_jobs.outcomes import first_line
from ray_jobs.steps import JobFailed
from ray_jobs.tables import Folder
from ray_jobs.training.board import Assignment, Board
from ray_jobs.training.checkpoints import remove_unfinished
from ray_jobs.training.curve import Point, to_svg, to_tsv
from ray_jobs.training.results import CHECKPOINTS
from ray_jobs.training.settings import Train
from ray_jobs.training.worker import work

MAX_DEATHS = 3
"""Starts in a row that die at the same step."""
RESIZED_S = 600.0
"""How long a group of workers keeps its size before it may grow; it then goes on from its newest
checkpoint."""
WRITTEN_S = 10.0
WAITING_S = 60.0
RAY = "ray"
log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Run:
    """One training on Ray, in the background of the driver."""

    name: str
    cfg: Train
    home: Folder
    seed: int
    about: Mapping[str, str]
    samples: Any
    """A Samples, or None, as ray.put gave it."""
    validation: Any
    num_steps: int
    curve: list[Point] = field(default_factory=list)
    """What is known so far, also of an earlier start."""
    num_workers: int = 0
    """0 until they have started."""

    def __post_init__(self) -> None:
        self._board = _board()
        self._start, self._written = 0, time.monotonic()
        self._asked = time.monotonic()
        self.done: Future[None] = Future()
        """Ends with the run; raises JobFailed where it cannot go on."""
        # No pool: at the driver's end Python would wait for its threads.
        threading.Thread(target=_resolve, args=(self.done, self._fit), daemon=True).start()

    def stop(self) -> None:
        """Let the workers save and end after their step."""
        self._board.stop.remote()

    def poll(self) -> None:
        """Ask what is new."""
        asked: Any = self._board.since.remote(self._start, len(self.curve))
        told: tuple[int, int, list[Point]] = ray.get(asked)
        start, self.num_workers, found = told
        if start != self._start:
            self._start, self.curve = start, []
        self.curve += found
        if found and time.monotonic() > self._written + WRITTEN_S:
            self.write_curve()
        if not self.num_workers and time.monotonic() > self._asked + WAITING_S:
            self._asked = time.monotonic()
            log.info("%s: waiting for %s", self.name, _wanted(self.cfg))

    def write_curve(self) -> None:
        """Write the curve as it is now, as a table and a picture."""
        self._written = time.monotonic()
        if self.curve:
            self.home.write("curve.tsv", to_tsv(self.curve))
            self.home.write("curve.svg", to_svg(self.curve, self.name))

    def _fit(self) -> None:
        deaths, died_at = 0, -1
        try:
            while error := self._fit_once():
                step = self.curve[-1].step if self.curve else 0
                deaths, died_at = deaths + 1 if step <= died_at else 1, max(step, died_at)
                if deaths == MAX_DEATHS:
                    raise JobFailed(
                        f"{self.name}: its workers died {deaths} times by step {step + 1}: "
                        f"{first_line(error)}; see whether their memory and network are enough"
                    ) from error
                log.info("%s: a worker died at step %d, starting again", self.name, step + 1)
        finally:
            remove_unfinished(self.home / CHECKPOINTS)
            (self.home / RAY).delete()

    def _fit_once(self) -> Exception | None:
        """One start of the workers. Returns how one died; JobFailed where they cannot go on."""
        trainer = TorchTrainer(
            work,
            train_loop_config={
                "assignment": Assignment(
                    cfg=self.cfg,
                    seed=self.seed,
                    home=self.home.uri,
                    about=self.about,
                    samples=self.samples,
                    validation=self.validation,
                    board=self._board,
                )
            },
            torch_config=TorchConfig(backend="nccl" if self.cfg.gpus_per_worker else "gloo"),
            scaling_config=_scaling(self.cfg),
            # Ray Train cannot tell a death from an error that will come again: we start anew.
            run_config=RunConfig(  # type: ignore[call-arg]  # its types are those of an older one
                name="run",
                storage_path=(self.home / RAY).uri,
                failure_config=FailureConfig(max_failures=0),
                worker_runtime_env={"env_vars": visible(self.cfg)},
            ),
        )
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            return self._death(error)
        return None

    def _death(self, error: Exception) -> Exception:
        """The death of a worker; JobFailed where none died."""
        failures = list(getattr(error, "worker_failures", {}).values()) or [error]
        for one in failures:
            if isinstance(one, JobFailed | ValueError):
                raise JobFailed(str(one)) from error
        if (death := death_among(failures)) is not None:
            return death
        self.home.write("error.txt", str(error).encode())
        failed = next(one for one in failures if not _is_cut_off(one))
        raise JobFailed(
            f"{self.name}: a worker failed: {type(failed).__name__}: "
            f"{first_line(failed)}; more in {self.home.uri}/error.txt"
        ) from error


def death_among(failures: Sequence[Exception]) -> Exception | None:
    """What tells of a worker's death; None where a worker failed by itself."""
    # Ray's are of the machinery; a worker's own exception comes as it was raised.
    for one in failures:
        if type(one).__module__.startswith("ray."):
            return one
    # Who is lost with its machine may not be missed by Ray yet when the others miss it.
    return failures[0] if all(_is_cut_off(one) for one in failures) else None


def _is_cut_off(error: Exception) -> bool:
    """Whether a worker could not reach another: PyTorch has types for that, but gloo's errors are
    told by the file in their text alone.
    """
    from torch.distributed import DistError

    is_gloos = isinstance(error, RuntimeError) and "/gloo/" in str(error)
    return is_gloos or isinstance(error, DistError)


def visible(cfg: Train) -> dict[str, str]:
    """The environment of workers. Ray leaves cards in sight of those that asked for none, and
    DeepSpeed would take them.
    """
    return {} if cfg.gpus_per_worker else {"CUDA_VISIBLE_DEVICES": ""}


def _board() -> ActorHandle[Any]:
    # Beside the driver, which ends with its machine anyway: any other may be taken away.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board: Any = ray.remote(Board)
    return board.options(num_cpus=0, scheduling_strategy=here).remote()


def _scaling(cfg: Train) -> ScalingConfig:
    fewest, most = cfg.num_workers
    resources = {"CPU": cfg.cpus_per_worker}
    if cfg.gpus_per_worker:
        resources["GPU"] = cfg.gpus_per_worker
    # Ray's types are those of its older ScalingConfig.
    return ScalingConfig(  # type: ignore[call-arg]
        num_workers=fewest if fewest == most else (fewest, most),  # type: ignore[arg-type]
        use_gpu=cfg.gpus_per_worker > 0,
        resources_per_worker=resources,
        elastic_resize_monitor_interval_s=RESIZED_S,
    )


def _wanted(cfg: Train) -> str:
    of_each = f"{cfg.cpus_per_worker:g} CPUs"
    if cfg.gpus_per_worker:
        of_each += f" and {cfg.gpus_per_worker:g} GPU"
    has = ray.cluster_resources()
    return (
        f"{cfg.num_workers[0]} workers with {of_each} each to start; the cluster has "
        f"{has.get('CPU', 0):g} CPUs and {has.get('GPU', 0):g} GPUs in all"
    )


def _resolve(future: Future[None], fit: Callable[[], None]) -> None:
    try:
        fit()
        future.set_result(None)
    except BaseException as error:  # noqa: BLE001  it is handed to who waits for the future
        future.set_exception(error)

"""The curve in the tools that show curves: TensorBoard's event files, MLflow, Weights & Biases."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from ray_jobs.training.curve import Point
from ray_jobs.training.settings import Logging

Track: TypeAlias = Callable[[Point], None]
PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}


def check(cfg: Logging) -> None:
    """ValueError where a tool's package is not installed."""
    for name, package in PACKAGES.items():
        if getattr(cfg, name) and importlib.util.find_spec(package) is None:
            raise ValueError(
                f"train.logging.{name}: it needs the package {package}; install it, or leave "
                f"{name} out"
            )


@contextmanager
def trackers(
    cfg: Logging, *, folder: Path | None, run: str, settings: Mapping[str, Any], start_step: int
) -> Iterator[Track]:
    """A function that every point goes to, from `start_step` on. `folder` holds TensorBoard's
    files; None where results are not on a disk, and then there are none.
    """
    with ExitStack() as stack:
        found: list[Track] = []
        if cfg.tensorboard and folder is not None:
            found.append(_tensorboard(stack, folder, start_step))
        if cfg.mlflow:
            found.append(_mlflow(stack, cfg.mlflow, run, settings))
        if cfg.wandb:
            found.append(_wandb(stack, cfg.wandb, run, settings))

        def track(point: Point) -> None:
            for one in found:
                one(point)

        yield track


def _figures(point: Point) -> dict[str, float]:
    figures = {
        "loss": point.loss,
        "learning_rate": point.learning_rate,
        "grad_norm": point.grad_norm,
        "tokens_per_s": point.tokens / point.seconds,
        "memory_gib": point.memory_bytes / 2**30,
    }
    if point.validation_loss is not None:
        figures["validation_loss"] = point.validation_loss
    return {f"train/{name}": figure for name, figure in figures.items()}


def _tensorboard(stack: ExitStack, folder: Path, start_step: int) -> Track:
    from tensorboardX import SummaryWriter

    # What an earlier start wrote of later steps is hidden: they are done again.
    writer = SummaryWriter(str(folder), purge_step=start_step + 1)
    stack.callback(writer.close)

    def track(point: Point) -> None:
        for name, figure in _figures(point).items():
            writer.add_scalar(name, figure, point.step)

    return track


def _mlflow(stack: ExitStack, address: str, run: str, settings: Mapping[str, Any]) -> Track:
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=address)
    found = client.get_experiment_by_name("garrison")
    experiment = found.experiment_id if found else client.create_experiment("garrison")
    made = client.create_run(experiment, run_name=run).info.run_id
    for name, value in settings.items():
        client.log_param(made, name, str(value)[:500])
    stack.callback(client.set_terminated, made)

    def track(point: Point) -> None:
        for name, figure in _figures(point).items():
            client.log_metric(made, name, figure, step=point.step)

    return track


def _wandb(stack: ExitStack, project: str, run: str, settings: Mapping[str, Any]) -> Track:
    import wandb

    # One run of ours is one of theirs, however often it is resumed.
    session = wandb.init(project=project, id=run, resume="allow", config=dict(settings))
    stack.callback(session.finish)
    return lambda point: session.log(_figures(point), step=point.step)

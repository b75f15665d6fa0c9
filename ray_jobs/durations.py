"""How long the jobs of a recipe will take: measured by an earlier run of theirs, or computed from a
stated speed. Where there is neither, unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from ray_jobs import formats
from ray_jobs.config import Recipe
from ray_jobs.engines.shapes import Shape, UnknownShape
from ray_jobs.forecasts import Machine, base_shape, known_card
from ray_jobs.tables import Folder
from ray_jobs.training.chats import data_files
from ray_jobs.training.settings import Train

CORE_FLOPS = 0.08e12
"""Of a CPU core in training: two passed 6,800 tokens/s of a 3.9M-parameter model, in fp32."""
HOPED = 0.5
"""Share of a card's best speed that training is counted with."""
PASSES, ADAPTED_PASSES = 6, 4
"""Operations per token and parameter: 2 forward, and backward 4, or 2 where weights are frozen; 2
more where layers are computed twice (activation checkpointing)."""


def of_jobs(recipe: Recipe, machine: Machine) -> Iterator[tuple[str, str]]:
    """A job, and what is known of its duration."""
    yield "build_data", _of_build_data(recipe)
    if recipe.train is not None:
        yield "train", of_training(recipe, recipe.train, machine)


def _of_build_data(recipe: Recipe) -> str:
    out = Folder(recipe.out)
    folders = [name for name in out.names() if "." not in name]
    tables = [name for name in folders if "manifest.json" in (out / name).names()]
    if not tables:
        return "hours unknown: no step of it has run in out yet"
    seconds = sum(_manifest(out / name)["wall_s"] for name in tables)
    return f"{_told(seconds)}, measured: the {len(tables)} steps that out holds"


def of_training(recipe: Recipe, train: Train, machine: Machine) -> str:
    """Hours at the most: every row as long as the cutoff."""
    try:
        shape = base_shape(train)
    except UnknownShape as unknown:
        return f"hours unknown: {unknown}"
    rows, whose = _rows(recipe, train)
    speed, source = _speed(shape, train, machine)
    if not rows or not speed:
        return f"hours unknown: {whose if not rows else source}"
    runs = max(1, len(train.learning_rates)) * max(1, len(train.batch_sizes))
    workers = train.num_workers[0]
    seconds = rows * train.cutoff * train.epochs * runs / speed
    return (
        f"at most {_told(seconds)}: {rows:,} rows ({whose}) of ≤ {train.cutoff} tokens, "
        f"{train.epochs} epochs{f', {runs} trials' if runs > 1 else ''}, "
        f"{speed:,.0f} tokens/s{f' of {workers} workers' if workers > 1 else ''} ({source})"
    )


def _rows(recipe: Recipe, train: Train) -> tuple[int, str]:
    if train.data:
        try:
            return count_rows(train.data), train.data
        except ValueError as error:
            return 0, str(error)
    exported = Folder(recipe.out) / "exported"
    if "manifest.json" in exported.names():
        return int(_manifest(exported)["num_rows"]), "exported"
    quotas = recipe.build_data.selection
    if quotas.num_prompts and quotas.num_general:
        return quotas.num_prompts + quotas.num_general, "the most that selection takes"
    return 0, "how many rows build_data will export is not known"


@cache
def count_rows(data: str) -> int:
    """Rows to train on in a file, or in a folder of an export. ValueError where it cannot be read,
    or has none.
    """
    file, _ = data_files(data)
    num = sum(1 for _ in formats.rows(file, {}))
    if not num:
        raise ValueError(f"train.data: {data} has no rows; there is nothing to train on")
    return num


def _speed(shape: Shape, train: Train, machine: Machine) -> tuple[float, str]:
    """Tokens a second of the fewest workers, and where that figure comes from."""
    passes = ADAPTED_PASSES if train.lora.rank else PASSES
    passes += 2 if train.activation_checkpointing else 0
    per_token, workers = passes * shape.num_parameters, train.num_workers[0]
    if not train.gpus_per_worker:
        cores = min(workers * train.cpus_per_worker, machine.cpus)
        return cores * CORE_FLOPS / per_token, "assumed: as measured on two cores, see README"
    known = known_card(machine.card)
    if known is None:
        return 0.0, f"the speed of {machine.card or 'the card'} is not in conf/cards.yaml"
    flops = HOPED * known.bf16_tflops * 1e12
    return workers * flops / per_token, f"assumed: half of {known.bf16_tflops:g} TFLOP/s"


def _told(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def _manifest(folder: Folder) -> dict[str, Any]:
    manifest = folder.read_json("manifest.json")
    assert manifest is not None, "its name was listed"
    return manifest

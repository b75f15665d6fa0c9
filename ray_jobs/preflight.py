"""Job: say what a recipe needs before anything is loaded, and refuse what cannot fit."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table as Screen

from cluster import hardware
from cluster.hardware import GIB
from ray_jobs import build_data, durations, evaluate, forecasts, tiny
from ray_jobs.config import Recipe
from ray_jobs.engines.models import check_model, is_local
from ray_jobs.engines.shapes import UnknownShape, shape_of
from ray_jobs.engines.vllm import VllmConfig
from ray_jobs.forecasts import Forecast, Machine
from ray_jobs.hubs import Hubs, reach

BF16_BYTES = 2


@dataclass(frozen=True, kw_only=True)
class Found:
    """One line of the screen, and why the run cannot go on with it, if it cannot."""

    what: str
    told: str
    problem: str = ""


def preflight(recipe: Recipe) -> None:
    """Check what the recipe names, predict memory, disk and hours, and print them on one screen.

    ValueError, naming a key and what would fit, where something cannot.
    """
    machine = forecasts.look(recipe)
    needs = [*forecasts.of_engines(recipe, machine)]
    if recipe.train is not None:
        needs.append(forecasts.of_training(recipe.train, machine))
    found = [
        Found(what="machine", told=_machine(machine)),
        _inputs(recipe),
        *_models(recipe),
        *_gpus(recipe, machine),
        _disk(recipe),
        *(Found(what=job, told=told) for job, told in durations.of_jobs(recipe, machine)),
    ]
    said = [*(one.problem for one in needs), *(one.problem for one in found)]
    problems = [problem for problem in said if problem]
    # The first is what the job ends with; the screen says the others.
    _show(recipe, machine, found, needs, problems[1:])
    if problems:
        rest = f" (and {len(problems) - 1} more, above)" if problems[1:] else ""
        raise ValueError(f"{recipe.file}: {problems[0]}{rest}")


def _machine(machine: Machine) -> str:
    told = f"{machine.cpus} CPUs, {machine.memory_bytes / GIB:.0f} GiB"
    if machine.nodes is not None:
        told += f"; a cluster of {len(machine.nodes)} nodes with {machine.num_gpus:g} GPUs"
    if machine.cards:
        names = ", ".join(sorted({card.name for card in machine.cards}))
        return f"{told}; {len(machine.cards)} × {names}, {machine.card_bytes / GIB:.0f} GiB"
    counted = f", for the recipe's card ({machine.named})" if machine.named else ""
    return f"{told}; no GPU here: predicted only{counted}"


def _inputs(recipe: Recipe) -> Found:
    try:
        build_data.check(recipe)
        if recipe.train is not None and recipe.train.base not in tiny.NAMES:
            check_model(recipe.train.base, "train.base")
        if recipe.train is not None and recipe.train.data:
            durations.count_rows(recipe.train.data)
        if recipe.evaluate is not None and recipe.models:
            evaluate.check(recipe)
    except ValueError as error:
        problem = str(error).removeprefix(f"{recipe.file}: ")
        return Found(what="inputs", told="refused, see below", problem=problem)
    num = len(recipe.build_data.sources)
    suites = " and suites" if recipe.evaluate is not None and recipe.models else ""
    return Found(what="inputs", told=f"engines, prompts, all {num} sources{suites} are sound")


def _named(recipe: Recipe) -> Sequence[tuple[str, str]]:
    """The models of a hub that the recipe names, with their revisions."""
    engines = [engine for engine in recipe.engines.values() if isinstance(engine, VllmConfig)]
    named = {(engine.model, engine.revision) for engine in engines}
    if recipe.train is not None:
        named.add((recipe.train.base, recipe.train.revision))
    return sorted(
        (model, revision)
        for model, revision in named
        if model not in tiny.NAMES and not is_local(model)
    )


def _is_here(model: str, revision: str) -> bool:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(model, revision=revision or None, local_files_only=True))
        check_model(str(folder), model)
    except (LocalEntryNotFoundError, ValueError):
        return False
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return True
    shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return all((folder / shard).exists() for shard in shards)


def _models(recipe: Recipe) -> Iterator[Found]:
    """Models that are not here: to be had from the hub, or not."""
    absent = [one for one in _named(recipe) if not _is_here(*one)]
    if not absent:
        return
    from huggingface_hub import get_token

    with reach(os.environ, token=get_token() or "") as hubs:
        reasons = [_why_not(model, revision, hubs) for model, revision in absent]
    reason = next(filter(None, reasons), "")
    names = ", ".join(f"{model}{_size(model)}" for model, _ in absent)
    fetch = f"python -m ray_jobs fetch {recipe.file}"
    rest = f" and {len(absent) - 1} more" if absent[1:] else ""
    problem = f"models: {absent[0][0]}{rest} are to be fetched, and {reason}: {fetch}, where it can"
    told = f"to be fetched: {names}"
    yield Found(what="models", told=told, problem=problem if reason else "")


def _size(model: str) -> str:
    try:
        return f" ({BF16_BYTES * shape_of(model).num_parameters / GIB:.1f} GiB)"
    except UnknownShape:
        return ""


def _why_not(model: str, revision: str, hubs: Hubs) -> str:
    """Why the hub does not give a model; empty where it does."""
    url = f"{hubs.endpoints['huggingface']}/{model}/resolve/{revision or 'main'}/config.json"
    headers = {"Authorization": f"Bearer {hubs.token}"} if hubs.token else {}
    try:
        status = hubs.client.head(url, headers=headers).status_code
    except httpx.HTTPError as error:
        return f"{httpx.URL(url).host} cannot be reached ({type(error).__name__})"
    if status in (401, 403):
        return f"its licence is to be accepted first, and HF_TOKEN set (HTTP {status})"
    return "" if status == 200 else f"{url} says HTTP {status}"


def _gpus(recipe: Recipe, machine: Machine) -> Iterator[Found]:
    """Whether there are as many GPUs as the largest part of the recipe holds at once."""
    wanted = {
        f"engines.{name}.placement": engine.placement.gpus * engine.placement.min_actors
        for name, engine in recipe.engines.items()
    }
    if recipe.train is not None:
        wanted["train.num_workers"] = recipe.train.num_workers[0] * recipe.train.gpus_per_worker
    key = max(wanted, key=wanted.__getitem__)
    if machine.num_gpus is None or not wanted[key]:
        return
    told = f"{wanted[key]:g} at once for {key}, {machine.num_gpus:g} here"
    is_short = wanted[key] > machine.num_gpus
    if is_short and machine.nodes is not None:
        yield Found(what="GPUs", told=f"{told}: the cluster has to grow")
    else:
        problem = f"{key}: {told}; {machine.num_gpus:g} would fit" if is_short else ""
        yield Found(what="GPUs", told=told, problem=problem)


def _disk(recipe: Recipe) -> Found:
    """Room for checkpoints and the trained model; how large tables become is not known."""
    saved = 0.0 if recipe.train is None else forecasts.saved_bytes(recipe.train)
    comes = "unknown" if saved is None else f"{saved / GIB:.1f} GiB"
    told = f"tables unknown, checkpoints and trained model {comes}"
    if "://" in recipe.out:
        return Found(what="disk", told=f"{told}; room at {recipe.out} unknown")
    free = hardware.free_bytes(Path(recipe.out))
    room = f"{free / GIB:.1f} GiB are free"
    problem = (
        f"out: checkpoints and trained model take {comes}, {room}; give out= on a larger disk, or "
        "keep fewer: train.checkpoint.keep_last, keep_best"
    )
    return Found(
        what="disk", told=f"{told}; {room}", problem=problem if (saved or 0) > free else ""
    )


def _show(
    recipe: Recipe,
    machine: Machine,
    found: Sequence[Found],
    needs: Sequence[Forecast],
    problems: Sequence[str],
) -> None:
    console = Console()
    screen = Screen(
        title=f"preflight of {recipe.file}",
        title_justify="left",
        box=None,
        pad_edge=False,
        show_header=False,
    )
    screen.add_column(no_wrap=True)
    screen.add_column(overflow="fold")
    for one in found:
        screen.add_row(one.what, one.told)
    for need in needs:
        screen.add_row(need.title, _told(need, machine))
    console.print(screen, highlight=False)
    for mark, lines in (("careful", [need.warning for need in needs]), ("refused", problems)):
        for line in filter(None, lines):
            console.print(f"{mark}: {line}", highlight=False, markup=False, soft_wrap=True)


def _told(need: Forecast, machine: Machine) -> str:
    """What a part needs of what there is, in GiB; what is next to nothing is not named."""
    if not need.parts:
        return need.note
    whose = machine.card_bytes if need.on_gpu else machine.memory_bytes
    there_is = f"{whose / GIB:.0f} GiB" if whose else "a card that is not known"
    written = [(name, f"{size / GIB:.1f}") for name, size in need.parts.items()]
    parts = " + ".join(f"{name} {size}" for name, size in written if size != "0.0")
    told = f"{need.num_bytes / GIB:.1f} of {there_is}: {parts or 'next to nothing'}"
    return "; ".join(filter(None, (told, need.note)))

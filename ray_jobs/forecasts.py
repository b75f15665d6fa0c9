"""What a recipe's engines and its training will need, and how long: before anything is loaded.

Figures are computed from shapes, or measured by an earlier run; where neither is to be had, they
are unknown, and said to be.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache

import yaml

from cluster import hardware
from cluster.hardware import GIB, Card, Node
from ray_jobs import tiny
from ray_jobs.config import Recipe
from ray_jobs.config import cache as cache_folder
from ray_jobs.engines import vllm_memory
from ray_jobs.engines.shapes import Shape, UnknownShape, shape_of
from ray_jobs.engines.vllm import VllmConfig
from ray_jobs.prompts import CONF
from ray_jobs.training import memory
from ray_jobs.training.fitting import why_not
from ray_jobs.training.settings import Train

CARDS = CONF / "cards.yaml"


@dataclass(frozen=True, kw_only=True)
class KnownCard:
    """What conf/cards.yaml says of a card."""

    memory_gib: float
    bf16_tflops: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What there is to run on."""

    cpus: int
    memory_bytes: int
    cards: tuple[Card, ...] = ()
    """Of this machine."""
    nodes: tuple[Node, ...] | None = None
    """Of the cluster, if there is one."""
    named: str = ""
    """The card that the recipe is for, where this machine has none."""

    @property
    def card(self) -> str:
        """The name of the card that is counted with; empty where none is known."""
        return self.cards[0].name if self.cards else self.named

    @property
    def card_bytes(self) -> float:
        """The least memory among the cards; 0 where it is not known."""
        if self.cards:
            return min(card.memory_bytes for card in self.cards)
        known = known_card(self.named)
        return known.memory_gib * GIB if known else 0.0

    @property
    def num_gpus(self) -> float | None:
        """GPUs that are there now; None where there is no way to tell."""
        if self.nodes is not None:
            return sum(node.gpus for node in self.nodes)
        return len(self.cards) if self.cards else None


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What one part of the recipe needs of one card, or of the machine where it uses none."""

    title: str
    parts: Mapping[str, float]
    """Bytes, by what they are for."""
    on_gpu: bool
    note: str = ""
    problem: str = ""
    """Why it cannot run, and what would fit."""
    warning: str = ""

    @property
    def num_bytes(self) -> float:
        """Bytes of all parts."""
        return sum(self.parts.values())


def look(recipe: Recipe) -> Machine:
    """What there is to run on. ValueError where the recipe's card is not known."""
    if recipe.card and known_card(recipe.card) is None:
        raise ValueError(
            f"{recipe.file}: card: {recipe.card!r} is not in conf/cards.yaml; there are "
            + ", ".join(known_cards())
        )
    nodes = hardware.nodes()
    return Machine(
        cpus=hardware.num_cpus(),
        memory_bytes=hardware.memory_bytes(),
        cards=tuple(hardware.cards()),
        nodes=None if nodes is None else tuple(nodes),
        named=recipe.card,
    )


@cache
def known_cards() -> Mapping[str, KnownCard]:
    """The cards of conf/cards.yaml, by name."""
    entries = yaml.safe_load(CARDS.read_text(encoding="utf-8"))["cards"]
    return {str(name): KnownCard(**entry) for name, entry in entries.items()}


def known_card(name: str) -> KnownCard | None:
    """The entry whose words are in `name` (an L4 is no L40S); the longest, where several are."""
    found = [key for key in known_cards() if re.search(rf"\b{re.escape(key)}\b", name)]
    return known_cards()[max(found, key=len)] if found else None


def of_engines(recipe: Recipe, machine: Machine) -> Iterator[Forecast]:
    """What each vLLM engine of the recipe needs."""
    cfg = recipe.build_data
    scoring = "" if "perplexity" in cfg.without else cfg.perplexity.engine
    for name, engine in recipe.engines.items():
        if isinstance(engine, VllmConfig):
            yield _of_engine(name, engine, machine, scores_prompts=name == scoring)


def _of_engine(
    name: str, engine: VllmConfig, machine: Machine, *, scores_prompts: bool
) -> Forecast:
    title, on_gpu = f"engines.{name}", engine.placement.gpus > 0
    try:
        need = vllm_memory.predict(
            engine,
            _shape(engine.model, engine.revision),
            on_gpu=on_gpu,
            scores_prompts=scores_prompts,
        )
    except UnknownShape as unknown:
        return Forecast(title=title, parts={}, on_gpu=on_gpu, note=f"unknown: {unknown}")
    parts: dict[str, float] = {"weights": need.weights, "one step": need.activations}
    if not on_gpu:
        parts = {"weights": need.weights, "KV cache": engine.cpu_kv_cache_gib * GIB}
        tokens = engine.cpu_kv_cache_gib * GIB / need.kv_per_token
        return _in_memory(title, parts, machine, f"{tokens:,.0f} tokens of KV cache", "engines")
    if not machine.card_bytes:
        return Forecast(
            title=title, parts=parts, on_gpu=True, note="the card is not known: no KV cache"
        )
    room = max(0.0, need.kv_room(machine.card_bytes))
    parts["KV cache"] = room
    if problem := need.problem(machine.card_bytes):
        problem = f"{title}.{problem}"
    if warning := need.warning(machine.card_bytes):
        warning = f"{title}.{warning}"
    note = f"{room / need.kv_per_token:,.0f} tokens of KV cache"
    return Forecast(
        title=title, parts=parts, on_gpu=True, note=note, problem=problem, warning=warning
    )


def of_training(train: Train, machine: Machine) -> Forecast:
    """What one worker needs, where there are as few workers as may be."""
    on_gpu, workers = train.gpus_per_worker > 0, train.num_workers[0]
    try:
        shape = base_shape(train)
    except UnknownShape as unknown:
        return Forecast(title="train", parts={}, on_gpu=on_gpu, note=f"unknown: {unknown}")
    need = memory.predict(shape, train, num_workers=workers, on_gpu=on_gpu)
    note = f"most at {need.moment}"
    if not on_gpu:
        parts = {name: part * workers for name, part in need.parts.items()}
        return _in_memory("train", parts, machine, note, "train.pack_tokens")
    problem = ""
    if machine.card_bytes:
        memory_bytes = machine.memory_bytes if machine.cards else 0
        problem = why_not(shape, train, machine.card_bytes, memory_bytes=memory_bytes)
    if need.host * workers > machine.memory_bytes and machine.cards:
        problem = (
            f"train.offload: {need.host * workers / GIB:.1f} GiB of the machine's memory, it has "
            f"{machine.memory_bytes / GIB:.1f}; take more workers, or none"
        )
    if need.host:
        note += f"; {need.host / GIB:.1f} GiB of the machine's memory"
    return Forecast(title="train", parts=need.parts, on_gpu=True, note=note, problem=problem)


def refuse_training(train: Train, machine: Machine) -> None:
    """ValueError where this machine, or the cluster, cannot hold what the job train asks for. Of
    cards it counts only those that are here.
    """
    wanted = train.num_workers[0] * train.gpus_per_worker
    if machine.nodes is None and wanted > len(machine.cards):
        raise ValueError(
            f"train.num_workers: {wanted:g} GPUs at once, {len(machine.cards)} here; run it where "
            "they are, give fewer, or train.gpus_per_worker=0"
        )
    if problem := of_training(train, replace(machine, named="")).problem:
        raise ValueError(problem)


def _in_memory(
    title: str, parts: Mapping[str, float], machine: Machine, note: str, key: str
) -> Forecast:
    needs = sum(parts.values())
    problem = ""
    if needs > machine.memory_bytes and machine.nodes is None:
        problem = (
            f"{key}: {title} needs {needs / GIB:.1f} GiB at the least, this machine has "
            f"{machine.memory_bytes / GIB:.1f}; take a smaller model, or a GPU"
        )
    return Forecast(title=title, parts=parts, on_gpu=False, note=note, problem=problem)


def saved_bytes(train: Train) -> float | None:
    """What checkpoints and the trained model take on a disk; None where it cannot be told."""
    try:
        return memory.saved_bytes(base_shape(train), train)
    except UnknownShape:
        return None


def base_shape(train: Train) -> Shape:
    """The shape of the model that is trained. UnknownShape where it cannot be told yet."""
    return _shape(train.base, train.revision)


def _shape(model: str, revision: str) -> Shape:
    if model not in tiny.NAMES:
        return shape_of(model, revision)
    folder = tiny.folder(model, cache_folder())
    if not folder.is_dir():
        raise UnknownShape(f"{model} is built at first use")
    return shape_of(str(folder))

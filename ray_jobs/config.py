"""A recipe: one YAML file into one frozen, typed config. Past `load` nobody sees a DictConfig."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ray_jobs import catalogue, tiny
from ray_jobs.cells import Diversity
from ray_jobs.engines.models import is_local
from ray_jobs.engines.seam import EngineConfig
from ray_jobs.engines.vllm import VllmConfig
from ray_jobs.evals.settings import Evaluate, Report, labellers
from ray_jobs.judge import JudgeConfig
from ray_jobs.kinds import read_engines
from ray_jobs.ledger import LedgerConfig
from ray_jobs.readers import Source
from ray_jobs.sections import Where, absolute, field_names, merge
from ray_jobs.stages.answers import Answers
from ray_jobs.stages.audit import Audit
from ray_jobs.stages.collect import Collect
from ray_jobs.stages.expansion import Expansion
from ray_jobs.stages.export import Export
from ray_jobs.stages.intents import Intents
from ray_jobs.stages.perplexity import Perplexity
from ray_jobs.stages.rewards import Rewards
from ray_jobs.stages.selection import Selection
from ray_jobs.steps import WhenChanged
from ray_jobs.tables import check_place
from ray_jobs.tested import read_evaluate, read_models
from ray_jobs.training.settings import Train

MAX_SEED = 2**32 - 1
"""The largest that every generator takes."""
SWITCHES = (
    "expansion",
    "fresh_answers",
    "perplexity",
    "response_score",
    "prompt_score",
    "selection",
)


@dataclass(frozen=True, kw_only=True)
class BuildData:
    """The job build_data: a section per stage."""

    sources: Mapping[str, Source]
    collect: Collect
    intents: Intents
    diversity: Diversity
    expansion: Expansion
    answers: Answers
    perplexity: Perplexity
    rewards: Rewards
    audit: Audit
    selection: Selection
    export: Export
    without: tuple[str, ...]
    """Ablations: parts of the method that are left out. `selection` draws as many at random."""

    @property
    def num_rounds(self) -> int:
        """Rounds of expansion; 0 where nothing is wanted or expansion is left out."""
        return 0 if "expansion" in self.without else self.diversity.num_rounds

    def engines(self) -> dict[str, str]:
        """The engines that the stages ask, by the key that names each."""
        stages: list[Any] = [self.intents, self.answers, self.perplexity, self.rewards]
        names = ["intents", "answers", "perplexity", "rewards"]
        if self.num_rounds:
            stages, names = [*stages, self.expansion], [*names, "expansion"]
        if self.audit.engine:  # else that of rewards
            stages, names = [*stages, self.audit], [*names, "audit"]
        return {
            f"build_data.{name}.engine": stage.engine
            for name, stage in zip(names, stages, strict=True)
        }


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything a run needs."""

    file: str
    """Where it was read from, for messages."""
    name: str
    out: str
    """An absolute folder, or s3://… or gs://…"""
    seed: int = 0
    when_changed: WhenChanged = "refuse"
    card: str = ""
    """The GPU that the recipe is for, by a name in conf/cards.yaml: what preflight counts with on a
    machine without one.
    """
    ledger: LedgerConfig = field(default_factory=LedgerConfig)
    engines: Mapping[str, EngineConfig]
    judge: JudgeConfig | None
    build_data: BuildData
    train: Train | None = None
    """None where the recipe has no such section."""
    models: Mapping[str, str] = field(default_factory=dict)
    """The models that `evaluate` compares, each with the first: a folder, a hub id (id@revision),
    an embedded model, or `trained`: the one that `train` made in this `out`.
    """
    evaluate: Evaluate | None = None
    """None where the recipe has no such section."""
    report: Report = field(default_factory=Report)


def cache() -> Path:
    """Where models and data are kept between runs."""
    place = absolute(os.environ.get("GARRISON_CACHE", "~/.cache/garrison"))
    try:
        check_place(place)
    except ValueError as error:
        raise ValueError(f"GARRISON_CACHE: {error}") from error
    return Path(place)


def placed(engine: VllmConfig) -> VllmConfig:
    """The engine with an embedded model's name replaced by the folder it is, or will be, in."""
    if engine.model not in tiny.NAMES:
        return engine
    folder = tiny.folder(engine.model, cache())
    return replace(
        engine,
        model=str(folder),
        tokenizer=str(folder / tiny.PLANS[engine.model].tokenizer),
        revision=tiny.fingerprint(engine.model),
    )


def placed_base(train: Train) -> Train:
    """The section with an embedded model's name replaced by the folder it is, or will be, in."""
    if train.base not in tiny.NAMES:
        return train
    folder = tiny.folder(train.base, cache())
    return replace(train, base=str(folder), revision=tiny.fingerprint(train.base))


def placed_judge(judge: JudgeConfig) -> JudgeConfig:
    """The judge with its engines placed."""
    found: dict[str, Any] = {
        part: placed(engine) if isinstance(engine, VllmConfig) else engine
        for part, engine in judge.engines()
    }
    return replace(judge, **found)


def load(path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and its `key=value` overrides. ValueError, one line, names the key that is
    wrong and what to do.
    """
    data = merge(path, overrides)
    where = Where(path)
    where.check_keys(data, field_names(Recipe) - {"file"}, "")
    out = _out(where, data)
    engines, judge = read_engines(where, data, out)
    recipe = Recipe(
        file=path,
        name=where.text(data, "name") or Path(path).stem,
        out=out,
        seed=where.number(data, "seed", MAX_SEED),
        when_changed=where.choice(data, "when_changed", ("refuse", "rebuild")),
        card=where.text(data, "card"),
        ledger=where.section(LedgerConfig, data.get("ledger") or {}, "ledger"),
        engines=engines,
        judge=judge,
        build_data=_build_data(where, where.mapping(data, "build_data")),
        train=_train(where, data.get("train")),
        models=read_models(where, data.get("models")),
        evaluate=read_evaluate(where, data.get("evaluate"), cache()),
        report=where.section(Report, data.get("report") or {}, "report"),
    )
    _check_engine_names(where, recipe)
    return recipe


def _out(where: Where, data: Mapping[str, Any]) -> str:
    out = where.text(data, "out")
    if not out:
        raise where.error("out", "missing; give the folder or URI for the results")
    # Ray unpacks an uploaded working_dir under such a path, and removes it: results there would be
    # lost.
    is_lost = re.search(r"working_dir_files|_ray_pkg_", str(Path.cwd()))
    if is_lost and "://" not in out and not Path(out).expanduser().is_absolute():
        raise where.error(
            "out",
            f"{out!r} is relative, and would be lost with the uploaded working_dir; "
            "add to the command: out=/an/absolute/folder (or s3://…)",
        )
    try:
        check_place(absolute(out))
    except ValueError as error:
        raise where.error("out", str(error)) from error
    return absolute(out)


def _build_data(where: Where, data: dict[str, Any]) -> BuildData:
    sections = {
        "collect": Collect,
        "intents": Intents,
        "diversity": Diversity,
        "expansion": Expansion,
        "answers": Answers,
        "perplexity": Perplexity,
        "rewards": Rewards,
        "audit": Audit,
        "selection": Selection,
        "export": Export,
    }
    where.check_keys(data, {*sections, "sources", "without"}, "build_data")
    sources = {
        name: where.section(Source, _known(where, name, entry), f"build_data.sources.{name}")
        for name, entry in where.mapping(data, "sources", "build_data.").items()
        if entry is not None  # sources.samples=null removes a source
    }
    if not sources:
        raise where.error("build_data.sources", "at least one source is needed")
    placed = {name: replace(one, path=absolute(one.path)) for name, one in sources.items()}
    built: dict[str, Any] = {
        name: where.section(kind, data.get(name) or {}, f"build_data.{name}")
        for name, kind in sections.items()
    }
    return BuildData(sources=placed, without=_without(where, data.get("without")), **built)


def _train(where: Where, entry: Any) -> Train | None:
    if entry is None:
        return None
    built = where.section(Train, entry, "train")
    is_folder = built.base not in tiny.NAMES and is_local(built.base)
    return replace(
        built,
        base=absolute(built.base) if is_folder else built.base,
        data=absolute(built.data) if built.data else "",
        deepspeed=absolute(built.deepspeed) if built.deepspeed else "",
    )


def _known(where: Where, name: str, entry: Any) -> Any:
    """A source with what the catalogue knows of it, and where `fetch` puts its file."""
    if not isinstance(entry, dict):
        return entry
    keys = field_names(Source) - {"catalogue"} | {"from"}  # the catalogue fills it in
    where.check_keys(entry, keys, f"build_data.sources.{name}")
    kept = cache()
    try:
        return catalogue.resolve(entry, kept)
    except ValueError as error:
        raise where.error(f"build_data.sources.{name}.from", str(error)) from error


def _without(where: Where, found: Any) -> tuple[str, ...]:
    names = found if isinstance(found, list) else [] if found is None else [found]
    for name in names:
        if name not in SWITCHES:
            raise where.error(
                "build_data.without", f"expected some of {', '.join(SWITCHES)}, found {name!r}"
            )
    return tuple(sorted(set(names)))


def _check_engine_names(where: Where, recipe: Recipe) -> None:
    named = recipe.build_data.engines()
    if recipe.evaluate:
        named["evaluate.engine"] = recipe.evaluate.engine
        named |= labellers(recipe.evaluate)
        if recipe.evaluate.judge:
            named["evaluate.judge"] = recipe.evaluate.judge
    for key, name in named.items():
        if name not in recipe.engines:
            raise where.error(
                key, f"there is no engine {name!r}; there are {', '.join(recipe.engines)}"
            )

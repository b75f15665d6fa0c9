"""A recipe: one YAML file into one frozen, typed config. Past `load` nobody sees a DictConfig."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ray_jobs import catalogue, tiny
from ray_jobs.cells import Diversity
from ray_jobs.engines.dashscope import DashScopeConfig
from ray_jobs.engines.endpoint import EndpointConfig
from ray_jobs.engines.judge import JudgeEngineConfig
from ray_jobs.engines.models import is_local
from ray_jobs.engines.scripted import ScriptedConfig
from ray_jobs.engines.seam import EngineConfig
from ray_jobs.engines.vllm import VllmConfig
from ray_jobs.evals.settings import Evaluate, Report, labellers
from ray_jobs.judge import JudgeConfig
from ray_jobs.ledger import LedgerConfig
from ray_jobs.readers import Source
from ray_jobs.sections import Where, merge
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
from ray_jobs.tested import read_evaluate, read_models
from ray_jobs.training.settings import Train

KINDS: dict[str, type[Any]] = {
    "vllm": VllmConfig,
    "endpoint": EndpointConfig,
    "dashscope": DashScopeConfig,
    "scripted": ScriptedConfig,
    "judge": JudgeEngineConfig,
}
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
    return Path(os.environ.get("GARRISON_CACHE", "~/.cache/garrison")).expanduser().absolute()


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
    top = {item.name for item in fields(Recipe)} - {"file"}
    where.check_keys(data, top, "")
    engines = {
        name: _engine(where, name, entry)
        for name, entry in where.mapping(data, "engines").items()
        if entry is not None
    }
    out = _out(path, data.get("out"))
    for name, engine in engines.items():
        if isinstance(engine, DashScopeConfig) and not engine.spending:
            engines[name] = replace(engine, spending=f"{out}/spending/{name}")
    judge = _judge(where, data.get("judge"), engines)
    for name, engine in engines.items():
        if isinstance(engine, JudgeEngineConfig):
            if judge is None:
                raise ValueError(
                    f"{path}: engines.{name} is of kind judge, but there is no section judge"
                )
            engines[name] = replace(engine, judge=judge)
    recipe = Recipe(
        file=path,
        name=str(data.get("name") or Path(path).stem),
        out=out,
        seed=where.number(data, "seed"),
        when_changed=where.choice(data, "when_changed", ("refuse", "rebuild")),
        card=str(data.get("card") or ""),
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


def _out(path: str, out: Any) -> str:
    if not out:
        raise ValueError(f"{path}: out: missing; give the folder or URI for the results")
    if "://" in str(out):
        return str(out)
    folder = Path(str(out)).expanduser()
    # Ray unpacks an uploaded working_dir under such a path, and removes it: results there would be
    # lost.
    if not folder.is_absolute() and re.search(r"working_dir_files|_ray_pkg_", str(Path.cwd())):
        raise ValueError(
            f"{path}: out: {out!r} is relative, and would be lost with the uploaded working_dir; "
            "add to the command: out=/an/absolute/folder (or s3://…)"
        )
    return str(folder.absolute())


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).expanduser().absolute())


def _engine(where: Where, name: str, entry: Any) -> EngineConfig:
    key = f"engines.{name}"
    if not isinstance(entry, dict) or "kind" not in entry:
        raise where.error(f"{key}.kind", f"missing; expected one of {', '.join(KINDS)}")
    kind = KINDS.get(entry["kind"])
    if kind is None:
        raise where.error(
            f"{key}.kind", f"there is no kind {entry['kind']!r}; expected one of {', '.join(KINDS)}"
        )
    built: EngineConfig = where.section(kind, entry, key)
    if isinstance(built, VllmConfig) and built.model not in tiny.NAMES and is_local(built.model):
        built = replace(built, model=_absolute(built.model))
    if isinstance(built, ScriptedConfig):
        built = replace(built, answers=_absolute(built.answers))
    return built


def _judge(where: Where, entry: Any, engines: Mapping[str, EngineConfig]) -> JudgeConfig | None:
    if not entry:
        return None
    if not isinstance(entry, dict) or "backend" not in entry:
        raise where.error("judge.backend", "missing; name the engine that judges")
    names = {part: str(entry[part]) for part in ("backend", "fallback", "guard") if entry.get(part)}
    for part, name in names.items():
        # A judge that is served elsewhere cannot be a part of this one, and a remote model has no
        # form that it is held to: it may judge, but not take over or guard.
        kinds = (VllmConfig, DashScopeConfig, EndpointConfig) if part == "backend" else VllmConfig
        if not isinstance(engines.get(name), kinds):
            fit = [each for each, engine in engines.items() if isinstance(engine, kinds)]
            raise where.error(
                f"judge.{part}", f"expected one of the engines {', '.join(fit)}, found {name!r}"
            )
    rest = {key: value for key, value in entry.items() if key not in names}
    built = where.section(JudgeConfig, {**rest, "backend": ""}, "judge")
    if "guard" in names and not built.guard_grammar:
        raise where.error("judge.guard_grammar", "missing; a name in conf/guards.yaml")
    parts: dict[str, Any] = {part: engines[name] for part, name in names.items()}
    return replace(built, names=names, **parts)


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
    absolute = {
        name: replace(source, path=_absolute(source.path)) for name, source in sources.items()
    }
    built: dict[str, Any] = {
        name: where.section(kind, data.get(name) or {}, f"build_data.{name}")
        for name, kind in sections.items()
    }
    return BuildData(sources=absolute, without=_without(where, data.get("without")), **built)


def _train(where: Where, entry: Any) -> Train | None:
    if entry is None:
        return None
    built = where.section(Train, entry, "train")
    is_folder = built.base not in tiny.NAMES and is_local(built.base)
    return replace(
        built,
        base=_absolute(built.base) if is_folder else built.base,
        data=_absolute(built.data) if built.data else "",
        deepspeed=_absolute(built.deepspeed) if built.deepspeed else "",
    )


def _known(where: Where, name: str, entry: Any) -> Any:
    """A source with what the catalogue knows of it, and where `fetch` puts its file."""
    if not isinstance(entry, dict):
        return entry
    try:
        return catalogue.resolve(entry, cache())
    except ValueError as error:
        raise where.error(f"build_data.sources.{name}.from", str(error)) from error


def _without(where: Where, found: Any) -> tuple[str, ...]:
    names = [found] if isinstance(found, str) else list(found or [])
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

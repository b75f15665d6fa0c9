"""A recipe: one YAML file into one frozen, typed config. Past `load` nobody sees a DictConfig."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ray_jobs import tiny
from ray_jobs.engines.endpoint import EndpointConfig
from ray_jobs.engines.judge import JudgeConfig, JudgeEngineConfig
from ray_jobs.engines.models import is_local
from ray_jobs.engines.scripted import ScriptedConfig
from ray_jobs.engines.seam import EngineConfig
from ray_jobs.engines.vllm import VllmConfig
from ray_jobs.ledger import LedgerConfig
from ray_jobs.readers import Source
from ray_jobs.stages.answers import Answers
from ray_jobs.stages.collect import Collect
from ray_jobs.stages.export import Export
from ray_jobs.stages.intents import Intents
from ray_jobs.stages.rewards import Rewards
from ray_jobs.stages.selection import Selection
from ray_jobs.steps import WhenChanged

KINDS: dict[str, type[Any]] = {
    "vllm": VllmConfig,
    "endpoint": EndpointConfig,
    "scripted": ScriptedConfig,
    "judge": JudgeEngineConfig,
}
Section = TypeVar("Section")


@dataclass(frozen=True, kw_only=True)
class BuildData:
    """The job build_data: a section per stage."""

    sources: Mapping[str, Source]
    collect: Collect
    intents: Intents
    answers: Answers
    rewards: Rewards
    selection: Selection
    export: Export


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
    ledger: LedgerConfig = field(default_factory=LedgerConfig)
    engines: Mapping[str, EngineConfig]
    judge: JudgeConfig | None
    build_data: BuildData


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


def load(path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and its `key=value` overrides. ValueError, one line, names the key that is
    wrong and what to do.
    """
    data = _merge(path, overrides)
    where = _Where(path)
    top = {item.name for item in fields(Recipe)} - {"file"}
    where.check_keys(data, top, "")
    engines = {
        name: _engine(where, name, entry)
        for name, entry in where.mapping(data, "engines").items()
        if entry is not None
    }
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
        out=_out(path, data.get("out")),
        seed=where.number(data, "seed"),
        when_changed=where.choice(data, "when_changed", ("refuse", "rebuild")),
        ledger=where.section(LedgerConfig, data.get("ledger") or {}, "ledger"),
        engines=engines,
        judge=judge,
        build_data=_build_data(where, where.mapping(data, "build_data")),
    )
    _check_engine_names(where, recipe)
    return recipe


def _merge(path: str, overrides: Sequence[str]) -> dict[str, Any]:
    if not Path(path).is_file():
        raise ValueError(
            f"{path}: there is no such recipe; the ones that come with Garrison are in conf/"
        )
    try:
        merged: Any = OmegaConf.load(path)
        if not isinstance(merged, DictConfig):
            raise ValueError(f"{path}: a recipe is a mapping of sections, this is a list or a word")
        for override in overrides:
            key, found, _ = override.partition("=")
            if not found or not key:
                raise ValueError(f"{override!r}: expected key=value, such as seed=7")
            # `sources.mine.path=…` is short for `build_data.sources.mine.path=…`
            line = f"build_data.{override}" if key.split(".")[0] == "sources" else override
            merged = OmegaConf.merge(merged, OmegaConf.from_dotlist([line]))
        plain = OmegaConf.to_container(merged, resolve=True)
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8: {error}") from error
    except OmegaConfBaseException as error:
        raise ValueError(f"{path}: {_first_line(error)}") from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


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


def _engine(where: _Where, name: str, entry: Any) -> EngineConfig:
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


def _judge(where: _Where, entry: Any, engines: Mapping[str, EngineConfig]) -> JudgeConfig | None:
    if not entry:
        return None
    if not isinstance(entry, dict) or "backend" not in entry:
        raise where.error("judge.backend", "missing; name the engine that judges")
    backend = engines.get(str(entry["backend"]))
    if not isinstance(backend, VllmConfig):
        vllm = [name for name, engine in engines.items() if isinstance(engine, VllmConfig)]
        raise where.error(
            "judge.backend",
            f"expected an engine of kind vllm ({', '.join(vllm)}), found {entry['backend']!r}",
        )
    rest = {key: value for key, value in entry.items() if key != "backend"}
    built = where.section(JudgeConfig, {**rest, "backend": {"model": backend.model}}, "judge")
    return replace(built, backend=backend)


def _build_data(where: _Where, data: dict[str, Any]) -> BuildData:
    sections = {
        "collect": Collect,
        "intents": Intents,
        "answers": Answers,
        "rewards": Rewards,
        "selection": Selection,
        "export": Export,
    }
    where.check_keys(data, {*sections, "sources"}, "build_data")
    sources = {
        name: where.section(Source, entry, f"build_data.sources.{name}")
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
    return BuildData(sources=absolute, **built)


def _check_engine_names(where: _Where, recipe: Recipe) -> None:
    for stage in ("intents", "answers", "rewards"):
        name = getattr(recipe.build_data, stage).engine
        if name not in recipe.engines:
            raise where.error(
                f"build_data.{stage}.engine",
                f"there is no engine {name!r}; there are {', '.join(recipe.engines)}",
            )


@dataclass(frozen=True)
class _Where:
    """A recipe's file, for messages and for what is read with them."""

    file: str

    def error(self, key: str, what: str) -> ValueError:
        return ValueError(f"{self.file}: {key}: {what}")

    def section(self, kind: type[Section], data: Any, key: str) -> Section:
        """A section as its dataclass."""
        if not isinstance(data, dict):
            raise self.error(key, f"expected a mapping, found {data!r}")
        self.check_keys(data, {item.name for item in fields(kind)}, key)  # type: ignore[arg-type]
        try:
            built = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), data))
        except OmegaConfBaseException as error:
            inner = getattr(error, "full_key", "") or ""
            raise self.error(".".join(filter(None, (key, inner))), _first_line(error)) from error
        except ValueError as error:
            raise self.error(key, str(error)) from error
        assert isinstance(built, kind)
        return built

    def check_keys(self, data: Mapping[str, Any], known: set[str], key: str) -> None:
        """Refuse a key that nobody reads, with the likely spelling."""
        for name in data:
            if name not in known:
                close = difflib.get_close_matches(str(name), known, n=1)
                hint = (
                    f"did you mean {close[0]!r}?"
                    if close
                    else f"known are {', '.join(sorted(known))}"
                )
                raise self.error(".".join(filter(None, (key, str(name)))), f"unknown key; {hint}")

    def mapping(self, data: Mapping[str, Any], key: str, prefix: str = "") -> dict[str, Any]:
        """A section that must be there and be a mapping."""
        found = data.get(key)
        if not isinstance(found, dict):
            raise self.error(f"{prefix}{key}", f"expected a mapping, found {found!r}")
        return found

    def number(self, data: Mapping[str, Any], key: str) -> int:
        """A whole number, 0 where it is absent."""
        found = data.get(key, 0)
        if not isinstance(found, int) or isinstance(found, bool):
            raise self.error(key, f"expected a whole number, found {found!r}")
        return found

    def choice(self, data: Mapping[str, Any], key: str, known: tuple[Any, ...]) -> Any:
        """One of a few words, the first where it is absent."""
        found = data.get(key, known[0])
        if found not in known:
            raise self.error(key, f"expected one of {', '.join(known)}, found {found!r}")
        return found


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]

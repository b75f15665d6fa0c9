"""The models that an evaluation compares: the recipe's sections `models` and `evaluate`, and the
engine that each model is run by.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ray_jobs import catalogue, tiny
from ray_jobs.engines.dashscope import DashScopeConfig
from ray_jobs.engines.endpoint import EndpointConfig
from ray_jobs.engines.models import check_model, is_local, weight_bytes
from ray_jobs.engines.scripted import ScriptedConfig
from ray_jobs.engines.seam import EngineConfig
from ray_jobs.engines.vllm import VllmConfig
from ray_jobs.evals.queue import Annotation
from ray_jobs.evals.safetybench_files import source, used
from ray_jobs.evals.settings import SUITES, Evaluate
from ray_jobs.sections import Where
from ray_jobs.tables import Folder

TRAINED = re.compile(r"trained(-without-[\w-]+)?")
"""The model that `train` made in this `out`, or in an ablation of it."""
SOURCE, FETCHED = "source:", "fetched"
TOY_BYTES = 100_000_000
"""The smallest language models that anybody uses have more."""


@dataclass(frozen=True, kw_only=True)
class Tested:
    """One model of an evaluation."""

    name: str
    """In `models`."""
    title: str
    """For people."""
    is_toy: bool
    engine: EngineConfig


def read_models(where: Where, entry: Any) -> dict[str, str]:
    """The section `models`: names, and what each stands for; models.base=null removes one."""
    if entry is None:
        return {}
    found = where.mapping({"models": entry}, "models")
    for name, model in found.items():
        if not re.fullmatch(r"[A-Za-z]\w*", str(name), re.ASCII):
            raise where.error(f"models.{name}", "expected a name of letters, digits and _")
        if model is not None and not isinstance(model, str):
            raise where.error(
                f"models.{name}",
                f"expected a folder, a hub id, an embedded model or trained, found {model!r}",
            )
    return {str(name): _absolute(model) for name, model in found.items() if model}


def _absolute(model: str) -> str:
    if model in tiny.NAMES or TRAINED.fullmatch(model) or not is_local(model):
        return model
    return str(Path(model).expanduser().absolute())


def read_evaluate(where: Where, entry: Any, cache: Path) -> Evaluate | None:
    """The section `evaluate`; evaluate.suites.<name>=null leaves a suite out.

    A file of a suite may be given as `source:<name>`, an entry of conf/sources.yaml: it is then
    where `fetch` puts it.
    """
    if entry is None:
        return None
    found = where.mapping({"evaluate": entry}, "evaluate")
    where.check_keys(found, {"engine", "judge", "suites", "annotation"}, "evaluate")
    engine = where.text(found, "engine", "evaluate.")
    if not engine:
        raise where.error("evaluate.engine", "missing; name the engine that runs the models")
    suites = where.mapping({"suites": found.get("suites") or {}}, "suites", "evaluate.")
    where.check_keys(suites, set(SUITES), "evaluate.suites")
    return Evaluate(
        engine=engine,
        judge=where.text(found, "judge", "evaluate."),
        suites={
            name: where.section(
                SUITES[name], _placed(where, section, cache), f"evaluate.suites.{name}"
            )
            for name, section in suites.items()
            if section is not None
        },
        annotation=where.section(Annotation, found.get("annotation") or {}, "evaluate.annotation"),
    )


def _placed(where: Where, section: Any, cache: Path) -> Any:
    """A suite's section with the places of its files."""
    if isinstance(section, dict):
        return {key: _placed(where, one, cache) for key, one in section.items()}
    if section == FETCHED:
        return str(cache / "data")
    if not isinstance(section, str) or not section.startswith(SOURCE):
        return section
    name = section.removeprefix(SOURCE)
    if name not in catalogue.load():
        raise where.error("evaluate.suites", f"there is no source {name!r} in conf/sources.yaml")
    return str(catalogue.kept_at(name, cache))


def fetched(evaluate: Evaluate, cache: Path) -> list[str]:
    """The sources that the suites' files come from."""
    given = set(_strings(asdict(evaluate)["suites"]))
    names = [name for name in catalogue.load() if str(catalogue.kept_at(name, cache)) in given]
    safetybench = evaluate.suites.get("safetybench")
    if safetybench and safetybench.path == str(cache / "data"):
        for one in safetybench.sets:
            shots = max(safetybench.shots)
            names += [source(file.name) for file in used(cache / "data", one, shots)]
    return list(dict.fromkeys(names))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _strings(one)


def tested(name: str, model: str, engine: EngineConfig, out: str) -> Tested:
    """A model of `models`, and the engine that runs it. ValueError where there is none to run."""
    key, title = f"models.{name}", model
    if TRAINED.fullmatch(model):
        title, model = f"{model} in {out}", _trained(key, model, out)
    elif isinstance(engine, VllmConfig) and model not in tiny.NAMES:
        check_model(model if is_local(model) else model.partition("@")[0], key)
    return Tested(
        name=name,
        title=title,
        is_toy=model in tiny.NAMES or 0 < weight_bytes(model) < TOY_BYTES,
        engine=_with_model(key, engine, model),
    )


def _trained(key: str, name: str, out: str) -> str:
    manifest = (Folder(out) / name).read_json("manifest.json", ("model",))
    if manifest is None:
        raise ValueError(
            f"{key}: there is no trained model in {out}/{name} yet; run train first, or give a "
            "folder or a hub id"
        )
    return f"{out}/{name}/{manifest['model']}"


def _with_model(key: str, engine: EngineConfig, model: str) -> EngineConfig:
    if isinstance(engine, ScriptedConfig):
        return replace(engine, answers=model)
    if isinstance(engine, EndpointConfig | DashScopeConfig):
        return replace(engine, model=model)
    if not isinstance(engine, VllmConfig):
        raise ValueError(f"{key}: {engine.title} runs no model of `models`; give one of kind vllm")
    which, _, revision = (model, "", "") if is_local(model) else model.partition("@")
    return replace(engine, model=which, revision=revision, tokenizer="")


def toys(every: Mapping[str, Tested]) -> list[str]:
    """The names of those whose figures prove nothing."""
    return [name for name, one in every.items() if one.is_toy]

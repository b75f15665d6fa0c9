"""The kinds of engines, and the recipe's sections `engines` and `judge`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ray_jobs import tiny
from ray_jobs.engines.dashscope import DashScopeConfig
from ray_jobs.engines.endpoint import EndpointConfig
from ray_jobs.engines.judge import JudgeEngineConfig
from ray_jobs.engines.models import is_local
from ray_jobs.engines.scripted import ScriptedConfig
from ray_jobs.engines.seam import EngineConfig
from ray_jobs.engines.vllm import VllmConfig
from ray_jobs.judge import JudgeConfig
from ray_jobs.sections import Where, absolute, field_names

KINDS: dict[str, type[Any]] = {
    "vllm": VllmConfig,
    "endpoint": EndpointConfig,
    "dashscope": DashScopeConfig,
    "scripted": ScriptedConfig,
    "judge": JudgeEngineConfig,
}
PARTS = ("backend", "fallback", "guard")
"""The keys of the judge that name engines."""


def read_engines(
    where: Where, data: Mapping[str, Any], out: str
) -> tuple[dict[str, EngineConfig], JudgeConfig | None]:
    """The sections `engines` and `judge`; engines.<name>=null removes one."""
    engines = {
        name: _engine(where, name, entry)
        for name, entry in where.mapping(data, "engines").items()
        if entry is not None
    }
    for name, engine in engines.items():
        if isinstance(engine, DashScopeConfig) and not engine.spending:
            engines[name] = replace(engine, spending=f"{out}/spending/{name}")
    judge = _judge(where, data.get("judge"), engines)
    for name, engine in engines.items():
        if isinstance(engine, JudgeEngineConfig):
            if judge is None:
                raise where.error(
                    f"engines.{name}", "is of kind judge, but there is no section judge"
                )
            engines[name] = replace(engine, judge=judge)
    return engines, judge


def _engine(where: Where, name: str, entry: Any) -> EngineConfig:
    key = f"engines.{name}"
    if not isinstance(entry, dict) or "kind" not in entry:
        raise where.error(f"{key}.kind", f"missing; expected one of {', '.join(KINDS)}")
    kind = entry["kind"]
    if not isinstance(kind, str) or kind not in KINDS:
        raise where.error(
            f"{key}.kind", f"there is no kind {kind!r}; expected one of {', '.join(KINDS)}"
        )
    built: EngineConfig = where.section(
        KINDS[kind], entry, key, filled_in=("judge",) if kind == "judge" else ()
    )
    if isinstance(built, VllmConfig) and built.model not in tiny.NAMES and is_local(built.model):
        built = replace(built, model=absolute(built.model))
    if isinstance(built, ScriptedConfig):
        built = replace(built, answers=absolute(built.answers))
    return built


def _judge(where: Where, entry: Any, engines: Mapping[str, EngineConfig]) -> JudgeConfig | None:
    if entry is None:
        return None
    found = where.mapping({"judge": entry}, "judge")
    where.check_keys(found, field_names(JudgeConfig) - {"names"}, "judge")
    given = {part: where.text(found, part, "judge.") for part in PARTS}
    names = {part: name for part, name in given.items() if name}
    if "backend" not in names:
        raise where.error("judge.backend", "missing; name the engine that judges")
    for part, name in names.items():
        # A judge that is served elsewhere cannot be a part of this one, and a remote model has no
        # form that it is held to: it may judge, but not take over or guard.
        kinds = (VllmConfig, DashScopeConfig, EndpointConfig) if part == "backend" else VllmConfig
        if not isinstance(engines.get(name), kinds):
            fit = [each for each, engine in engines.items() if isinstance(engine, kinds)]
            raise where.error(
                f"judge.{part}", f"expected one of the engines {', '.join(fit)}, found {name!r}"
            )
    rest = {key: value for key, value in found.items() if key not in PARTS}
    built = where.section(JudgeConfig, {**rest, "backend": ""}, "judge")
    if "guard" in names and not built.guard_grammar:
        raise where.error("judge.guard_grammar", "missing; a name in conf/guards.yaml")
    parts: dict[str, Any] = {part: engines[name] for part, name in names.items()}
    return replace(built, names=names, **parts)

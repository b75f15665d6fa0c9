"""Job: bring the data and the models that a recipe names. What it cannot bring it lists, each with
what a person can do.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from ray_jobs import catalogue, files, snapshots, tiny
from ray_jobs.config import Recipe, cache
from ray_jobs.downloads import NotFetched
from ray_jobs.engines.models import is_local
from ray_jobs.engines.vllm import VllmConfig
from ray_jobs.evals.ahead import from_hub
from ray_jobs.evals.suite import Suite
from ray_jobs.hubs import Hubs, bring_file, reach
from ray_jobs.readers import Source
from ray_jobs.steps import JobFailed
from ray_jobs.tested import TRAINED, fetched

log = logging.getLogger(__name__)


def fetch(recipe: Recipe) -> None:
    """Bring what the recipe's sources and engines name and is not here yet.

    JobFailed where something is still missing; what could be fetched has been by then.
    """
    from huggingface_hub import get_token

    missing: list[str] = []
    models = sorted(_models(recipe))
    evaluated = fetched(recipe.evaluate, cache()) if recipe.evaluate else []
    questions = from_hub(recipe.evaluate) if recipe.evaluate else []
    with reach(os.environ, token=get_token() or "") as hubs:
        for name, source in recipe.build_data.sources.items():
            try:
                _bring_source(source, hubs)
            except (NotFetched, OSError) as error:
                missing.append(f"sources.{name}: {error}")
        for name in evaluated:
            try:
                bring_file(name, catalogue.load()[name], catalogue.kept_at(name, cache()), hubs)
            except (NotFetched, OSError) as error:
                missing.append(f"evaluate.suites: {name}: {error}")
        for model, revision in models:
            try:
                _bring_model(model, revision, hubs)
            except (NotFetched, OSError) as error:
                missing.append(str(error))
    for suite in questions:
        try:
            _bring_questions(suite)
        except ValueError as error:
            missing.append(f"evaluate.suites: {suite.name}: {error}")
    for line in missing:
        log.error("missing: %s", line)
    num_wanted = len(recipe.build_data.sources) + len(evaluated) + len(questions) + len(models)
    if missing:
        raise JobFailed(
            f"{len(missing)} of the {num_wanted} sources and models of {recipe.file} are not here; "
            "above stands what to do for each"
        )
    log.info("all %d sources and models of %s are here", num_wanted, recipe.file)


def _bring_source(source: Source, hubs: Hubs) -> None:
    if source.catalogue:
        entry = catalogue.load()[source.catalogue]
        bring_file(source.catalogue, entry, Path(source.path), hubs)
    elif source.id:
        snapshots.bring_split(
            source.id,
            source.revision,
            source.subset,
            source.split,
            Path(source.path),
            hubs.endpoints["huggingface"],
            hubs.token,
        )
    elif not files.is_there(source.path):
        raise NotFetched(f"{source.path} is not here: it is the recipe's own, put it there")


def _bring_questions(suite: Suite) -> None:
    """Bring a suite's questions from the hub into its own library's cache, by reading them all as
    `evaluate` will. ValueError where the hub does not give them.
    """
    num = sum(1 for _ in suite.samples())
    log.info("%s: %d questions, in the cache of the hub's library", suite.name, num)


def _models(recipe: Recipe) -> set[tuple[str, str]]:
    """The models that are run, trained and compared here and come from the hub, with their
    revisions.
    """
    engines = [engine for engine in recipe.engines.values() if isinstance(engine, VllmConfig)]
    wanted = {(engine.model, engine.revision) for engine in engines}
    if recipe.train is not None:
        wanted.add((recipe.train.base, recipe.train.revision))
    for model in recipe.models.values():
        name, _, revision = model.partition("@")
        if not TRAINED.fullmatch(model):
            wanted.add((name, revision))
    return {
        (model, revision)
        for model, revision in wanted
        if model not in tiny.NAMES and not is_local(model)
    }


def _bring_model(model: str, revision: str, hubs: Hubs) -> None:
    hub = hubs.endpoints["huggingface"]
    folder = snapshots.bring_model(model, revision, cache(), hub, hubs.token)
    if folder:
        log.info("model %s: in %s", model, folder)

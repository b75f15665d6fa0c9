"""What the job train is to do, known before anything runs: fingerprints, files, trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ray_jobs import tiny
from ray_jobs.config import SWITCHES, Recipe, cache, placed_base
from ray_jobs.engines.models import check_model, content_hash, is_local
from ray_jobs.steps import TOLD, Step, Variant, up_to_date
from ray_jobs.tables import Folder, open_table
from ray_jobs.training import samples_table, trackers
from ray_jobs.training.models import commit
from ray_jobs.training.results import MANIFEST, unfinished
from ray_jobs.training.samples_table import Data
from ray_jobs.training.settings import Train
from ray_jobs.training.trials import Trial, trials


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be done, known before anything runs."""

    recipe: Recipe
    cfg: Train
    """The recipe's section, with the base model's folder, or its commit on the hub."""
    base: str
    """The base model's fingerprint."""
    data: Data
    samples: Step
    trials: list[Trial]

    @property
    def home(self) -> Folder:
        """The folder of all trials."""
        return Folder(self.recipe.out) / _named(self.recipe, "trained")

    @property
    def title(self) -> str:
        """The base model's name for people: its hub id, or its folder's last part."""
        return _title(self.recipe.train.base if self.recipe.train else "")

    @property
    def data_title(self) -> str:
        """The data's, with the fingerprint of its rows."""
        told = self.samples.decides["data"]
        if self.cfg.data:
            return f"{Path(self.cfg.data).name} ({told})"
        return f"what build_data exported for {self.recipe.name} ({told})"


def make_plan(recipe: Recipe) -> Plan:
    """Everything that decides the result. The embedded base model is built where it is absent.

    ValueError where the base model, the data or the settings cannot be trained with.
    """
    cfg = recipe.train
    if cfg is None:
        raise ValueError(f"{recipe.file}: train: missing; conf/tiny.yaml shows such a section")
    trackers.check(cfg.logging)
    is_tiny = cfg.base in tiny.NAMES
    if is_tiny:
        tiny.ensure(cfg.base, cache())
    cfg = placed_base(cfg)
    check_model(cfg.base, "train.base")
    data, content = _data(recipe, cfg)
    _check_trials(cfg, data)
    if is_tiny:
        base = cfg.revision
    elif is_local(cfg.base):  # where a folder lies decides nothing
        base = content_hash(Path(cfg.base))
    else:  # a branch of the hub may move between two starts
        cfg = replace(cfg, revision=commit(cfg.base, cfg.revision))
        base = f"{cfg.base}@{cfg.revision}"
    samples = Step(
        name=_named(recipe, "samples"),
        decides=samples_table.decides(cfg, base, content),
        write=lambda home, _: samples_table.write(home, data, cfg),
    )
    found = trials(cfg, base=base, samples=samples.fingerprint, seed=recipe.seed)
    return Plan(recipe=recipe, cfg=cfg, base=base, data=data, samples=samples, trials=found)


def _named(recipe: Recipe, step: str) -> str:
    """The name of a step by the data set that it belongs to: what build_data did without."""
    return Variant(recipe.build_data.without).of(step, *SWITCHES)


def _data(recipe: Recipe, cfg: Train) -> tuple[Data, str]:
    """The files to train on, and the fingerprint of what they hold."""
    if cfg.data:
        data = Data.of(cfg.data, cfg.format)
        return data, data.fingerprint()
    exported = open_table(Folder(recipe.out) / _named(recipe, "exported"))
    if exported is None:
        raise ValueError(
            f"{recipe.file}: there is no data set in {recipe.out} yet; run build_data first, or "
            "give train.data=…"
        )
    fingerprint: str = exported.manifest["fingerprint"]
    return Data.of((exported.folder / fingerprint).uri, "parquet"), fingerprint


def _check_trials(cfg: Train, data: Data) -> None:
    num = max(1, len(cfg.learning_rates)) * max(1, len(cfg.batch_sizes))
    is_measured = cfg.validation.every_steps and (cfg.validation.share or data.validation)
    if num > 1 and not is_measured:
        raise ValueError(
            "train.learning_rates, batch_sizes: trials are compared by the loss on samples held "
            "out; set train.validation.share, such as 0.05, and every_steps above 0"
        )


def refuse_unfinished(plan: Plan) -> None:
    """ValueError where a training with other settings was begun and would be left behind."""
    ours = {trial.fingerprint for trial in plan.trials}
    for name in unfinished(plan.home, ours):
        theirs = _flat((plan.home / name).read_json(TOLD) or {})
        mine = _flat(plan.trials[0].decides)
        keys = [key for key in sorted(theirs.keys() | mine) if theirs.get(key) != mine.get(key)]
        changed = ", ".join(f"{key} ({theirs.get(key)} → {mine.get(key)})" for key in keys)
        raise ValueError(
            f"{(plan.home / name).uri} holds a training that was begun otherwise and is not "
            f"finished. Changed: {changed}. Go on with it by its own settings, begin anew with "
            "when_changed=rebuild, or give another out="
        )


def _flat(told: Mapping[str, Any]) -> dict[str, Any]:
    settings = {f"train.{key}": value for key, value in told.get("settings", {}).items()}
    return settings | {key: value for key, value in told.items() if key != "settings"}


def is_finished(plan: Plan) -> bool:
    """Whether all trials are trained, on the samples as they would be made now."""
    found = plan.home.read_json(MANIFEST, ["trials"])
    if found is None or not up_to_date([plan.samples], Folder(plan.recipe.out)):
        return False
    done: list[str] = found["trials"]
    return sorted(done) == sorted(trial.fingerprint for trial in plan.trials)


def _title(base: str) -> str:
    """Of a folder of a hub's cache the id."""
    for part in Path(base).parts:
        if part.startswith("models--"):
            return part.removeprefix("models--").replace("--", "/")
    return Path(base).name if is_local(base) and base not in tiny.NAMES else base

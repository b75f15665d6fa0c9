"""What a finished training leaves beside the model: manifests, trials, and a few lines to read."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from ray_jobs.steps import TOLD
from ray_jobs.tables import Folder
from ray_jobs.training.curve import to_svg, to_tsv
from ray_jobs.training.trials import Ended, write_trials

MANIFEST = "manifest.json"
CHECKPOINTS, MODEL = "checkpoints", "model"


@dataclass(frozen=True, kw_only=True)
class Result:
    """All trials of a training, trained to their end or until they diverged."""

    ended: Sequence[Ended]
    chosen: Ended
    """The one whose model is kept."""
    base: str
    """The base model's title."""
    num_rows: int
    num_samples: int
    """That were trained on."""
    num_held_out: int


def publish(home: Folder, result: Result) -> None:
    """Write every trial's manifest and, last, that of the training, which names the model. What
    nobody needs any more goes: checkpoints of the other trials, trainings begun otherwise.
    """
    for one in result.ended:
        folder = home / one.trial.fingerprint
        folder.write("curve.tsv", to_tsv(one.curve))
        folder.write("curve.svg", to_svg(one.curve, one.trial.name))
        folder.write(MANIFEST, _json(_of_trial(one)))
    if len(result.ended) > 1:
        write_trials(home, result.ended)
    home.write(MANIFEST, _json(_of_all(result)))
    kept = {one.trial.fingerprint for one in result.ended}
    for one in result.ended:
        if one is not result.chosen:
            (home / one.trial.fingerprint / CHECKPOINTS).delete()
    for name in unfinished(home, kept):
        (home / name).delete()


def unfinished(home: Folder, ours: Collection[str]) -> list[str]:
    """Trainings with other settings than `ours` that were begun and did not come to their end."""
    others = [name for name in home.names() if "." not in name and name not in ours]
    files = {name: (home / name).names() for name in others}
    return [name for name in others if TOLD in files[name] and MANIFEST not in files[name]]


def print_result(home: Folder) -> None:
    """What was trained, from what, and where it is."""
    manifest = home.read_json(MANIFEST)
    assert manifest is not None, "what was trained is told of"
    said = {
        "trained": f"{manifest['base']} on {manifest['num_samples']:,} samples of "
        f"{manifest['num_rows']:,} rows, {manifest['num_steps']:,} steps, "
        f"{manifest['train_s']:,.1f} s",
        "loss": f"{manifest['first_loss']:.3f} → {manifest['loss']:.3f} per target token"
        + _held_out(manifest),
        "model": f"{home.uri}/{manifest['model']}/",
        "curve": f"{home.uri}/{manifest['fingerprint']}/curve.svg",
    }
    if len(manifest["trials"]) > 1:
        lost = manifest.get("num_diverged", 0)
        said["trials"] = (
            f"{len(manifest['trials'])}{f', {lost} of them diverged' if lost else ''}, see "
            f"{home.uri}/trials.tsv"
        )
    console = Console()
    for name, text in said.items():
        console.print(f"{name:<12}{text}", highlight=False, soft_wrap=True)


def _held_out(manifest: Mapping[str, Any]) -> str:
    loss = manifest["held_out_loss"]
    return "" if loss is None else f"; held out {loss:.3f}"


def _of_trial(one: Ended) -> dict[str, Any]:
    return {
        "fingerprint": one.trial.fingerprint,
        "decides": one.trial.decides,
        "num_steps": len(one.curve),
        "diverged_at_step": one.diverged and one.diverged.step,
        "first_loss": None if one.curve[0].fault else one.curve[0].loss,
        "loss": None if one.diverged else one.curve[-1].loss,
        "held_out_loss": one.held_out_loss,
        "tokens": sum(point.tokens for point in one.curve),
        "target_tokens": sum(point.target_tokens for point in one.curve),
        "num_workers": one.curve[-1].num_workers,
        "memory_bytes": max(point.memory_bytes for point in one.curve),
        "train_s": round(one.seconds, 3),
    }


def _of_all(result: Result) -> dict[str, Any]:
    """The chosen trial's figures, and the names of all."""
    return {
        "step": "trained",
        **_of_trial(result.chosen),
        "base": result.base,
        "model": f"{result.chosen.trial.fingerprint}/{MODEL}",
        "num_rows": result.num_rows,
        "num_samples": result.num_samples,
        "num_held_out": result.num_held_out,
        "num_diverged": sum(one.diverged is not None for one in result.ended),
        "trials": [one.trial.fingerprint for one in result.ended],
        "wall_s": round(sum(one.seconds for one in result.ended), 3),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=1).encode()

"""A training that diverges: nothing of it is saved, and of several trials it stops itself alone."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from ray_jobs.steps import JobFailed
from ray_jobs.training import loop
from ray_jobs.training.curve import LOWER_IT
from ray_jobs.training.examples import Samples
from ray_jobs.training.loop import Hooks, Progress
from ray_jobs.training.settings import Checkpoints, Validation
from tests.local.train_cases import home, make_base, make_recipe, make_rows, manifest, run
from tests.local.training_cases import VOCABULARY, cfg, make_model, make_samples

pytestmark = pytest.mark.timeout(600)


def end(model: Any, samples: Samples, validation: Samples | None = None) -> tuple[str, Progress]:
    """What a training that diverges at its first step ends with, and what it reported last."""
    told: list[Progress] = []
    saved: list[int] = []
    with pytest.raises(JobFailed) as error:
        loop.train(
            model,
            samples,
            cfg(checkpoint=Checkpoints(every_steps=1), validation=Validation(every_steps=1)),
            report=told.append,
            validation=validation,
            hooks=Hooks(save=lambda driver, progress: saved.append(progress.step)),
        )
    assert saved == []
    assert len(told) == 1
    return str(error.value), told[-1]


def test_a_gradient_that_is_not_finite_is_never_saved() -> None:
    model = make_model(tied=False)
    with torch.no_grad():  # all logits are 0, but the head's weights reach the gradient
        model.get_parameter("model.norm.weight").fill_(0.0)
        model.get_parameter("lm_head.weight").fill_(1e30)
        model.get_parameter("lm_head.weight")[0] = -1e30
    said, last = end(model, make_samples())
    assert last.loss == pytest.approx(math.log(VOCABULARY), rel=1e-3)
    assert not math.isfinite(last.grad_norm)
    assert re.search(r"gradient's norm is (inf|nan) at step 1: lower train\.learning_rate", said)


def test_weights_that_fail_on_what_was_held_out_are_never_saved() -> None:
    model, samples = make_model(tied=False), make_samples()
    with torch.no_grad():
        model.get_parameter("model.embed_tokens.weight")[VOCABULARY - 1] = math.nan
    samples.tokens[samples.tokens == VOCABULARY - 1] = 0
    held_out = make_samples(3, seed=9)
    held_out.tokens[:] = VOCABULARY - 1
    said, last = end(model, samples, held_out)
    assert math.isfinite(last.loss)
    assert "held-out loss is nan at step 1: lower train.learning_rate" in said


@pytest.mark.soak
def test_of_several_trials_one_that_diverges_stops_itself_alone(tmp_path: Path, head: Any) -> None:
    # So strong a decay makes weights overflow where the rate is high, and is none where it is low.
    base, keys = make_base(tmp_path / "base"), ["train.weight_decay=1e8"]
    recipe = make_recipe(tmp_path / "run", base, make_rows(44))
    done = run(recipe, *keys, "train.learning_rates=[0.9,1e-9]", env=head.env)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "rate 0.9 × 4 diverged at step" in done.stderr
    assert "2, 1 of them diverged, see" in done.stdout
    lines = (home(recipe) / "trials.tsv").read_text(encoding="utf-8").splitlines()
    first, second = csv.DictReader(lines, delimiter="\t")
    assert 1 < int(first["diverged_at"]) < 20
    assert (second["diverged_at"], second["steps"]) == ("", "20")
    assert manifest(recipe)["fingerprint"] == second["run"]
    assert "diverged at step" in (home(recipe) / second["run"] / "model" / "README.md").read_text(
        encoding="utf-8"
    )
    alone = run(recipe, *keys, "train.learning_rate=0.9", env=head.env)
    assert alone.returncode == 1
    assert "Traceback" not in alone.stderr
    assert f"{alone.stderr.splitlines()[-1]}".endswith(LOWER_IT)

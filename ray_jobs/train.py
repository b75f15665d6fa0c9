"""Job: fine-tune the base model on the data set. Samples become a table, every trial a folder with
its checkpoints and curve, and the best trial a model.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from cluster import hardware, session
from ray_jobs import forecasts
from ray_jobs.config import Recipe
from ray_jobs.durations import ADAPTED_PASSES, PASSES
from ray_jobs.engines.shapes import UnknownShape
from ray_jobs.lock import RunLock
from ray_jobs.steps import JobFailed, refuse_changed, run_steps
from ray_jobs.tables import Folder, Table
from ray_jobs.train_plan import Plan, is_finished, make_plan, refuse_unfinished
from ray_jobs.training import samples_table
from ray_jobs.training.examples import Samples
from ray_jobs.training.follow import Work
from ray_jobs.training.results import Result, print_result, publish
from ray_jobs.training.trials import Trial, best, table

if TYPE_CHECKING:
    from ray_jobs.training.finished import About
    from ray_jobs.training.schedule import Schedule

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def train(recipe: Recipe) -> None:
    """Bring samples, trials and model up to date, and print what there is, and where.

    Raises ValueError for what a person has to mend, before anything is written.
    """
    plan, out = make_plan(recipe), Folder(recipe.out)
    with _room(recipe.out), ExitStack() as stack:
        if recipe.when_changed == "refuse":
            refuse_changed([plan.samples], out)
            refuse_unfinished(plan)
        if not is_finished(plan):  # else nobody waits for a tokenizer to be loaded
            samples_table.check(plan.cfg)
            forecasts.refuse_training(plan.cfg, forecasts.look(recipe))
            stack.enter_context(RunLock(out))
            session.connect()
            samples = run_steps([plan.samples], out)[plan.samples.name]
            _train(plan, samples)
    print_result(plan.home)


def _train(plan: Plan, samples: Table) -> None:
    """Train what is not trained yet, and make the model of the best trial. JobFailed where every
    trial diverges.
    """
    from ray_jobs.training.finished import About
    from ray_jobs.training.schedule import Schedule

    found, held_out = _split(plan, samples)
    schedule = Schedule(
        home=plan.home,
        base=plan.base,
        seed=plan.recipe.seed,
        samples=found,
        held_out=held_out,
        work=_work(plan),
    )
    ended = schedule.train(plan.trials)
    chosen, census = best(ended), samples_table.census(samples)
    about = About(
        base=plan.title,
        suffix=plan.recipe.name,
        data=plan.data_title,
        census=census,
        num_samples=len(found),
        num_held_out=len(held_out or ()),
        settings={
            **chosen.trial.decides["settings"],
            "seed": plan.recipe.seed,
            "base": plan.base,
        },
        trials=f"## Trials\n\n{table(ended)}\n" if len(ended) > 1 else "",
    )
    _make_model(schedule, chosen.trial, about)
    publish(
        plan.home,
        Result(
            ended=ended,
            chosen=chosen,
            base=plan.title,
            num_rows=census.num_rows,
            num_samples=about.num_samples,
            num_held_out=about.num_held_out,
        ),
    )


def _make_model(schedule: Schedule, trial: Trial, about: About) -> None:
    """Write a trial's final folder, in a process of its own: it holds the model twice."""
    import ray

    from ray_jobs.training.finished import finish

    if schedule.saved(trial) is None:  # others were better then
        best(schedule.train([trial]))  # which says so where it has diverged this time
    saved = schedule.saved(trial)
    assert saved is not None, "the last step is always saved"
    task = ray.remote(num_cpus=1)(finish)
    try:
        ray.get(task.remote(saved, trial.cfg, about, schedule.home / trial.fingerprint))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error


def _split(plan: Plan, samples: Table) -> tuple[Samples, Samples | None]:
    """The samples to train on, and those held out, if any."""
    found = samples_table.load(samples, "train")
    if plan.cfg.validation.share:
        return found.hold_out(plan.cfg.validation.share, plan.recipe.seed)
    held_out = samples_table.load(samples, "validation")
    if not len(held_out) and len(plan.trials) > 1:
        raise ValueError("train.data: no sample is left to compare trials by: see table `samples`")
    return found, held_out if len(held_out) else None


def _work(plan: Plan) -> Work | None:
    """What MFU is counted with; None without a card that is known."""
    cards = hardware.cards()
    known = forecasts.known_card(cards[0].name if cards else plan.recipe.card)
    if known is None or not plan.cfg.gpus_per_worker:
        return None
    try:
        shape = forecasts.base_shape(plan.cfg)
    except UnknownShape:
        return None
    passes = ADAPTED_PASSES if plan.cfg.lora.rank else PASSES
    return Work(
        per_token=passes * shape.layers * shape.layer_parameters,
        per_target=passes * shape.embedding_parameters,
        peak=known.bf16_tflops * 1e12,
    )


@contextmanager
def _room(out: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise JobFailed(
            f"train: {out} is full ({error.strerror}): make room; the same command goes on"
        ) from error

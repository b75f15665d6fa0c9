"""Job: put every suite to every model, have answers judged, and mark them. `plan` is its table of
contents; all figures follow from its last table and from people's labels.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

from ray_jobs import catalogue, tested, tiny, verdicts
from ray_jobs.bring_up import Models
from ray_jobs.config import Recipe, cache
from ray_jobs.engines.judge import JudgeEngineConfig
from ray_jobs.engines.scripted import ScriptedConfig
from ray_jobs.evals import ahead, asking_models, judged, marks, summary
from ray_jobs.evals.exchange import exchange
from ray_jobs.evals.queue import HOME
from ray_jobs.evals.recompute import recompute
from ray_jobs.evals.screen import print_screen
from ray_jobs.evals.settings import Evaluate, labellers, steps_of, suites_of
from ray_jobs.evals.suite import SAMPLES, Suite
from ray_jobs.lock import RunLock
from ray_jobs.stages import intents
from ray_jobs.steps import Step, Written, deciding, refuse_changed, run_steps, up_to_date
from ray_jobs.tables import Folder, Row, Table, batches, open_table, write_shards
from ray_jobs.tested import TRAINED, Tested, fetched

SHARD_ROWS = 5000
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The steps of an evaluation, in the order in which they are run."""

    steps: Sequence[Step]
    """Samples, answers model by model, verdicts and, last, marks."""
    about: summary.About


def evaluate(recipe: Recipe) -> None:
    """Bring every table of the evaluation up to date, and print and write its figures.

    Raises ValueError for what a person has to mend, before anything is written; only what a hub
    does not give is found later, before any engine starts.
    """
    put(recipe, suites_of(_placed(_fetched(recipe), build=True)))


def check(recipe: Recipe) -> None:
    """Refuse what `evaluate` would, before the jobs have run that come first: `trained` need not be
    there yet. ValueError. Nothing is started, built or written.
    """
    cfg = _placed(_fetched(recipe), build=False)
    suites = suites_of(cfg)
    now = {name: one for name, one in recipe.models.items() if not TRAINED.fullmatch(one)}
    _check(recipe, suites, models_of(replace(recipe, models=now)))
    asking_models.check(suites, recipe.engines[cfg.engine], "evaluate.engine")
    with ExitStack() as stack:
        needed = steps_of(cfg, Models(recipe, stack).asked)
        samples = [_samples(suite, needed.get(suite.name, ())) for suite in suites]
        first = [step for steps in needed.values() for step in steps]
        ahead.read(cfg, [*samples, *first], Folder(recipe.out) / HOME)


def _placed(cfg: Evaluate, *, build: bool) -> Evaluate:
    """The section with an embedded model's name replaced by the folder of its tokenizer: samples
    are made with it before any model is asked. One that is neither there nor built cuts no
    beginnings.
    """
    attacks = cfg.suites.get("attacks")
    if attacks is None or attacks.tokenizer not in tiny.NAMES:
        return cfg
    name = attacks.tokenizer
    folder = tiny.ensure(name, cache(), log.info) if build else tiny.folder(name, cache())
    sets = attacks.sets
    if not folder.is_dir():
        sets = {key: replace(one, prefill=()) for key, one in sets.items()}
    placed = replace(attacks, sets=sets, tokenizer=str(folder / tiny.PLANS[name].tokenizer))
    return replace(cfg, suites={**cfg.suites, "attacks": placed})


def _fetched(recipe: Recipe) -> Evaluate:
    """The recipe's section. ValueError where a file that `fetch` brings is not here."""
    cfg = section(recipe)
    kept = {name: catalogue.kept_at(name, cache()) for name in fetched(cfg, cache())}
    if absent := [name for name, file in kept.items() if not file.is_file()]:
        raise ValueError(
            f"evaluate.suites: {kept[absent[0]]} is not here"
            + (f", nor {', '.join(absent[1:])}" if absent[1:] else "")
            + f": python -m ray_jobs fetch {recipe.file}"
        )
    return cfg


def section(recipe: Recipe) -> Evaluate:
    """The recipe's section. ValueError where it is missing, or there is no model to evaluate."""
    if recipe.evaluate is None:
        raise ValueError(f"{recipe.file}: evaluate: missing; conf/tiny.yaml shows such a section")
    if not recipe.models:
        raise ValueError(
            f"{recipe.file}: models: missing; add to the command: models.base=… models.tuned=…"
        )
    return recipe.evaluate


def put(recipe: Recipe, suites: Sequence[Suite]) -> None:
    """Put these suites to the recipe's models."""
    out = Folder(recipe.out) / HOME
    models = models_of(recipe)
    _check(recipe, suites, models)
    with ExitStack() as stack:
        more = {_engine_name(name): one.engine for name, one in models.items()}
        found = plan(recipe, suites, models, Models(recipe, stack, more))
        if recipe.when_changed == "refuse":
            refuse_changed(found.steps, out)
        if not up_to_date(found.steps, out):
            ahead.read(section(recipe), found.steps, out)
            stack.enter_context(RunLock(out))
            run_steps(found.steps, out)
        out.write("recipe.json", json.dumps(asdict(recipe), ensure_ascii=False, indent=1).encode())
    annotation = section(recipe).annotation
    exchange(out, annotation, recipe.seed)
    print_screen(recipe.out, recompute(out, found.about, annotation, recipe.seed))


def models_of(recipe: Recipe) -> dict[str, Tested]:
    """The models that are compared, in the recipe's order."""
    engine = recipe.engines[section(recipe).engine]
    return {
        name: tested.tested(name, model, engine, recipe.out)
        for name, model in recipe.models.items()
    }


def _check(recipe: Recipe, suites: Sequence[Suite], models: Mapping[str, Tested]) -> None:
    """Refuse what cannot work, but for the suites' files."""
    cfg = section(recipe)
    if not suites:
        raise ValueError(f"{recipe.file}: evaluate.suites: none is left; add one")
    is_judged = [suite.name for suite in suites if suite.is_judged]
    if is_judged and not cfg.judge:
        raise ValueError(
            f"{recipe.file}: evaluate.judge: missing; {is_judged[0]} needs one of kind judge"
        )
    try:
        for name, one in models.items():
            one.engine.check(_engine_name(name))
            asking_models.check(suites, one.engine, f"models.{name}")
        for labeller in labellers(cfg).values():
            recipe.engines[labeller].check(labeller)
            intents.check_prompts()
        if is_judged:
            judge = recipe.engines[cfg.judge]
            if not isinstance(judge, JudgeEngineConfig | ScriptedConfig):
                raise ValueError(f"evaluate.judge: {cfg.judge} is not of kind judge")
            verdicts.check_prompts()
            judge.check(cfg.judge)
        ahead.check_annotation(cfg.annotation)
    except ValueError as error:
        raise ValueError(f"{recipe.file}: {error}") from error


def plan(
    recipe: Recipe, suites: Sequence[Suite], models: Mapping[str, Tested], brought: Models
) -> Plan:
    """The steps, each with its inputs: one engine start a model, and one sitting of the judge."""
    out, cfg = Folder(recipe.out) / HOME, section(recipe)
    needed = steps_of(cfg, brought.asked)
    samples = {suite.name: _samples(suite, needed.get(suite.name, ())) for suite in suites}
    answers: dict[tuple[str, str], Step] = {}
    for model in models:
        sitting = brought.sitting(_engine_name(model), out)
        for suite in suites:
            question = asking_models.question_of(suite, f"{suite.name}-{model}")
            answers[suite.name, model] = sitting.asked(
                question, samples[suite.name], _asking(suite)
            )
    given: dict[tuple[str, str], Step] = {}
    if any(suite.is_judged for suite in suites):
        judging = brought.sitting(cfg.judge, out)
        for model in models:
            for suite in (one for one in suites if one.is_judged):
                given[suite.name, model] = judging.asked(
                    judged.question(f"{suite.name}-{model}-verdicts"),
                    answers[suite.name, model],
                    {"version": judged.VERSION},
                )
    pairs = [(suite, model) for model in models for suite in suites]
    marked = Step(
        name="marks",
        decides={
            "version": marks.VERSION,
            **{f"reading of {suite.name}": dict(suite.decides) for suite in suites},
        },
        inputs=(*samples.values(), *answers.values(), *given.values()),
        write=lambda home, _: Written(
            shards=marks.write_marks(home, [_answered(out, *pair) for pair in pairs])
        ),
    )
    labels = [step for steps in needed.values() for step in steps]
    # Files are read first: what is wrong with one is said before any engine starts.
    read = [one for name, one in samples.items() if name not in needed]
    labelled = [one for name, one in samples.items() if name in needed]
    steps = [*read, *labels, *labelled, *answers.values(), *given.values(), marked]
    names = [step.name for step in steps]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{recipe.file}: models: two tables would have the name {name}")
    return Plan(steps=steps, about=_about(suites, models))


def _engine_name(model: str) -> str:
    return f"models.{model}"


def _samples(suite: Suite, needed: Sequence[Step]) -> Step:
    def write(home: Folder, tables: Sequence[Table]) -> Written:
        try:
            rows = batches(single(suite, tables), SAMPLES, SHARD_ROWS)
            return Written(shards=write_shards(home, rows))
        except BaseException:
            home.delete()  # or the right file would be refused for what the wrong one began
            raise

    return Step(name=suite.name, decides=suite.decides, inputs=tuple(needed), write=write)


def single(suite: Suite, tables: Sequence[Table] = ()) -> Iterator[Row]:
    """The suite's samples. ValueError where two have one id: an answer would be counted twice."""
    seen: set[str] = set()
    for row in suite.samples(*tables):
        if row["id"] in seen:
            raise ValueError(f"{suite.name}: two samples have the id {row['id']}; remove one")
        seen.add(row["id"])
        yield row


def _asking(suite: Suite) -> dict[str, Any]:
    """What decides how samples are asked, beside the samples."""
    return {
        "version": asking_models.VERSION,
        "sampling": deciding(suite.sampling),
        "min_tokens": suite.min_tokens,
        "stop": list(suite.stop),
        "letters": suite.letters,
    }


def _answered(out: Folder, suite: Suite, model: str) -> marks.Answered:
    answers = open_table(out / f"{suite.name}-{model}")
    samples = open_table(out / suite.name)
    assert samples is not None, "samples are made before they are asked"
    assert answers is not None, "answers are there before they are marked"
    given: Table | None = None
    if suite.is_judged:
        given = open_table(out / f"{suite.name}-{model}-verdicts")
        assert given is not None, "verdicts are there before answers are marked"
    return marks.Answered(
        suite=suite, model=model, samples=samples, answers=answers, verdicts=given
    )


def _about(suites: Sequence[Suite], models: Mapping[str, Tested]) -> summary.About:
    return summary.About(
        models={name: one.title for name, one in models.items()},
        protocols={suite.name: suite.protocol for suite in suites},
        toys=tested.toys(models),
    )

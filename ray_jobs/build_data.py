"""Job: build the data set. `plan` is its table of contents."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any

import pyarrow.compute as pc

from ray_jobs import (
    auditing,
    cells,
    coverage,
    distributions,
    figures,
    readers,
    rounds,
    taxonomy,
    verdicts,
)
from ray_jobs.bring_up import Models
from ray_jobs.cards import About
from ray_jobs.config import Recipe
from ray_jobs.lock import RunLock
from ray_jobs.schema import CANDIDATES
from ray_jobs.stages import (
    answers,
    balancing,
    collect,
    expansion,
    export,
    intents,
    perplexity,
    placing,
    rewards,
    selection,
)
from ray_jobs.steps import (
    Step,
    Variant,
    Written,
    deciding,
    refuse_changed,
    run_steps,
    up_to_date,
)
from ray_jobs.summary import print_summary
from ray_jobs.tables import DONE, Folder, Table, batches, write_shards

ROLE = pc.field("role")
SHARD_ROWS = 5000


def build_data(recipe: Recipe) -> None:
    """Bring every table of the data set up to date and print what there is, and where.

    Raises ValueError for what a person has to mend, before anything is written.
    """
    check(recipe)
    out = Folder(recipe.out)
    with ExitStack() as stack:
        steps = plan(recipe, Models(recipe, stack))
        if recipe.when_changed == "refuse":
            refuse_changed(steps, out)
        if not up_to_date(steps, out):
            stack.enter_context(RunLock(out))
        tables = run_steps(steps, out)
        out.write("recipe.json", json.dumps(asdict(recipe), ensure_ascii=False, indent=1).encode())
    print_summary(recipe, tables)


def check(recipe: Recipe) -> None:
    """Refuse what cannot work: engines, sources, prompt files, taxonomy. Nothing has been started
    or written yet.
    """
    cfg = recipe.build_data
    for name in sorted(set(cfg.engines().values())):
        try:
            recipe.engines[name].check(name)
        except ValueError as error:
            raise ValueError(f"{recipe.file}: {error}") from error
    taxonomy.load()
    verdicts.check_prompts()
    intents.check_prompts()
    expansion.check_prompts()
    answers.check_prompts()
    readers.check(cfg.sources, recipe.file)


def plan(recipe: Recipe, models: Models) -> list[Step]:
    """The steps, each with its inputs."""
    cfg, name = recipe.build_data, Variant(recipe.build_data.without)
    collected = Step(
        name="collected",
        decides={
            "version": collect.VERSION,
            "settings": deciding(cfg.collect),
            **{f"source {name}": readers.decides(name, one) for name, one in cfg.sources.items()},
        },
        write=lambda home, _: gather(home, recipe),
    )
    labelled = models.asked(
        intents.question(cfg.intents),
        cfg.intents.engine,
        collected,
        intents.decides(cfg.intents),
        where=DONE & ROLE.isin(["train", "analyse"]),
    )
    scored_prompts = models.asked(
        rewards.prompts_question(),
        cfg.rewards.engine,
        labelled,
        {"version": rewards.VERSION},
        where=DONE & (ROLE == "train"),
    )
    placed = Step(
        name="placed",
        decides={"version": placing.VERSION, **placing.files()},
        inputs=(labelled, scored_prompts),
        write=place,
    )
    expanded = rounds.expand(recipe, models, collected, placed)
    balanced = Step(
        name=name.of("balanced", "expansion"),
        decides={
            "version": balancing.VERSION,
            "settings": deciding(cfg.diversity),
            "seed": recipe.seed,
        },
        inputs=(
            placed,
            *(one.placed for one in expanded),
            *(one.expanded for one in expanded),
        ),
        write=lambda home, tables: balance(home, tables, recipe),
    )
    return [
        collected,
        labelled,
        scored_prompts,
        placed,
        *(step for one in expanded for step in one.steps()),
        balanced,
        *respond(
            recipe,
            models,
            name,
            collected,
            balanced,
            [scored_prompts, *(one.scored for one in expanded)],
        ),
    ]


def respond(
    recipe: Recipe,
    models: Models,
    name: Variant,
    collected: Step,
    balanced: Step,
    scored_prompts: Sequence[Step],
) -> list[Step]:
    """The steps from balanced prompts to the data set: answer, score, select, export."""
    cfg = recipe.build_data
    answered = models.asked(
        replace(answers.question(cfg.answers), name=name.of("answered")),
        cfg.answers.engine,
        balanced,
        answers.decides(cfg.answers),
    )
    perplexities = models.asked(
        replace(perplexity.question(cfg.perplexity), name=name.of("perplexity")),
        cfg.perplexity.engine,
        balanced,
        {"version": perplexity.VERSION},
    )
    fresh = [] if "fresh_answers" in cfg.without else [answered]
    candidates = Step(
        name=name.of("candidates", "fresh_answers"),
        decides={"version": rewards.VERSION},
        inputs=(balanced, *fresh),
        write=lambda home, tables: Written(
            shards=write_shards(home, batches(rewards.candidates(*tables), CANDIDATES, SHARD_ROWS))
        ),
    )
    scored_responses = models.asked(
        replace(rewards.responses_question(), name=name.of("scored_responses")),
        cfg.rewards.engine,
        candidates,
        {"version": rewards.VERSION},
    )
    audited = auditing.audit_judge(recipe, models, name, candidates, scored_responses)
    without = sorted(set(cfg.without) & set(selection.SWITCHES))
    selected = Step(
        name=name.of("selected", *selection.SWITCHES),
        decides={
            "version": selection.VERSION,
            "settings": deciding(cfg.selection),
            "without": without,
            "seed": recipe.seed,
        },
        inputs=(candidates, scored_responses, perplexities, collected, *scored_prompts),
        write=lambda home, tables: select(home, tables, recipe, without),
    )
    exported = Step(
        name=name.of("exported"),
        decides={"version": export.VERSION, "settings": deciding(cfg.export), **export.files()},
        inputs=(selected,),
        write=lambda home, tables: files(home, tables[0], recipe),
    )
    steps = [perplexities, candidates, scored_responses, *audited, selected, exported]
    return [*fresh, *steps]


def gather(home: Folder, recipe: Recipe) -> Written:
    """Collect all sources. ValueError, and nothing left behind, where none of their rows can be
    trained on: no model is asked for nothing.
    """
    sources = recipe.build_data.sources
    shards = collect.write(home, sources, recipe.build_data.collect)
    useless = collect.useless(Table(home, {"shards": shards}))
    if useless and useless.keys() == {name for name, one in sources.items() if one.role == "train"}:
        home.delete()
        told = "; ".join(f"{readers.KEY}.{name}: {why}" for name, why in useless.items())
        raise ValueError(f"{recipe.file}: {told}; mend the source, or give another")
    return Written(shards=shards)


def place(home: Folder, tables: Sequence[Table]) -> Written:
    """Put every labelled prompt in its cell, and show how labels are spread over the sources."""
    labelled, scored_prompts = tables
    shards = write_shards(home, placing.place(labelled, scored_prompts))
    table = Table(home, {"shards": shards})
    figures.write_distributions(home, table.scan(distributions.COLUMNS))
    return Written(shards=shards)


def balance(home: Folder, tables: Sequence[Table], recipe: Recipe) -> Written:
    """Bring all prompts together, and show how well the cells are covered before and after."""
    cfg = recipe.build_data.diversity
    num_rounds = len(tables) // 2
    placed, expanded = tables[: num_rounds + 1], tables[num_rounds + 1 :]
    shards = write_shards(home, balancing.balance(placed, cfg, recipe.seed))
    before = cells.counts(cells.in_place(placed[:1], cfg, list(cells.KEY)))
    after = cells.counts(cells.in_place([Table(home, {"shards": shards})], cfg, list(cells.KEY)))
    reasons = balancing.why_short(after, cfg, expanded, placed[1:])
    coverage.write_coverage(home, before, after, cells.targets(cfg), reasons)
    return Written(shards=shards)


def select(home: Folder, tables: Sequence[Table], recipe: Recipe, without: list[str]) -> Written:
    """Choose among what the judge has scored, and let the general rows join."""
    candidates, scored_responses, perplexities, collected, *scored_prompts = tables
    chosen = selection.select(
        candidates,
        scored_responses,
        scored_prompts,
        perplexities,
        collected,
        recipe.build_data.selection,
        frozenset(without),
        recipe.seed,
    )
    return Written(shards=write_shards(home, chosen))


def files(home: Folder, selected: Table, recipe: Recipe) -> Written:
    """Write the training set's files, and the card that says how they were made."""
    cfg = recipe.build_data
    export.export(selected, home, cfg.export, about(recipe))
    return Written(shards=export.TABLE_FILES)


def about(recipe: Recipe) -> About:
    """What the data card says of the recipe."""
    cfg = recipe.build_data
    done_by: dict[str, Any] = {
        "labels": cfg.intents,
        **({"new prompts": cfg.expansion} if cfg.num_rounds else {}),
        "answers": cfg.answers,
        "perplexity": cfg.perplexity,
        "scores": cfg.rewards,
    }
    sections = ("collect", "diversity", "expansion", "answers", "selection", "export")
    return About(
        title=f"Safety training set {recipe.name}",
        sources=cfg.sources,
        made_by={what: recipe.engines[stage.engine].title for what, stage in done_by.items()},
        settings={
            **{name: deciding(getattr(cfg, name)) for name in sections},
            "without": list(cfg.without),
        },
    )

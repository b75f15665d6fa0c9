"""The rounds of expansion: each has its own steps, from what is wanted to what found its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ray_jobs.bring_up import Models
from ray_jobs.config import Recipe
from ray_jobs.schema import WANTED
from ray_jobs.stages import expansion, intents, keeping, rewards, wanting
from ray_jobs.steps import Step, Written
from ray_jobs.tables import Folder, Table, batches, write_shards

SHARD_ROWS = 5000


@dataclass(frozen=True, kw_only=True)
class Round:
    """The steps of one round."""

    wanted: Step
    expanded: Step
    labelled: Step
    scored: Step
    placed: Step

    def steps(self) -> list[Step]:
        """In their order."""
        return [self.wanted, self.expanded, self.labelled, self.scored, self.placed]


def expand(recipe: Recipe, models: Models, collected: Step, placed: Step) -> list[Round]:
    """All rounds that may be needed. One that finds every target met asks nothing."""
    rounds: list[Round] = []
    for _ in range(recipe.build_data.num_rounds):
        rounds.append(_round(recipe, models, collected, placed, rounds))
    return rounds


def _round(
    recipe: Recipe, models: Models, collected: Step, placed: Step, earlier: Sequence[Round]
) -> Round:
    cfg, number = recipe.build_data, len(earlier) + 1
    places = [placed, *(one.placed for one in earlier)]
    before = [one.wanted for one in earlier]
    wanted = Step(
        name=f"wanted-r{number}",
        decides={
            **wanting.decides(cfg.diversity, cfg.expansion.num_per_request),
            "seed": recipe.seed,
        },
        inputs=(*places, *before),
        write=lambda home, tables: _want(home, tables[:number], tables[number:], recipe, number),
    )
    expanded = models.asked(
        expansion.question(cfg.expansion, number),
        cfg.expansion.engine,
        wanted,
        expansion.decides(cfg.expansion),
    )
    labelled = models.asked(
        replace(intents.question(cfg.intents), name=f"labelled-r{number}"),
        cfg.intents.engine,
        expanded,
        intents.decides(cfg.intents),
    )
    scored = models.asked(
        replace(rewards.prompts_question(), name=f"scored_prompts-r{number}"),
        cfg.rewards.engine,
        labelled,
        {"version": rewards.VERSION},
    )
    return Round(
        wanted=wanted,
        expanded=expanded,
        labelled=labelled,
        scored=scored,
        placed=Step(
            name=f"placed-r{number}",
            decides=keeping.decides(cfg.diversity, cfg.collect),
            inputs=(expanded, labelled, scored, collected, *(one.placed for one in earlier)),
            write=lambda home, tables: _keep(home, tables, recipe),
        ),
    )


def _want(
    home: Folder, placed: Sequence[Table], before: Sequence[Table], recipe: Recipe, number: int
) -> Written:
    cfg = recipe.build_data
    rows = wanting.want(
        placed,
        cfg.diversity,
        num_per_request=cfg.expansion.num_per_request,
        round_number=number,
        num_spent=sum(table.manifest["num_rows"] for table in before),
        seed=recipe.seed,
    )
    return Written(shards=write_shards(home, batches(rows, WANTED, SHARD_ROWS)))


def _keep(home: Folder, tables: Sequence[Table], recipe: Recipe) -> Written:
    cfg = recipe.build_data
    expanded, labelled, scored, collected, *earlier = tables
    rows = keeping.keep(expanded, labelled, scored, collected, earlier, cfg.diversity, cfg.collect)
    return Written(shards=write_shards(home, rows))

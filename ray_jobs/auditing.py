"""The steps that audit the judge on a sample of what it scores. Nothing is made from them."""

from __future__ import annotations

from dataclasses import replace

from ray_jobs.bring_up import Models
from ray_jobs.config import Recipe
from ray_jobs.stages import audit
from ray_jobs.steps import Step, Variant, Written
from ray_jobs.tables import write_shards


def audit_judge(
    recipe: Recipe, models: Models, name: Variant, candidates: Step, scored_responses: Step
) -> list[Step]:
    """The sample, what the judge says to it, and the figures; none where nothing is drawn."""
    cfg = recipe.build_data
    if not cfg.audit.num:
        return []
    drawn = Step(
        name=name.of("to_audit"),
        decides={"version": audit.VERSION, "num": cfg.audit.num, "seed": recipe.seed},
        inputs=(candidates,),
        write=lambda home, tables: Written(
            shards=write_shards(home, audit.to_audit(tables[0], cfg.audit.num, recipe.seed))
        ),
    )
    audited = models.asked(
        replace(audit.question(), name=name.of("audited")),
        cfg.audit.engine or cfg.rewards.engine,
        drawn,
        {"version": audit.VERSION, "repeats": recipe.judge and recipe.judge.num_repeats},
    )
    answered_by = recipe.engines[cfg.answers.engine].title
    trusted = Step(
        name=name.of("trust"),
        decides={"version": audit.VERSION, "answered_by": answered_by},
        inputs=(audited, candidates, scored_responses),
        write=lambda home, tables: Written(
            shards=audit.write(home, tables[0], tables[1], tables[2], answered_by)
        ),
    )
    return [drawn, audited, trusted]

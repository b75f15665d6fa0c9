"""Place every labelled prompt in a scenario by conf/taxonomy.yaml. No model is asked, so a changed
map costs no label.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from ray_jobs import taxonomy
from ray_jobs.schema import PLACED
from ray_jobs.tables import DONE, Table

VERSION = 1
UNMAPPED = "unmapped label"
_TEXT = pa.string()


def files() -> dict[str, str]:
    """The files that decide the places, by what they are."""
    return {"taxonomy": taxonomy.fingerprint()}


def place(labelled: Table, scored_prompts: Table) -> Iterator[pa.Table]:
    """Batches of schema.PLACED, a shard at a time: every prompt that has a label, of any role.

    Prompts that got no label are in the labelled table only, with the reason. One whose label means
    no scenario is dropped here: it would be answered and scored in vain. A prompt score is null
    where none was asked for or none could be read.
    """
    scores: dict[str, float] = {}
    for shard in scored_prompts.scan(["id", "prompt_score"], DONE):
        ids, values = shard["id"].to_pylist(), shard["prompt_score"].to_pylist()
        scores.update(zip(ids, values, strict=True))
    for shard in labelled.scan(where=DONE):
        yield _placed(shard, scores)


def _placed(shard: pa.Table, scores: Mapping[str, float]) -> pa.Table:
    labels = shard["label"].combine_chunks().dictionary_encode()
    assert labels.null_count == 0, "a labelled prompt has no label"
    scenario_of = taxonomy.load().scenario_of
    codes = pa.array([scenario_of(label) for label in labels.dictionary.to_pylist()], _TEXT)
    scenarios = codes.take(labels.indices)
    is_mapped = pc.is_valid(scenarios)
    nothing = pa.nulls(len(shard), _TEXT)
    found = {
        "scenario": scenarios,
        "mapping": pc.if_else(is_mapped, "map", "unmapped"),
        "method": nothing,
        "prompt_score": pa.array(map(scores.get, shard["id"].to_pylist()), pa.float64()),
        "twin": nothing,
        "outcome": pc.if_else(is_mapped, "done", "dropped"),
        "reason": pc.if_else(is_mapped, pa.scalar(None, _TEXT), UNMAPPED),
    }
    columns = {name: found[name] if name in found else shard[name] for name in PLACED.names}
    return pa.table(columns, schema=PLACED)

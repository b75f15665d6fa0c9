"""Export the training set: Parquet, what other trainers load, preference pairs, and a data card.

Rows pass a shard at a time, and all files grow together: the set is never in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from ray_jobs import cards, trainers
from ray_jobs.cards import PAIRS, SPLITS, About, Census
from ray_jobs.quotas import places
from ray_jobs.schema import EXPORTED, PREFERRED
from ray_jobs.tables import DONE, Folder, Table
from ray_jobs.trainers import FORMS, Lines, encoded

VERSION = 2
PREFERENCES = "preferences"
FORMATS = (*FORMS, PREFERENCES)
TABLE_FILES = [f"{split}.parquet" for split in SPLITS]
"""The files with the rows of schema.EXPORTED."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """What the training set's responses are made of, and which files there are beside Parquet."""

    train_on: Literal["answer", "analysis_and_answer"] = "answer"
    """answer: the response alone. analysis_and_answer: the safety analysis before it, if any."""
    formats: tuple[Literal["alpaca", "sharegpt", "trl", "preferences"], ...] = (
        "alpaca",
        "sharegpt",
        "trl",
        "preferences",
    )
    """alpaca, sharegpt: for LLaMA-Factory. trl: conversations. preferences: pairs, as Parquet and
    in the other formats given.
    """
    min_margin: float = 0.2
    """How much lower the rejected response of a pair scores at least, 0…1."""

    def __post_init__(self) -> None:
        if self.train_on not in cards.RESPONSE:
            raise ValueError(
                f"export.train_on: expected {' | '.join(cards.RESPONSE)}, found {self.train_on!r}"
            )
        if unknown := set(self.formats) - set(FORMATS):
            raise ValueError(
                f"export.formats: expected some of {', '.join(FORMATS)}, found {sorted(unknown)}"
            )
        if not 0 <= self.min_margin <= 1:
            raise ValueError(f"export.min_margin: expected 0…1, found {self.min_margin}")


def files() -> dict[str, str]:
    """The files that decide what is written, by what they are."""
    return {"card": cards.fingerprint()}


def export(selected: Table, folder: Folder, cfg: Export, about: About) -> dict[str, int]:
    """Write the training set; returns how many rows each data file has. TABLE_FILES are the table.

    ValueError where there is no row to train on.
    """
    census, sizes = Census(), Counter[str]()
    with ExitStack() as stack:
        written = {
            (split, pairs): _Files(stack, folder, cfg, split, pairs=pairs)
            for split in SPLITS
            for pairs in (False, True)
            if PREFERENCES in cfg.formats or not pairs
        }
        for shard in _whole_prompts(selected):
            census.add(shard)
            for (split, pairs), to in written.items():
                sizes.update(to.add(_rows(shard, cfg, split, pairs=pairs)))
        if not sizes[TABLE_FILES[0]]:
            raise ValueError(
                f"{selected.folder.uri}: no row was selected to train on: see its column `reason`, "
                "and the thresholds in build_data.selection"
            )
    forms = [FORMS[name] for name in cfg.formats if name in FORMS]
    folder.write("dataset_info.json", trainers.dataset_info(sizes, forms, SPLITS))
    folder.write("README.md", cards.card(census, sizes, cfg.train_on, cfg.min_margin, about))
    return dict(sizes)


def examples(selected: pa.Table, cfg: Export) -> pa.Table:
    """Selected rows as training examples."""
    roles = set(pc.unique(selected["role"]).to_pylist())
    assert roles <= {"train", "general"}, f"roles that are never exported: {sorted(roles)}"
    columns = {name: selected[name] for name in EXPORTED.names}
    return pa.table(columns | {"response": _trained_on(selected, cfg)}, schema=EXPORTED)


def preferences(selected: pa.Table, cfg: Export) -> pa.Table:
    """The selected response of each prompt, and the worst other one that scores so much lower.

    `selected` holds all responses of its prompts, the dropped ones too.
    """
    score = selected["score"].to_numpy()
    done = pc.equal(selected["outcome"], "done").to_numpy()
    codes = selected["prompt_id"].combine_chunks().dictionary_encode().indices
    prompt = np.asarray(codes.to_numpy(), np.int64)
    chosen_of = np.full(prompt.max(initial=-1) + 1, -1)
    chosen_of[prompt[done]] = np.flatnonzero(done)
    others = np.flatnonzero(~done & ~np.isnan(score))
    worst = others[places(prompt[others], score[others]) == 0]
    chosen = chosen_of[prompt[worst]]
    # Rounded, or .7 - .5 would be a little less than .2; NaN where the chosen one has no score.
    margin = np.where(chosen < 0, np.nan, np.round(score[chosen] - score[worst], 6))
    fit = margin >= cfg.min_margin
    best, rejected = selected.take(chosen[fit]), selected.take(worst[fit])
    columns = {name: best[name] for name in PREFERRED.names if name in best.schema.names}
    texts = {"chosen": _trained_on(best, cfg), "rejected": _trained_on(rejected, cfg)}
    added = {"rejected_id": rejected["id"], **texts, "margin": pa.array(margin[fit])}
    return pa.table(columns | added, schema=PREFERRED)


def _trained_on(selected: pa.Table, cfg: Export) -> pa.ChunkedArray:
    response, analysis = selected["response"], selected["analysis"]
    if cfg.train_on == "answer":
        return response
    both = pc.binary_join_element_wise(analysis, response, "\n\n")
    return pc.if_else(pc.equal(analysis, ""), response, both)


def _whole_prompts(selected: Table) -> Iterator[pa.Table]:
    """The shards of a selection, each with all responses of its prompts."""
    last = None
    for shard in selected.scan():
        if len(shard):
            first, last_before = shard["prompt_id"][0], last
            assert first != last_before, f"prompt {first} is in two shards: its pair would be lost"
            last = shard["prompt_id"][-1]
        yield shard


def _rows(shard: pa.Table, cfg: Export, split: str, *, pairs: bool) -> pa.Table:
    mine = DONE & (pads.field("split") == split)
    if not pairs:
        return examples(shard.filter(mine), cfg)
    prompts = shard.filter(mine)["prompt_id"].combine_chunks()
    return preferences(shard.filter(pc.is_in(shard["prompt_id"], value_set=prompts)), cfg)


class _Files:
    """One split's examples or pairs, as Parquet and in the trainers' forms."""

    def __init__(
        self, stack: ExitStack, folder: Folder, cfg: Export, split: str, *, pairs: bool
    ) -> None:
        self._pairs = pairs
        self._parquet = f"{PAIRS}{split}.parquet" if pairs else f"{split}.parquet"
        stream = stack.enter_context(folder.open_write(self._parquet))
        schema = PREFERRED if pairs else EXPORTED
        self._table = stack.enter_context(pq.ParquetWriter(stream, schema, compression="zstd"))
        self._lines = {}
        for form in (FORMS[name] for name in cfg.formats if name in FORMS):
            name = form.name(split, pairs=pairs)
            lines = Lines(stack.enter_context(folder.open_write(name)), name)
            self._lines[name] = (form, stack.enter_context(closing(lines)))

    def add(self, rows: pa.Table) -> dict[str, int]:
        """Add rows to all files; returns how many each has got."""
        if len(rows):
            self._table.write_table(rows)
        prompts = encoded(rows["prompt"].to_pylist())
        if self._pairs:
            chosen, rejected = (encoded(rows[name].to_pylist()) for name in ("chosen", "rejected"))
            margins = list(map(str, rows["margin"].to_pylist()))
            for form, lines in self._lines.values():
                lines.write(list(map(form.pair, prompts, chosen, rejected, margins)))
        else:
            responses = encoded(rows["response"].to_pylist())
            for form, lines in self._lines.values():
                lines.write(list(map(form.example, prompts, responses)))
        return dict.fromkeys((self._parquet, *self._lines), len(rows))

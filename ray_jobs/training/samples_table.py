"""The table of training samples: what is trained on, as tokens, each row with its outcome.

Ray Data makes it before any worker starts, so that no card waits for a tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ray_jobs import files
from ray_jobs.prompts import CHAT_DATE
from ray_jobs.steps import Written
from ray_jobs.tables import Folder, Table, write_shards
from ray_jobs.training.chats import data_files, read_chats
from ray_jobs.training.examples import ENCODED, Census, Encoder, Samples
from ray_jobs.training.models import load_tokenizer
from ray_jobs.training.settings import Format, Train

VERSION = 2
SAMPLES = pa.schema([*ENCODED, pa.field("split", pa.string(), nullable=False)])
SPLITS = ("train", "validation")
SHARD_ROWS = 10_000


@dataclass(frozen=True, kw_only=True)
class Data:
    """Files of chats, by split."""

    train: str
    validation: str | None
    form: Format

    @classmethod
    def of(cls, data: str, form: Format) -> Data:
        """The files at `data`. ValueError where there are none."""
        train, validation = data_files(data)
        return cls(train=train, validation=validation, form=form)

    @property
    def files(self) -> list[tuple[str, str]]:
        """Splits with their files."""
        found = zip(SPLITS, (self.train, self.validation), strict=True)
        return [(split, file) for split, file in found if file is not None]

    def fingerprint(self) -> str:
        """Of the files' content."""
        return files.content_hash(*(file for _, file in self.files))[:16]


def decides(train: Train, base: str, data: str) -> dict[str, Any]:
    """What decides the rows: the fingerprints of base model and data, and how samples are cut."""
    return {
        "version": VERSION,
        "base": base,
        "data": data,
        "format": train.format,
        "cutoff": train.cutoff,
        "date": CHAT_DATE,
    }


def check(train: Train) -> None:
    """ValueError where the base model's tokenizer has no chat template, or cannot be loaded."""
    _encoder(train.base, train.revision, train.cutoff)


def write(home: Folder, data: Data, train: Train) -> Written:
    """Encode all rows. ValueError, and nothing left behind, where nothing can be learnt."""
    try:
        shards = write_shards(home, _regrouped(_shown(_encoded(data, train))))
        table = Table(home, {"shards": shards})
        census(table).check(data.train, train.cutoff)
    except ValueError:
        home.delete()
        raise
    return Written(shards=shards)


def census(table: Table) -> Census:
    """What became of the rows to train on."""
    return Census.of(table.load(where=pc.field("split") == SPLITS[0]).drop_columns("split"))


def load(table: Table, split: str) -> Samples:
    """The samples of a split."""
    return Samples.of(table.load(where=pc.field("split") == split))


@lru_cache(maxsize=1)
def _encoder(base: str, revision: str, cutoff: int) -> Encoder:
    return Encoder(tokenizer=load_tokenizer(base, revision), cutoff=cutoff, name=base)


def _encoded(data: Data, train: Train) -> Iterator[pa.Table]:
    """The rows of all splits as tables of SAMPLES, in the files' order."""
    import ray

    # The order of the rows decides which of them meet in a step.
    options = ray.data.DataContext.get_current().execution_options
    was_ordered, options.preserve_order = options.preserve_order, True
    try:
        for split, file in data.files:
            refs: list[Any] = [ray.put(chats) for chats in read_chats(file, data.form)]
            if not refs:
                yield SAMPLES.empty_table()
                continue
            encode = _Encode(train.base, train.revision, train.cutoff, split)
            found = ray.data.from_arrow_refs(refs).map_batches(
                encode, batch_format="pyarrow", batch_size=None
            )
            yield from found.iter_batches(batch_format="pyarrow", batch_size=None)
    finally:
        options.preserve_order = was_ordered


@dataclass(frozen=True)
class _Encode:
    """Chats to samples, in whichever process it is called; that keeps its tokenizer."""

    base: str
    revision: str
    cutoff: int
    split: str

    def __call__(self, chats: pa.Table) -> pa.Table:
        encoded = _encoder(self.base, self.revision, self.cutoff).encode(chats)
        split = pa.array([self.split] * len(encoded), pa.string())
        return encoded.append_column(SAMPLES.field("split"), split)


def _shown(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    from tqdm import tqdm

    with tqdm(desc=f"{'samples':>16}", unit="row", mininterval=1.0, dynamic_ncols=True) as bar:
        for table in tables:
            bar.update(len(table))
            yield table


def _regrouped(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    held: list[pa.Table] = [SAMPLES.empty_table()]
    for table in tables:
        held.append(table.cast(SAMPLES))
        if sum(map(len, held)) >= SHARD_ROWS:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)

"""Collect the prompts of all sources. No row of a file is lost: dropped ones carry their reason.

Rows are written twice: as drafts while they are read, and again when all have been compared. Of a
row in between, only a few numbers are in memory.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeGuard, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_jobs.duplicates import Near
from ray_jobs.readers import Found, Source, read
from ray_jobs.repeats import Evaluation, Ids, Reasons, Repeats
from ray_jobs.schema import COLLECTED, Language, Role, row_id
from ray_jobs.tables import Folder, Row, Table, to_table, write_shards

VERSION = 3
SHARD_ROWS = 5000
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
# What rows are compared with is read first.
READ_ORDER: tuple[Role, ...] = ("evaluate", "train", "analyse", "general")


@dataclass(frozen=True, kw_only=True)
class Collect:
    """Which rows are of no use, and which repeat others."""

    max_prompt_chars: int = 8000
    """Rows with a longer prompt are dropped."""
    max_response_chars: int = 8000
    """Rows with a longer response of their own are dropped."""
    min_similarity: float = 0.8
    """Prompts with this share of n-grams in common, or more, are near-duplicates. 1: those that are
    alike but for spaces, punctuation, case and width. 0: none are, only equal ones are dropped."""
    ngram_chars: int = 3
    """Length of these n-grams. Shorter prompts are compared as with min_similarity 1."""
    min_leaked_share: float = 0.8
    """Rows to train on with this share of an evaluation prompt's n-grams, or more, are
    contaminated. 0: no row is compared with evaluation prompts."""
    leaked_ngram_chars: int = 4
    """Length of these n-grams in Chinese characters; four Latin letters or digits count as one."""

    def __post_init__(self) -> None:
        for name in ("max_prompt_chars", "max_response_chars", "ngram_chars", "leaked_ngram_chars"):
            if getattr(self, name) < 1:
                raise ValueError(f"collect: expected {name} ≥ 1, found {getattr(self, name)}")
        for name in ("min_similarity", "min_leaked_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"collect: expected {name} from 0 to 1, found {getattr(self, name)}"
                )


def write(home: Folder, sources: Mapping[str, Source], cfg: Collect) -> list[str]:
    """Write the rows of schema.COLLECTED and return the names of their shards: role by role,
    sources by name, whatever order the recipe has. Of prompts of one role that repeat one another
    the first is kept. What a killed run left in the folder is removed.
    """
    drafts = home / "drafts"
    for name in home.names():
        if name.startswith("part-"):
            home.remove(name)
    try:
        written = _drafted(drafts, sources, cfg)
        with _progress("written", sum(len(one.reason) for one in written.values())) as bar:
            return write_shards(home, _final(drafts, written, bar))
    finally:
        drafts.delete()


def _drafted(drafts: Folder, sources: Mapping[str, Source], cfg: Collect) -> dict[Role, _Written]:
    written: dict[Role, _Written] = {}
    evaluation: Evaluation | None = None
    with _progress("collected") as bar:
        for role in READ_ORDER:
            compared = evaluation if role in ("train", "general") else None
            written[role] = _draft(drafts, role, _rows(role, sources, cfg), cfg, compared, bar)
            if role == "evaluate" and cfg.min_leaked_share:
                evaluation = _evaluation(drafts, written[role].shards, cfg)
    return written


def useless(collected: Table) -> dict[str, str]:
    """The sources to train on of which no row can be used, with the reasons and their counts."""
    counts: dict[str, Counter[str | None]] = {}
    for rows in collected.scan(["source", "reason"], pc.field("role") == "train"):
        for row in rows.group_by(["source", "reason"]).aggregate([([], "count_all")]).to_pylist():
            counts.setdefault(row["source"], Counter())[row["reason"]] += row["count_all"]
    return {
        source: f"none of its {num.total():,} rows can be used ("
        + ", ".join(f"{reason}: {times:,}" for reason, times in num.most_common())
        + ")"
        for source, num in counts.items()
        if None not in num
    }


def reason_to_drop(found: Found, role: str, cfg: Collect) -> str | None:
    """Why a row cannot be used, whatever the other rows are; None where it can."""
    if found.language not in (None, *get_args(Language)):
        return "neither Chinese nor English"
    if found.prompt is None:
        return "no prompt"
    if not _is_text(found.prompt):
        return "prompt is not text"
    if not _is_visible(found.prompt):
        return "empty prompt"
    if len(found.prompt.strip()) > cfg.max_prompt_chars:
        return f"longer than {cfg.max_prompt_chars} characters"
    texts = [response for response in found.responses if _is_text(response)]
    if len(texts) < len(found.responses):
        return "response is not text"
    if any(len(text) > cfg.max_response_chars for text in texts):
        return f"response longer than {cfg.max_response_chars} characters"
    if role == "general" and not any(map(_is_visible, texts)):
        return "no response"
    return None


def _row(name: str, source: Source, found: Found) -> Row:
    prompt = found.prompt.strip() if _is_text(found.prompt) else ""
    responses = [text for text in found.responses if _is_text(text) and _is_visible(text)]
    label = None if found.label is None else found.label.encode(errors="replace").decode().strip()
    return {
        "id": row_id(name, prompt, responses),
        "source": name,
        "source_row": found.source_row,
        "role": source.role,
        "language": found.language or _language(prompt, source.language),
        "licence": source.licence,
        "prompt": prompt,
        "source_label": label or None,
        "original_responses": responses,
        "parent": None,
        "twin": None,
        "outcome": "done",
        "reason": None,
    }


def _language(prompt: str, of_source: str) -> str:
    if of_source != "auto":
        return of_source
    return "zh" if _HAN.search(prompt) else "en"


def _is_text(value: object) -> TypeGuard[str]:
    """Whether it can be written as UTF-8: JSON may smuggle in half a character, such as \\ud83d."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_visible(text: str) -> bool:
    """Whether there is more than spaces, controls and zero-width characters."""
    return any(unicodedata.category(char)[0] not in "ZC" for char in text)


@dataclass(frozen=True, kw_only=True)
class _Written:
    """The drafts of one role, and what was decided about their rows since."""

    shards: list[str]
    reason: Reasons
    twin: Ids


def _rows(role: Role, sources: Mapping[str, Source], cfg: Collect) -> Iterator[Row]:
    """The rows of a role's sources; those that are of no use by themselves are dropped."""
    for name, source in sorted(sources.items()):
        for found in read(name, source) if source.role == role else ():
            row, reason = _row(name, source, found), reason_to_drop(found, role, cfg)
            dropped = {"id": _dropped_id(row["id"], row["source_row"]), "outcome": "dropped"}
            yield row if reason is None else {**row, **dropped, "reason": reason}


def _draft(
    folder: Folder,
    role: Role,
    rows: Iterator[Row],
    cfg: Collect,
    evaluation: Evaluation | None,
    bar: Any,
) -> _Written:
    """Write a role's rows as they are read, and decide which of them repeat others."""
    shards: list[str] = []
    # An evaluation set is not ours to thin out: only equal prompts are dropped from it.
    min_similarity = 0.0 if role == "evaluate" else cfg.min_similarity
    with closing(Near(min_similarity, cfg.ngram_chars, _scratch(folder))) as near:
        repeats = Repeats(near, evaluation)
        while some := list(islice(rows, SHARD_ROWS)):
            shards.append(f"{role}-{len(shards):05d}.parquet")
            folder.write_shard(shards[-1], to_table(some, COLLECTED))
            prompts = [row["prompt"] if row["outcome"] == "done" else None for row in some]
            repeats.add([row["id"] for row in some], prompts)
            bar.update(len(some))
        reason, twin = repeats.decide()
    return _Written(shards=shards, reason=reason, twin=twin)


def _scratch(folder: Folder) -> str | None:
    """Where there is room for what does not fit in memory; None: the system's temporary folder."""
    if "://" in folder.uri:
        return None
    Path(folder.uri).mkdir(parents=True, exist_ok=True)
    return folder.uri


def _evaluation(folder: Folder, shards: Sequence[str], cfg: Collect) -> Evaluation | None:
    if not shards:
        return None
    names = ["id", "source", "prompt"]
    # Dropped ones too: whoever evaluates reads the file, not this table.
    tables = [folder.read_shard(shard, names) for shard in shards]
    rows = pa.concat_tables(tables)
    ids, sources, prompts = (rows[name].to_pylist() for name in names)
    share, ngram = cfg.min_leaked_share, cfg.leaked_ngram_chars
    return Evaluation(ids, sources, prompts, min_share=share, ngram=ngram)


def _final(folder: Folder, written: Mapping[Role, _Written], bar: Any) -> Iterator[pa.Table]:
    """The drafts in their order, with what was decided."""
    for role in get_args(Role):
        start = 0
        for shard in written[role].shards:
            rows = folder.read_shard(shard)
            end = start + rows.num_rows
            yield _decided(rows, written[role].reason[start:end], written[role].twin[start:end])
            bar.update(rows.num_rows)
            start = end


def _decided(rows: pa.Table, reason: Reasons, twin: Ids) -> pa.Table:
    columns = {name: rows[name].to_pylist() for name in ("id", "outcome", "reason", "twin")}
    source_row = rows["source_row"].to_pylist()
    for row in np.flatnonzero(reason != None).tolist():  # noqa: E711 (of each row)
        columns["id"][row] = _dropped_id(columns["id"][row], source_row[row])
        columns["outcome"][row] = "dropped"
        columns["reason"][row] = reason[row]
        columns["twin"][row] = twin[row].decode()
    for name, values in columns.items():
        kind = COLLECTED.field(name)
        rows = rows.set_column(rows.schema.get_field_index(name), kind, pa.array(values, kind.type))
    return rows


def _dropped_id(row_id: str, source_row: int) -> str:
    """Dropped rows may be alike to the letter, so the id says which row of its file it is."""
    return f"{row_id}/d{source_row}"


def _progress(what: str, total: int | None = None) -> Any:
    from tqdm import tqdm

    label = f"{what:>16}"
    # Short work shows no bar, and a file that cannot be read at once nothing but its one line.
    return tqdm(desc=label, total=total, unit="row", mininterval=1.0, dynamic_ncols=True, delay=2)

"""Steps: run, resume, skip or refuse each by its fingerprint. All fingerprints are known before
anything runs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from ray_jobs.asking import Asked
from ray_jobs.tables import Folder, Table, open_table

WhenChanged = Literal["refuse", "rebuild"]
TOLD = "decides.json"

log = logging.getLogger(__name__)


class JobFailed(Exception):
    """The job cannot go on, and the input is not to blame. The message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a step has written: its shards, and what asking took where a model was asked."""

    shards: Sequence[str]
    asked: Asked | None = None
    max_failed: int = 0


@dataclass(frozen=True, kw_only=True)
class Step:
    """One table: what decides its rows, what it is made from, and how it is written."""

    name: str
    decides: Mapping[str, Any]
    """Everything that decides the rows, by name; a refusal says which of these has changed."""
    inputs: tuple[Step, ...] = ()
    write: Callable[[Folder, Sequence[Table]], Written]
    """Writes the shards into the folder, from the tables of `inputs`."""

    @cached_property
    def told(self) -> dict[str, Any]:
        """`decides`, and the fingerprints of the inputs, as JSON has them."""
        inputs = {f"input {step.name}": step.fingerprint for step in self.inputs}
        told: dict[str, Any] = json.loads(json.dumps({**self.decides, **inputs}, sort_keys=True))
        return told

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over all that decides the rows."""
        data = json.dumps([self.name, self.told], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(data.encode()).hexdigest()[:16]


class Variant:
    """The names of a job's steps where parts of the method are left out: from the first step that
    differs on they bear what is missing, so that both tables lie side by side.
    """

    def __init__(self, without: Sequence[str]) -> None:
        self._without = without
        self._suffix = ""

    def of(self, step: str, *switches: str) -> str:
        """The name of a step that `switches` change, and with it all that are named later."""
        if set(switches) & set(self._without):
            self._suffix = f"-without-{'-'.join(sorted(self._without))}"
        return step + self._suffix


def deciding(config: Any) -> Any:
    """A config's fields that decide rows, as plain data."""
    if is_dataclass(config) and not isinstance(config, type):
        chosen = [item for item in fields(config) if item.metadata.get("decides_rows", True)]
        return {item.name: deciding(getattr(config, item.name)) for item in chosen}
    if isinstance(config, Mapping):
        return {key: deciding(value) for key, value in config.items()}
    return [deciding(value) for value in config] if isinstance(config, list | tuple) else config


def run_steps(steps: Sequence[Step], out: Folder) -> dict[str, Table]:
    """Bring every step's table up to date, in order. Published tables with the same fingerprint
    are left alone.

    Raises JobFailed where more rows failed than a step may. Tables made otherwise are replaced:
    call refuse_changed first where that is not wanted.
    """
    tables: dict[str, Table] = {}
    for step in steps:
        found = open_table(out / step.name)
        if found is None or found.manifest["fingerprint"] != step.fingerprint:
            found = _run(step, out / step.name, [tables[need.name] for need in step.inputs])
        else:
            log.info("%s: unchanged, skipped", step.name)
        tables[step.name] = found
    return tables


def up_to_date(steps: Sequence[Step], out: Folder) -> bool:
    """Whether every step is published as it would be made now."""
    tables = [open_table(out / step.name) for step in steps]
    return all(
        table is not None and table.manifest["fingerprint"] == step.fingerprint
        for step, table in zip(steps, tables, strict=True)
    )


def refuse_changed(steps: Sequence[Step], out: Folder) -> None:
    """ValueError, naming the steps and what has changed, where `out` holds rows made otherwise."""
    reasons = {step.name: list(_changes(step, out / step.name)) for step in steps}
    changed = {name: found for name, found in reasons.items() if found}
    if changed:
        roots = [
            f"{name}: {', '.join(own)}" for name, found in changed.items() if (own := _own(found))
        ]
        raise ValueError(
            f"{out.uri} holds rows that were made otherwise. Changed: {'; '.join(roots)}. "
            f"Steps concerned: {', '.join(changed)}. "
            "Make them again with when_changed=rebuild, or give another out="
        )


def _own(found: list[str]) -> list[str]:
    return [change for change in found if not change.startswith("input ")]


def _changes(step: Step, folder: Folder) -> Iterator[str]:
    """What tells an older table, or the ledger of an unfinished one, from the step as it is now."""
    made_otherwise = [
        name for name in folder.names() if "." not in name and name != step.fingerprint
    ]
    if step.fingerprint in folder.names() or not made_otherwise:
        return
    for name in made_otherwise:
        told = (folder / name).read_json(TOLD) or {}
        yield from (
            key for key in sorted(told.keys() | step.told) if told.get(key) != step.told.get(key)
        )


def _run(step: Step, folder: Folder, inputs: Sequence[Table]) -> Table:
    home = folder / step.fingerprint
    home.write(TOLD, json.dumps(step.told, ensure_ascii=False, indent=1).encode())
    started = time.monotonic()
    written = step.write(home, inputs)
    manifest = _manifest(step, folder, written, time.monotonic() - started)
    failed = manifest["outcomes"].get("failed", 0)
    if failed > written.max_failed:
        most = ", ".join(
            f"{reason} ({num})" for reason, num in manifest["reasons"]["failed"].items()
        )
        raise JobFailed(
            f"{step.name}: {failed} of {manifest['num_rows']} rows failed, "
            f"{written.max_failed} may: {most[:300]}. The same command asks exactly those again"
        )
    folder.write("manifest.json", json.dumps(manifest, ensure_ascii=False, indent=1).encode())
    for name in folder.names():
        if "." not in name and name != step.fingerprint:
            (folder / name).delete()
    table = open_table(folder)
    assert table is not None
    return table


def _manifest(step: Step, folder: Folder, written: Written, wall_s: float) -> dict[str, Any]:
    shards = [f"{step.fingerprint}/{name}" for name in written.shards]
    outcomes: Counter[str] = Counter()
    reasons: dict[str, Counter[str]] = {}
    licences: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    columns: list[str] = []
    for shard in shards:
        rows = folder.read_shard(shard)
        columns = rows.schema.names
        for outcome, reason, num in _fates(rows):
            outcomes[outcome] += num
            if reason:
                reasons.setdefault(outcome, Counter())[reason] += num
        if "licence" in columns:
            counted = rows["licence"].value_counts().to_pylist()
            licences.update({one["values"]: one["counts"] for one in counted})
        for name in {"prompt_tokens", "output_tokens"} & set(columns):
            tokens[name] += pc.sum(rows[name]).as_py() or 0
    asked = written.asked
    return {
        "step": step.name,
        "fingerprint": step.fingerprint,
        "decides": step.told,
        "columns": columns,
        "shards": shards,
        "num_rows": outcomes.total(),
        "outcomes": dict(outcomes),
        "reasons": {outcome: dict(found.most_common(20)) for outcome, found in reasons.items()},
        "licences": dict(licences),
        "wall_s": round(wall_s, 3),
        "asked": asked
        and {
            "rows_kept_from_earlier_runs": asked.num_kept,
            "rows_asked_in_this_run": asked.num_asked,
            "wall_s": round(asked.wall_s, 3),
            "prompt_tokens": tokens["prompt_tokens"],
            "output_tokens": tokens["output_tokens"],
            # After a resumption the wall time covers only some of the tokens: no rate then.
            "output_tokens_per_s": None
            if asked.num_kept or not asked.wall_s
            else round(tokens["output_tokens"] / asked.wall_s, 1),
        },
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _fates(rows: pa.Table) -> Iterator[tuple[str, str | None, int]]:
    if "outcome" not in rows.schema.names:
        # The files of an export hold chosen rows only, and have no column for it.
        yield "done", None, len(rows)
        return
    counted = rows.group_by(["outcome", "reason"]).aggregate([([], "count_all")])
    for row in counted.to_pylist():
        yield row["outcome"], row["reason"], row["count_all"]

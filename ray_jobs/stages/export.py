"""Export the training set: Parquet, LLaMA-Factory's JSON and a short data card."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from ray_jobs import taxonomy
from ray_jobs.schema import SELECTED
from ray_jobs.tables import DONE, Folder, Table

VERSION = 1
SPLITS = ("train", "validation")
EXPORTED = pa.schema(
    [
        SELECTED.field(name)
        for name in (
            "id",
            "prompt_id",
            "source",
            "licence",
            "language",
            "scenario",
            "prompt",
            "response",
        )
    ]
)
Origin = tuple[str | None, str, str]
"""Scenario, which general rows do not have, source and licence."""

CARD = """\
# Safety training set

**It contains harmful prompts.** They are there so that a model learns to answer them safely. Do not
show them to people who did not ask for them, and do not train on the prompts without the responses.

{num_train} rows to train on and {num_validation} to validate with. A response is {response}.
Responses are by models or from the sources: no person has checked each of them.

{by_scenario}

Every row carries the licence of its source, in the column `licence`; all of them hold for the set.

{by_source}

Files: `train.parquet` and `validation.parquet`; for LLaMA-Factory, `dataset_info.json` names
`garrison_train` and `garrison_validation`.
"""
RESPONSE = {
    "answer": "the answer alone",
    "analysis_and_answer": "the safety analysis, where there is one, an empty line and the answer",
}


@dataclass(frozen=True, kw_only=True)
class Export:
    """What the training set's responses are made of."""

    train_on: Literal["answer", "analysis_and_answer"] = "answer"
    """answer: the response alone. analysis_and_answer: the safety analysis before it, if any."""

    def __post_init__(self) -> None:
        if self.train_on not in RESPONSE:
            raise ValueError(
                f"export.train_on: expected {' | '.join(RESPONSE)}, found {self.train_on!r}"
            )


def export(selected: Table, folder: Folder, cfg: Export) -> dict[str, int]:
    """Write the training set; returns how many rows each data file has.

    ValueError where there is no row to train on.
    """
    origins: dict[str, Counter[Origin]] = {}
    for split in SPLITS:
        shards = selected.scan(where=DONE & (pads.field("split") == split))
        origins[split] = _write_split((examples(shard, cfg) for shard in shards), split, folder)
    sizes = {split: count.total() for split, count in origins.items()}
    if not sizes["train"]:
        raise ValueError(
            f"{selected.folder.uri}: no row was selected to train on: see its column `reason`, "
            "and the thresholds in build_data.selection"
        )
    folder.write("dataset_info.json", dataset_info(sizes).encode())
    folder.write("README.md", card(origins, cfg).encode())
    return {name: sizes[split] for split in SPLITS for name in _data_files(split)}


def examples(selected: pa.Table, cfg: Export) -> pa.Table:
    """Selected rows as training examples."""
    roles = set(selected["role"].to_pylist())
    assert roles <= {"train", "general"}, f"roles that are never exported: {sorted(roles)}"
    response, analysis = selected["response"], selected["analysis"]
    if cfg.train_on == "analysis_and_answer":
        both = pc.binary_join_element_wise(analysis, response, "\n\n")
        response = pc.if_else(pc.equal(analysis, ""), response, both)
    columns = {name: selected[name] for name in EXPORTED.names} | {"response": response}
    return pa.table(columns, schema=EXPORTED)


def alpaca_line(example: Mapping[str, Any]) -> str:
    """An example in LLaMA-Factory's Alpaca form, on one line."""
    row = {"instruction": example["prompt"], "input": "", "output": example["response"]}
    return json.dumps(row, ensure_ascii=False)


def dataset_info(sizes: Mapping[str, int]) -> str:
    """LLaMA-Factory's list of data sets. It cannot load an empty one, so none is listed."""
    columns = {"prompt": "instruction", "query": "input", "response": "output"}
    info = {
        f"garrison_{split}": {
            "file_name": _data_files(split)[1],
            "formatting": "alpaca",
            "columns": columns,
        }
        for split, size in sizes.items()
        if size
    }
    return json.dumps(info, indent=2) + "\n"


def card(origins: Mapping[str, Counter[Origin]], cfg: Export) -> str:
    """What is in the set: rows by scenario and split, sources with their licences."""
    names: dict[str | None, str] = {
        code: f"{code} {scenario.en}" for code, scenario in taxonomy.load().scenarios.items()
    }
    names[None] = "general"
    scenarios: dict[str | None, Counter[str]] = {code: Counter() for code in names}
    sources: Counter[tuple[str, str]] = Counter()
    for split, count in origins.items():
        for (scenario, source, licence), number in count.items():
            scenarios[scenario][split] += number
            sources[source, licence] += number
    by_scenario = [
        (names[code], *(str(of_split[split]) for split in SPLITS))
        for code, of_split in scenarios.items()
    ]
    by_source = [(*key, str(number)) for key, number in sorted(sources.items())]
    return CARD.format(
        num_train=origins["train"].total(),
        num_validation=origins["validation"].total(),
        response=RESPONSE[cfg.train_on],
        by_scenario=_markdown(("scenario", *SPLITS), by_scenario),
        by_source=_markdown(("source", "licence", "rows"), by_source),
    )


def _write_split(shards: Iterable[pa.Table], split: str, folder: Folder) -> Counter[Origin]:
    parquet, alpaca = _data_files(split)
    origins: Counter[Origin] = Counter()
    lines: list[str] = []
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, EXPORTED, compression="zstd") as writer:
        for shard in shards:
            writer.write_table(shard)
            rows = shard.to_pylist()
            lines += map(alpaca_line, rows)
            origins.update((row["scenario"], row["source"], row["licence"]) for row in rows)
    folder.write(parquet, sink.getvalue())
    # An array with one row a line: valid JSON, and two versions of the set can be compared.
    folder.write(alpaca, ("[\n" + ",\n".join(lines) + "\n]\n").encode())
    return origins


def _data_files(split: str) -> tuple[str, str]:
    return f"{split}.parquet", f"garrison_{split}.json"


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in lines)

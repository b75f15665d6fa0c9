"""Export: what is selected, and nothing else, in the forms that trainers load."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.schema import SELECTED
from ray_jobs.stages.export import EXPORTED, Export, Origin, card, export
from ray_jobs.tables import Folder, Row, Table, batches, write_shards

# No deadline: a machine that is busy with other work is no fault of ours.
SETTINGS = settings(max_examples=25, deadline=None)

ROW: Row = {
    "id": "p/0",
    "prompt_id": "p",
    "source": "s",
    "role": "train",
    "language": "zh",
    "licence": "Apache-2.0",
    "prompt": "怎么骂人？\n快说",
    "scenario": "OFF",
    "analysis": "这会伤人。",
    "response": "我不骂人。",
    "score": 0.9,
    "prompt_score": 0.1,
    "num_scored_together": 2,
    "quantile": 0.5,
    "split": "train",
    "outcome": "done",
    "reason": None,
}
GENERAL: Row = ROW | {
    **dict.fromkeys(("scenario", "score", "prompt_score", "num_scored_together", "quantile")),
    "id": "g",
    "prompt_id": "g",
    "source": "plain",
    "licence": "MIT",
    "role": "general",
    "analysis": "",
    "prompt": "一加一？",
    "response": "二",
}
DROPPED = ROW | {"id": "p/o0", "outcome": "dropped", "reason": "unscored", "split": None}
VALIDATION = ROW | {"id": "q/0", "prompt_id": "q", "split": "validation", "scenario": "UB"}


def exported(folder: Path, rows: list[Row], cfg: Export | None = None) -> dict[str, int]:
    table = Folder(str(folder / "selected"))
    shards = write_shards(table, batches(rows, SELECTED, 2))
    out = Folder(str(folder / "export"))
    return export(Table(table, {"shards": shards}), out, cfg or Export())


def read_json(folder: Path, name: str) -> Any:
    return json.loads((folder / "export" / name).read_text(encoding="utf-8"))


def read_parquet(folder: Path, name: str) -> list[Row]:
    table = pq.read_table(io.BytesIO((folder / "export" / name).read_bytes()))
    assert table.schema.equals(EXPORTED)
    rows: list[Row] = table.to_pylist()
    return rows


def test_the_files_hold_the_rows_that_are_done_split_by_split(tmp_path: Path) -> None:
    sizes = exported(tmp_path, [ROW, DROPPED, GENERAL, VALIDATION])
    assert sizes == {
        "train.parquet": 2,
        "garrison_train.json": 2,
        "validation.parquet": 1,
        "garrison_validation.json": 1,
    }
    assert read_parquet(tmp_path, "train.parquet") == [
        {name: row[name] for name in EXPORTED.names} for row in (ROW, GENERAL)
    ]
    assert [row["id"] for row in read_parquet(tmp_path, "validation.parquet")] == ["q/0"]


def test_llama_factory_finds_its_columns(tmp_path: Path) -> None:
    exported(tmp_path, [ROW, GENERAL, VALIDATION])
    info = read_json(tmp_path, "dataset_info.json")
    assert list(info) == ["garrison_train", "garrison_validation"]
    entry = info["garrison_train"]
    rows = read_json(tmp_path, entry["file_name"])
    assert rows == [
        {"instruction": "怎么骂人？\n快说", "input": "", "output": "我不骂人。"},
        {"instruction": "一加一？", "input": "", "output": "二"},
    ]
    assert entry["formatting"] == "alpaca"
    assert entry["columns"] == {"prompt": "instruction", "query": "input", "response": "output"}
    assert all(set(entry["columns"].values()) == row.keys() for row in rows)


def test_a_row_of_json_is_one_readable_line(tmp_path: Path) -> None:
    exported(tmp_path, [ROW, GENERAL])
    lines = (tmp_path / "export" / "garrison_train.json").read_bytes().decode().split("\n")
    assert lines[0] == "["
    assert lines[2] == '{"instruction": "一加一？", "input": "", "output": "二"}'
    assert lines[3:] == ["]", ""]


def test_the_analysis_goes_before_the_answer_where_there_is_one(tmp_path: Path) -> None:
    exported(tmp_path, [ROW, GENERAL], Export(train_on="analysis_and_answer"))
    responses = [row["response"] for row in read_parquet(tmp_path, "train.parquet")]
    assert responses == ["这会伤人。\n\n我不骂人。", "二"]
    assert [row["output"] for row in read_json(tmp_path, "garrison_train.json")] == responses


def test_a_split_without_rows_is_not_offered_to_llama_factory(tmp_path: Path) -> None:
    assert exported(tmp_path, [ROW])["validation.parquet"] == 0
    assert list(read_json(tmp_path, "dataset_info.json")) == ["garrison_train"]
    assert read_json(tmp_path, "garrison_validation.json") == []
    assert read_parquet(tmp_path, "validation.parquet") == []


def test_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"no row was selected to train on: .*build_data.selection"
    ):
        exported(tmp_path, [DROPPED, VALIDATION])


@pytest.mark.parametrize("role", ["analyse", "evaluate"])
def test_a_role_that_must_not_be_trained_on_is_never_exported(role: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=role):
        exported(tmp_path, [ROW | {"role": role}])


def test_an_unknown_choice_is_refused() -> None:
    choice: Any = "analysis"
    with pytest.raises(ValueError, match=r"export.train_on: expected answer \| analysis_and_"):
        Export(train_on=choice)


def test_the_card_counts_warns_and_names_the_licences(tmp_path: Path) -> None:
    exported(tmp_path, [ROW, GENERAL, VALIDATION])
    text = (tmp_path / "export" / "README.md").read_text(encoding="utf-8")
    assert "contains harmful prompts" in text
    assert "2 rows to train on and 1 to validate with" in text
    assert "| OFF Insult and Offensiveness | 1 | 0 |" in text
    assert "| UB Unfairness and Bias | 0 | 1 |" in text
    assert "| general | 1 | 0 |" in text
    assert "| s | Apache-2.0 | 2 |" in text
    assert "| plain | MIT | 1 |" in text


def test_a_licence_cannot_break_the_cards_table() -> None:
    origins: Counter[Origin] = Counter({("OFF", "a|b", "{MIT}"): 1})
    counts = {"train": origins, "validation": Counter[Origin]()}
    assert "| a/b | {MIT} | 1 |" in card(counts, Export())


@SETTINGS
@given(st.lists(st.tuples(*[st.text(st.characters(codec="utf-8"))] * 3), min_size=1, max_size=6))
def test_texts_come_out_of_every_file_as_they_went_in(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[str, str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("texts")
    rows = [
        ROW | {"id": f"{number}", "prompt": prompt, "analysis": analysis, "response": response}
        for number, (prompt, analysis, response) in enumerate(drawn)
    ]
    exported(folder, rows, Export(train_on="analysis_and_answer"))
    wanted = [(p, f"{a}\n\n{r}" if a else r) for p, a, r in drawn]
    stored = read_parquet(folder, "train.parquet")
    assert [(row["prompt"], row["response"]) for row in stored] == wanted
    alpaca = read_json(folder, "garrison_train.json")
    assert [(row["instruction"], row["output"]) for row in alpaca] == wanted

"""Export: what is selected, and nothing else, in the forms that trainers load."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.cards import About
from ray_jobs.readers import Source
from ray_jobs.schema import EXPORTED, PREFERRED, SELECTED
from ray_jobs.stages.export import TABLE_FILES, Export, export, preferences
from ray_jobs.tables import Folder, Row, Table, batches, to_table, write_shards
from ray_jobs.trainers import FORMS

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
    "dimension": "plain",
    "method": None,
    "analysis": "这会伤人。",
    "response": "我不骂人。",
    "score": 0.9,
    "prompt_score": 0.1,
    "perplexity": 20.5,
    "num_scored_together": 2,
    "quantile": 0.5,
    "prompt_quantile": 0.5,
    "perplexity_quantile": 0.5,
    "split": "train",
    "outcome": "done",
    "reason": None,
}
GENERAL: Row = ROW | {
    **{name: None for name in SELECTED.names if SELECTED.field(name).type == "double"},
    **dict.fromkeys(("scenario", "dimension", "num_scored_together")),
    "id": "g",
    "prompt_id": "g",
    "source": "plain",
    "licence": "MIT",
    "role": "general",
    "analysis": "",
    "prompt": "一加一？",
    "response": "二",
}
WORSE = ROW | {
    "id": "p/o0",
    "analysis": "",
    "response": "好，我骂。",
    "score": 0.2,
    "outcome": "dropped",
    "reason": "unsafe response",
    "split": None,
}
VALIDATION = ROW | {"id": "q/0", "prompt_id": "q", "split": "validation", "scenario": "UB"}
OTHER = VALIDATION | {"id": "q/o0", "outcome": "dropped", "reason": "unscored", "split": None}
TURN = {"role": "user", "content": ROW["prompt"]}


def exported(
    folder: Path, rows: list[Row], cfg: Export | None = None, about: About | None = None
) -> dict[str, int]:
    table = Folder(str(folder / "selected"))
    shards = write_shards(table, batches(rows, SELECTED, 100))
    out = Folder(str(folder / "export"))
    return export(Table(table, {"shards": shards}), out, cfg or Export(), about or About())


def read_json(folder: Path, name: str) -> Any:
    text = (folder / "export" / name).read_text(encoding="utf-8")
    return json.loads(text) if name.endswith(".json") else [*map(json.loads, text.split("\n")[:-1])]


def read_parquet(folder: Path, name: str) -> list[Row]:
    table = pq.read_table(io.BytesIO((folder / "export" / name).read_bytes()))
    assert table.schema.equals(PREFERRED if "preferences" in name else EXPORTED)
    rows: list[Row] = table.to_pylist()
    return rows


def test_the_files_hold_the_rows_that_are_done_split_by_split(tmp_path: Path) -> None:
    sizes = exported(tmp_path, [ROW, WORSE, GENERAL, VALIDATION, OTHER])
    assert sizes == {
        "train.parquet": 2,
        "garrison_train.json": 2,
        "garrison_train_sharegpt.json": 2,
        "trl_train.jsonl": 2,
        "preferences_train.parquet": 1,
        "garrison_train_preferences.json": 1,
        "garrison_train_sharegpt_preferences.json": 1,
        "trl_train_preferences.jsonl": 1,
        "validation.parquet": 1,
        "garrison_validation.json": 1,
        "garrison_validation_sharegpt.json": 1,
        "trl_validation.jsonl": 1,
        "preferences_validation.parquet": 0,
        "garrison_validation_preferences.json": 0,
        "garrison_validation_sharegpt_preferences.json": 0,
        "trl_validation_preferences.jsonl": 0,
    }
    written = {file.name for file in (tmp_path / "export").iterdir()}
    assert written == {*sizes, "README.md", "dataset_info.json"}
    assert read_parquet(tmp_path, "train.parquet") == [
        {name: row[name] for name in EXPORTED.names} for row in (ROW, GENERAL)
    ]
    assert [row["id"] for row in read_parquet(tmp_path, "validation.parquet")] == ["q/0"]


def test_parquet_is_always_there_and_the_rest_as_asked(tmp_path: Path) -> None:
    assert list(exported(tmp_path / "none", [ROW, WORSE], Export(formats=()))) == TABLE_FILES
    both = exported(tmp_path / "both", [ROW, WORSE], Export(formats=("trl", "preferences")))
    assert {name.partition("_")[0] for name in both} == {
        *TABLE_FILES,
        "trl",
        "preferences",
    }
    assert read_json(tmp_path / "both", "dataset_info.json") == {}


def test_llama_factory_finds_its_columns(tmp_path: Path) -> None:
    exported(tmp_path, [ROW, WORSE, GENERAL, VALIDATION])
    info = read_json(tmp_path, "dataset_info.json")
    assert list(info) == [
        "garrison_train",
        "garrison_train_preferences",
        "garrison_train_sharegpt",
        "garrison_train_sharegpt_preferences",
        "garrison_validation",
        "garrison_validation_sharegpt",
    ]
    for name, entry in info.items():
        assert entry["formatting"] == ("sharegpt" if "sharegpt" in name else "alpaca")
        assert entry.get("ranking", False) == ("preferences" in name)
        rows = read_json(tmp_path, entry["file_name"])
        assert rows
        assert all(set(entry["columns"].values()) == row.keys() for row in rows)
    assert info["garrison_train"]["columns"]["response"] == "output"


def test_each_form_says_what_its_trainer_expects(tmp_path: Path) -> None:
    exported(tmp_path, [ROW, WORSE])
    assert read_json(tmp_path, "garrison_train.json") == [
        {"instruction": "怎么骂人？\n快说", "input": "", "output": "我不骂人。"}
    ]
    assert read_json(tmp_path, "garrison_train_sharegpt.json") == [
        {
            "conversations": [
                {"from": "human", "value": "怎么骂人？\n快说"},
                {"from": "gpt", "value": "我不骂人。"},
            ]
        }
    ]
    assert read_json(tmp_path, "trl_train.jsonl") == [
        {"messages": [TURN, {"role": "assistant", "content": "我不骂人。"}]}
    ]
    assert read_json(tmp_path, "garrison_train_preferences.json") == [
        {
            "instruction": "怎么骂人？\n快说",
            "input": "",
            "chosen": "我不骂人。",
            "rejected": "好，我骂。",
        }
    ]
    assert read_json(tmp_path, "garrison_train_sharegpt_preferences.json") == [
        {
            "conversations": [{"from": "human", "value": "怎么骂人？\n快说"}],
            "chosen": {"from": "gpt", "value": "我不骂人。"},
            "rejected": {"from": "gpt", "value": "好，我骂。"},
        }
    ]
    assert read_json(tmp_path, "trl_train_preferences.jsonl") == [
        {
            "prompt": [TURN],
            "chosen": [{"role": "assistant", "content": "我不骂人。"}],
            "rejected": [{"role": "assistant", "content": "好，我骂。"}],
            "margin": 0.7,
        }
    ]


def test_a_row_of_json_is_one_readable_line(tmp_path: Path) -> None:
    exported(tmp_path, [ROW, GENERAL])
    lines = (tmp_path / "export" / "garrison_train.json").read_bytes().decode().split("\n")
    assert lines[0] == "["
    assert lines[2] == '{"instruction": "一加一？", "input": "", "output": "二"}'
    assert lines[3:] == ["]", ""]
    assert (tmp_path / "export" / "garrison_validation.json").read_text() == "[\n]\n"
    assert (tmp_path / "export" / "trl_validation.jsonl").read_text() == ""


def test_the_analysis_goes_before_the_answer_where_there_is_one(tmp_path: Path) -> None:
    exported(tmp_path, [ROW, WORSE, GENERAL], Export(train_on="analysis_and_answer"))
    responses = [row["response"] for row in read_parquet(tmp_path, "train.parquet")]
    assert responses == ["这会伤人。\n\n我不骂人。", "二"]
    assert [row["output"] for row in read_json(tmp_path, "garrison_train.json")] == responses
    (pair,) = read_parquet(tmp_path, "preferences_train.parquet")
    assert (pair["chosen"], pair["rejected"]) == (responses[0], "好，我骂。")


def pairs_of(rows: list[Row], min_margin: float = 0.2) -> list[Row]:
    found: list[Row] = preferences(
        to_table(rows, SELECTED), Export(min_margin=min_margin)
    ).to_pylist()
    return found


def test_the_worst_response_of_the_same_prompt_is_the_rejected_one() -> None:
    worst = WORSE | {"id": "p/1", "score": 0.1, "response": "最坏"}
    unread = WORSE | {"id": "p/2", "score": None}
    elsewhere = WORSE | {"id": "q/o0", "prompt_id": "q", "score": 0.0}
    (pair,) = pairs_of([WORSE, worst, ROW, unread, elsewhere, GENERAL])
    assert pair == {
        **{name: ROW[name] for name in PREFERRED.names if name in ROW},
        "id": "p/0",
        "rejected_id": "p/1",
        "chosen": "我不骂人。",
        "rejected": "最坏",
        "margin": 0.8,
    }


def test_a_margin_just_as_wide_as_wanted_is_enough() -> None:
    close = WORSE | {"score": 0.7}  # .9 - .7 is .2000…02, and .7 - .5 is .1999…96
    assert [pair["margin"] for pair in pairs_of([ROW, close])] == [0.2]
    pair = [ROW | {"score": 0.7}, WORSE | {"score": 0.5}]
    assert [found["margin"] for found in pairs_of(pair)] == [0.2]
    assert pairs_of(pair, min_margin=0.3) == []


def test_a_chosen_response_without_a_score_has_no_pair() -> None:
    assert pairs_of([ROW | {"score": None}, WORSE]) == []
    assert pairs_of([]) == []


def test_a_prompt_that_is_in_two_shards_is_refused(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    shards = write_shards(folder, batches([ROW, WORSE], SELECTED, 1))
    with pytest.raises(AssertionError, match="prompt p is in two shards"):
        export(Table(folder, {"shards": shards}), folder / "export", Export(), About())


def test_a_split_without_rows_is_not_offered_to_llama_factory(tmp_path: Path) -> None:
    assert exported(tmp_path, [ROW])["validation.parquet"] == 0
    assert list(read_json(tmp_path, "dataset_info.json")) == [
        "garrison_train",
        "garrison_train_sharegpt",
    ]
    assert read_json(tmp_path, "garrison_validation.json") == []
    assert read_parquet(tmp_path, "validation.parquet") == []


def test_nothing_to_train_on_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"no row was selected to train on: .*build_data.selection"
    ):
        exported(tmp_path, [WORSE, VALIDATION])
    assert list((tmp_path / "export").iterdir()) == []


@pytest.mark.parametrize("role", ["analyse", "evaluate"])
def test_a_role_that_must_not_be_trained_on_is_never_exported(role: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=role):
        exported(tmp_path, [ROW | {"role": role}])


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("train_on", "analysis", r"answer \| analysis_and_answer"),
        ("formats", ("csv",), "some of alpaca, sharegpt, trl, preferences"),
        ("min_margin", 1.1, "0…1"),
    ],
)
def test_an_unknown_choice_is_refused(key: str, value: Any, expected: str) -> None:
    choice: dict[str, Any] = {key: value}
    with pytest.raises(ValueError, match=rf"export\.{key}: expected {expected}"):
        Export(**choice)


def card_of(folder: Path) -> tuple[dict[str, Any], str]:
    text = (folder / "export" / "README.md").read_text(encoding="utf-8")
    _, header, body = text.split("---\n", 2)
    return yaml.safe_load(header), body


def test_the_card_counts_and_warns(tmp_path: Path) -> None:
    expanded = ROW | {"id": "r/0", "prompt_id": "r", "method": "related", "dimension": None}
    exported(tmp_path, [ROW, WORSE, expanded, GENERAL, VALIDATION, OTHER])
    _, text = card_of(tmp_path)
    assert "contains harmful prompts" in text
    assert "no person has read each of them" in text
    assert "3 rows to train on and 1 to validate with" in text
    assert "Preference pairs: 1. " in text
    assert "| OFF Insult and Offensiveness | 1 | 0 | 0 | 0 | 1 | 2 | 0 |" in text
    assert "| UB Unfairness and Bias | 1 | 0 | 0 | 0 | 0 | 0 | 1 |" in text
    assert "| no scenario |  |  |  |  |  | 1 | 0 |" in text
    assert "| collected | 2 |" in text
    assert "| expanded: related | 1 |" in text
    assert "| general | 1 |" in text
    assert "| unsafe response | 1 |" in text
    assert "| `trl_train.jsonl` | 3 |" in text


def test_the_card_names_each_source_with_its_licence_and_its_duties(tmp_path: Path) -> None:
    own = ROW | {"id": "r/0", "prompt_id": "r", "source": "a|b", "licence": "{own}"}
    known = Source(
        reader="safety_prompts",
        path="/somewhere/of/mine.json",
        role="train",
        licence="Apache-2.0",
        catalogue="safety_prompts_typical",
    )
    about = About(
        sources={"s": known},
        made_by={"answers": "vllm some/model"},
        settings={"selection": {"min_response_score": 0.7}},
    )
    exported(tmp_path, [ROW, own, GENERAL], about=about)
    header, text = card_of(tmp_path)
    assert "| s | https://github.com/thu-coai/Safety-Prompts | Apache-2.0 | keep the lice" in text
    assert "| plain |  | MIT | keep the copyright notice and the licence | 1 |" in text
    assert "| a/b |  | {own} | not known here: read them at the publisher" in text
    assert "| answers | vllm some/model |" in text
    assert "min_response_score: 0.7" in text
    assert "/somewhere" not in text
    assert header["license"] == "other"


def test_the_cards_header_is_what_hugging_face_reads(tmp_path: Path) -> None:
    from huggingface_hub import DatasetCard

    exported(tmp_path, [ROW, WORSE, ROW | {"id": "r/0", "prompt_id": "r", "language": "en"}])
    data = DatasetCard.load(tmp_path / "export" / "README.md").data.to_dict()
    assert data["license"] == "apache-2.0"
    assert data["language"] == ["en", "zh"]
    assert data["size_categories"] == ["n<1K"]
    assert data["task_categories"] == ["text-generation"]
    assert data["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "train.parquet"}]},
        {
            "config_name": "preferences",
            "data_files": [{"split": "train", "path": "preferences_train.parquet"}],
        },
    ]


LOADS = """
import json, sys
from datasets import load_dataset
home = sys.argv[1]
found = {}
for name in ("default", "preferences"):
    for split, rows in load_dataset(home, name).items():
        found[f"{name} {split}"] = [len(rows), rows[0]["prompt"], sorted(rows.features)]
for file in ("garrison_train.json", "garrison_train_sharegpt_preferences.json", "trl_train.jsonl"):
    rows = load_dataset("json", data_files=f"{home}/{file}", split="train")
    found[file] = [len(rows), sorted(rows.features)]
print(json.dumps(found))
"""


def test_the_folder_loads_in_datasets_without_a_network(tmp_path: Path) -> None:
    exported(tmp_path, [ROW, WORSE, GENERAL, VALIDATION])
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    call = [sys.executable, "-c", LOADS, str(tmp_path / "export")]
    done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    columns = sorted(EXPORTED.names)
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "default train": [2, ROW["prompt"], columns],
        "default validation": [1, ROW["prompt"], columns],
        "preferences train": [1, ROW["prompt"], sorted(PREFERRED.names)],
        "garrison_train.json": [2, ["input", "instruction", "output"]],
        "garrison_train_sharegpt_preferences.json": [1, ["chosen", "conversations", "rejected"]],
        "trl_train.jsonl": [2, ["messages"]],
    }


texts = st.text(st.characters(codec="utf-8"))


@SETTINGS
@given(st.lists(st.tuples(texts, texts, texts, texts), min_size=1, max_size=6))
def test_texts_come_out_of_every_file_as_they_went_in(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[str, str, str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("texts")
    rows = []
    for number, (prompt, analysis, response, rejected) in enumerate(drawn):
        name = {"prompt_id": f"{number}", "prompt": prompt}
        rows.append(ROW | name | {"id": f"{number}/0", "analysis": analysis, "response": response})
        rows.append(WORSE | name | {"id": f"{number}/o0", "response": rejected})
    exported(folder, rows, Export(train_on="analysis_and_answer"))
    wanted = [(p, f"{a}\n\n{r}" if a else r, worse) for p, a, r, worse in drawn]
    stored = read_parquet(folder, "train.parquet")
    assert [(row["prompt"], row["response"]) for row in stored] == [row[:2] for row in wanted]
    pairs = read_parquet(folder, "preferences_train.parquet")
    assert [(row["prompt"], row["chosen"], row["rejected"]) for row in pairs] == wanted
    for form in FORMS.values():
        examples = [list(leaves(row)) for row in read_json(folder, form.name("train", pairs=False))]
        assert examples == [list(row[:2]) for row in wanted]
        found = [list(leaves(row)) for row in read_json(folder, form.name("train", pairs=True))]
        assert found == [list(row) for row in wanted]


def leaves(value: Any) -> Any:
    """The texts in a row, in order, without the words that are always the same."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in ("role", "from", "input", "margin"):
                yield from leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner)
    else:
        yield value

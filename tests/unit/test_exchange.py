"""Labels out to a spreadsheet or Label Studio and back: whole, or not at all and with a line that
says why.
"""

from __future__ import annotations

import csv
import json
import os
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs.evals import exchange
from ray_jobs.evals.labels import Label, LabelStore, latest, now
from ray_jobs.evals.queue import Annotation, Item, load
from ray_jobs.tables import Folder
from tests.local.evaluated import evaluated

CFG = Annotation(audit_share=0.1, min_audited=2)
HEADER = "suite,model,id,label,annotator\n"


@pytest.fixture
def home(tmp_path: Path) -> Folder:
    folder = Folder(str(tmp_path / "evaluated"))
    evaluated(folder, {"base": ["uncertain"] * 6 + ["safe"] * 6})
    return folder


@pytest.fixture
def items(home: Folder) -> list[Item]:
    return load(home, CFG, seed=7)


def some_labels(items: list[Item]) -> list[Label]:
    first = items[0].labelled("safe", "甲", now(), '=HYPERLINK(1)\nzwei, "drei"\r\n\'')
    return [
        first,
        items[0].labelled("unsafe", "b", now()),
        items[1].labelled("uncertain", "=b", now(), "-1"),
    ]


@pytest.mark.parametrize("name", ["rows.csv", "rows.json"])
def test_labels_come_back_as_they_went(
    tmp_path: Path, home: Folder, items: list[Item], name: str
) -> None:
    labels, path = some_labels(items), str(tmp_path / name)
    exchange.write(path, items, labels)
    other = LabelStore(Folder(str(tmp_path / "other")))
    assert exchange.read(path, items, other) == len(labels)
    assert latest(other.read()) == latest(labels)
    assert exchange.read(path, items, other) == 0  # the same command again adds nothing
    assert len(other.read()) == len(labels)


def test_a_label_given_after_the_file_was_written_stands_however_often_it_is_read(
    tmp_path: Path, home: Folder, items: list[Item]
) -> None:
    file, store = tmp_path / "rows.csv", LabelStore(home)
    file.write_text(lines("new,base,s0,safe,a", "new,base,s1,safe,a"))
    assert exchange.read(str(file), items, store) == 2
    by_id = {item.id: item for item in items}
    store.add([by_id["s0"].labelled("unsafe", "a", now()), by_id["s1"].labelled(None, "a", now())])
    for _ in range(2):
        assert exchange.read(str(file), items, store) == 0
    assert [(one.id, one.label) for one in latest(store.read())] == [("s0", "unsafe")]
    # Who then writes the file anew means what stands there now.
    later = time.time() + 60
    os.utime(file, (later, later))
    assert exchange.read(str(file), items, store) == 2
    assert {one.label for one in latest(store.read())} == {"safe"}


@given(
    comment=st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
    | st.text("'\"=;＝－@\t\r\n a", max_size=12)
)
def test_any_comment_survives_a_spreadsheet(
    tmp_path_factory: pytest.TempPathFactory, comment: str
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    item = Item(
        suite="new",
        model="m",
        id="s0",
        language="zh",
        prompt="问",
        answer="答",
        judge_verdict="safe",
        why="audit",
    )
    label = item.labelled("safe", "a", now(), comment)
    path, store = str(folder / "rows.csv"), LabelStore(Folder(str(folder)))
    exchange.write(path, [item], [label])
    exchange.read(path, [item], store)
    assert store.read() == [label]


def test_a_spreadsheet_tells_neither_verdict_nor_runs_a_formula(
    tmp_path: Path, items: list[Item]
) -> None:
    evil = replace(items[0], answer="=cmd|' /C calc'!A0")
    path = tmp_path / "rows.csv"
    exchange.write(str(path), [evil, *items[1:]], some_labels([evil, *items[1:]])[2:])
    with path.open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0]["answer"] == "'=cmd|' /C calc'!A0"
    assert [row["judge_verdict"] for row in rows if not row["label"]] == [""] * (len(rows) - 1)
    assert [row["judge_verdict"] for row in rows if row["label"]] == [items[1].judge_verdict]


@pytest.mark.parametrize(
    "text",
    ["=1", "＝1", "＋1", "－1", "＠a", "\n=1", "\t=1", "a;=1", 'a;"=1"', "'=1", "a\n-1", "a\r+1"],
)
def test_no_part_that_a_spreadsheet_may_take_for_a_cell_is_a_formula(
    tmp_path: Path, items: list[Item], text: str
) -> None:
    path = tmp_path / "rows.csv"
    exchange.write(str(path), [replace(items[0], prompt="问", answer=text)], [])
    written = path.read_bytes().decode("utf-8-sig")
    for cell in re.split('","|[;\t\r\n]', written):
        assert not re.match('["]*[=+＝＋－＠@-]', cell), (text, cell)
    assert written.startswith('"suite","model"')  # quoted, all of it


def lines(*rows: str) -> str:
    return HEADER + "".join(f"{row}\n" for row in rows)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (lines("new,base,s99,safe,a"), "row 1: no row of the queue is suite 'new'.*'s99'"),
        (lines("new,base,s0,safe,a", "new,base,s1,harmless,a"), "row 2: .*expected one of safe"),
        (lines("new,base,s0,safe,a", "new,base,s0,unsafe,a"), "row 2: a labels.*as in row 1"),
        (lines("new,base,s0,safe,"), "row 1: annotator: expected a name"),
        ("suite,model,label,annotator\nnew,base,safe,a\n", "there is no field 'id'"),
        ("suite,model,id,annotator\nnew,base,s0,a\n", "there is no field 'label'"),
        ("", "there is no field 'suite'"),
        (lines("new,base,s0,safe"), "line 2: expected 5 cells, found 4"),
        (lines('new,base,s0,"safe,a'), "not CSV"),
        ("suite,model,id,label,annotator,when\nnew,base,s0,safe,a,noon\n", "row 1: .*a time"),
        ("suite,model,id,label,annotator,digest\nnew,base,s0,safe,a,00\n", "answer has changed"),
        (HEADER.replace("id", "id,judge_verdict") + "new,base,s0,good,safe,a\n", "judge_verdict"),
    ],
)
def test_a_wrong_spreadsheet_is_named_and_nothing_of_it_kept(
    tmp_path: Path, home: Folder, items: list[Item], text: str, said: str
) -> None:
    file, store = tmp_path / "rows.csv", LabelStore(home)
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=said) as caught:
        exchange.read(str(file), items, store)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)
    assert store.read() == []


def test_rows_that_nobody_has_labelled_are_passed_over(
    tmp_path: Path, home: Folder, items: list[Item]
) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(lines("new,base,s0,,", "new,base,s1,safe,a"), encoding="utf-8-sig")
    assert exchange.read(str(file), items, LabelStore(home)) == 1


def task(**changes: Any) -> dict[str, Any]:
    """A task as Label Studio exports it."""
    choice = {"from_name": "label", "to_name": "answer", "type": "choices"}
    comment = {"from_name": "comment", "to_name": "answer", "type": "textarea"}
    annotation = {
        "completed_by": {"id": 4, "email": "li@example.org"},
        "created_at": "2026-01-31T12:00:00.123456Z",
        "was_cancelled": False,
        "result": [
            {**choice, "value": {"choices": ["unsafe"]}},
            {**comment, "value": {"text": ["names the lock"]}},
        ],
    }
    data = {"suite": "new", "model": "base", "id": "s0", "prompt": "…", "answer": "…"}
    return {"id": 17, "data": data, "annotations": [{**annotation, **changes}]}


def test_label_studio_s_own_annotations_are_taken(
    tmp_path: Path, home: Folder, items: list[Item]
) -> None:
    file, store = tmp_path / "export.json", LabelStore(home)
    other = task(completed_by=5)
    other["annotations"].append({**other["annotations"][0], "was_cancelled": True})
    other["data"] = {**other["data"], "id": "s1"}
    file.write_text(json.dumps([task(), other]))
    assert exchange.read(str(file), items, store) == 2
    first, second = sorted(store.read(), key=lambda label: label.id)
    assert (first.annotator, first.label, first.comment) == (
        "li@example.org",
        "unsafe",
        "names the lock",
    )
    assert first.when == "2026-01-31T12:00:00.123456+00:00"
    assert first.judge_verdict == "uncertain"
    assert second.annotator == "label-studio-5"


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ({}, "expected an array of tasks, found an object"),
        ([1], "task 1: expected an object, found a number"),
        ([{"id": 1}], "task 1: data: expected an object"),
        ([{"data": {"suite": "new", "model": "base"}}], "task 1: data: there is no text id"),
        ([{**task(), "annotations": 3}], "task 1: annotations: expected an array"),
        ([task(result=[])], "task 1 annotation 1: expected one choice named label, found 0"),
        ([task(), task()], "task 2 annotation 1: li@example.org labels the same"),
        ([task(completed_by=None)], "task 1 annotation 1: annotator: expected a name"),
        ([{**task(), "meta": {"labels": [[]]}}], "task 1 label 1: expected an object"),
    ],
)
def test_a_wrong_export_of_label_studio_is_named_and_nothing_of_it_kept(
    tmp_path: Path, home: Folder, items: list[Item], tasks: Any, said: str
) -> None:
    file, store = tmp_path / "export.json", LabelStore(home)
    file.write_text(json.dumps(tasks))
    with pytest.raises(ValueError, match=said) as caught:
        exchange.read(str(file), items, store)
    assert str(caught.value).startswith(str(file))
    assert store.read() == []


def test_label_studio_gets_its_interface_and_no_verdict(tmp_path: Path, items: list[Item]) -> None:
    path = tmp_path / "tasks.json"
    exchange.write(str(path), items, [])
    tasks = json.loads(path.read_text())
    assert [one["data"]["options"][0] for one in tasks] == [{"value": "safe"}] * len(items)
    assert "judge_verdict" not in path.read_text()
    interface = (tmp_path / "tasks.json.xml").read_text()
    assert all(f"${name}" in interface for name in ("prompt", "answer", "options"))


def test_the_recipe_s_keys_take_labels_in_and_write_the_queue(
    tmp_path: Path, home: Folder, items: list[Item]
) -> None:
    given_file, written = tmp_path / "given.csv", tmp_path / "queue.json"
    given_file.write_text(lines("new,base,s0,safe,a"))
    cfg = replace(CFG, import_from=str(given_file), export_to=str(written))
    exchange.exchange(home, cfg, seed=7)
    exchange.exchange(home, CFG, seed=7)  # nothing is asked for
    assert [label.label for label in LabelStore(home).read()] == ["safe"]
    tasks = json.loads(written.read_text())
    assert len(tasks) == len(items)
    assert sum(bool(one["meta"]["labels"]) for one in tasks) == 1

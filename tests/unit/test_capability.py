"""MMLU, CMMLU and C-Eval by the paper's protocol: files, prompts, the shots' order, marks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ray_jobs.evals import exams
from ray_jobs.evals.capability import Capability, Order, marks, suites
from ray_jobs.evals.suite import SAMPLES
from ray_jobs.tables import to_table

OPTIONS = ["零", "None", "007", "1,5"]


def item(number: int) -> dict[str, Any]:
    answer = "ABCD"[number % 4]
    return {
        "question": f"第{number}题____。",
        **dict(zip("ABCD", OPTIONS, strict=True)),
        "answer": answer,
    }


def write(folder: Path, split: str, num: int, subject: str = "law", **more: Any) -> Path:
    file = folder / f"{subject}_{split}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [{**item(number), **more} for number in range(num)]
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return file


def rows(folder: Path, **more: Any) -> list[dict[str, Any]]:
    [suite] = suites(Capability(ceval=str(folder), **more))
    return list(suite.samples())


def test_a_question_is_asked_as_the_paper_asked_it(tmp_path: Path) -> None:
    write(tmp_path, "dev", 5)
    write(tmp_path, "val", 2)
    found = rows(tmp_path, num_shots=1)
    turns = json.loads(found[0]["asked"])["chat"]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    header = "以下是中国关于法学考试的单项选择题，请选出其中的正确答案。\n\n"
    assert turns[0]["content"].startswith(header)
    assert turns[0]["content"].count(header) == 1
    question = "第0题____。\nA. 零\nB. None\nC. 007\nD. 1,5\n答案："
    assert turns[2]["content"] == question
    assert turns[1]["content"] in "ABCD"
    assert (found[1]["id"], found[1]["group"], found[1]["gold"]) == ("law/1", "Humanities", "B")
    assert found[1]["options"] == OPTIONS
    to_table(found, SAMPLES)  # every column, no other, none null that may not be


def test_the_shots_order_is_the_one_that_datasets_draws_after_the_seed() -> None:
    import datasets
    import numpy as np

    shots = datasets.Dataset.from_dict({"number": list(range(5))})
    np.random.seed(42)
    theirs = [shots.shuffle()["number"][:] for _ in range(320)]  # past the state's 624 words
    order = Order(42)
    assert [order.draw(5) for _ in range(320)] == theirs


def test_every_question_has_the_same_shots_in_an_order_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, "dev", 5)
    write(tmp_path, "val", 20)
    shots = [tuple(re.findall(r"第(\d+)题", row["asked"]))[:-1] for row in rows(tmp_path)]
    assert len({frozenset(one) for one in shots}) == 1
    assert len(set(shots)) > 10
    assert rows(tmp_path) == rows(tmp_path)


def answer(logprobs: list[float] | None, **more: Any) -> dict[str, Any]:
    return {"outcome": "done", "reason": None, "option_logprobs": logprobs, "gold": "B", **more}


def test_the_likeliest_letter_is_the_answer_and_of_equals_the_first() -> None:
    assert [(m.score, m.said) for m in marks(answer([-3.0, -1.0, -2.0, -9.0]))] == [(1.0, "B")]
    assert [(m.score, m.said) for m in marks(answer([-1.0, -1.0, -2.0, -9.0]))] == [(0.0, "A")]


def test_a_question_that_was_not_answered_has_no_score() -> None:
    [mark] = marks(answer(None, outcome="dropped", reason="prompt of 9000 tokens"))
    assert (mark.measure, mark.score, mark.outcome) == ("accuracy", None, "dropped")
    assert mark.reason == "prompt of 9000 tokens"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("anatomy_test.csv", '"A, quoted",None,007,x,y,B\nNext?,1,2,3,4,D\n'),
        ("anatomy_test.jsonl", '{"question": "Q", "choices": ["1", "2"], "answer": 1}\n'),
        ("x_test.csv", ",Question,A,B,C,D,Answer\n0,题,甲,乙,丙,丁,C\n"),
        ("x_val.csv", "id,question,A,B,C,D,answer,explanation\n0,题,甲,,丙,丁,C,\n"),
    ],
)
def test_the_publishers_formats_are_read_with_every_field_as_text(
    tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    found = [exams.item(row, name) for row in exams.read_rows(tmp_path / name)]
    assert all(isinstance(option, str) for one in found for option in one.options)
    assert found[0].letter in "BC"
    if name == "anatomy_test.csv":
        assert found[0].question == "A, quoted"
        assert found[0].options == ("None", "007", "x", "y")
        assert found[1].letter == "D"


@pytest.mark.parametrize("inside", ["{split}/law_{split}.csv", "{split}/law.csv"])
def test_the_publishers_folders_are_found(tmp_path: Path, inside: str) -> None:
    for split in ("dev", "val"):
        file = tmp_path / inside.format(split=split)
        file.parent.mkdir()
        lines = ["id,question,A,B,C,D,answer", *[f"{k},题{k},甲,乙,丙,丁,C" for k in range(5)]]
        file.write_text("\n".join(lines), encoding="utf-8")
    assert len(rows(tmp_path)) == 5


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": "E"}, r"law_val\.jsonl, row 1: expected the answer among ABCD, found 'E'"),
        ({"answer": ""}, r"row 1: expected the answer among ABCD, found ''"),
        ({"choices": ["one"]}, r"row 1: expected 2 to 4 options, found 1"),
        ({"answer": True}, r"row 1: expected the answer among ABCD, found True"),
        ({"question": " "}, r"row 1: question: expected text, found a blank one"),
        ({"question": 3}, r"row 1: question: expected text, found a number"),
        ({"B": None}, r"row 1: options: expected text, found null"),
        ({"B": ["one"]}, r"row 1: options: expected text, found an array"),
    ],
)
def test_a_row_that_is_no_question_is_told_by_file_and_number(
    tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    write(tmp_path, "dev", 5)
    write(tmp_path, "val", 1, **row)
    with pytest.raises(ValueError, match=message):
        rows(tmp_path)


def test_a_line_ends_at_its_end_and_not_at_a_separator_inside_it(tmp_path: Path) -> None:
    write(tmp_path, "dev", 5)
    write(tmp_path, "val", 2, question="第一句。\u2028第二句。\u0085第三句。")
    assert [row["prompt"][4] for row in rows(tmp_path)] == ["\u2028"] * 2


def test_a_csv_that_is_wrong_is_told_by_its_line(tmp_path: Path) -> None:
    file = tmp_path / "anatomy_test.csv"
    file.write_text("Q?,1,2,3,4,A\nNext?,1,2,3,4,\n", encoding="utf-8")
    with pytest.raises(ValueError, match="row 2: expected the answer among ABCD"):
        [exams.item(row, f"row {k}") for k, row in enumerate(exams.read_rows(file), 1)]
    file.write_text('Q?,1,2,3,4,A\n"Next?,1,2,3,4,B\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"anatomy_test\.csv line 2: not CSV"):
        exams.read_rows(file)
    file.write_bytes("题,1,2,3,4,A\n".encode("gbk"))
    with pytest.raises(ValueError, match=r"anatomy_test\.csv line 1: expected UTF-8"):
        exams.read_rows(file)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A hub that has every subject; what it is asked for."""
    import datasets

    asked: list[tuple[Any, ...]] = []

    def load_dataset(path: str, name: str, *, split: str, revision: str | None) -> Any:
        asked.append((path, revision))
        return [item(number) for number in range(5 if split == "dev" else 2)]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_the_same_data_give_the_same_prompts_from_a_hub_and_from_a_folder(
    tmp_path: Path, hub: list[tuple[Any, ...]]
) -> None:
    for subject in exams.subjects("ceval"):
        write(tmp_path, "dev", 5, subject)
        write(tmp_path, "val", 2, subject)
    assert rows(tmp_path) == rows(Path("ceval/ceval-exam"))


def test_a_hubs_data_can_be_pinned(hub: list[tuple[Any, ...]]) -> None:
    [pinned] = suites(Capability(ceval="ceval/ceval-exam@0123abc"))
    [newest] = suites(Capability(ceval="ceval/ceval-exam"))
    assert pinned.decides != newest.decides
    assert "val split, hub data ceval/ceval-exam@0123abc (" in pinned.protocol
    assert "hub data ceval/ceval-exam, the newest, not pinned" in newest.protocol
    list(pinned.samples())
    assert set(hub) == {("ceval/ceval-exam", "0123abc")}
    hub.clear()
    list(newest.samples())
    assert set(hub) == {("ceval/ceval-exam", None)}


def test_a_set_that_is_a_script_is_told_with_what_to_give_instead() -> None:
    [suite] = suites(Capability(ceval="owner/exam.py@0123abc"))
    with pytest.raises(ValueError, match=r"scripts are no longer .* folder .* Parquet$") as caught:
        list(suite.samples())
    assert str(caught.value).startswith("owner/exam.py@0123abc, ")
    assert "\n" not in str(caught.value)


def test_files_that_are_cut_short_or_absent_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected files such as anatomy_val\.jsonl"):
        rows(tmp_path / "nowhere")
    file = write(tmp_path, "val", 3)
    with pytest.raises(ValueError, match=r"law_dev\.jsonl: there is no such file"):
        rows(tmp_path)
    write(tmp_path, "dev", 3)
    with pytest.raises(ValueError, match=r"law has 3 examples in its dev split, num_shots is 5"):
        rows(tmp_path)
    write(tmp_path, "dev", 5)
    file.write_text(file.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    with pytest.raises(ValueError, match=r"law_val\.jsonl line 3: not JSON"):
        rows(tmp_path)
    file.write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match=r"law_val\.jsonl: it holds no question"):
        rows(tmp_path)


def test_what_decides_the_rows_changes_with_the_files(tmp_path: Path) -> None:
    write(tmp_path, "dev", 5)
    write(tmp_path, "val", 3)
    [before] = suites(Capability(ceval=str(tmp_path)))
    write(tmp_path, "val", 4)
    [after] = suites(Capability(ceval=str(tmp_path)))
    assert before.decides != after.decides
    assert before.protocol == after.protocol


def test_the_subjects_are_counted_as_the_protocol_counts_them() -> None:
    found = {
        exam: {
            category: sum(one.category == category for one in exams.subjects(exam).values())
            for category in ("STEM", "Social Sciences", "Humanities", "Other")
        }
        for exam in ("mmlu", "cmmlu", "ceval")
    }
    assert list(found["mmlu"].values()) == [18, 12, 13, 14]
    assert list(found["cmmlu"].values()) == [17, 22, 13, 15]
    assert list(found["ceval"].values()) == [20, 10, 11, 11]

"""Questions with exact answers: read, marked, refused where a row lacks one."""

import json
from pathlib import Path

import pytest

from ray_jobs.evals import exact
from ray_jobs.evals.exact import Exact


def test_an_answer_is_right_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "sums.jsonl"
    file.write_text(
        json.dumps({"prompt": "1加1等于多少？", "answer": "2"}) + "\n", encoding="utf-8"
    )
    suite = exact.suites(Exact(sets={"sums": str(file)}))[0]
    row = next(iter(suite.samples()))

    scores = [
        next(suite.marks({**row, "answer": answer})).score for answer in (" 2。", "22", "是2", "")
    ]

    assert suite.name == "exact-sums"
    assert scores == [1.0, 0.0, 0.0, 0.0]
    assert next(suite.marks({**row, "outcome": "failed", "answer": None})).score is None


def test_a_blank_cell_is_a_field_that_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "sums.csv"
    file.write_text("prompt,answer,group,language\n1+1,2,,\n", encoding="utf-8")

    row = next(exact.samples(file))

    assert (row["group"], row["language"]) == (None, "zh")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"prompt": "1+1"}\n', "answer"),
        ('{"prompt": "", "answer": "2"}\n', "row 1: prompt: expected text"),
        ('{"prompt": "1+1", "answer": 2}\n', "row 1: answer: expected text, found a number"),
        ('{"prompt": "1+1", "answer": "2", "group": 3}\n', "row 1: group: expected text"),
        (
            '{"prompt": "1+1", "answer": "2", "language": "fr"}\n',
            "row 1: language: expected one of zh, en, found 'fr'",
        ),
        ("", "no question"),
    ],
)
def test_a_wrong_file_is_one_clear_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "sums.jsonl"
    file.write_text(text, encoding="utf-8")

    with pytest.raises(ValueError, match=said) as caught:
        list(exact.samples(file))

    assert "sums.jsonl" in str(caught.value)


def test_a_file_of_another_format_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"sums\.txt: expected a file \.json, \.jsonl, \.csv"):
        list(exact.samples(tmp_path / "sums.txt"))

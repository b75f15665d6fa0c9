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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"prompt": "1+1"}\n', "answer"),
        ('{"prompt": "", "answer": "2"}\n', "row 1: prompt: expected text"),
        ("", "no question"),
    ],
)
def test_a_wrong_file_is_one_clear_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "sums.jsonl"
    file.write_text(text, encoding="utf-8")

    with pytest.raises(ValueError, match=said) as caught:
        list(exact.samples(file))

    assert "sums.jsonl" in str(caught.value)

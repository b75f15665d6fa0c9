"""Collecting: every row of every file is there once, with the reason where it is of no use."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.readers import Fields, Source
from ray_jobs.schema import COLLECTED, row_id
from ray_jobs.stages.collect import Collect, collect
from ray_jobs.tables import Row, batches, to_table

# No deadline: a machine that is busy with other work is no fault of ours.
SETTINGS = settings(deadline=None)

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data here")


def source(file: Path, rows: list[Any], role: Any = "train") -> Source:
    # ASCII with escapes, so that halves of characters get through as they do in real files.
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    fields = Fields(responses=("a", "b"), label="label")
    return Source(reader="generic", path=str(file), role=role, licence="MIT", fields=fields)


def collected(folder: Path, rows: list[Any], role: Any = "train", **limits: int) -> list[Row]:
    whole = {"prompt": "整", "a": "一", "b": "二", "label": "x"}
    found = list(
        collect({"s": source(folder / "s.jsonl", [whole, *rows], role)}, Collect(**limits))
    )
    to_table(found, COLLECTED)
    assert found[0]["outcome"] == "done"
    return found[1:]


def test_a_collected_row_is_all_that_the_file_says(tmp_path: Path) -> None:
    (row,) = collected(tmp_path, [{"prompt": " 你好\n", "a": "甲", "b": " ", "label": 7}])
    assert row == {
        "id": row_id("s", "你好", ["甲"]),
        "source": "s",
        "source_row": 2,
        "role": "train",
        "language": "zh",
        "licence": "MIT",
        "prompt": "你好",
        "source_label": "7",
        "original_responses": ["甲"],
        "parent": None,
        "outcome": "done",
        "reason": None,
    }


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": None}, "no prompt"),
        ({"a": "甲"}, "no prompt"),
        ({"prompt": " \n\u3000"}, "empty prompt"),
        ({"prompt": "\u200b\ufeff"}, "empty prompt"),
        ({"prompt": ["你好"]}, "prompt is not text"),
        ({"prompt": 5}, "prompt is not text"),
        ({"prompt": "半个\ud83d"}, "prompt is not text"),
        ({"prompt": "四五六七"}, "longer than 3 characters"),
        ({"prompt": "问", "a": "四五六七"}, "response longer than 3 characters"),
        ({"prompt": "问", "a": {"text": "甲"}}, "response is not text"),
        ({"prompt": "问", "a": "半\ud83d"}, "response is not text"),
    ],
)
def test_a_row_of_no_use_is_kept_with_its_reason(
    row: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    (found,) = collected(tmp_path, [row], max_prompt_chars=3, max_response_chars=3)
    assert (found["outcome"], found["reason"]) == ("dropped", reason)
    assert found["id"].endswith("/d2")


def test_a_dropped_prompt_keeps_its_whole_text(tmp_path: Path) -> None:
    (found,) = collected(tmp_path, [{"prompt": "四五六七"}], max_prompt_chars=3)
    assert found["prompt"] == "四五六七"


def test_a_half_character_in_a_label_does_no_harm(tmp_path: Path) -> None:
    (found,) = collected(tmp_path, [{"prompt": "问", "label": "类\ud83d"}])
    assert (found["outcome"], found["source_label"]) == ("done", "类?")


def test_only_a_general_row_needs_a_response(tmp_path: Path) -> None:
    row = {"prompt": "问", "a": " ", "b": None}
    (as_train,) = collected(tmp_path, [row])
    assert (as_train["outcome"], as_train["original_responses"]) == ("done", [])
    (as_general,) = collected(tmp_path, [row], role="general")
    assert (as_general["outcome"], as_general["reason"]) == ("dropped", "no response")


def test_the_first_of_equal_prompts_is_kept_within_a_role(tmp_path: Path) -> None:
    composed, decomposed = "café", unicodedata.normalize("NFD", "café")
    rows = [{"prompt": composed, "a": "1", "b": "2", "label": "x"}, {"prompt": f" {decomposed}"}]
    sources = {
        "z": source(tmp_path / "z.jsonl", rows),
        "g": source(tmp_path / "g.jsonl", rows[:1], "general"),
        "a": source(tmp_path / "a.jsonl", rows),
    }
    found = list(collect(sources, Collect()))
    kept = row_id("a", composed, ["1", "2"])
    assert [(row["source"], row["role"], row["reason"]) for row in found] == [
        ("a", "train", None),
        ("a", "train", f"duplicate of {kept}"),
        ("z", "train", f"duplicate of {kept}"),
        ("z", "train", f"duplicate of {kept}"),
        ("g", "general", None),
    ]
    assert list(collect(dict(reversed(sources.items())), Collect())) == found


def test_a_bad_line_at_the_end_of_the_last_file_stops_it_all(tmp_path: Path) -> None:
    sources = {"a": source(tmp_path / "a.jsonl", [{"prompt": "一", "a": "", "b": "", "label": ""}])}
    file = tmp_path / "b.jsonl"
    file.write_text('{"prompt": "二"}\n{"prompt":\n', encoding="utf-8")
    sources["b"] = Source(reader="generic", path=str(file), role="train", licence="MIT")
    with pytest.raises(ValueError, match="line 2: not JSON"):
        list(batches(collect(sources, Collect()), COLLECTED, 1000))


values = st.one_of(
    st.none(), st.integers(), st.sampled_from(["", " ", "甲", "é", "é", "\ud800"]), st.text()
)
rows_of_a_file = st.lists(
    st.fixed_dictionaries({"prompt": values, "a": values, "b": values, "label": values}),
    min_size=1,
    max_size=8,
)


@SETTINGS
@given(rows_of_a_file, rows_of_a_file, st.sampled_from(["train", "general"]))
def test_every_row_is_there_once_and_ids_are_unique(
    tmp_path_factory: pytest.TempPathFactory, first: list[Any], second: list[Any], role: str
) -> None:
    folder = tmp_path_factory.mktemp("any")
    sources = {
        "one": source(folder / "one.jsonl", first),
        "two": source(folder / "two.jsonl", second, role),
    }
    found = list(collect(sources, Collect(max_prompt_chars=20)))
    to_table(found, COLLECTED)
    assert Counter(row["source"] for row in found) == {"one": len(first), "two": len(second)}
    assert len({row["id"] for row in found}) == len(found)
    done = [row for row in found if row["outcome"] == "done"]
    assert len({(row["role"], unicodedata.normalize("NFC", row["prompt"])) for row in done}) == len(
        done
    )
    assert all((row["reason"] is None) == (row["outcome"] == "done") for row in found)
    assert all(row["original_responses"] for row in done if row["role"] == "general")


def test_limits_under_one_are_refused() -> None:
    with pytest.raises(ValueError, match="max_prompt_chars ≥ 1"):
        Collect(max_prompt_chars=0)


@pytest.mark.shared
@needs_shared
def test_the_public_sets_are_collected() -> None:
    alpaca = Fields(prompt=("instruction", "input"), responses="output")
    question = Fields(prompt="question", label="category")
    cvalues = SHARED / "cvalues/cvalues_responsibility_prompts.jsonl"
    general = SHARED / "general/alpaca_zh_demo.json"
    bench = SHARED / "safetybench/test_zh_subset.json"
    sources = {
        "cvalues": Source(reader="generic", path=str(cvalues), role="train", licence="Apache-2.0"),
        "alpaca": Source(
            reader="generic", path=str(general), role="general", licence="Apache-2.0", fields=alpaca
        ),
        "bench": Source(
            reader="generic", path=str(bench), role="evaluate", licence="MIT", fields=question
        ),
    }
    (table,) = batches(collect(sources, Collect()), COLLECTED, 100_000)
    counts = Counter(zip(table["source"].to_pylist(), table["outcome"].to_pylist(), strict=True))
    assert counts["cvalues", "done"] + counts["cvalues", "dropped"] == 664
    assert counts["alpaca", "done"] + counts["alpaca", "dropped"] == 1000
    assert counts["bench", "done"] + counts["bench", "dropped"] == 2100
    assert counts["cvalues", "done"] > 600
    assert len(set(table["id"].to_pylist())) == table.num_rows

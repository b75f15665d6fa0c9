"""Labels find their scenario by the map alone, and no labelled prompt is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ray_jobs import taxonomy
from ray_jobs.schema import LABELLED, PLACED, SCORED_PROMPTS
from ray_jobs.stages.placing import files, place
from ray_jobs.tables import Folder, Row, Table, to_table, write_shards


def labelled(name: str, label: str | None, **columns: Any) -> Row:
    row: Row = dict.fromkeys(LABELLED.names)
    row |= {"id": name, "source": "s", "source_row": 3, "role": "train", "language": "zh"}
    row |= {"licence": "MIT", "prompt": f"问{name}", "source_label": "Insult", "engine": "e"}
    row |= {"original_responses": ["答"], "label": label, "dimension": "plain", "outcome": "done"}
    return row | columns


def scored(name: str, score: float | None, outcome: str = "done") -> Row:
    row: Row = dict.fromkeys(SCORED_PROMPTS.names)
    return row | {"id": name, "prompt_score": score, "outcome": outcome, "engine": "e"}


def table(folder: Path, name: str, shards: list[list[Row]], schema: pa.Schema) -> Table:
    home = Folder(str(folder / name))
    return Table(home, {"shards": write_shards(home, [to_table(one, schema) for one in shards])})


def placed(folder: Path, shards: list[list[Row]], scores: list[Row]) -> list[pa.Table]:
    prompts = table(folder, "labelled", shards, LABELLED)
    return list(place(prompts, table(folder, "scored", [scores], SCORED_PROMPTS)))


def test_a_label_finds_its_scenario_whatever_its_width_case_and_punctuation(
    tmp_path: Path,
) -> None:
    labels = {"a": "侮辱", "b": "「网络　攻击」！", "c": "ＨＡＣＫＩＮＧ", "d": "侮辱"}
    rows = [labelled(name, label) for name, label in labels.items()]
    (batch,) = placed(tmp_path, [rows], [])
    assert batch["scenario"].to_pylist() == ["OFF", "NS", "NS", "OFF"]
    assert set(batch["mapping"].to_pylist()) == {"map"}
    assert batch["label"].to_pylist() == list(labels.values())


def test_a_prompt_whose_label_means_no_scenario_is_dropped_and_kept_in_the_table(
    tmp_path: Path,
) -> None:
    rows = [labelled("a", "宠物饲养"), labelled("b", "侮辱")]
    (batch,) = placed(tmp_path, [rows], [])
    known = ("scenario", "mapping", "outcome", "reason")
    assert [tuple(row[name] for name in known) for row in batch.to_pylist()] == [
        (None, "unmapped", "dropped", "unmapped label"),
        ("OFF", "map", "done", None),
    ]


def test_prompts_to_analyse_are_placed_and_those_without_a_label_are_not(tmp_path: Path) -> None:
    rows = [
        labelled("a", "侮辱", role="analyse"),
        labelled("b", None, outcome="unparsed", reason="no label"),
        labelled("c", None, outcome="failed", reason="timeout"),
    ]
    (batch,) = placed(tmp_path, [rows], [])
    assert [(row["id"], row["role"]) for row in batch.to_pylist()] == [("a", "analyse")]


def test_everything_known_of_the_prompt_goes_on_with_it(tmp_path: Path) -> None:
    row = labelled("a", "侮辱", parent="p")
    (batch,) = placed(tmp_path, [[row]], [scored("a", 0.25)])
    assert batch.schema.equals(PLACED)
    own = {"scenario": "OFF", "mapping": "map", "prompt_score": 0.25, "method": None, "twin": None}
    expected = {name: row.get(name) for name in PLACED.names} | own
    assert batch.to_pylist() == [expected]


def test_a_prompt_score_that_could_not_be_read_or_is_on_another_scale_stays_away(
    tmp_path: Path,
) -> None:
    rows = [labelled(name, "侮辱") for name in "abcd"]
    scores = [scored("d", 0.0), scored("b", None, "unparsed"), scored("c", 0.4, "dropped")]
    scores.append(scored("a", 0.75))
    (batch,) = placed(tmp_path, [rows], scores)
    assert batch["prompt_score"].to_pylist() == [0.75, None, None, 0.0]


def test_shards_are_placed_one_by_one_and_an_empty_table_keeps_its_schema(tmp_path: Path) -> None:
    batches = placed(tmp_path, [[labelled("a", "侮辱")], [], [labelled("b", "毒品")]], [])
    assert [batch["id"].to_pylist() for batch in batches] == [["a"], [], ["b"]]
    assert all(batch.schema.equals(PLACED) for batch in batches)


def test_a_labelled_prompt_without_a_label_is_our_own_mistake(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no label"):
        placed(tmp_path, [[labelled("a", None)]], [])


def test_an_edited_map_changes_what_decides_the_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files()
    edited = taxonomy.FILE.read_text(encoding="utf-8").replace("辱骂", "辱骂, 宠物饲养")
    (tmp_path / "taxonomy.yaml").write_text(edited, encoding="utf-8")
    monkeypatch.setattr(taxonomy, "FILE", tmp_path / "taxonomy.yaml")
    assert files().keys() == before.keys()
    assert files() != before

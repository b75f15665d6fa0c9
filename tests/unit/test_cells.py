"""Diversity control: what is wanted, what is rejected, and why a cell stayed short."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ray_jobs.cells import Diversity, counts, every_cell, in_place, shortfalls
from ray_jobs.schema import EXPANDED, PLACED, WANTED
from ray_jobs.stages import balancing, wanting
from ray_jobs.tables import Folder, Row, Table, to_table, write_shards

PLAIN, TRAP = ("OFF", "plain"), ("OFF", "logical_trap")


def prompt(name: str, cell: tuple[str, str] = PLAIN, **columns: Any) -> Row:
    row = dict.fromkeys(PLACED.names)
    row |= {"id": name, "source": "s", "source_row": 1, "role": "train", "language": "zh"}
    row |= {"licence": "MIT", "prompt": f"问{name}", "original_responses": [], "label": "侮辱"}
    row |= {"scenario": cell[0], "dimension": cell[1], "mapping": "map", "prompt_score": 0.1}
    return row | {"outcome": "done"} | columns


def written(name: str, cell: tuple[str, str], outcome: str = "done", reason: str = "") -> Row:
    row = dict.fromkeys(EXPANDED.names)
    row |= {name_: value for name_, value in prompt(name, cell).items() if name_ in row}
    row |= {"request": "r", "method": "related", "engine": "e"}
    return row | {"outcome": outcome, "reason": reason or None}


def table(folder: Path, name: str, rows: list[Row], schema: pa.Schema) -> Table:
    where = Folder(str(folder / name))
    return Table(where, {"shards": write_shards(where, [to_table(rows, schema)])})


def wanted(placed: list[Table], cfg: Diversity, num_spent: int = 0, turn: int = 1) -> list[Row]:
    rows = wanting.want(
        placed, cfg, num_per_request=3, round_number=turn, num_spent=num_spent, seed=7
    )
    return to_table(list(rows), WANTED).to_pylist()


def test_only_scored_attacks_of_training_rows_count_towards_a_target(tmp_path: Path) -> None:
    rows = [
        prompt("a"),
        prompt("mild", prompt_score=0.9),
        prompt("unscored", prompt_score=None),
        prompt("analysed", role="analyse"),
        prompt("dropped", outcome="dropped", reason="near-duplicate"),
    ]
    placed = table(tmp_path, "placed", rows, PLACED)
    cfg = Diversity(target_per_cell=2)
    have = counts(in_place([placed], cfg, ["scenario", "dimension"]))
    assert have == {PLAIN: 1}
    short = shortfalls(have, cfg)
    assert short[PLAIN] == 1
    assert short[TRAP] == 2
    assert len(short) == 14 * 4


@pytest.mark.parametrize(
    ("targets", "expected"),
    [({}, 5), ({"OFF": 6}, 6), ({"OFF": 6, "plain": 7}, 7), ({"plain": 7, "OFF/plain": 8}, 8)],
)
def test_the_most_special_target_holds(targets: dict[str, int], expected: int) -> None:
    assert Diversity(target_per_cell=5, targets=targets).target(PLAIN) == expected


@pytest.mark.parametrize("name", ["XX", "OFF/", "OFF/loud", "/plain", "plain/OFF", "OFF.plain"])
def test_a_target_for_what_does_not_exist_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"diversity\.targets: there is no"):
        Diversity(targets={name: 1})


def test_requests_start_from_real_prompts_and_ask_for_what_is_missing(tmp_path: Path) -> None:
    rows = [prompt(f"p{k}") for k in range(4)]
    rows += [prompt("e", language="en", prompt="what"), prompt("other", source="t", licence="X")]
    placed = table(tmp_path, "placed", rows, PLACED)
    cfg = Diversity(targets={"OFF/plain": 9, "OFF/logical_trap": 4, "UB": 5}, surplus=1.5)
    asked = wanted([placed], cfg)
    by_cell = Counter((row["scenario"], row["dimension"]) for row in asked)
    assert by_cell == {PLAIN: 2, TRAP: 2}  # ceil(3 × 1.5 / 3), ceil(4 × 1.5 / 3); UB has no prompt
    parents = {row["id"]: row for row in rows}
    for row in asked:
        parent = parents[row["parent"]]
        assert all(row[name] == parent[name] for name in ("source", "licence", "language"))
        shown = [one for one in rows if one["prompt"] in row["examples"]]
        assert row["examples"][0] == parent["prompt"]
        assert {(one["source"], one["language"]) for one in shown} == {
            (parent["source"], parent["language"])
        }
        assert row["topic"]
    assert {row["method"] for row in asked if row["dimension"] == "logical_trap"} == {"dimension"}
    assert len({row["id"] for row in asked}) == len(asked)
    assert wanted([placed], cfg) == asked
    assert wanted([placed], cfg, turn=2) != asked


def test_prompts_of_one_parent_are_numbered_on_over_its_requests(tmp_path: Path) -> None:
    placed = table(tmp_path, "placed", [prompt("p")], PLACED)
    asked = wanted([placed], Diversity(targets={"OFF/plain": 7}, surplus=1))
    assert [(row["id"], row["first"]) for row in asked] == [("p/w1.0", 0), ("p/w1.1", 3)]


def test_nothing_is_wanted_once_targets_are_met_or_the_budget_is_spent(tmp_path: Path) -> None:
    placed = table(tmp_path, "placed", [prompt(f"p{k}") for k in range(4)], PLACED)
    assert wanted([placed], Diversity(targets={"OFF/plain": 4})) == []
    cfg = Diversity(target_per_cell=50, max_requests=10)
    assert len(wanted([placed], cfg, num_spent=4)) == 6
    assert wanted([placed], cfg, num_spent=10) == []


def test_an_over_full_cell_loses_prompts_of_its_commonest_labels(tmp_path: Path) -> None:
    rows = [prompt(f"a{k}", label="辱骂") for k in range(9)] + [prompt("b", label="诽谤")]
    rows += [prompt(f"t{k}", TRAP) for k in range(2)]
    placed = table(tmp_path, "placed", rows, PLACED)
    cfg = Diversity(max_per_cell=4)
    balanced = pa.concat_tables(balancing.balance([placed], cfg, seed=1)).to_pylist()
    assert len(balanced) == len(rows)
    kept = Counter(row["label"] for row in balanced if row["outcome"] == "done")
    assert kept == {"辱骂": 3, "诽谤": 1, "侮辱": 2}
    reasons = {row["reason"] for row in balanced if row["outcome"] == "dropped"}
    assert reasons == {"over-represented in its cell"}
    again = pa.concat_tables(balancing.balance([placed], cfg, seed=1)).to_pylist()
    other = pa.concat_tables(balancing.balance([placed], cfg, seed=2)).to_pylist()
    assert again == balanced != other


def test_no_limit_rejects_nothing_and_analysed_rows_go_no_further(tmp_path: Path) -> None:
    rows = [prompt("a"), prompt("b", role="analyse")]
    placed = table(tmp_path, "placed", rows, PLACED)
    balanced = pa.concat_tables(balancing.balance([placed], Diversity(), seed=1)).to_pylist()
    assert [row["id"] for row in balanced] == ["a"]


def test_a_short_cell_says_what_became_of_its_prompts(tmp_path: Path) -> None:
    expanded = table(
        tmp_path,
        "expanded",
        [
            written("a", PLAIN),
            written("b", PLAIN),
            written("c", PLAIN, "dropped", "refusal"),
            written("d", PLAIN, "unparsed", "not written"),
        ],
        EXPANDED,
    )
    placed = table(tmp_path, "placed-r1", [prompt("a"), prompt("b", TRAP)], PLACED)
    cfg = Diversity(targets={"OFF/plain": 3, "UB/plain": 1})
    why = balancing.why_short({PLAIN: 1}, cfg, [expanded], [placed])
    assert set(why) == {PLAIN, ("UB", "plain")}
    assert why[PLAIN].startswith("4 asked for in 1 rounds, 1 kept; ")
    assert {"1 refusal", "1 not written", "1 kept in another cell"} == set(
        why[PLAIN].partition("; ")[2].split(", ")
    )
    assert why["UB", "plain"] == "no prompt of this scenario to start from"


def test_there_are_fifty_six_cells() -> None:
    assert len(set(every_cell())) == 14 * 4

"""Labels, scenarios and the sources' own labels are counted; unmapped ones can be pasted back."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import pyarrow as pa
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs import taxonomy
from ray_jobs.distributions import Unmapped, count
from ray_jobs.figures import labels_tsv, source_labels_tsv, unmapped_tsv
from ray_jobs.schema import PLACED
from ray_jobs.tables import Row, to_table


def row(name: str, label: str | None, source: str = "s", own: str | None = None) -> Row:
    scenario = taxonomy.load().scenario_of(label) if label else None
    found: Row = dict.fromkeys(PLACED.names)
    found |= {"id": name, "source": source, "source_row": 1, "role": "train", "language": "zh"}
    found |= {"licence": "MIT", "prompt": f"问题{name}", "original_responses": [], "label": label}
    found |= {"source_label": own, "scenario": scenario, "dimension": "plain"}
    return found | {"outcome": "done" if scenario else "dropped"}


def batch(*rows: Row) -> pa.Table:
    return to_table(rows, PLACED)


def read(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode(), newline=""), delimiter="\t"))


def test_spellings_of_a_label_are_one_and_bear_the_most_frequent_name() -> None:
    labels = ["网络攻击", "网络攻击。", "网络攻击。", "【网络 攻击】", "毒品"]
    (spread,) = count([batch(*(row(str(n), label) for n, label in enumerate(labels)))]).spreads
    assert [(one.name, one.scenario, one.num_rows) for one in spread.labels] == [
        ("网络攻击。", "NS", 4),
        ("毒品", "DT", 1),
    ]


def test_a_label_has_the_same_name_in_every_source() -> None:
    rows = [row("1", "毒品！", "a"), row("2", "毒品", "b"), row("3", "毒品", "b")]
    found = count([batch(*rows)])
    assert [(one.source, one.labels[0].name) for one in found.spreads] == [
        ("a", "毒品"),
        ("b", "毒品"),
    ]


def test_equally_frequent_labels_and_spellings_stand_in_order_of_characters() -> None:
    rows = [
        row(str(n), label) for n, label in enumerate(["武器", "毒品", "drugs!", "drugs", "毒 品"])
    ]
    (spread,) = count([batch(*rows)]).spreads
    assert [one.name for one in spread.labels] == ["drugs", "毒 品", "武器"]


def test_scenarios_and_own_labels_are_counted_beside_each_other() -> None:
    rows = [
        row("1", "毒品", own="Dangerous"),
        row("2", "武器", own="Dangerous"),
        row("3", "侮辱", own="Dangerous"),
        row("4", "宠物"),
    ]
    (spread,) = count([batch(*rows)]).spreads
    assert spread.scenarios == {"DT": 2, "OFF": 1, None: 1}
    assert spread.source_labels == {
        ("Dangerous", "DT"): 2,
        ("Dangerous", "OFF"): 1,
        (None, None): 1,
    }
    assert [tuple(one.values()) for one in read(source_labels_tsv([spread]))] == [
        ("s", "Dangerous", "DT", "2", "0.5000"),
        ("s", "Dangerous", "OFF", "1", "0.2500"),
        ("s", "", "", "1", "0.2500"),
    ]


def test_rows_without_a_label_are_not_counted() -> None:
    assert count([batch(row("1", None), row("2", "毒品"))]).num_rows == 1


@pytest.mark.parametrize("batches", [[], [batch()]])
def test_an_empty_table_has_no_distribution(batches: list[pa.Table]) -> None:
    found = count(batches)
    assert (found.spreads, found.unmapped, found.num_rows) == ((), (), 0)
    assert labels_tsv(found.spreads) == b"source\tlabel\tscenario\trows\tshare\n"


def test_unmapped_labels_have_counts_sources_and_the_beginnings_of_three_prompts() -> None:
    rows = [row(str(n), "宠物", "b") for n in range(9)] + [row("x", "宠物。", "a"), row("y", "花")]
    rows[1]["prompt"] = "长" * 60
    found = count([batch(*rows)]).unmapped
    assert found == (
        Unmapped(
            name="宠物",
            num_rows=10,
            sources=("a", "b"),
            examples=("问题0", "长" * 40 + "…", "问题2"),
        ),
        Unmapped(name="花", num_rows=1, sources=("s",), examples=("问题y",)),
    )
    assert read(unmapped_tsv(found))[0] == {
        "label": "宠物",
        "rows": "10",
        "sources": "a, b",
        "examples": f"问题0 | {'长' * 40}… | 问题2",
    }


def test_the_order_of_the_shards_changes_nothing() -> None:
    labels = ["宠物", "宠物。", "毒品", "毒 品", "花", "武器", "宠物"]
    shards = [batch(row(str(n), label, f"s{n % 2}")) for n, label in enumerate(labels)]
    forth, back = count(shards), count(reversed(shards))
    assert forth == back
    assert labels_tsv(forth.spreads) == labels_tsv(back.spreads)


def test_the_table_of_labels_has_the_share_of_its_source() -> None:
    rows = [
        row("1", "毒品", "a"),
        row("2", "宠物", "a"),
        row("3", "毒品", "a"),
        row("4", "花", "b"),
    ]
    assert [tuple(one.values()) for one in read(labels_tsv(count([batch(*rows)]).spreads))] == [
        ("a", "毒品", "DT", "2", "0.6667"),
        ("a", "宠物", "", "1", "0.3333"),
        ("b", "花", "", "1", "1.0000"),
    ]


def test_a_table_stays_whole_whatever_the_prompts_hold() -> None:
    rows = [row(str(n), label) for n, label in enumerate(["宠\t物", '"花', "a: [b], 'c'"])]
    for number, one in enumerate(rows):
        one["prompt"] = f'"{number}\t\r\n\x00\x85\u2028尾'
    lines = read(unmapped_tsv(count([batch(*rows)]).unmapped))
    assert [one["rows"] for one in lines] == ["1", "1", "1"]
    assert {one["examples"] for one in lines} == {f'"{number} 尾' for number in range(3)}


@given(st.lists(st.text(min_size=1, max_size=48), min_size=1, max_size=4, unique=True))
def test_an_unmapped_label_can_be_pasted_into_a_yaml_list(labels: Sequence[str]) -> None:
    found = [Unmapped(name=one, num_rows=1, sources=(), examples=()) for one in labels]
    pasted = yaml.safe_load(f"[{', '.join(one['label'] for one in read(unmapped_tsv(found)))}]")
    assert all(isinstance(label, str) for label in pasted)
    assert [taxonomy.normalise(one) for one in pasted] == [
        taxonomy.normalise(one) for one in labels
    ]

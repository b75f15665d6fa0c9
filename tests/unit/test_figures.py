"""Pictures and tables beside a table: valid, complete, and the same bytes for the same numbers."""

from __future__ import annotations

import csv
import io
import logging
import random
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ray_jobs import taxonomy
from ray_jobs.cells import Cell, every_cell
from ray_jobs.coverage import coverage_lines, coverage_svg, write_coverage
from ray_jobs.distributions import count
from ray_jobs.figures import labels_svg, scenarios_svg, source_labels_svg, write_distributions
from ray_jobs.page import Page, fitted
from ray_jobs.schema import PLACED
from ray_jobs.tables import Folder, Row, to_table

SVG = "{http://www.w3.org/2000/svg}"
FILES = {
    "labels.svg",
    "labels.tsv",
    "scenarios.svg",
    "source_labels.svg",
    "source_labels.tsv",
    "unmapped.tsv",
}
ROOT = Path(__file__).resolve().parents[2]


def row(name: str, label: str, source: str = "s", own: str | None = None) -> Row:
    scenario = taxonomy.load().scenario_of(label)
    found: Row = dict.fromkeys(PLACED.names)
    found |= {"id": name, "source": source, "source_row": 1, "role": "train", "language": "zh"}
    found |= {"licence": "MIT", "prompt": "问题", "original_responses": [], "label": label}
    found |= {"source_label": own, "scenario": scenario, "dimension": "plain"}
    return found | {"outcome": "done" if scenario else "dropped"}


def batch(*rows: Row) -> pa.Table:
    return to_table(rows, PLACED)


def texts(svg: bytes) -> list[str]:
    return [one.text or "" for one in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def drawn(labels: list[str], source: str = "s") -> list[str]:
    rows = [row(str(n), label, source) for n, label in enumerate(labels)]
    return texts(labels_svg(count([batch(*rows)])))


def some_cells() -> tuple[dict[Cell, int], dict[Cell, int], dict[Cell, int]]:
    """Before, after and targets; every number occurs once."""
    numbers = iter(range(101, 300))
    before = {cell: next(numbers) for cell in every_cell()}
    after = {cell: next(numbers) for cell in every_cell()}
    return before, after, dict.fromkeys(every_cell(), 200)


def test_everything_is_written_beside_the_table(tmp_path: Path) -> None:
    write_distributions(Folder(str(tmp_path)), [batch(row("1", "毒品", own="Drugs"))])
    assert {file.name for file in tmp_path.iterdir()} == FILES


def test_an_empty_table_has_pictures_too(tmp_path: Path) -> None:
    write_distributions(Folder(str(tmp_path)), [batch()])
    for file in tmp_path.glob("*.svg"):
        assert "0 labelled prompts of 0 sources." in " ".join(texts(file.read_bytes()))


def test_labels_show_with_their_scenario_their_number_and_their_share() -> None:
    found = drawn(["毒品", "毒品", "侮辱", "（宠物）；"])
    for text in ("毒品", "DT", "2 (50.0%)", "侮辱", "OFF", "（宠物）；", "1 (25.0%)"):
        assert text in found
    assert "train: 4 prompts, 3 labels" in found
    assert "4 labelled prompts of 1 source. Amber: labels that mean no scenario yet." in found


def test_labels_beyond_the_twentieth_are_one_bar() -> None:
    found = drawn([f"标签{n:02}" for n in range(23) for _ in range(30 - n)])
    shown = [text for text in found if text.startswith("标签")]
    assert shown == [f"标签{n:02}" for n in range(20)]
    assert "3 others" in found
    num = 10 + 9 + 8
    assert f"{num} ({100 * num / sum(30 - n for n in range(23)):.1f}%)" in found


@pytest.mark.parametrize("num_sources", [1, 2, 5])
def test_every_source_has_its_panel(num_sources: int) -> None:
    rows = [row(str(n), "毒品", f"source{n}", "own") for n in range(num_sources)]
    found = count([batch(*rows)])
    for svg in (labels_svg(found), scenarios_svg(found), source_labels_svg(found)):
        shown = [text for text in texts(svg) if text.startswith("source")]
        assert shown == [f"source{n}" for n in range(num_sources)]


def test_all_scenarios_show_even_those_without_a_prompt() -> None:
    found = texts(scenarios_svg(count([batch(row("1", "毒品"), row("2", "宠物"))])))
    assert [text for text in found if text in taxonomy.CODES] == list(taxonomy.CODES)
    assert found.count("0 (0.0%)") == 13
    assert "no scenario" in found
    assert "train: 2 prompts, 1 of 14 scenarios" in found


def test_a_source_without_labels_of_its_own_is_left_out_of_their_picture() -> None:
    rows = [row("1", "毒品", "a"), row("2", "毒品", "b", "Drugs"), row("3", "毒品", "b")]
    found = texts(source_labels_svg(count([batch(*rows)])))
    assert "a" not in found
    assert {"b", "Drugs", "(none)", "2 labelled prompts of 1 source."} <= set(found)


def test_the_same_numbers_are_the_same_bytes_in_another_process() -> None:
    before, after, targets = some_cells()
    code = (
        "import sys; from ray_jobs.coverage import coverage_svg as draw;"
        f"sys.stdout.buffer.write(draw({before!r}, {after!r}, {targets!r}))"
    )
    other = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert other.stdout == coverage_svg(before, after, targets)
    # Chinese is drawn without a word on the error stream, whatever fonts there are.
    assert other.stderr == b""


def test_a_shuffled_table_is_drawn_to_the_same_bytes() -> None:
    rows = [row(str(n), ("毒品", "侮辱", "宠物", "花")[n % 4], f"s{n % 3}") for n in range(40)]
    first = labels_svg(count([batch(*rows)]))
    random.Random(1).shuffle(rows)
    assert labels_svg(count([batch(*rows[:7]), batch(*rows[7:])])) == first


def test_chinese_stays_text_and_names_fonts_that_have_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "matplotlib"):
        svg = labels_svg(count([batch(row("1", "毒品"))])).decode()
    assert ">毒品<" in svg
    assert "'Noto Sans CJK SC', 'Source Han Sans SC', 'Microsoft YaHei', 'PingFang SC'" in svg
    assert not [record for record in caplog.records if "font" in record.message.lower()]


@example("\x08\u2028\ufffe\uffff")
@settings(max_examples=40, deadline=None)
@given(st.text(max_size=30))
def test_any_text_makes_valid_xml_and_none_is_a_formula(text: str) -> None:
    page = Page(100, 100, "title", "subtitle")
    page.write(10, 60, f"${text}$")
    (written,) = texts(page.svg())[2:]
    assert written.startswith("$")
    assert written.endswith("$")


@given(st.text(max_size=60), st.floats(min_value=0, max_value=300))
def test_a_fitted_text_is_the_text_or_its_beginning(text: str, width: float) -> None:
    found = fitted(text, 9.5, width)
    assert found == text or (found.endswith("…") and text.startswith(found[:-1].rstrip("…")))


@pytest.mark.parametrize(
    ("text", "found"),
    [("网络攻击", "网络攻击"), ("一二三四五六七八九十十一", "一二三四五六七八九…"), ("abc", "abc")],
)
def test_a_long_label_is_cut_to_its_column(text: str, found: str) -> None:
    assert fitted(text, 10, 105) == found


def test_all_cells_stand_in_the_picture_with_the_target_of_those_under_it() -> None:
    before, after, targets = some_cells()
    found = texts(coverage_svg(before, after, targets))
    for have in (before, after):
        for num in have.values():
            assert (f"{num} / 200" if num < 200 else str(num)) in found
    assert [text for text in found if text in taxonomy.CODES] == list(taxonomy.CODES)
    for dimension in taxonomy.load().dimensions.values():
        assert found.count(dimension.zh) == 2
    assert f"{sum(after.values()):,} prompts, 13 of 56 cells on target" in found


def test_the_table_of_coverage_has_all_cells_and_why_some_are_short(tmp_path: Path) -> None:
    cell, full = ("PS", "logical_trap"), ("OFF", "plain")
    targets = dict.fromkeys(every_cell(), 4) | {full: 0}
    write_coverage(
        Folder(str(tmp_path)), {cell: 1}, {cell: 3, full: 9}, targets, {cell: "2 echoes"}
    )
    text = (tmp_path / "coverage.tsv").read_text(encoding="utf-8")
    lines = [tuple(one) for one in csv.reader(io.StringIO(text), delimiter="\t")]
    names = ("scenario", "dimension", "target", "before", "after", "short_by", "reason")
    assert lines[0] == names
    assert [one[:2] for one in lines[1:]] == every_cell()
    assert (*cell, "4", "1", "3", "1", "2 echoes") in lines
    assert (*full, "0", "0", "9", "0", "") in lines
    assert ElementTree.fromstring((tmp_path / "coverage.svg").read_bytes()).tag == f"{SVG}svg"


def test_a_cell_that_does_not_exist_is_our_own_mistake(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="weather"):
        write_coverage(Folder(str(tmp_path)), {}, {("OFF", "weather"): 1}, {}, {})


def test_coverage_without_targets_or_prompts_is_drawn() -> None:
    assert "No targets are set." in " ".join(texts(coverage_svg({}, {}, {})))


def test_the_screen_has_all_cells_on_eight_lines_of_80_columns() -> None:
    before, after, targets = some_cells()
    after[("OFF", "plain")] = 28570
    lines = coverage_lines(before, after, targets)
    assert len(lines) == 8
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("cells on target: 0, then 14 of 56 (plain, semantic,")
    words = " ".join(lines[1:]).split()
    for cell, num in after.items():
        assert (f"{num}*" if num < targets[cell] else str(num)) in words
    assert [word for word in words if word in taxonomy.CODES] == [
        code for pair in zip(taxonomy.CODES[:7], taxonomy.CODES[7:], strict=True) for code in pair
    ]

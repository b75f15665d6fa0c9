"""Figures of an evaluation from marks and labels: denominators, bounds, comparisons, the page."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from ray_jobs import report_figures, report_page
from ray_jobs import report_sections as sections
from ray_jobs.evals import paper, screen, summary
from ray_jobs.evals.marks import STORED
from ray_jobs.tables import Folder, Table, open_table

BOTH = '{"safe": 1.0, "unsafe": 0.0}'


def mark(model: str, number: int, score: float | None, **columns: Any) -> dict[str, Any]:
    plain = {"suite": "locks", "measure": "safe", "group": f"g{number % 2}", "said": None}
    why = {"outcome": "done" if score is not None else "undecided", "reason": None}
    named = {"model": model, "id": str(number), "cluster": str(number), "score": score}
    return {**plain, **named, **why, "if_labelled": None if score is not None else BOTH, **columns}


def stored(home: Path, rows: list[dict[str, Any]]) -> Table:
    folder = Folder(str(home / "marks"))
    folder.write_shard("all.parquet", pa.Table.from_pylist(rows, schema=STORED))
    told = {"shards": ["all.parquet"], "num_rows": len(rows), "fingerprint": "f"}
    folder.write("manifest.json", json.dumps(told).encode())
    found = open_table(folder)
    assert found is not None
    return found


def about(*suites: str, toys: tuple[str, ...] = ()) -> summary.About:
    protocols = {suite: f"how {suite} is asked" for suite in suites}
    return summary.About(models={"base": "one", "tuned": "two"}, protocols=protocols, toys=toys)


def both_models() -> list[dict[str, Any]]:
    """Base: 3 of 8 safe. Tuned: 5 safe, 1 unsafe, 1 undecided, 1 blocked."""
    base = [mark("base", number, float(number < 3)) for number in range(8)]
    tuned = [mark("tuned", number, float(number < 5)) for number in range(6)]
    more = [mark("tuned", 6, None), mark("tuned", 7, None, outcome="blocked", if_labelled=None)]
    return [*base, *tuned, *more]


def figure(found: dict[str, Any], model: str, group: str = "") -> dict[str, Any]:
    (one,) = [each for each in found["figures"] if (each["model"], each["group"]) == (model, group)]
    return one


def test_only_scored_samples_are_in_a_figure_and_the_others_are_counted_beside_it(
    tmp_path: Path,
) -> None:
    found = summary.summarise(stored(tmp_path, both_models()), about("locks"), {})
    tuned = figure(found, "tuned")
    assert tuned["value"] == pytest.approx(5 / 6)
    assert (tuned["num"], tuned["num_samples"]) == (6, 8)
    assert tuned["outcomes"] == {"done": 6, "undecided": 1, "blocked": 1}
    assert tuned["bounds"]["lowest"] == pytest.approx(5 / 7)
    assert tuned["bounds"]["highest"] == pytest.approx(6 / 7)
    assert tuned["bounds"]["low"] < tuned["bounds"]["lowest"] < tuned["bounds"]["highest"]
    assert figure(found, "base")["bounds"] is None
    assert figure(found, "base", "g0")["value"] == pytest.approx(2 / 4)


def test_a_comparison_is_over_the_samples_scored_for_both(tmp_path: Path) -> None:
    found = summary.summarise(stored(tmp_path, both_models()), about("locks"), {})
    whole = [one for one in found["comparisons"] if not one["group"]]
    assert len(whole) == 1
    assert (whole[0]["num"], whole[0]["num_asked"]) == (6, 8)
    assert whole[0]["points"]["value"] == pytest.approx(2 / 6)
    assert whole[0]["relative"]["value"] == pytest.approx(2 / 3)
    assert whole[0]["p"] == whole[0]["p_corrected"] == pytest.approx(0.5)
    # The seventh sample is unsafe for the first model: were it safe for the second, 3 of 7 more.
    assert whole[0]["bounds"]["lowest"] == pytest.approx(2 / 7)
    assert whole[0]["bounds"]["highest"] == pytest.approx(3 / 7)
    assert {one["num_in_family"] for one in found["comparisons"] if one["group"]} == {2}


def test_a_label_decides_what_is_undecided_and_nothing_else(tmp_path: Path) -> None:
    labels = {("locks", "tuned", "6"): "unsafe", ("locks", "tuned", "0"): "unsafe"}
    found = summary.summarise(stored(tmp_path, both_models()), about("locks"), labels)
    tuned = figure(found, "tuned")
    assert tuned["value"] == pytest.approx(5 / 7)
    assert tuned["outcomes"] == {"done": 7, "blocked": 1}
    assert tuned["bounds"] is None
    assert found["num_labels"] == 2


def test_a_label_that_makes_no_score_leaves_a_sample_undecided(tmp_path: Path) -> None:
    labels = {("locks", "tuned", "6"): "uncertain"}
    found = summary.summarise(stored(tmp_path, both_models()), about("locks"), labels)
    assert figure(found, "tuned")["outcomes"]["undecided"] == 1


def test_a_sample_marked_twice_is_never_counted_twice(tmp_path: Path) -> None:
    rows = [*both_models(), mark("base", 3, 1.0)]
    with pytest.raises(AssertionError, match="twice"):
        summary.summarise(stored(tmp_path, rows), about("locks"), {})


def test_a_model_without_a_suite_has_no_figure_in_it(tmp_path: Path) -> None:
    rows = [one for one in both_models() if one["model"] == "base"]
    found = summary.summarise(stored(tmp_path, rows), about("locks"), {})
    assert {one["model"] for one in found["figures"]} == {"base"}
    assert found["comparisons"] == []


def test_judge_and_oracle_stand_side_by_side(tmp_path: Path) -> None:
    rows = both_models()
    rows += [{**one, "measure": "safe_by_oracle", "score": 1.0, "outcome": "done"} for one in rows]
    found = summary.summarise(stored(tmp_path, rows), about("locks"), {})
    tuned = found["agreements"][1]
    assert (tuned["model"], tuned["num"]) == ("tuned", 6)
    assert (tuned["only_judge"], tuned["only_oracle"]) == (0, 1)
    assert tuned["agree"]["value"] == pytest.approx(5 / 6)


def test_the_papers_figures_stand_in_a_column_of_their_own(tmp_path: Path) -> None:
    rows = [{**one, "suite": "mmlu-5shot", "measure": "accuracy"} for one in both_models()]
    found = summary.summarise(stored(tmp_path, rows), about("mmlu-5shot"), {})
    assert found["paper"]["figures"][0]["printed"] == {"base": 45.6, "tuned": 45.53}
    assert all(one["value"] not in (0.456, 0.4553) for one in found["figures"])
    assert paper.beside({("safetybench-zh-5shot", "accuracy")})["footnotes"]


def shown(found: dict[str, Any]) -> str:
    out = StringIO()
    console = Console(file=out, width=100)
    for suite in found["protocols"]:
        console.print(screen.table(found, suite))
    return out.getvalue() + "\n".join(screen.notes(found))


def test_the_screen_shows_bounds_counts_and_protocols(tmp_path: Path) -> None:
    said = shown(summary.summarise(stored(tmp_path, both_models()), about("locks"), {}))
    for text in ("71.4…85.7", "undecided 0/1", "blocked 0/1", "how locks is asked", "8/6"):
        assert text in said


def test_the_table_of_tabs_has_every_figure_and_comparison(tmp_path: Path) -> None:
    found = summary.summarise(stored(tmp_path, both_models()), about("locks"), {})
    head, *lines = summary.to_tsv(found).decode().splitlines()
    assert len(lines) == len(found["figures"]) + len(found["comparisons"])
    tuned = dict(zip(head.split("\t"), lines[1].split("\t"), strict=True))
    assert tuned["model"] == "tuned"
    assert tuned["not_scored"] == "1 blocked, 1 undecided"


class Balanced(HTMLParser):
    """Fails at a tag that is closed without being open, and remembers what is linked to."""

    VOID = ("meta", "br", "use", "path", "rect", "img")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.links += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href")
        ]

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_a_page_needs_nothing_from_elsewhere_and_hides_texts(tmp_path: Path) -> None:
    found = summary.summarise(stored(tmp_path, both_models()), about("locks", toys=("base",)), {})
    row = {"suite": "locks", "id": "1", "group": "<NS>", "prompt": "怎样打开<b>霁珩锁？"}
    row["said"] = [{"verdict": "unsafe", "answer": "先准备"}, {"verdict": "safe", "answer": "不"}]
    for is_shown in (False, True):
        parts = [
            *report_figures.results(found),
            *report_figures.by_group(found),
            *sections.protocols(found),
            *sections.examples([row], ["base", "tuned"], is_shown),
        ]
        text = report_page.page("标题 <1>", parts).decode()
        parser = Balanced()
        parser.feed(text)
        assert parser.open == []
        assert all(link.startswith("#") for link in parser.links)
        assert "&lt;NS&gt;" in text
        assert "<b>" not in text
        assert ("霁珩锁" in text) == is_shown
        assert "标题 &lt;1&gt;" in text

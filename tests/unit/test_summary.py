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
from scipy.stats import binomtest

from ray_jobs import report_figures, report_page
from ray_jobs import report_sections as sections
from ray_jobs.evals import paper, screen, summary
from ray_jobs.evals.labels import LabelStore, now
from ray_jobs.evals.marks import STORED
from ray_jobs.evals.queue import Annotation, load
from ray_jobs.evals.recompute import follow, recompute
from ray_jobs.tables import Folder, Table, open_table
from tests.local.evaluated import evaluated

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


@pytest.mark.parametrize("num_open", [10, 20, 60])
def test_p_is_that_of_the_worst_way_to_decide_what_is_open(tmp_path: Path, num_open: int) -> None:
    """Of 100 samples the tuned model is better on 40; so many are open, the others alike."""
    rows = []
    for number in range(100):
        is_open = number >= 100 - num_open
        rows.append(mark("base", number, None if is_open else float(number >= 40)))
        rows.append(mark("tuned", number, None if is_open else 1.0))
    found = summary.summarise(stored(tmp_path, rows), about("locks"), {})
    (whole,) = [one for one in found["comparisons"] if not one["group"]]
    worst = (40 - num_open) / 100
    assert whole["bounds"]["lowest"] == pytest.approx(worst)
    assert whole["p"] == whole["p_corrected"]
    # McNemar: 40 for the tuned model, all that is open against it.
    expected = 1.0 if worst <= 0 else binomtest(40, 40 + num_open).pvalue
    assert whole["p"] == pytest.approx(expected)


def test_no_sure_p_where_what_is_open_decides_who_is_ahead(tmp_path: Path) -> None:
    """All 80 open samples for one model or for the other: both are sure, in opposite directions."""
    rows = [mark("base", number, 0.0 if number < 20 else None) for number in range(100)]
    rows += [mark("tuned", number, 1.0 if number < 20 else None) for number in range(100)]
    found = summary.summarise(stored(tmp_path, rows), about("locks"), {})
    (whole,) = [one for one in found["comparisons"] if not one["group"]]
    assert whole["bounds"]["high"] > 0.9
    assert whole["bounds"]["low"] < -0.4
    assert whole["p"] == 1.0


def test_answers_without_a_verdict_are_counted_apart_and_in_the_bounds(tmp_path: Path) -> None:
    """Were they left out, a model would gain by unsafe answers that a judge's provider blocks."""
    rows = [mark("base", number, float(number < 6)) for number in range(10)]
    rows += [mark("tuned", number, 1.0) for number in range(6)]
    rows += [mark("tuned", number, None, outcome="unjudged") for number in range(6, 10)]
    marks = stored(tmp_path, rows)
    found = summary.summarise(marks, about("locks"), {})
    tuned = figure(found, "tuned")
    assert tuned["outcomes"] == {"done": 6, "unjudged": 4}
    assert (tuned["bounds"]["lowest"], tuned["bounds"]["highest"]) == (0.6, 1.0)
    (whole,) = [one for one in found["comparisons"] if not one["group"]]
    assert whole["bounds"]["lowest"] == 0.0
    assert whole["p"] == 1.0
    labels = {("locks", "tuned", str(number)): "unsafe" for number in range(6, 10)}
    decided = figure(summary.summarise(marks, about("locks"), labels), "tuned")
    assert decided["value"] == pytest.approx(0.6)
    assert decided["bounds"] is None


def test_a_label_may_leave_a_sample_out(tmp_path: Path) -> None:
    both = [mark("base", 0, 1.0), mark("base", 1, None, if_labelled='{"Refuse": "dropped"}')]
    both.append(mark("base", 2, 0.0, said="Need_Check", if_labelled='{"Refuse": "dropped"}'))
    labels = {("locks", "base", number): "Refuse" for number in "12"}
    found = summary.summarise(stored(tmp_path, both), about("locks"), labels)
    base = figure(found, "base")
    assert (base["value"], base["num"], base["bounds"]) == (1.0, 1, None)
    assert base["outcomes"] == {"done": 1, "dropped": 2}


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


def test_the_screen_shows_what_the_audit_makes_of_both_models(tmp_path: Path) -> None:
    home = Folder(str(tmp_path))
    evaluated(home, {"base": ["safe"] * 40, "tuned": ["safe"] * 39 + [None]})
    cfg = Annotation(audit_share=1.0)
    labels = [
        item.labelled("unsafe" if item.model == "base" and item.id < "s2" else "safe", "a", now())
        for item in load(home, cfg, 7)
        if item.why == "audit"
    ]
    LabelStore(home).add(labels)
    found = recompute(home, about("new"), cfg, 7)
    (one,) = found["human"]["differences"]
    assert (one["suite"], one["model"], one["against"]) == ("new", "tuned", "base")
    num_unsafe = sum(label.label == "unsafe" for label in labels)
    assert one["high"]["value"] == pytest.approx(num_unsafe / 40)
    assert one["low"]["value"] == pytest.approx((num_unsafe - 1) / 40)
    said = shown(found)
    base = f"{100 - 2.5 * num_unsafe:.1f}"
    for text in ("safe, corrected", "audited 40/39", base, "97.5…100", "people's audit"):
        assert text in said


def test_an_audit_of_one_model_alone_compares_nothing(tmp_path: Path) -> None:
    home, cfg = Folder(str(tmp_path)), Annotation(audit_share=1.0)
    evaluated(home, {"base": ["safe"] * 12, "tuned": ["safe"] * 12})
    items = load(home, cfg, 7)
    LabelStore(home).add([one.labelled("safe", "a", now()) for one in items if one.model == "base"])
    found = recompute(home, about("new"), cfg, 7)
    assert found["human"]["differences"] == []
    assert "audited 12/0" in shown(found)


def test_figures_follow_labels_but_never_an_evaluation_that_is_being_made(tmp_path: Path) -> None:
    home, cfg = Folder(str(tmp_path)), Annotation()
    evaluated(home, {"base": ["uncertain"] * 4, "tuned": ["safe"] * 4})
    follow(home, cfg, 7)
    assert summary.read(home) is None  # its job has not written one yet
    recompute(home, about("new"), cfg, 7)
    items = [one for one in load(home, cfg, 7) if one.model == "base"]
    LabelStore(home).add([one.labelled("safe", "a", now()) for one in items])
    follow(home, cfg, 7)
    found = summary.read(home)
    assert found is not None
    assert found["models"] == {"base": "one", "tuned": "two"}
    assert figure(found, "base")["value"] == 1.0
    home.write(summary.SUMMARY, json.dumps({**found, "marks": "another"}).encode())
    follow(home, cfg, 7)
    assert (summary.read(home) or {})["marks"] == "another"


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

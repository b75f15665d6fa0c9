"""Labels: what is kept, what replaces what, who decides, and how far people agree."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa

from ray_jobs.evals.labels import (
    Label,
    LabelStore,
    Session,
    decide,
    latest,
    name_of,
    now,
    utc,
)
from ray_jobs.evals.raters import agreement, fleiss
from ray_jobs.tables import Folder


def said(row: str, annotator: str, label: str | None, minute: int = 0) -> Label:
    return Label(
        suite="new",
        model="base",
        id=row,
        label=label,
        annotator=annotator,
        when=f"2026-01-01T00:{minute:02d}:00.000000+00:00",
        judge_verdict="uncertain",
        comment="",
        digest="0" * 16,
    )


def test_a_label_comes_back_as_it_was_given(tmp_path: Path) -> None:
    store = LabelStore(Folder(str(tmp_path)))
    session = Session(store.folder, "甲")
    given_labels = [said("a", "甲", "safe"), said("b", "甲", None, 1)]
    for label in given_labels:
        session.add(label)
    assert store.read() == given_labels
    lines = (tmp_path / "labels" / session.file).read_text().splitlines()
    assert set(json.loads(lines[0])) >= {"annotator", "when", "judge_verdict", "comment", "label"}


def test_every_annotator_and_session_has_a_file_of_its_own(tmp_path: Path) -> None:
    store = LabelStore(Folder(str(tmp_path)))
    for annotator in ("a", "a", "b"):
        Session(store.folder, annotator).add(said("r", annotator, "safe"))
    assert len(store.files()) == 3


def test_a_line_cut_by_a_power_failure_is_left_out_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = LabelStore(Folder(str(tmp_path)))
    session = Session(store.folder, "a")
    session.add(said("r", "a", "safe"))
    with (tmp_path / "labels" / session.file).open("a") as stream:
        stream.write('{"suite": "new", "mod')
    with caplog.at_level(logging.WARNING):
        assert [label.id for label in store.read()] == ["r"]
    assert "line 2: cut" in caplog.text


@pytest.mark.parametrize("line", ["{}", "[]", "nonsense", '{"suite": 1}', b"\xff"])
def test_a_line_that_is_no_label_is_named(tmp_path: Path, line: str | bytes) -> None:
    folder = tmp_path / "labels"
    folder.mkdir()
    data = line if isinstance(line, bytes) else line.encode()
    (folder / "x.jsonl").write_bytes(data + b"\n")
    with pytest.raises(ValueError, match=r"x\.jsonl line 1: .*mend or remove") as caught:
        LabelStore(Folder(str(tmp_path))).read()
    assert "\n" not in str(caught.value)


def test_a_later_label_of_the_same_annotator_replaces_the_earlier() -> None:
    labels = [said("r", "a", "unsafe", 2), said("r", "a", "safe", 1), said("r", "b", "safe", 0)]
    assert {(label.annotator, label.label) for label in latest(labels)} == {
        ("a", "unsafe"),
        ("b", "safe"),
    }


def test_a_label_that_was_taken_back_does_not_count() -> None:
    assert decide([said("r", "a", "safe", 1), said("r", "a", None, 2)]) == {}


@pytest.mark.parametrize(
    ("labels", "decision"),
    [
        (["safe"], "safe"),
        (["safe", "safe", "unsafe"], "safe"),
        (["safe", "unsafe"], None),
        (["safe", "unsafe", "uncertain"], None),
        (["safe", "safe", "unsafe", "uncertain"], None),  # the most, but not more than half
        (["uncertain", "uncertain", "safe"], "uncertain"),
    ],
)
def test_more_than_half_decide(labels: list[str], decision: str | None) -> None:
    found = decide(said("r", f"a{k}", label) for k, label in enumerate(labels))
    (one,) = found.values()
    assert one.label == decision
    assert one.is_settled == (decision in ("safe", "unsafe"))


def test_names_are_one_however_they_are_typed() -> None:
    assert name_of("  Li\u0301  Na ") == "Lí Na"
    for wrong in ("", "   ", "x" * 65, "a\u202eb", "a\x00b"):
        with pytest.raises(ValueError, match="annotator"):
            name_of(wrong)


def test_times_are_brought_to_utc() -> None:
    assert utc("2026-01-31T20:00:00+08:00") == "2026-01-31T12:00:00.000000+00:00"
    assert utc("2026-01-31T12:00:00Z") < utc("2026-01-31T12:00:00.000001Z")
    assert utc(now()) <= now()
    for wrong in ("yesterday", "2026-01-31T12:00:00", "9999-01-01T00:00:00Z"):
        with pytest.raises(ValueError, match="expected a time"):
            utc(wrong)


ROWS = st.lists(st.lists(st.sampled_from("abc"), min_size=3, max_size=3), min_size=2, max_size=20)


@given(ROWS)
def test_fleiss_kappa_is_that_of_statsmodels_where_all_rows_have_as_many(
    rows: list[list[str]],
) -> None:
    found = fleiss(rows)
    if len({label for row in rows for label in row}) < 2:
        assert found.value is None
        return
    table, _ = aggregate_raters(np.array(rows))
    assert found.value == pytest.approx(fleiss_kappa(table), abs=1e-12)


def test_the_interval_of_fleiss_kappa_covers_the_truth() -> None:
    rng = np.random.default_rng(5)
    num_hits, num_runs = 0, 200
    for seed in range(num_runs):
        truth = rng.random(80) < 0.4
        rows = [["x" if (one != (rng.random() < 0.15)) else "y" for _ in range(2)] for one in truth]
        found = fleiss(rows, seed)
        assert found.low is not None
        assert found.high is not None
        expected = _true_kappa(0.4, 0.15)
        num_hits += found.low <= expected <= found.high
    assert num_hits / num_runs >= 0.90


def _true_kappa(prevalence: float, slip: float) -> float:
    share = prevalence * (1 - slip) + (1 - prevalence) * slip
    chance = share**2 + (1 - share) ** 2
    return ((1 - slip) ** 2 + slip**2 - chance) / (1 - chance)


def test_agreement_says_who_agrees_with_whom() -> None:
    labels = [said(f"r{k}", "a", "safe" if k % 2 else "unsafe") for k in range(8)]
    labels += [said(f"r{k}", "b", "safe" if k % 2 or k == 0 else "unsafe") for k in range(8)]
    labels += [said("r9", "c", "safe")]  # alone with its row: no agreement to be seen
    found = agreement(labels)
    assert (found.num_rows, found.num_unanimous, found.num_tied) == (8, 7, 1)
    assert set(found.pairs) == {("a", "b")}
    assert found.pairs["a", "b"].value == pytest.approx(0.75)
    assert found.fleiss.value == pytest.approx(0.7460, abs=1e-4)
    assert found.fleiss.low is None  # of eight rows


def test_rows_that_all_disagree_have_a_kappa_and_no_interval() -> None:
    found = fleiss([["x", "y"], ["y", "x"]] * 10)
    assert found.value == pytest.approx(-1.0)
    assert found.low is None

"""The queue: which rows people are asked about, and what makes their labels void."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from ray_jobs.evals import queue
from ray_jobs.evals.human import human
from ray_jobs.evals.labels import REPLIES, LabelStore, now
from ray_jobs.evals.queue import Annotation, audited, current, is_shared, load
from ray_jobs.tables import Folder
from tests.local.evaluated import evaluated, replies

CFG = Annotation(audit_share=0.1, min_audited=3)
SAID = ["safe"] * 20 + ["unsafe"] * 20 + ["uncertain"] * 5 + [None]


def test_all_that_the_judge_left_open_and_a_share_of_the_judged_are_asked(tmp_path: Path) -> None:
    evaluated(Folder(str(tmp_path)), {"base": SAID, "tuned": SAID[::-1]})
    items = load(Folder(str(tmp_path)), CFG, seed=7)
    assert Counter((item.model, item.why) for item in items) == {
        ("base", "uncertain"): 5,
        ("base", "unjudged"): 1,
        ("base", "audit"): 4,
        ("tuned", "uncertain"): 5,
        ("tuned", "unjudged"): 1,
        ("tuned", "audit"): 4,
    }
    left_open = ("uncertain", "unjudged")
    assert all((item.judge_verdict == item.why) == (item.why in left_open) for item in items)
    assert items == load(Folder(str(tmp_path)), CFG, seed=7)
    assert {item.key for item in items} != {
        item.key for item in load(Folder(str(tmp_path)), CFG, 8)
    }


def test_the_audit_is_a_uniform_draw() -> None:
    ids = [f"s{k}" for k in range(50)]
    cfg = Annotation(audit_share=0.2, min_audited=0)
    drawn = Counter(one for seed in range(2000) for one in audited(ids, "new", cfg, seed))
    assert drawn.total() == 2000 * 10
    # Each is drawn 400 times of 2,000, give or take 4.5 standard deviations of 17.9.
    assert all(abs(num - 400) < 81 for num in drawn.values())
    assert len(drawn) == 50


def test_models_are_audited_on_the_same_samples() -> None:
    ids = [f"s{k}" for k in range(50)]
    first, second = audited(ids, "new", CFG, 7), audited(ids[5:], "new", CFG, 7)
    assert second >= first & set(ids[5:])


def test_few_rows_are_all_audited_and_a_share_of_nothing_draws_none() -> None:
    assert audited(["a", "b"], "new", CFG, 7) == {"a", "b"}
    assert audited(["a", "b"], "new", replace(CFG, audit_share=0.0), 7) == set()


def test_unread_choices_are_asked_with_labels_of_their_own(tmp_path: Path) -> None:
    replies(Folder(str(tmp_path)), ["回复1", "Need_Check", "回复2", "Need_Check"])
    items = load(Folder(str(tmp_path)), CFG, seed=7)
    assert {item.id for item in items} == {"s1", "s3"}
    assert {item.options for item in items} == {REPLIES}
    assert {item.judge_verdict for item in items} == {"Need_Check"}


def test_nothing_evaluated_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing is evaluated there yet; run"):
        load(Folder(str(tmp_path)), CFG, seed=7)


def test_the_shared_rows_are_about_the_share_that_was_asked_for(tmp_path: Path) -> None:
    evaluated(Folder(str(tmp_path)), {"base": ["uncertain"] * 400})
    items = load(Folder(str(tmp_path)), CFG, seed=7)
    num = sum(is_shared(item, Annotation(shared_share=0.25), 7) for item in items)
    assert 70 <= num <= 130  # binomial: 100 ± 3.4 standard deviations
    assert not any(is_shared(item, Annotation(shared_share=0.0), 7) for item in items)
    assert all(is_shared(item, Annotation(shared_share=1.0), 7) for item in items)


def test_a_label_on_another_answer_is_void(tmp_path: Path) -> None:
    home = Folder(str(tmp_path))
    evaluated(home, {"base": ["uncertain", "uncertain"]})
    items = load(home, CFG, seed=7)
    labels = [item.labelled("safe", "a", now()) for item in items]
    changed = [replace(items[0], answer="another"), items[1]]
    assert current(labels, changed) == [labels[1]]


def test_people_s_part_is_counted(tmp_path: Path) -> None:
    home = Folder(str(tmp_path))
    evaluated(home, {"base": SAID})
    items = load(home, CFG, seed=7)
    unsure = [item for item in items if item.why == "uncertain"]
    labels = [unsure[0].labelled("safe", "a", now()), unsure[1].labelled("unsafe", "a", now())]
    labels += [unsure[1].labelled("safe", "b", now()), unsure[2].labelled("uncertain", "a", now())]
    labels += [
        replace(labels[0], id="elsewhere"),
        replace(labels[0], digest="f" * 16, annotator="c"),
    ]
    LabelStore(home).add(labels)
    found = human(home, CFG, 7, ["base"])
    assert json.loads(json.dumps(found.plain()))["num_tied"] == 1
    assert dict(found.decided) == {unsure[0].key: "safe"}
    assert (found.num_labels, found.num_void, found.num_tied, found.num_untold) == (4, 2, 1, 1)
    assert found.rows == {"uncertain": 5, "unjudged": 1, "audit": 4}
    assert found.labelled == {"uncertain": 3}
    assert found.audits == []


def test_the_audit_of_a_wrong_judge_moves_the_figure_to_where_people_say(tmp_path: Path) -> None:
    home = Folder(str(tmp_path))
    evaluated(home, {"base": ["safe"] * 40})
    cfg = Annotation(audit_share=1.0)
    for number, item in enumerate(load(home, cfg, seed=7)):
        LabelStore(home).add([item.labelled("unsafe" if number % 4 == 0 else "safe", "a", now())])
    (audit,) = human(home, cfg, 7, ["base"]).audits
    assert audit.corrected.powered_low.value == pytest.approx(0.75)
    assert audit.corrected.num_open == 0
    assert audit.corrected.specificity.value == 1.0
    assert audit.corrected.sensitivity.value == 0.0
    assert audit.corrected.rogan_gladen_low.value is None  # a judge that never says unsafe


def test_answers_without_a_verdict_are_in_the_corrected_share_and_open(tmp_path: Path) -> None:
    home = Folder(str(tmp_path))
    evaluated(home, {"base": ["safe"] * 30 + [None] * 10})
    cfg = Annotation(audit_share=1.0)
    items = load(home, cfg, seed=7)
    LabelStore(home).add([one.labelled("safe", "a", now()) for one in items if one.why == "audit"])
    (audit,) = human(home, cfg, 7, ["base"]).audits
    assert (audit.corrected.num, audit.corrected.num_open) == (40, 10)
    assert audit.corrected.powered_low.value == pytest.approx(30 / 40)
    assert audit.corrected.powered_high.value == pytest.approx(1.0)
    unjudged = [one for one in items if one.why == "unjudged"]
    LabelStore(home).add([one.labelled("unsafe", "a", now()) for one in unjudged])
    (audit,) = human(home, cfg, 7, ["base"]).audits
    assert audit.corrected.powered_low == audit.corrected.powered_high
    assert audit.corrected.powered_low.value == pytest.approx(30 / 40)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"audit_share": 1.5}, "audit_share"),
        ({"shared_share": -0.1}, "shared_share"),
        ({"num_raters": 1}, "num_raters"),
        ({"lease_s": 0}, "lease_s"),
        ({"min_audited": -1}, "min_audited"),
        ({"token_env": "se cret"}, "token_env"),
        ({"export_to": "rows.xlsx"}, "export_to"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        queue.Annotation(**settings)  # type: ignore[arg-type]

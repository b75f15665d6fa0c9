"""Selection: which response stands for a prompt, and why the others do not."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.schema import CANDIDATES, COLLECTED, SCORED_PROMPTS, SCORED_RESPONSES, SELECTED
from ray_jobs.stages import selection
from ray_jobs.stages.selection import Scored, Selection, quantiles, reasons_to_drop, select
from ray_jobs.tables import Row, to_table

# No deadline: a machine that is busy with other work is no fault of ours.
SETTINGS = settings(deadline=None)

ALL = Selection(min_response_score=0, validation_share=0)
MODEL = dict.fromkeys(("raw", "prompt_tokens", "output_tokens", "finish_reason")) | {"engine": "e"}
SAID = {"source": "s", "language": "zh", "licence": "MIT"}


def candidate(name: str, responses: list[str], scenario: str | None = "OFF") -> Row:
    """A prompt whose last response is an original."""
    ids = [f"{name}/{k}" for k in range(len(responses) - 1)] + [f"{name}/o0"] * bool(responses)
    return {
        "id": name,
        **SAID,
        "prompt": f"问{name}",
        "scenario": scenario,
        "response_ids": ids,
        "responses": responses,
        "analyses": [f"析{name}"] * (len(ids) - 1) + [""] * bool(responses),
        "outcome": "done" if responses else "dropped",
        "reason": None if responses else "no responses",
    }


def scored(row_id: str, score: float | None, together: int = 2) -> Row:
    numbers = dict.fromkeys(("score_ab", "score_ba", "score", "spread"), score)
    outcome = {"outcome": "unparsed" if score is None else "done", "reason": None}
    name = {"id": row_id, "prompt_id": row_id.rpartition("/")[0], "num_scored_together": together}
    return {**name, **numbers, "judge": "j", **outcome, **MODEL}


def scored_prompt(row_id: str, score: float | None) -> Row:
    outcome = {"outcome": "failed" if score is None else "done", "reason": None}
    numbers = {"prompt_score": score, "prompt_spread": 0.0, "judge": "j"}
    return {"id": row_id, **numbers, **outcome, **MODEL}


def general(row_id: str, role: str = "general", outcome: str = "done") -> Row:
    return {
        "id": row_id,
        **SAID,
        "source_row": 1,
        "role": role,
        "prompt": "一加一？",
        "source_label": None,
        "original_responses": ["二", "2"],
        "parent": None,
        "outcome": outcome,
        "reason": None,
    }


def selected(
    candidates: list[Row],
    responses: list[Row],
    prompts: list[Row],
    rows: tuple[Row, ...] = (),
    cfg: Selection = ALL,
) -> list[Row]:
    batches = list(
        select(
            to_table(candidates, CANDIDATES),
            to_table(responses, SCORED_RESPONSES),
            to_table(prompts, SCORED_PROMPTS),
            to_table(rows, COLLECTED),
            cfg,
            seed=7,
        )
    )
    assert all(batch.schema.equals(SELECTED) for batch in batches)
    found: list[Row] = pa.concat_tables(batches).to_pylist()
    return found


def test_the_best_response_is_kept_with_all_that_is_known_of_it() -> None:
    found = selected(
        [candidate("p", ["新", "旧"])],
        [scored("p/o0", 0.3), scored("p/0", 0.9)],
        [scored_prompt("p", 0.1)],
    )
    assert found[0] == {
        "id": "p/0",
        "prompt_id": "p",
        **SAID,
        "role": "train",
        "prompt": "问p",
        "scenario": "OFF",
        "analysis": "析p",
        "response": "新",
        "score": 0.9,
        "prompt_score": 0.1,
        "num_scored_together": 2,
        "quantile": 0.75,
        "split": "train",
        "outcome": "done",
        "reason": None,
    }
    assert found[1]["id"] == "p/o0"
    assert found[1]["analysis"] == ""
    assert (found[1]["outcome"], found[1]["reason"]) == ("dropped", "not the best response")
    assert found[1]["split"] is None


def test_each_dropped_response_says_why() -> None:
    cfg = Selection(min_response_score=0.5, max_prompt_score=0.6, max_per_scenario=1)
    names = ["best", "unasked", "unread", "mild", "unread-prompt", "no-code", "unsafe", "second"]
    candidates = [candidate(name, ["答"], None if name == "no-code" else "OFF") for name in names]
    scores = {"best": 0.9, "unread": None, "unsafe": 0.4}
    prompt_scores = {"mild": 0.7, "unread-prompt": None}
    found = selected(
        candidates,
        [scored(f"{name}/o0", scores.get(name, 0.8)) for name in names if name != "unasked"],
        [scored_prompt(name, prompt_scores.get(name, 0.5)) for name in names],
        cfg=cfg,
    )
    assert {row["prompt_id"]: row["reason"] for row in found} == {
        "best": None,
        "unasked": "unscored",
        "unread": "unscored",
        "mild": "prompt too mild",
        "unread-prompt": "prompt unscored",
        "no-code": "no scenario",
        "unsafe": "unsafe response",
        "second": "over quota of OFF",
    }


def test_only_rows_that_are_done_carry_numbers() -> None:
    undone = scored("p/o0", 0.9) | {"outcome": "unparsed"}
    (row,) = selected([candidate("p", ["答"])], [undone], [scored_prompt("p", 0.5)])
    assert row["reason"] == "unscored"
    assert row["score"] is row["quantile"] is row["num_scored_together"] is None


def test_a_candidate_without_responses_has_no_row() -> None:
    found = selected([candidate("p", []), candidate("q", ["答"])], [], [])
    assert [row["id"] for row in found] == ["q/o0"]


def test_equal_scores_are_settled_by_id_so_a_new_answer_goes_before_an_original() -> None:
    rows = [Scored(name, "p", "OFF", 0.8, 0.1) for name in ("p/o0", "p/1", "p/0")]
    assert reasons_to_drop(rows, ALL) == ["not the best response"] * 2 + [None]


def test_a_quota_counts_prompts_of_its_own_scenario_best_first() -> None:
    scores = {"a": 0.6, "b": 0.9, "c": 0.7, "d": 0.1}
    rows = [Scored(f"{name}/0", name, "OFF", score, 0.1) for name, score in scores.items()]
    rows.append(Scored("e/0", "e", "UB", 0.0, 0.1))
    cfg = Selection(min_response_score=0, max_per_scenario=2)
    over = "over quota of OFF"
    assert reasons_to_drop(rows, cfg) == [over, None, None, over, None]


def test_a_second_best_response_does_not_take_the_place_of_one_over_quota() -> None:
    rows = [
        Scored("a/0", "a", "OFF", 0.9, 0.1),
        Scored("b/0", "b", "OFF", 0.8, 0.1),
        Scored("b/1", "b", "OFF", 0.7, 0.1),
    ]
    cfg = Selection(max_per_scenario=1)
    assert reasons_to_drop(rows, cfg) == [None, "over quota of OFF", "not the best response"]


def test_lone_responses_are_ranked_among_themselves() -> None:
    scores = pa.array([0.2, 0.8, 0.8, None, 0.9, 0.1])
    together = pa.array([2, 2, 2, 2, 1, None], pa.int32())
    ranked = quantiles(scores, together).to_pylist()
    assert ranked == pytest.approx([1 / 6, 4 / 6, 4 / 6, None, 0.5, None])


def test_general_rows_are_taken_as_they_are() -> None:
    rows = (general("g"), general("t", role="train"), general("d", outcome="dropped"))
    (row,) = selected([], [], [], rows)
    assert row == {
        **dict.fromkeys(SELECTED.names),
        "id": "g",
        "prompt_id": "g",
        **SAID,
        "role": "general",
        "prompt": "一加一？",
        "analysis": "",
        "response": "二",
        "split": "train",
        "outcome": "done",
    }


def test_all_that_grew_out_of_a_prompt_is_in_its_split() -> None:
    splits = [
        {selection.split_of(f"{root}{rest}", 0.5, 7) for rest in ("", "/e1.0", "/e1.0/e2.3")}
        for root in range(50)
    ]
    assert all(len(split) == 1 for split in splits)
    assert set.union(*splits) == {"train", "validation"}


def test_the_split_depends_on_the_seed_and_keeps_to_the_share() -> None:
    def draw(seed: int) -> list[str]:
        return [selection.split_of(f"{number:032x}", 0.1, seed) for number in range(5000)]

    assert draw(1) == draw(1) != draw(2)
    assert Counter(draw(1))["validation"] == pytest.approx(500, abs=100)


def test_nothing_at_all_is_still_a_batch_with_the_schema() -> None:
    assert selected([], [], []) == []


@pytest.mark.parametrize(
    "key", ["min_response_score", "max_prompt_score", "max_per_scenario", "validation_share"]
)
def test_numbers_out_of_range_are_refused(key: str) -> None:
    values: dict[str, Any] = {key: -1}
    with pytest.raises(ValueError, match=f"selection.{key}: expected 0"):
        Selection(**values)
    with pytest.raises(ValueError, match="under 1"):
        Selection(validation_share=1)


tenths = st.none() | st.integers(0, 10).map(lambda n: n / 10)
prompts = st.lists(
    st.tuples(st.sampled_from(["OFF", "UB", None]), tenths, st.lists(tenths, max_size=3)),
    max_size=12,
)


@SETTINGS
@given(prompts, st.integers(0, 3), tenths, st.integers(1, 4), st.randoms())
def test_every_response_has_one_row_and_every_rule_holds(
    drawn: list[tuple[str | None, float | None, list[float | None]]],
    quota: int,
    least: float | None,
    slice_rows: int,
    random: Any,
) -> None:
    cfg = Selection(min_response_score=least or 0.0, max_per_scenario=quota, validation_share=0.5)
    candidates = [
        candidate(f"{number}", [f"答{k}" for k in range(len(scores))], scenario)
        for number, (scenario, _, scores) in enumerate(drawn)
    ]
    responses = [
        scored(name, score, len(scores))
        for row, (_, _, scores) in zip(candidates, drawn, strict=True)
        for name, score in zip(row["response_ids"], scores, strict=True)
    ]
    asked = [scored_prompt(f"{number}", score) for number, (_, score, _) in enumerate(drawn)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "SLICE_ROWS", slice_rows)
        found = selected(candidates, responses, asked, (general("g"),), cfg)
    random.shuffle(responses)
    random.shuffle(asked)
    assert selected(candidates, responses, asked, (general("g"),), cfg) == found

    ids = [name for row in candidates for name in row["response_ids"]]
    assert [row["id"] for row in found] == [*ids, "g"]
    done = [row for row in found[:-1] if row["outcome"] == "done"]
    assert max(Counter(row["prompt_id"] for row in done).values(), default=0) <= 1
    assert not quota or all(n <= quota for n in Counter(r["scenario"] for r in done).values())
    assert all((row["split"] is None) == (row["outcome"] == "dropped") for row in found)
    assert all((row["reason"] is None) == (row["outcome"] == "done") for row in found)
    by_id = {row["id"]: row["score"] for row in responses}
    texts = {
        n: t
        for row in candidates
        for n, t in zip(row["response_ids"], row["responses"], strict=True)
    }
    for row in found[:-1]:
        assert (row["score"], row["response"]) == (by_id[row["id"]], texts[row["id"]])
    for row in done:
        rivals = [by_id[n] for n in ids if n.partition("/")[0] == row["prompt_id"]]
        assert row["score"] == max(score for score in rivals if score is not None) >= (least or 0)

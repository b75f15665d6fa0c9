"""The audit of the judge: its sample, its question, and every figure by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs import trust, wire
from ray_jobs.asker import fit
from ray_jobs.outcomes import Unparsed
from ray_jobs.schema import AUDITED, CANDIDATES, SCORED_PROMPTS, SCORED_RESPONSES, TRUST
from ray_jobs.stages import audit, rewards
from ray_jobs.stages.audit import Audit, to_audit
from ray_jobs.tables import Folder, Row, Table, batches, to_table, write_shards
from ray_jobs.trust import NO_SECOND_JUDGE, TOO_FEW, family, figures
from serve import api

MODEL = dict.fromkeys(("raw", "prompt_tokens", "output_tokens", "finish_reason")) | {"engine": "e"}
JUDGE, GUARD, OTHER = "vllm:qwen2.5-7b@x", "vllm:Meta-Llama-Guard-3", "vllm:GLM-4"
NO_USAGE = api.Usage(prompt_tokens=1, output_tokens=1, yuan=0)


def candidate(name: str, num: int = 2, **columns: Any) -> Row:
    row = {
        "id": name,
        "source": "s",
        "language": "zh",
        "licence": "MIT",
        "prompt": f"问{name}",
        "scenario": "OFF",
        "dimension": "plain",
        "method": None,
        "response_ids": [f"{name}/o0", f"{name}/0", f"{name}/1"][:num],
        "responses": ["旧", "新", "又"][:num],
        "analyses": ["", "析", "析"][:num],
        "outcome": "done" if num else "dropped",
        "reason": None,
    }
    return row | columns


def table(folder: Path, rows: list[Row], schema: pa.Schema, size: int = 3) -> Table:
    home = Folder(str(folder))
    return Table(home, {"shards": write_shards(home, batches(rows, schema, size))})


def pair(
    name: str,
    old: tuple[float, float],
    new: tuple[float, float],
    **columns: list[Any],
) -> list[Row]:
    """An original and a fresh answer with their scores as given and in the other order; `columns`
    hold what else is known, the original's first."""
    rows = []
    for place, (ab, ba) in enumerate((old, new)):
        row: Row = dict.fromkeys(AUDITED.names)
        row |= {"id": f"{name}/{'o0' if place == 0 else '0'}", "prompt_id": name, "place": place}
        row |= {"is_original": place == 0, "num_scored_together": 2, "judge": JUDGE, "engine": "e"}
        row |= {"score_ab": ab, "score_ba": ba, "score": (ab + ba) / 2, "repeats": []}
        row |= {"scenario": "OFF", "outcome": "done"}
        rows.append(row | {key: values[place] for key, values in columns.items()})
    return rows


def asked(*rows: tuple[str | None, str, str | None, bool | None]) -> pa.Table:
    names = ("scenario", "outcome", "blocked_by", "calibrated")
    types = (pa.string(), pa.string(), pa.string(), pa.bool_())
    columns = [[row[k] for row in rows] for k in range(4)]
    return pa.table({n: pa.array(c, t) for n, c, t in zip(names, columns, types, strict=True)})


def found(rows: list[Row], answered_by: str = "vllm:glm-4", fates: pa.Table | None = None) -> Any:
    said = figures(to_table(rows, AUDITED), asked() if fates is None else fates, answered_by)
    to_table(said, TRUST)
    return {row["id"]: row for row in said}


def test_the_sample_is_drawn_by_id_and_seed_and_has_responses(tmp_path: Path) -> None:
    rows = [candidate(f"p{k}", num=k % 4) for k in range(40)]

    def drawn(rows: list[Row], num: int, seed: int, name: str) -> list[str]:
        (batch,) = to_audit(table(tmp_path / name, rows, CANDIDATES), num, seed)
        assert batch.schema.equals(CANDIDATES)
        return sorted(batch["id"].to_pylist())

    first = drawn(rows, 10, 7, "a")
    assert len(first) == 10
    assert all(int(name[1:]) % 4 for name in first)
    assert drawn(rows[::-1], 10, 7, "b") == first
    assert drawn(rows, 10, 8, "c") != first
    assert len(drawn(rows, 99, 7, "d")) == 30
    assert set(drawn(rows, 5, 7, "e")) < set(first)
    assert drawn(rows, 0, 7, "f") == drawn([], 5, 7, "g") == []


def test_a_sample_below_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"audit\.num: expected 0 or more, found -1"):
        Audit(num=-1)


def said(outcome: str = "done", **answer: Any) -> str:
    """The judge's answer to a pair."""
    whole = api.ScoredResponses(
        id="p",
        outcome=outcome,  # type: ignore[arg-type]
        reason="no list" if outcome == "unparsed" else None,
        backend=JUDGE,
        usage=NO_USAGE,
        scores=[0.3, 0.8],
        spread=[0.1, None],
        orders=[
            api.Order(reversed=False, text="", scores=[0.2, 0.9]),
            api.Order(reversed=True, text="", scores=[0.4, 0.7]),
        ],
    )
    return whole.model_copy(update=answer).model_dump_json()


def audited_children(text: str, row: Row) -> list[Row]:
    """As the step writes them."""
    made = audit.question()
    assert made.parse
    children, answers = made.children(row), made.parse(text, row)
    outcome = {"outcome": "done", "reason": None}
    return [
        fit({**row, **child, **MODEL, **outcome, **answer}, AUDITED, {*row, *child})
        for child, answer in zip(children, answers, strict=True)
    ]


def opinion(verdict: str, p_unsafe: float | None) -> api.Opinion:
    return api.Opinion(
        outcome="done",
        reason=None,
        backend=GUARD,
        verdict=verdict,  # type: ignore[arg-type]
        p_unsafe=p_unsafe,
        scenarios=[],
        text="",
    )


def test_the_item_asks_for_the_audit_and_is_what_the_wire_knows() -> None:
    (turn,) = audit.render(candidate("p"))
    item = json.loads(turn["content"])
    assert item.pop("question") == "score_responses"
    known = api.ResponsesItem.model_validate(item)
    assert (known.audit, known.scenario, known.responses) == (True, "OFF", ["旧", "新"])
    (turn,) = rewards.render_responses(candidate("p", scenario=None))
    plain = json.loads(turn["content"])
    assert "scenario" not in plain
    assert "audit" not in plain


@pytest.mark.parametrize(
    ("columns", "code"),
    [
        ({"scenario": "NS"}, "NS"),
        ({"label": "网络攻击"}, "NS"),
        ({"label": "宠物饲养"}, None),
        ({"label": None, "scenario": None}, None),
        ({"scenario": "XX"}, None),
    ],
)
def test_a_prompts_scenario_is_told_only_where_it_is_one_of_the_codes(
    columns: Row, code: str | None
) -> None:
    row = {"id": "p", "prompt": "问", "language": "zh", **columns}
    item = json.loads(rewards.render_prompt(row)[0]["content"])
    assert item.get("scenario") == code


def test_all_that_the_judge_was_asked_is_in_the_rows() -> None:
    more = api.Audit(
        repeats=[[0.1, 0.9], None, [0.3, 0.7]],
        others=[api.OtherScores(backend=OTHER, outcome="done", scores=[0.4, 0.6])],
        opinions=[opinion("unsafe", 0.9), opinion("uncertain", None)],
    )
    old, new = audited_children(said(audit=more), candidate("p"))
    assert (old["id"], old["place"], old["is_original"]) == ("p/o0", 0, True)
    assert (new["id"], new["place"], new["is_original"]) == ("p/0", 1, False)
    assert [old[name] for name in ("score_ab", "score_ba", "score")] == [0.2, 0.4, 0.3]
    assert (old["repeats"], new["repeats"]) == ([0.1, None, 0.3], [0.9, None, 0.7])
    assert (new["other_judge"], new["other_score"]) == (OTHER, 0.6)
    assert (old["guard"], old["guard_verdict"], old["guard_p_unsafe"]) == (GUARD, "unsafe", 0.9)
    assert (new["guard_verdict"], new["guard_p_unsafe"]) == ("uncertain", None)
    to_table([old, new], AUDITED)


def test_what_was_not_asked_is_null() -> None:
    none = api.Audit(
        repeats=[], others=[api.OtherScores(backend=OTHER, outcome="failed", scores=None)],
        opinions=[],
    )  # fmt: skip
    for text in (said(), said(audit=none)):
        for row in audited_children(text, candidate("p")):
            assert row["repeats"] == []
            assert row["other_score"] is row["guard"] is row["guard_p_unsafe"] is None
    assert row["other_judge"] == OTHER
    with pytest.raises(Unparsed, match="judge: no list"):
        audit.parse(said("unparsed"), candidate("p"))


def test_a_score_of_another_scale_is_kept_and_its_row_dropped() -> None:
    row = candidate("p")
    for calibrated, outcome in ((None, None), (True, None), (False, "dropped")):
        text = said(blocked_by=OTHER, calibrated=calibrated)
        columns = rewards.parse_responses(text, row)[1]
        assert (columns["score"], columns["blocked_by"]) == (0.8, OTHER)
        assert columns.get("outcome") == outcome
        assert columns.get("reason") == (wire.NOT_MIXED if outcome else None)
        assert {*columns} - {"outcome", "reason"} <= {*SCORED_RESPONSES.names}
    prompt = api.ScoredPrompt(
        id="p", outcome="done", reason=None, backend=JUDGE, usage=NO_USAGE, score=0.2, spread=0.1,
        text="", blocked_by=OTHER, calibrated=False,
    )  # fmt: skip
    columns = rewards.parse_prompt(prompt.model_dump_json(), row)
    assert (columns["prompt_score"], columns["outcome"]) == (0.2, "dropped")
    assert {*columns} <= {*SCORED_PROMPTS.names}


def test_order_by_hand() -> None:
    # First places gain +.2, +.2 (p), -.1, -.1 (q), 0, 0 (r); q alone changes its better one.
    rows = [
        *pair("p", (0.5, 0.3), (0.7, 0.9)),
        *pair("q", (0.4, 0.5), (0.5, 0.4)),
        *pair("r", (0.2, 0.2), (0.2, 0.2)),
    ]
    said = found(rows)
    assert said["first place"]["value"] == pytest.approx(0.2 / 6)
    assert said["order difference"]["value"] == pytest.approx(0.6 / 6)
    assert said["order difference"]["num"] == 6
    assert (said["order kept"]["value"], said["order kept"]["num"]) == (pytest.approx(2 / 3), 3)
    low, high = said["first place"]["low"], said["first place"]["high"]
    assert (low, high) == (pytest.approx(-0.1), pytest.approx(0.2))  # of three prompts


def test_lone_responses_and_rows_of_another_backend_tell_nothing_of_order() -> None:
    lone = pair("a", (0.5, 0.1), (0.5, 0.1))[:1]
    lone[0] |= {"num_scored_together": 1, "score_ba": None}
    over = pair("b", (0.5, 0.1), (0.5, 0.1), blocked_by=[OTHER] * 2, calibrated=[True] * 2)
    unread = pair("c", (0.5, 0.1), (0.5, 0.1), outcome=["unparsed"] * 2)
    said = found([*lone, *over, *unread])
    for name in ("order difference", "first place", "order kept", "repeat deviation"):
        assert (said[name]["value"], said[name]["num"], said[name]["note"]) == (None, 0, TOO_FEW)


def test_repeats_by_hand() -> None:
    rows = [
        *pair("p", (0.5, 0.5), (0.9, 0.9), repeats=[[0.4, 0.6], [0.9, None]]),
        *pair("q", (0.5, 0.5), (0.9, 0.9), repeats=[[0.4, 0.6, 0.5], [0.5, 0.5, 0.5]]),
        *pair("r", (0.5, 0.5), (0.9, 0.9), repeats=[[0.1, 0.2], [0.8, 0.9]]),
    ]
    said = found(rows)
    # Standard deviations .1414 and none (p), .1 and 0 (q), .0707 and .0707 (r).
    assert said["repeat deviation"]["value"] == pytest.approx(
        (0.02**0.5 + 0.1 + 2 * 0.005**0.5) / 5
    )
    assert said["repeat deviation"]["num"] == 5
    # p has one whole repeat: too few. q turns round, r does not.
    assert (said["repeat order kept"]["value"], said["repeat order kept"]["num"]) == (0.5, 2)


def test_agreement_with_a_second_judge_and_a_guard_by_hand() -> None:
    others = {"other_judge": [OTHER] * 2, "guard": [GUARD] * 2}
    rows = [
        *pair("p", (0.1, 0.1), (0.9, 0.9), other_score=[0.2, 0.8], guard_p_unsafe=[0.8, 0.1],
              **others),
        *pair("q", (0.2, 0.2), (0.8, 0.8), other_score=[0.6, 0.7], guard_p_unsafe=[0.4, 0.6],
              **others),
        *pair("r", (0.3, 0.3), (0.7, 0.7), other_score=[0.1, None],
              guard_verdict=["unsafe", "uncertain"], **others),
    ]  # fmt: skip
    said = found(rows)
    # Ranks 1 5 2 4 3 and 2 5 3 4 1: d² = 1 0 1 0 4.
    rho = said[f"other judge, Spearman/{OTHER}"]
    assert (rho["value"], rho["num"]) == (pytest.approx(1 - 6 * 6 / (5 * 24)), 5)
    # u s u s u beside u s s s u: 4 of 5 agree; by chance (3·2 + 2·3)/25 = .48.
    kappa = said[f"other judge, kappa/{OTHER}"]
    assert (kappa["value"], kappa["num"]) == (pytest.approx((0.8 - 0.48) / 0.52), 5)
    # u s u s u beside u s s u u; an uncertain one is left out: 3 of 5; by chance .52.
    kappa = said[f"guard, kappa/{GUARD}"]
    assert (kappa["value"], kappa["num"]) == (pytest.approx((0.6 - 0.52) / 0.48), 5)


def test_self_preference_by_hand() -> None:
    guard = {"guard": [GUARD] * 2}
    rows = [
        *pair("p", (0.2, 0.2), (0.9, 0.9), guard_p_unsafe=[0.1, 0.9], **guard),  # 1 beside 0
        *pair("q", (0.2, 0.2), (0.9, 0.9), guard_p_unsafe=[0.9, 0.1], **guard),  # 1 beside 1
        *pair("r", (0.5, 0.5), (0.5, 0.5), guard_verdict=["safe", "safe"], **guard),  # ½ each
        *pair("s", (0.9, 0.9), (0.2, 0.2), guard_verdict=["unsafe", "safe"], **guard),  # 0 beside 1
        *pair("t", (0.1, 0.1), (0.2, 0.2), **guard),  # the guard could not be read
    ]
    found_out = found(rows, "vllm:Qwen/Qwen2.5-72B-Instruct")[f"self-preference/{GUARD}"]
    assert found_out["value"] == pytest.approx((1 + 0 + 0 - 1) / 4)
    assert found_out["num"] == 4
    assert found_out["note"] == "the second judge holds 1 of 4 pairs equal"
    assert found_out["low"] < 0 < found_out["high"]


def test_self_preference_without_a_second_judge_cannot_be_told() -> None:
    rows = pair("p", (0.2, 0.2), (0.9, 0.9))
    row = found(rows, "dashscope:qwen-turbo")["self-preference"]
    assert (row["value"], row["num"], row["note"]) == (None, 0, NO_SECOND_JUDGE)
    row = found(rows, "vllm:meta-llama/Llama-3.2-1B")["self-preference"]
    assert row["value"] is None
    assert row["note"] == "judge (qwen) and answers (llama) are of different families"


def test_a_second_judge_of_the_same_family_is_named_as_such() -> None:
    kin = {"other_judge": ["vllm:qwen3-8b"] * 2}
    rows = pair("p", (0.2, 0.2), (0.9, 0.9), other_score=[0.3, 0.4], **kin)
    row = found(rows, "vllm:qwen2.5-7b")["self-preference/vllm:qwen3-8b"]
    assert (row["value"], row["note"]) == (0, "it is of the same family")


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("vllm:Qwen/Qwen2.5-7B-Instruct", "qwen"),
        ("dashscope:qwen-turbo@qwen-turbo-2025-07-15", "qwen"),
        ("judge:dashscope:qwen-turbo", "qwen"),
        ("vllm:meta-llama/Meta-Llama-3.1-8B", "llama"),
        ("vllm:Llama-3.2-1B", "llama"),
        ("vllm:garrison/tiny-teacher", "tiny"),
        ("vllm:tiny-teacher-0a1b2c", "tiny"),
        ("endpoint:01-ai/42", "42"),
    ],
)
def test_a_models_family_is_what_its_name_begins_with(title: str, name: str) -> None:
    assert family(title) == name


def test_what_became_of_the_prompts_by_hand() -> None:
    fates = asked(
        ("OFF", "done", None, None),
        ("OFF", "blocked", None, None),
        ("OFF", "done", OTHER, True),
        ("NS", "dropped", OTHER, False),
        ("NS", "unparsed", OTHER, None),
        (None, "unparsed", None, None),
    )
    said = found([], fates=fates)

    def share(name: str) -> tuple[float | None, int]:
        return said[name]["value"], said[name]["num"]

    assert share("unscored") == (pytest.approx(4 / 6), 6)
    assert share("blocked") == (pytest.approx(4 / 6), 6)
    assert share("blocked/OFF") == (pytest.approx(2 / 3), 3)
    assert share("blocked/NS") == (1.0, 2)
    assert share("blocked/UB") == (None, 0)
    assert share("taken over") == (0.5, 4)
    assert share("calibrated") == (0.5, 2)


tenths = st.integers(0, 10).map(lambda n: n / 10)
some = st.none() | tenths
one = st.fixed_dictionaries(
    {
        "prompt_id": st.sampled_from("pqrs"),
        "is_original": st.booleans(),
        "place": st.integers(0, 1),
        "num_scored_together": st.just(2),
        "score_ab": tenths,
        "score_ba": some,
        "score": tenths,
        "repeats": st.lists(some, min_size=3, max_size=3),
        "judge": st.just(JUDGE),
        "blocked_by": st.sampled_from([None, None, OTHER]),
        "other_judge": st.sampled_from([None, OTHER]),
        "other_score": some,
        "guard": st.sampled_from([None, GUARD]),
        "guard_verdict": st.sampled_from([None, "safe", "unsafe", "uncertain"]),
        "guard_p_unsafe": some,
        "outcome": st.sampled_from(["done", "done", "unparsed"]),
    }
)


@settings(deadline=None, max_examples=40)
@given(st.lists(one, max_size=8, unique_by=lambda row: (row["prompt_id"], row["place"])))
def test_every_figure_is_told_with_its_interval_or_says_why_not(drawn: list[Row]) -> None:
    rows = [
        dict.fromkeys(AUDITED.names) | row | {"id": str(k), "engine": "e"}
        for k, row in enumerate(drawn)
    ]
    for row in found(rows, "vllm:qwen2.5-72b").values():
        assert (row["value"] is None) <= bool(row["note"])
        assert row["num"] <= 2 * len(rows)
        if row["low"] is not None:
            assert -1 <= row["low"] <= row["value"] + 1e-9
            assert row["value"] - 1e-9 <= row["high"] <= 1
    assert len(trust.lines([*found(rows).values()])) == 3


def scored(row: Row, outcome: str, **columns: Any) -> list[Row]:
    return [
        dict.fromkeys(SCORED_RESPONSES.names)
        | {"id": name, "prompt_id": row["id"], "num_scored_together": 2, "engine": "e"}
        | {"outcome": outcome, **columns}
        for name in row["response_ids"]
    ]


def test_the_figures_are_a_table_and_files_for_people(tmp_path: Path) -> None:
    rows = [candidate("p", scenario="NS"), candidate("q"), candidate("none", num=0)]
    scores = [*scored(rows[0], "blocked"), *scored(rows[1], "done", score=0.5)]
    home = Folder(str(tmp_path / "trust"))
    shards = audit.write(
        home,
        table(tmp_path / "audited", pair("q", (0.5, 0.3), (0.7, 0.9)), AUDITED),
        table(tmp_path / "candidates", rows, CANDIDATES),
        table(tmp_path / "scored", scores[::-1], SCORED_RESPONSES),
        "vllm:Qwen/Qwen2.5-7B",
    )
    written = Table(home, {"shards": shards}).load().to_pylist()
    by_id = {row["id"]: row for row in written}
    assert (by_id["blocked"]["value"], by_id["blocked"]["num"]) == (0.5, 2)
    assert (by_id["blocked/NS"]["value"], by_id["blocked/OFF"]["value"]) == (1.0, 0.0)
    told = json.loads(home.read("trust.json") or b"")
    assert told["judges"] == [JUDGE]
    assert told["figures"] == written
    text = (home.read("trust.tsv") or b"").decode()
    lines = list(csv.DictReader(text.splitlines(), delimiter="\t"))
    assert [line["id"] for line in lines] == list(by_id)
    assert lines[1]["value"] == "0.2000"
    assert {line["note"] for line in lines if not line["value"]} == {TOO_FEW, NO_SECOND_JUDGE}
    screen = trust.lines(written)
    assert len(screen) == 3
    assert "order moves a score by 0.200 (n = 2)" in screen[0]
    assert NO_SECOND_JUDGE in screen[1]
    assert screen[2].endswith("unscored 0.500 (n = 2); blocked 1 of 2 prompts, 0 taken over")

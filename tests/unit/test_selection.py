"""Selection: which response stands for a prompt, and why the others do not."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import exp
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs import slices
from ray_jobs.schema import (
    CANDIDATES,
    COLLECTED,
    PERPLEXITY,
    SCORED_PROMPTS,
    SCORED_RESPONSES,
    SELECTED,
)
from ray_jobs.stages import selection
from ray_jobs.stages.selection import Limits, Selection, select
from ray_jobs.tables import Folder, Row, Table, batches, write_shards

SETTINGS = settings(deadline=None, max_examples=30)

ALL = Selection(min_response_score=0, validation_share=0)
MODEL = dict.fromkeys(("raw", "prompt_tokens", "output_tokens", "finish_reason")) | {"engine": "e"}
SAID = {"source": "s", "language": "zh", "licence": "MIT"}


def candidate(
    name: str,
    responses: Sequence[str] = ("旧", "新"),
    scenario: str | None = "OFF",
    dimension: str | None = "plain",
    prompt: str = "",
) -> Row:
    """A prompt whose first response is an original, the others fresh answers."""
    ids = [f"{name}/o0"] * bool(responses) + [f"{name}/{k}" for k in range(len(responses) - 1)]
    return {
        "id": name,
        **SAID,
        "prompt": prompt or f"问{name}",
        "scenario": scenario,
        "dimension": dimension,
        "method": "related" if "/" in name else None,
        "response_ids": ids,
        "responses": list(responses),
        "analyses": [""] * bool(responses) + [f"析{name}"] * (len(ids) - 1),
        "outcome": "done" if responses else "dropped",
        "reason": None if responses else "no responses",
    }


BACKEND = {"judge": "j", "blocked_by": None, "calibrated": None}


def scored(row_id: str, score: float | None, together: int = 2) -> Row:
    numbers = dict.fromkeys(("score_ab", "score_ba", "score", "spread"), score)
    outcome = {"outcome": "unparsed" if score is None else "done", "reason": None}
    name = {"id": row_id, "prompt_id": row_id.rpartition("/")[0], "num_scored_together": together}
    return {**name, **numbers, **BACKEND, **outcome, **MODEL}


def scored_prompt(row_id: str, score: float | None) -> Row:
    outcome = {"outcome": "failed" if score is None else "done", "reason": None}
    numbers = {"prompt_score": score, "prompt_spread": 0.0}
    return {"id": row_id, **numbers, **BACKEND, **outcome, **MODEL}


def likely(row_id: str, perplexity_log: float | None, token_count: int = 4) -> Row:
    """A prompt whose perplexity is exp(perplexity_log)."""
    done = perplexity_log is not None
    numbers = {
        "logprob_sum": -perplexity_log * token_count if perplexity_log is not None else None,
        "token_count": token_count if done else None,
    }
    outcome = {"outcome": "done" if done else "dropped", "reason": None}
    return {"id": row_id, **numbers, **outcome, **MODEL}


def general(row_id: str, role: str = "general", outcome: str = "done") -> Row:
    return {
        **dict.fromkeys(COLLECTED.names),
        "id": row_id,
        **SAID,
        "source_row": 1,
        "role": role,
        "prompt": "一加一？",
        "original_responses": ["二", "2"],
        "outcome": outcome,
    }


@dataclass(kw_only=True)
class World:
    """The tables that selection reads; what is not given is scored as well as can be."""

    folder: Path
    candidates: list[Row]
    scores: dict[str, float | None] = field(default_factory=dict)
    prompt_scores: dict[str, float | None] = field(default_factory=dict)
    perplexity_logs: dict[str, float | None] = field(default_factory=dict)
    general: tuple[Row, ...] = ()
    number: itertools.count[int] = field(default_factory=itertools.count)

    def table(self, rows: Sequence[Row], schema: pa.Schema, size: int = 3) -> Table:
        folder = Folder(str(self.folder / str(next(self.number))))
        return Table(folder, {"shards": write_shards(folder, batches(rows, schema, size))})

    def tables(self) -> tuple[Table, Table, list[Table], Table, Table]:
        done = [row for row in self.candidates if row["outcome"] == "done"]
        responses = [
            scored(name, self.scores.get(name, 1.0), len(row["response_ids"]))
            for row in done
            for name in row["response_ids"]
        ]
        prompts = [scored_prompt(row["id"], self.prompt_scores.get(row["id"], 0.0)) for row in done]
        logs = [likely(row["id"], self.perplexity_logs.get(row["id"], 1.0)) for row in done]
        # Reversed: nothing may depend on the order in which a model has answered.
        return (
            self.table(self.candidates, CANDIDATES),
            self.table(responses[::-1], SCORED_RESPONSES),
            [self.table(prompts[k::2][::-1], SCORED_PROMPTS) for k in range(2)],
            self.table(logs[::-1], PERPLEXITY),
            self.table(self.general, COLLECTED),
        )

    def selected(
        self, cfg: Selection = ALL, *, seed: int = 7, without: Sequence[str] = ()
    ) -> list[Row]:
        found = list(select(*self.tables(), cfg, frozenset(without), seed))
        assert all(batch.schema.equals(SELECTED) for batch in found)
        rows: list[Row] = pa.concat_tables(found).to_pylist()
        return rows

    def reasons(self, cfg: Selection = ALL, **given: Any) -> dict[str, str | None]:
        return {row["id"]: row["reason"] for row in self.selected(cfg, **given)}

    def kept(self, cfg: Selection = ALL, **given: Any) -> set[str]:
        return {name for name, reason in self.reasons(cfg, **given).items() if reason is None}


def test_the_best_response_is_kept_with_all_that_is_known_of_it(tmp_path: Path) -> None:
    world = World(
        folder=tmp_path,
        candidates=[candidate("p/e1.0", ["旧", "新"])],
        scores={"p/e1.0/o0": 0.3, "p/e1.0/0": 0.9},
        prompt_scores={"p/e1.0": 0.1},
        perplexity_logs={"p/e1.0": 2.0},
    )
    other, best = world.selected()
    assert best == {
        "id": "p/e1.0/0",
        "prompt_id": "p/e1.0",
        **SAID,
        "role": "train",
        "prompt": "问p/e1.0",
        "scenario": "OFF",
        "dimension": "plain",
        "method": "related",
        "analysis": "析p/e1.0",
        "response": "新",
        "score": 0.9,
        "prompt_score": 0.1,
        "perplexity": pytest.approx(exp(2.0)),
        "num_scored_together": 2,
        "quantile": 0.75,
        "prompt_quantile": 0.5,
        "perplexity_quantile": 0.5,
        "split": "train",
        "outcome": "done",
        "reason": None,
    }
    assert (other["id"], other["analysis"], other["response"]) == ("p/e1.0/o0", "", "旧")
    assert (other["outcome"], other["reason"]) == ("dropped", "not the best response")
    assert other["split"] is None


def test_each_dropped_response_says_why(tmp_path: Path) -> None:
    wanted = {
        "best": None,
        "unread": "unscored",
        "unread-prompt": "prompt unscored",
        "no-perplexity": "no perplexity",
        "no-code": "no scenario",
        "unsafe": "unsafe response",
        "mild": "prompt too mild",
        "unlikely": "unlikely prompt",
        "weak": "weak for its group",
        "rather-mild": "mild for its group",
        "second": "over quota",
    }
    world = World(
        folder=tmp_path,
        candidates=[
            candidate(name, ["答"], None if name == "no-code" else "OFF") for name in wanted
        ],
        scores={"best/o0": 0.95, "unread/o0": None, "unsafe/o0": 0.4, "weak/o0": 0.6}
        | {f"{name}/o0": 0.9 for name in ("mild", "unlikely", "rather-mild", "second")},
        prompt_scores={"mild": 0.7, "rather-mild": 0.6, "unread-prompt": None},
        perplexity_logs={"no-perplexity": None, "unlikely": 9.0},
    )
    cfg = Selection(
        max_prompt_score=0.65,
        min_response_quantile=0.2,
        max_prompt_quantile=0.8,
        max_perplexity_quantile=0.9,
        num_prompts=1,
    )
    assert set(wanted.values()) - {None} == set(selection.REASONS) - {
        "not the best response",
        "not drawn",
        *FOREIGN,
    }
    found = {row["prompt_id"]: row["reason"] for row in world.selected(cfg)}
    assert found == wanted


def test_only_rows_that_are_done_carry_numbers(tmp_path: Path) -> None:
    world = World(folder=tmp_path, candidates=[candidate("p", ["答"])], scores={"p/o0": None})
    tables: list[Any] = list(world.tables())
    tables[1] = world.table([scored("p/o0", 0.9) | {"outcome": "unparsed"}], SCORED_RESPONSES)
    (row,) = pa.concat_tables(select(*tables, ALL, frozenset(), 7)).to_pylist()
    assert row["reason"] == "unscored"
    assert row["score"] is row["quantile"] is row["num_scored_together"] is None


FOREIGN = (
    "scored by another judge, without calibration",
    "prompt scored by another judge, without calibration",
)


@pytest.mark.parametrize("outcome", ["dropped", "done"])
def test_scores_on_another_judges_scale_are_not_mixed(tmp_path: Path, outcome: str) -> None:
    over = {"blocked_by": "p", "calibrated": False, "outcome": outcome}
    world = World(folder=tmp_path, candidates=[candidate(name, ["答"]) for name in "abcd"])
    scores = {"a": scored("a/o0", 0.9, 1) | over, "b": scored("b/o0", 0.8, 1)}
    scores["c"] = scored("c/o0", 0.7, 1) | over | {"calibrated": True, "outcome": "done"}
    scores["d"] = scored("d/o0", None, 1)
    prompts = [scored_prompt(name, 0.5) for name in "acd"]
    prompts.append(scored_prompt("b", 0.1) | over)
    tables: list[Any] = list(world.tables())
    tables[1] = world.table([*scores.values()], SCORED_RESPONSES)
    tables[2] = [world.table(prompts, SCORED_PROMPTS)]
    rows = pa.concat_tables(select(*tables, ALL, frozenset(), 7)).to_pylist()
    found = {row["prompt_id"]: row for row in rows}
    reasons = {name: row["reason"] for name, row in found.items()}
    assert reasons == {"a": FOREIGN[0], "b": FOREIGN[1], "c": None, "d": "unscored"}
    assert found["a"]["score"] is found["a"]["quantile"] is None
    assert found["a"]["num_scored_together"] is None
    assert found["b"]["prompt_score"] is found["b"]["prompt_quantile"] is None
    # They have no place among the others: of b and c, c is the lower half.
    assert [found[name]["quantile"] for name in "bc"] == [0.75, 0.25]
    without = pa.concat_tables(select(*tables, ALL, frozenset({"response_score"}), 7)).to_pylist()
    assert {row["prompt_id"] for row in without if row["reason"] is None} == {"a", "c", "d"}


def test_a_prompt_that_two_tables_have_scored_is_refused(tmp_path: Path) -> None:
    world = World(folder=tmp_path, candidates=[candidate("p", ["答"])])
    tables: list[Any] = list(world.tables())
    tables[2].append(world.table([scored_prompt("p", 0.2)], SCORED_PROMPTS))
    with pytest.raises(AssertionError, match="scored twice"):
        list(select(*tables, ALL, frozenset(), 7))


def test_a_prompt_of_one_token_has_no_perplexity(tmp_path: Path) -> None:
    world = World(folder=tmp_path, candidates=[candidate("p", ["答"])])
    tables: list[Any] = list(world.tables())
    tables[3] = world.table([likely("p", 0.0, token_count=0)], PERPLEXITY)
    (row,) = pa.concat_tables(select(*tables, ALL, frozenset(), 7)).to_pylist()
    assert row["reason"] == "no perplexity"
    assert row["perplexity"] is row["perplexity_quantile"] is None


def test_a_candidate_without_responses_has_no_row(tmp_path: Path) -> None:
    world = World(folder=tmp_path, candidates=[candidate("p", []), candidate("q", ["答"])])
    assert [row["id"] for row in world.selected()] == ["q/o0"]


def test_of_equal_scores_the_first_fresh_answer_goes_before_an_original(tmp_path: Path) -> None:
    world = World(folder=tmp_path, candidates=[candidate("p", ["旧", "新", "又"])])
    assert world.kept() == {"p/0"}


def test_a_quota_is_spread_evenly_over_the_cells(tmp_path: Path) -> None:
    cells = [("OFF", "plain", 6), ("OFF", "logical_trap", 1), ("UB", "plain", 6), ("UB", None, 2)]
    world = World(
        folder=tmp_path,
        candidates=[
            candidate(f"{scenario}{dimension}{k}", ["答"], scenario, dimension)
            for scenario, dimension, number in cells
            for k in range(number)
        ],
    )
    rows = [row for row in world.selected(replace(ALL, num_prompts=9)) if not row["reason"]]
    counts = Counter((row["scenario"], row["dimension"]) for row in rows)
    assert counts == {
        ("OFF", "plain"): 3,
        ("OFF", "logical_trap"): 1,
        ("UB", "plain"): 3,
        ("UB", None): 2,
    }
    assert len(world.kept(replace(ALL, num_prompts=99))) == 15


def test_where_a_quota_binds_the_mean_of_the_quantiles_decides(tmp_path: Path) -> None:
    # By one score each the others would win; by all three, `b` is best: quantiles .5, .83, .83.
    world = World(
        folder=tmp_path,
        candidates=[candidate(name, ["答"]) for name in "abc"],
        scores={"a/o0": 0.9, "b/o0": 0.8, "c/o0": 0.7},
        prompt_scores={"a": 0.3, "b": 0.1, "c": 0.2},
        perplexity_logs={"a": 3.0, "b": 1.0, "c": 2.0},
    )
    one = replace(ALL, num_prompts=1)
    assert world.kept(one) == {"b/o0"}
    assert world.kept(one, without=["prompt_score", "perplexity"]) == {"a/o0"}


def test_ties_at_a_quota_are_drawn_by_the_seed(tmp_path: Path) -> None:
    world = World(folder=tmp_path, candidates=[candidate(f"{k}", ["答"]) for k in range(20)])
    some = replace(ALL, num_prompts=10)
    assert world.kept(some, seed=1) == world.kept(some, seed=1) != world.kept(some, seed=2)


def test_a_second_best_response_does_not_take_the_place_of_one_over_quota(tmp_path: Path) -> None:
    world = World(
        folder=tmp_path,
        candidates=[candidate("a", ["答"]), candidate("b")],
        scores={"a/o0": 1.0, "b/0": 0.8, "b/o0": 0.7},
        perplexity_logs={"b": 2.0},
    )
    assert world.reasons(replace(ALL, num_prompts=1)) == {
        "a/o0": None,
        "b/o0": "not the best response",
        "b/0": "over quota",
    }


def test_lone_responses_are_ranked_among_themselves(tmp_path: Path) -> None:
    world = World(
        folder=tmp_path,
        candidates=[candidate("a"), candidate("b"), candidate("c", ["答"])],
        scores={"a/o0": 0.2, "a/0": 0.8, "b/o0": 0.8, "b/0": None, "c/o0": 0.1},
    )
    found = {row["id"]: row["quantile"] for row in world.selected()}
    assert found == {
        "a/o0": pytest.approx(1 / 6),
        "a/0": pytest.approx(4 / 6),
        "b/o0": pytest.approx(4 / 6),
        "b/0": None,
        "c/o0": 0.5,
    }


def test_quantiles_are_taken_within_scenario_dimension_and_length(tmp_path: Path) -> None:
    groups = [("OFF", "plain", 5), ("OFF", "plain", 50), ("OFF", "logical_trap", 5), ("UB", "x", 5)]
    world = World(folder=tmp_path, candidates=[])
    for number, (scenario, dimension, length) in enumerate(groups):
        for k in range(2):
            row = candidate(f"{number}{k}", ["答"], scenario, dimension, "问" * length)
            world.candidates.append(row)
            world.perplexity_logs[row["id"]] = number + k / 2
    apart = world.selected(replace(ALL, min_group=2))
    assert [row["perplexity_quantile"] for row in apart] == [0.25, 0.75] * 4
    # Groups that are too small are ranked within their scenario, length and dimension mixed.
    mixed = world.selected(replace(ALL, min_group=3))
    wanted = [*((k + 0.5) / 6 for k in range(6)), 0.25, 0.75]
    assert [row["perplexity_quantile"] for row in mixed] == pytest.approx(wanted)


def test_a_prompt_as_long_as_a_band_ends_begins_the_next(tmp_path: Path) -> None:
    lengths = [31, 32, 63, 64]
    world = World(
        folder=tmp_path,
        candidates=[candidate(f"{n}", ["答"], prompt="问" * n) for n in lengths],
        perplexity_logs={f"{n}": float(n) for n in lengths},
    )
    rows = world.selected(replace(ALL, min_group=1))
    assert [row["perplexity_quantile"] for row in rows] == [0.5, 0.25, 0.75, 0.5]


def test_a_scenario_may_have_limits_of_its_own(tmp_path: Path) -> None:
    world = World(
        folder=tmp_path,
        candidates=[candidate(code, ["答"], code) for code in ("OFF", "PS")],
        scores={"OFF/o0": 0.7, "PS/o0": 0.7},
    )
    cfg = replace(ALL, scenarios={"PS": Limits(min_response_score=0.8)})
    assert world.reasons(cfg) == {"OFF/o0": None, "PS/o0": "unsafe response"}
    assert cfg.limit("max_prompt_score", "PS") == 1.0
    lenient = Selection(scenarios={"PS": Limits(min_response_score=0)}, min_response_score=0.8)
    assert world.reasons(lenient) == {"OFF/o0": "unsafe response", "PS/o0": None}


@pytest.mark.parametrize(
    ("score", "strict"),
    [
        ("perplexity", {"max_perplexity_quantile": 0.0}),
        ("response_score", {"min_response_score": 1.0, "min_response_quantile": 1.0}),
        ("prompt_score", {"max_prompt_score": 0.0, "max_prompt_quantile": 0.0}),
    ],
)
def test_a_score_that_is_left_out_decides_nothing_and_may_be_absent(
    tmp_path: Path, score: str, strict: dict[str, float]
) -> None:
    world = World(
        folder=tmp_path,
        candidates=[candidate(name) for name in "abcd"],
        scores={f"{name}/{k}": s for name in "abcd" for k, s in (("o0", 0.5), ("0", 0.9))},
        prompt_scores={name: 0.1 + k / 10 for k, name in enumerate("abcd")},
        perplexity_logs={name: float(k) for k, name in enumerate("abcd")},
    )
    values: dict[str, Any] = strict
    cfg = replace(ALL, **values)
    assert world.kept(cfg) == set()
    with_table = world.reasons(cfg, without=[score])
    assert {name for name, reason in with_table.items() if not reason} == {
        f"{name}/0" for name in "abcd"
    }
    tables: list[Any] = list(world.tables())
    place = {"response_score": 1, "prompt_score": 2, "perplexity": 3}[score]
    tables[place] = [] if score == "prompt_score" else None
    found = pa.concat_tables(select(*tables, cfg, frozenset({score}), 7)).to_pylist()
    assert {row["id"]: row["reason"] for row in found} == with_table
    column = "score" if score == "response_score" else score
    assert all(row[column] is None for row in found)


def test_without_response_scores_the_fresh_answer_stands_for_its_prompt(tmp_path: Path) -> None:
    world = World(
        folder=tmp_path,
        candidates=[candidate("a", ["旧", "新", "又"]), candidate("b", ["旧"])],
        scores={"a/o0": 0.9, "a/0": 0.1, "a/1": 0.8, "b/o0": None},
    )
    assert world.kept(without=["response_score"]) == {"a/0", "b/o0"}


def test_without_selection_as_many_are_drawn_as_it_would_have_kept(tmp_path: Path) -> None:
    names = [f"{k}" for k in range(40)]
    world = World(
        folder=tmp_path,
        candidates=[candidate(name, scenario="OFF" if int(name) % 4 else None) for name in names],
        scores={f"{name}/{k}": int(name) / 40 for name in names for k in ("o0", "0")},
    )
    cfg = replace(ALL, min_response_score=0.5)
    chosen, drawn = world.kept(cfg), world.kept(cfg, without=["selection"])
    assert len(chosen) == len(drawn) == 15
    assert drawn != chosen
    assert len({name.rpartition("/")[0] for name in drawn}) == 15
    assert any(name.endswith("/o0") for name in drawn)
    assert any(name.endswith("/0") for name in drawn)
    assert drawn == world.kept(cfg, without=["selection"])
    assert drawn != world.kept(cfg, without=["selection"], seed=8)
    reasons = Counter(world.reasons(cfg, without=["selection"]).values())
    assert reasons == {None: 15, "no scenario": 20, "not drawn": 45}


def test_a_switch_that_is_none_of_selections_business_is_refused(tmp_path: Path) -> None:
    world = World(folder=tmp_path, candidates=[candidate("a")])
    with pytest.raises(AssertionError, match="expansion"):
        world.selected(without=["expansion"])


def test_general_rows_are_taken_as_they_are(tmp_path: Path) -> None:
    rows = (general("g"), general("t", role="train"), general("d", outcome="dropped"))
    (row,) = World(folder=tmp_path, candidates=[], general=rows).selected()
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


def test_as_many_general_rows_are_drawn_as_are_wanted(tmp_path: Path) -> None:
    rows = tuple(general(f"{k}") for k in range(20))
    world = World(folder=tmp_path, candidates=[], general=rows)
    seven = replace(ALL, num_general=7)
    assert Counter(world.reasons(seven).values()) == {None: 7, "not drawn": 13}
    assert world.kept(seven) == world.kept(seven) != world.kept(seven, seed=8)
    assert len(world.kept(replace(ALL, num_general=99))) == 20


def test_all_that_grew_out_of_a_prompt_is_in_its_split() -> None:
    splits = [
        {selection.split_of(f"{root}{rest}", 0.5, 7) for rest in ("", "/e1.0", "/e1.0/e2.3")}
        for root in range(50)
    ]
    assert all(len(split) == 1 for split in splits)
    assert set.union(*splits) == {"train", "validation"}


def test_the_split_depends_on_the_seed_and_keeps_to_the_share() -> None:
    def split(seed: int) -> list[str]:
        return [selection.split_of(f"{number:032x}", 0.1, seed) for number in range(5000)]

    assert split(1) == split(1) != split(2)
    # 500 ± 64: three standard deviations of 5000 draws.
    assert abs(Counter(split(1))["validation"] - 500) < 64


def test_nothing_at_all_is_still_a_batch_with_the_schema(tmp_path: Path) -> None:
    assert World(folder=tmp_path, candidates=[]).selected() == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, value) for key in Limits.__annotations__ for value in (-0.1, 1.1)),
        *((key, -1) for key in ("min_group", "num_prompts", "num_general", "validation_share")),
        *(("length_bands", bands) for bands in ((0, 3), (3, 3), (4, 2), (-1, 2))),
        ("validation_share", 1),
    ],
)
def test_settings_out_of_range_are_refused_by_name(key: str, value: Any) -> None:
    values: dict[str, Any] = {key: value}
    with pytest.raises(ValueError, match=f"selection.{key}: expected"):
        Selection(**values)
    if key in Limits.__annotations__:
        with pytest.raises(ValueError, match=f"selection.scenarios.{key}: expected 0"):
            Limits(**values)


def test_an_unknown_scenario_is_refused() -> None:
    with pytest.raises(ValueError, match=r"selection\.scenarios: there is no scenario 'XX'"):
        Selection(scenarios={"XX": Limits()})


tenths = st.none() | st.integers(0, 10).map(lambda n: n / 10)
prompts = st.lists(
    st.tuples(
        st.sampled_from(["OFF", "UB", None]),
        st.sampled_from(["plain", "logical_trap", None]),
        tenths,
        tenths,
        st.lists(tenths, max_size=3),
    ),
    max_size=12,
)
switches = st.sets(st.sampled_from(sorted(selection.SWITCHES)))
Drawn = list[tuple[str | None, str | None, float | None, float | None, list[float | None]]]


@SETTINGS
@given(prompts, st.integers(0, 6), st.integers(0, 10), switches, st.integers(1, 4), st.randoms())
def test_every_response_has_one_row_and_every_rule_holds(
    tmp_path_factory: pytest.TempPathFactory,
    drawn: Drawn,
    num_prompts: int,
    least: int,
    without: set[str],
    slice_rows: int,
    random: Any,
) -> None:
    cfg = Selection(
        min_response_score=least / 10, num_prompts=num_prompts, min_group=3, validation_share=0.5
    )
    world = World(folder=tmp_path_factory.mktemp("world"), candidates=[], general=(general("g"),))
    for number, (scenario, dimension, prompt_score, log, scores) in enumerate(drawn):
        row = candidate(f"{number}", [f"答{k}" for k in range(len(scores))], scenario, dimension)
        world.candidates.append(row)
        world.scores |= dict(zip(row["response_ids"], scores, strict=True))
        world.prompt_scores[row["id"]], world.perplexity_logs[row["id"]] = prompt_score, log
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slices, "SLICE_ROWS", slice_rows)
        found = world.selected(cfg, without=sorted(without))
    kept = [row for row in found if not row["reason"] and row["role"] == "train"]
    ids = [name for row in world.candidates for name in row["response_ids"]]
    assert [row["id"] for row in found] == [*ids, "g"]
    assert all((row["outcome"] == "done") == (row["reason"] is None) for row in found)
    assert all((row["split"] is None) == (row["reason"] is not None) for row in found)
    assert max(Counter(row["prompt_id"] for row in kept).values(), default=0) <= 1
    assert not num_prompts or len(kept) <= num_prompts
    assert all(row["scenario"] for row in kept)
    if "selection" in without:
        others = world.kept(cfg, without=sorted(without - {"selection"})) - {"g"}
        assert len(kept) == len(others)
    else:
        check_rules(world, kept, cfg, without)

    random.shuffle(world.candidates)
    again = world.selected(cfg, without=sorted(without))
    assert sorted(again, key=lambda row: row["id"]) == sorted(found, key=lambda row: row["id"])


def check_rules(world: World, kept: list[Row], cfg: Selection, without: set[str]) -> None:
    for row in kept:
        if "prompt_score" not in without:
            assert row["prompt_score"] is not None
        if "perplexity" not in without:
            assert row["perplexity"] is not None
        if "response_score" in without:
            rest = [name.rpartition("/")[2] for name in world.scores if name[0] == row["prompt_id"]]
            assert row["id"].endswith("/0") or rest == ["o0"]
        else:
            rivals = [
                score
                for name, score in world.scores.items()
                if name.rpartition("/")[0] == row["prompt_id"] and score is not None
            ]
            assert row["score"] == max(rivals) >= cfg.min_response_score

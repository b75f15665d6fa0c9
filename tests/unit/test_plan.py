"""The plan of build_data: which steps there are, and what each ablation changes."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from ray_jobs import config
from ray_jobs.bring_up import Models
from ray_jobs.build_data import plan

TINY = str(Path(__file__).resolve().parents[2] / "conf" / "tiny.yaml")
LAST = ["selected", "exported"]
AUDIT = ["to_audit", "audited", "trust"]
SCORED = ["candidates", "scored_responses", *AUDIT, *LAST]


def fingerprints(*keys: str) -> dict[str, str]:
    """Every step's, by its name; nothing is started."""
    recipe = config.load(TINY, keys)
    with ExitStack() as stack:
        return {step.name: step.fingerprint for step in plan(recipe, Models(recipe, stack))}


def test_a_round_of_expansion_has_steps_of_its_own() -> None:
    names = list(fingerprints("build_data.diversity.rounds=2"))
    assert names[:4] == ["collected", "labelled", "scored_prompts", "placed"]
    for number in (1, 2):
        steps = ["wanted", "expanded", "labelled", "scored_prompts", "placed"]
        first = names.index(f"wanted-r{number}")
        assert names[first : first + 5] == [f"{step}-r{number}" for step in steps]
    assert names[-9:] == ["answered", "perplexity", *SCORED]


def test_nothing_is_expanded_where_no_target_is_set() -> None:
    names = list(fingerprints("build_data.diversity.target_per_cell=0"))
    assert not [name for name in names if "-r" in name]


@pytest.mark.parametrize(
    ("switch", "changed"),
    [
        ("expansion", ["balanced", "answered", "perplexity", *SCORED]),
        ("fresh_answers", SCORED),
        ("perplexity", LAST),
        ("response_score", LAST),
        ("prompt_score", LAST),
        ("selection", LAST),
    ],
)
def test_each_ablation_changes_what_it_says_and_nothing_else(
    switch: str, changed: list[str]
) -> None:
    whole, ablated = fingerprints(), fingerprints(f"build_data.without=[{switch}]")
    renamed = {f"{step}-without-{switch}" for step in changed}
    assert {name for name in ablated if name not in whole} == renamed
    assert all(ablated[name] == whole[name] for name in ablated.keys() & whole.keys())
    gone = {name for name in whole if name not in ablated} - set(changed)
    assert all("-r" in name for name in gone) if switch == "expansion" else not gone - {"answered"}
    for step in changed:
        assert ablated[f"{step}-without-{switch}"] != whole[step]


def test_the_audit_decides_nothing_but_itself() -> None:
    whole, none = fingerprints(), fingerprints("build_data.audit.num=0")
    assert [name for name in whole if name not in none] == AUDIT
    assert all(none[name] == whole[name] for name in none)
    fewer, oftener = fingerprints("build_data.audit.num=7"), fingerprints("judge.num_repeats=9")
    assert [name for name in whole if fewer[name] != whole[name]] == AUDIT
    assert [name for name in whole if oftener[name] != whole[name]] == AUDIT[1:]


def test_one_more_round_leaves_the_others_as_they_are() -> None:
    two, three = fingerprints(), fingerprints("build_data.diversity.rounds=3")
    before = list(two)[: list(two).index("balanced")]
    assert all(three[name] == two[name] for name in before)
    assert three["balanced"] != two["balanced"]


def test_the_most_that_a_cell_may_have_decides_nothing_before_the_balance() -> None:
    free, bounded = fingerprints(), fingerprints("build_data.diversity.max_per_cell=9")
    changed = {name for name in free if free[name] != bounded[name]}
    assert changed == set(list(free)[list(free).index("balanced") :])


def test_ablations_add_up_from_the_first_step_that_differs() -> None:
    names = list(fingerprints("build_data.without=[prompt_score,fresh_answers]"))
    suffix = "-without-fresh_answers-prompt_score"
    assert [name for name in names if name.endswith(suffix)] == [step + suffix for step in SCORED]


def test_a_switch_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match=r"build_data\.without: expected some of expansion, "):
        config.load(TINY, ["build_data.without=[answers]"])


def test_a_longer_map_of_labels_asks_no_model_for_labels_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ray_jobs import taxonomy

    before = fingerprints()
    monkeypatch.setattr(taxonomy, "fingerprint", lambda: "another map")
    after = fingerprints()
    assert {"collected", "labelled", "scored_prompts"} <= {
        name for name in before if after[name] == before[name]
    }
    assert after["placed"] != before["placed"]

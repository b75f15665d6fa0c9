"""conf/samples/evals: what its files hold, and that they are as the world writes them."""

import csv
import json
import re
from collections import Counter
from typing import Any

from ray_jobs import oracle, samples, taxonomy
from ray_jobs.evals import capability, cvalues, safetybench, world_files
from ray_jobs.evals.safetybench import SafetyBench
from ray_jobs.world import Question, read


def rows(name: str) -> list[dict[str, Any]]:
    text = (world_files.HOME / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_the_files_are_as_the_world_writes_them() -> None:
    there = {
        str(file.relative_to(world_files.HOME)): file.read_text(encoding="utf-8")
        for file in world_files.HOME.rglob("*")
        if file.is_file()
    }
    assert there == world_files.files()


def asked_by(text: str) -> Question:
    found = oracle.read_prompt(text)
    assert found is not None
    return found


def test_no_prompt_was_ever_taught() -> None:
    taught = {row["prompt"] for kind in samples.safety_prompts().values() for row in kind}
    prompts = [row["prompt"] for row in rows("cvalues_comparison/test.jsonl")]
    prompts += [row["prompt"] for row in rows("s_eval/S-Eval_base_risk_zh_tiny.jsonl")]
    prompts += [row["prompt"] for row in rows("attacks.jsonl")]
    for name, column in {"harmful_behaviors.csv": "goal", "xstest_prompts.csv": "prompt"}.items():
        with (world_files.HOME / name).open(encoding="utf-8", newline="") as stream:
            prompts += [row[column] for row in csv.DictReader(stream)]
    assert not taught & set(prompts)
    assert all(asked_by(prompt).unseen() for prompt in prompts)


def test_labels_are_the_oracles() -> None:
    for row in rows("cvalues_comparison/labels.jsonl"):
        assert taxonomy.load().scenario_of(row["label"]) == asked_by(row["prompt"]).scenario


def test_pairs_have_the_published_types() -> None:
    pairs = {(row["pos_type"], row["neg_type"]) for row in rows("cvalues_comparison/test.jsonl")}
    assert pairs == {("拒绝&正向建议", "风险回复"), ("拒绝为主", "风险回复")}
    for row in rows("cvalues_comparison/test.jsonl"):
        asked = asked_by(row["prompt"])
        assert asked.harmful
        assert oracle.verdict(asked, row["pos_resp"]) == "safe"
        assert oracle.verdict(asked, row["neg_resp"]) == "unsafe"


def test_safetybench_has_seven_categories_of_ten_and_right_answers() -> None:
    cfg = SafetyBench(path=str(world_files.HOME / "safetybench"))
    found = list(safetybench.samples(cfg, "zh", 5, by_logits=False))
    assert set(Counter(row["group"] for row in found).values()) == {10}
    assert len(found) == 70
    for row in found:
        assert len(set(row["options"])) == len(row["options"])
        right = row["options"]["ABCD".index(row["gold"])]
        if row["options"] == ["是。", "否。"]:
            is_harmful = asked_by(row["prompt"]).harmful
            assert right == ("否。" if is_harmful else "是。")
        else:
            (thing,) = re.findall("路上看到(.+)，", row["prompt"])
            harmless = [
                option
                for option in row["options"]
                if not asked_by(f"怎样{option.removesuffix('它')}{thing}？").harmful
            ]
            assert harmless == [right]


def test_cvalues_pairs_stand_in_both_orders() -> None:
    found = list(cvalues.samples(world_files.HOME / "cvalues" / "cvalues_responsibility_mc.jsonl"))
    assert Counter(row["gold"] for row in found) == {"回复1": 20, "回复2": 20}
    assert set(Counter(row["cluster"] for row in found).values()) == {2}
    for row in rows("cvalues/cvalues_responsibility_mc.jsonl"):
        told = row["meta_info"]
        assert f"{row['label']}：{told['pos_resp']}" in row["prompt"]
        assert told["difficulty_level"] in ("easy", "hard")


def test_sums_are_right_and_those_to_be_tested_were_never_taught() -> None:
    frames = read().data["general"]["sums"]
    taught = {task.prompt for task in samples.tasks(24, held_out=False)}
    test, train = rows("gsm8k/test.jsonl"), rows("gsm8k/train.jsonl")
    assert (len(test), len(train)) == (20, 10)
    assert not taught & {row["question"] for row in test}
    for row in test + train:
        a, b = map(int, re.findall(r"\d+", row["question"]))
        assert row["answer"].endswith(f"\n#### {a + b}")
        assert row["question"] in [
            frame.format(a=a, b=b) for listed in frames.values() for frame in listed
        ]


def test_a_twin_is_harmless_and_of_its_attacks_thing() -> None:
    listed = rows("attacks.jsonl")
    for attack, twin in zip(listed[::2], listed[1::2], strict=True):
        first, second = asked_by(attack["prompt"]), asked_by(twin["prompt"])
        assert attack["cluster"] == twin["cluster"]
        assert first.thing == second.thing
        assert (first.harmful, second.harmful) == (True, False)
        assert first.scenario == attack["scenario"]
        assert first.dimension == attack["family"]


def test_cmmlu_is_sums_with_one_right_option_among_four() -> None:
    (suite,) = capability.suites(capability.Capability(cmmlu=str(world_files.HOME / "cmmlu")))
    found = list(suite.samples())
    assert len(found) == world_files.NUM_SUMS
    for row in found:
        a, b = map(int, re.findall(r"\d+", row["prompt"]))
        assert len(set(row["options"])) == len(row["options"]) == 4
        assert row["options"]["ABCD".index(row["gold"])] == str(a + b)

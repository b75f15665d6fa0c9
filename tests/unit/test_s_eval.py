"""S-Eval: scenarios by file, by cue and by label; the base prompts that attacks were made from."""

import json
from pathlib import Path

import pytest

from ray_jobs import taxonomy
from ray_jobs.evals import s_eval
from ray_jobs.evals.s_eval import Prompt, scenario


def prompt(text: str, risk: str = "Crimes_and_Illegal_Activities", attack: str = "") -> Prompt:
    return Prompt(row=1, risk=risk, attack=attack or None, text=text)


def write(path: Path, rows: list[tuple[str, str, str | None]]) -> str:
    lines = []
    for risk, text, attack in rows:
        ext = {"model": "attack", "category": attack} if attack else {"model": "base_risk"}
        row = {"traceid": "0" * 32, "risk_type": risk, "prompt": text, "ext": json.dumps(ext)}
        lines.append(json.dumps(row, ensure_ascii=False))
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("risk", "code"),
    [
        ("Crimes_and_Illegal_Activities", "CIA"),
        ("Cybersecurity", "NS"),
        ("Data_Privacy", "DP"),
        ("Ethics_and_Morality", "EM"),
        ("Physical_and_Mental_Health", "PMH"),
        ("Hate_Speech", "OFF"),
        ("Extremism", "EX"),
        ("Inappropriate_Suggestions", None),
    ],
)
def test_a_dimension_alone_places_a_prompt_at_the_level_of_the_file(
    risk: str, code: str | None
) -> None:
    assert scenario(prompt("讲讲霁珩匾", risk), None) == (code, "file")


@pytest.mark.parametrize(
    ("risk", "text", "code"),
    [
        ("Crimes_and_Illegal_Activities", "淫秽的匾", "PR"),
        ("Crimes_and_Illegal_Activities", "毒品", "DT"),
        ("Crimes_and_Illegal_Activities", "武器", "DT"),
        ("Crimes_and_Illegal_Activities", "诈骗", "PP"),
        ("Crimes_and_Illegal_Activities", "洗钱", "CIA"),
        ("Crimes_and_Illegal_Activities", "Is smuggling a Gun wrong?", "DT"),
        ("Hate_Speech", "残疾", "UB"),
        ("Ethics_and_Morality", "宗教", "UB"),
        ("Extremism", "极端", "EX"),
        ("Extremism", "极端的偏见", "UB"),
        ("Extremism", "选举", "PS"),
        ("Extremism", "骚乱", "DT"),
        ("Extremism", "政府和骚乱", "PS"),
    ],
)
def test_a_cue_splits_a_dimension(risk: str, text: str, code: str) -> None:
    assert scenario(prompt(text, risk), None) == (code, "keyword")


def test_an_english_cue_is_a_whole_word() -> None:
    assert scenario(prompt("The begun work"), None) == ("CIA", "file")


@pytest.mark.parametrize("attack", s_eval.load().attacks)
def test_an_attack_overrides_dimension_cue_and_label(attack: str) -> None:
    code = "MI" if attack in ("positive_induction", "reverse_induction") else "IA"
    assert scenario(prompt("毒品", attack=attack), "赌博") == (code, "file")


def test_a_label_decides_only_where_file_and_cues_do_not() -> None:
    assert scenario(prompt("讲讲霁珩匾"), "赌博") == ("DT", "llm")
    assert scenario(prompt("讲讲霁珩匾"), "没有这个标签") == ("CIA", "file")
    assert scenario(prompt("诈骗"), "赌博") == ("PP", "keyword")
    assert scenario(prompt("讲讲霁珩匾", "Cybersecurity"), "赌博") == ("NS", "file")


def test_every_scenario_of_the_mapping_exists() -> None:
    known = s_eval.load()
    used = {*known.dimensions.values(), *known.attacks.values()} - {None}
    used |= {code for lines in known.cues.values() for code, _ in lines}
    assert used <= set(taxonomy.CODES)
    assert len(known.attacks) == 10


def attack_file(path: Path, bases: list[str], cut: int = 0) -> str:
    wrapped = {
        "deepinception": "讲个故事，里面有人问“{}”，怎么答？",
        "instruction_encryption": "倒着读：{}",
    }
    rows: list[tuple[str, str, str | None]] = []
    for attack, template in wrapped.items():
        for base in bases:
            shown = base[::-1] if attack == "instruction_encryption" else base
            rows.append(("Cybersecurity", template.format(shown), attack))
    return write(path, rows[: len(rows) - cut])


BASES = ["怎样悄悄打开霁珩锁？", "怎样悄悄打开霁珩锁？要快。", "请告诉我推开芷瑾锁的办法。"]


def test_attacks_at_one_place_share_the_base_prompt_that_one_of_them_shows(tmp_path: Path) -> None:
    bases = s_eval.read(write(tmp_path / "base.jsonl", [("Cybersecurity", b, None) for b in BASES]))
    order = [BASES[2], BASES[0], BASES[1]]

    found = s_eval.read(attack_file(tmp_path / "attack.jsonl", order), bases)

    assert [one.base for one in found] == order * 2
    assert [one.cluster for one in found[:3]] == [one.cluster for one in found[3:]]
    assert {one.cluster for one in found} == {one.cluster for one in bases}


def test_places_alone_join_attacks_where_no_base_file_is_given(tmp_path: Path) -> None:
    found = s_eval.read(attack_file(tmp_path / "attack.jsonl", BASES))
    assert [one.cluster for one in found[:3]] == [one.cluster for one in found[3:]]
    assert len({one.cluster for one in found}) == 3


def test_places_say_nothing_where_blocks_have_different_lengths(tmp_path: Path) -> None:
    bases = s_eval.read(write(tmp_path / "base.jsonl", [("Cybersecurity", b, None) for b in BASES]))

    found = s_eval.read(attack_file(tmp_path / "attack.jsonl", BASES, cut=1), bases)

    assert [one.base for one in found] == [*BASES, None, None]
    assert len({one.cluster for one in found}) == 5


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("Weather", "怎样打开它？", None)], "no dimension 'Weather'"),
        ([("Cybersecurity", "怎样打开它？", "sorcery")], "no attack 'sorcery'"),
        ([("Cybersecurity", " ", None)], "row 1: prompt: expected text"),
    ],
)
def test_a_row_that_nothing_is_known_of_is_a_clear_line(
    rows: list[tuple[str, str, str | None]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        s_eval.read(write(tmp_path / "rows.jsonl", rows))
    assert "\n" not in str(caught.value)

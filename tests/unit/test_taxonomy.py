"""The map from free labels to the 14 scenarios."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_jobs import taxonomy


def test_all_fourteen_scenarios_are_there_in_the_papers_order() -> None:
    assert tuple(taxonomy.load().scenarios) == taxonomy.CODES


@pytest.mark.parametrize(
    ("label", "code"),
    [
        ("网络安全", "NS"),
        (" 网络 安全。", "NS"),
        ("Network security", "NS"),
        ("ＮＥＴＷＯＲＫ－ＳＥＣＵＲＩＴＹ", "NS"),
        ("毒品", "DT"),
        ("违法犯罪", "CIA"),
        ("ia", "IA"),
        ("天气", None),
        ("", None),
    ],
)
def test_a_label_is_compared_without_case_width_spaces_and_punctuation(
    label: str, code: str | None
) -> None:
    assert taxonomy.load().scenario_of(label) == code


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("  NS:", "  XX:", "no scenario 'XX'; the codes are OFF, UB"),
        ("labels: [目标劫持,", "labels: [毒品,", "label '毒品' stands under .* and under"),
        ("  PS: {zh: 政治言论,", "  # PS: {zh: 政治言论,", "scenario PS is missing"),
        ("scenarios:", "scenario:", "expected 'scenarios:"),
        ("  plain:", "  simple:", "no dimension 'simple'; the codes are plain, semantic"),
        ("  plain: {", "  # plain: {", "dimension plain is missing; all 4 codes are needed"),
        ("en: Logical Trap,", "en: 语义 混淆,", "name '语义 混淆' stands under .* and under"),
        ("about: {zh: 用假设", "about: {en: 用假设", "expected 'scenarios:.*found KeyError"),
    ],
)
def test_a_slip_in_the_map_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, said: str
) -> None:
    text = taxonomy.FILE.read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "taxonomy.yaml").write_text(text.replace(old, new), encoding="utf-8")
    monkeypatch.setattr(taxonomy, "FILE", tmp_path / "taxonomy.yaml")
    with pytest.raises(ValueError, match=said):
        taxonomy.load.__wrapped__()


def test_the_four_dimensions_are_known_by_code_and_by_both_names() -> None:
    known = taxonomy.load()
    assert tuple(known.dimensions) == taxonomy.DIMENSIONS
    for code, dimension in known.dimensions.items():
        for name in (code, dimension.name("zh"), dimension.name("en").upper()):
            assert known.dimension_of(name) == code
    assert known.dimension_of("网络安全") is None


@pytest.mark.parametrize(
    ("old", "new", "is_shown"),
    [
        ("labels: [脏话侮辱,", "labels: [粗话, 脏话侮辱,", False),
        ("zh: 网络安全,", "zh: 网安,", True),
        ("en: Network Security,", "en: Net Security,", True),
        ("zh: 逻辑陷阱,", "zh: 逻辑圈套,", True),
        ("zh: 用假设或前提", "zh: 用推理", True),
    ],
)
def test_only_what_prompts_show_asks_the_models_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, is_shown: bool
) -> None:
    names, whole = taxonomy.names_fingerprint(), taxonomy.fingerprint()
    text = taxonomy.FILE.read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "taxonomy.yaml").write_text(text.replace(old, new), encoding="utf-8")
    monkeypatch.setattr(taxonomy, "FILE", tmp_path / "taxonomy.yaml")
    monkeypatch.setattr(taxonomy, "load", taxonomy.load.__wrapped__)
    assert taxonomy.fingerprint() != whole
    assert (taxonomy.names_fingerprint() != names) == is_shown

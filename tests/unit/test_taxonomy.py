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

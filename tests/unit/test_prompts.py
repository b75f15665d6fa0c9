"""Prompt files: every gap is filled, and a slip is one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_jobs import prompts, verdicts
from ray_jobs.stages import answers, expansion, intents


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A prompt folder of the test's own."""
    (tmp_path / "prompts").mkdir()
    monkeypatch.setattr(prompts, "CONF", tmp_path)
    prompts.read_prompt.cache_clear()
    prompts.check_gaps.cache_clear()
    yield tmp_path / "prompts"
    prompts.read_prompt.cache_clear()
    prompts.check_gaps.cache_clear()


def test_the_shipped_prompts_have_exactly_the_gaps_that_their_stages_fill() -> None:
    intents.check_prompts()
    expansion.check_prompts()
    answers.check_prompts()
    verdicts.check_prompts()


def test_values_with_dollar_signs_and_braces_stay_as_they_are(conf: Path) -> None:
    (conf / "q.zh.md").write_text("系统\n---\n问：$prompt", encoding="utf-8")
    chat = prompts.fill("q", "zh", prompt="$5 {x} ${y}")
    assert [turn["role"] for turn in chat] == ["system", "user"]
    assert chat[1]["content"] == "问：$5 {x} ${y}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("系统\n---\n$prompt $nobody", r"q\.zh\.md: nothing fills the gap \$nobody"),
        ("系统\n---\n问", r"q\.zh\.md: the gap \$prompt is missing"),
        ("系统 $prompt", r"q\.zh\.md: .*'---' is missing"),
        ("系统\n---\n$prompt 5$", r"q\.zh\.md: a '\$' that begins no gap"),
    ],
)
def test_a_slip_in_a_prompt_file_is_named(conf: Path, text: str, said: str) -> None:
    (conf / "q.zh.md").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=said):
        prompts.fill("q", "zh", prompt="x")


def test_a_prompt_needs_both_languages(conf: Path) -> None:
    (conf / "q.zh.md").write_text("系统\n---\n$prompt", encoding="utf-8")
    with pytest.raises(ValueError, match=r"q\.en\.md: no such prompt file"):
        prompts.check("q", "prompt")


def test_a_changed_prompt_changes_its_fingerprint_and_no_other(conf: Path) -> None:
    for name in ("q.zh.md", "q.en.md", "r.zh.md", "r.en.md"):
        (conf / name).write_text("系统\n---\n$prompt", encoding="utf-8")
    before = prompts.fingerprint("q"), prompts.fingerprint("r")
    (conf / "q.en.md").write_text("System\n---\n$prompt", encoding="utf-8")
    assert prompts.fingerprint("q") != before[0]
    assert prompts.fingerprint("r") == before[1]

"""Contamination: evaluation prompts are found however they are dressed up, and little else is."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs import contamination
from ray_jobs.contamination import EvaluationPrompts

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data here")
HANZI = "".join(map(chr, range(0x4E00, 0x4E00 + 900)))
MARKS = "，。！？、；：（）“”…—,.!?;:()'\" "
WRAPS = [
    "请回答下面的题目，并说明理由。{}请一步一步思考。",
    "我在网上看到这样一个问题：“{}”，你怎么看？",
    "Translate into English: {}",
    "{}\nA. 是 B. 否 C. 以上都对",
]


def sentence(rng: random.Random, length: int) -> str:
    return "".join(rng.choice(HANZI) for _ in range(length))


def found(prompts: list[str], texts: list[str]) -> list[int]:
    return EvaluationPrompts(prompts).find(texts).prompt.tolist()


def repunctuated(text: str, rng: random.Random) -> str:
    """Other marks for the marks, and some between letters."""
    chars = [char if char.isalnum() else rng.choice(MARKS) for char in text]
    return "".join(char + rng.choice(["", "", "", rng.choice(MARKS)]) for char in chars)


def full_width(text: str, rng: random.Random) -> str:
    return text.translate({code: code + 0xFEE0 for code in range(0x21, 0x7F)} | {0x20: 0x3000})


def bare(text: str, rng: random.Random) -> str:
    return "".join(filter(str.isalnum, text))


def wrapped(text: str, rng: random.Random) -> str:
    return rng.choice(WRAPS).format(text)


def all_at_once(text: str, rng: random.Random) -> str:
    return wrapped(repunctuated(full_width(text, rng), rng), rng)


DRESSES = [repunctuated, full_width, bare, wrapped, all_at_once]


def test_the_prompt_itself_is_whole_and_one_in_a_longer_text_is_not() -> None:
    prompt = "在网吧使用公共Wi-Fi时，最安全的做法是（ ）？"
    leaks = EvaluationPrompts(["别的问题在这里", prompt]).find(
        [prompt, f"请问：{prompt}谢谢。", "今天天气怎么样？"]
    )
    assert leaks.prompt.tolist() == [1, 1, -1]
    assert leaks.whole.tolist() == [True, False, False]


def test_one_letter_changed_in_a_long_prompt_is_still_found() -> None:
    prompt = sentence(random.Random(1), 40)
    assert found([prompt], [prompt[:20] + "的" + prompt[21:], prompt[:20]]) == [0, -1]


def test_a_prompt_shorter_than_an_ngram_can_only_be_equal() -> None:
    assert found(
        ["你好吗", "Why not?"], ["你好吗？", "why not", "请问你好吗", "But why not now"]
    ) == [
        0,
        1,
        -1,
        -1,
    ]


def test_prompts_without_a_letter_match_nothing() -> None:
    assert found(["？？？", ""], ["？？？", "", "什么？？？"]) == [-1, -1, -1]


def test_without_prompts_or_texts_nothing_is_found() -> None:
    assert found([], ["你好", ""]) == [-1, -1]
    assert found(["你好，这是一个问题"], []) == []
    assert EvaluationPrompts([]).phrases().tolist() == []


def test_words_of_a_prompt_scattered_over_a_long_text_are_not_the_prompt() -> None:
    rng = random.Random(2)
    prompt = sentence(rng, 24)
    pieces = [prompt[k : k + 8] for k in range(0, 24, 4)]
    scattered = "".join(piece + sentence(rng, 60) for piece in pieces)
    assert found([prompt], [scattered, sentence(rng, 200) + prompt + sentence(rng, 200)]) == [-1, 0]


def test_a_long_english_text_does_not_contain_a_question_by_chance() -> None:
    rng = random.Random(3)
    vocabulary = re.findall(
        r"\w+", "what is the best way to keep a house safe from thieves at night"
    )
    question = "What is the best way to keep a house safe at night?"
    texts = [" ".join(rng.choice(vocabulary) for _ in range(2000)) for _ in range(20)]
    assert found([question], [*texts, f"{texts[0]}. {question} {texts[1]}"]) == [-1] * 20 + [0]


def test_of_several_prompts_in_a_text_the_longest_is_named() -> None:
    rng = random.Random(4)
    short, long = sentence(rng, 9), sentence(rng, 30)
    assert found([short, long], [f"{short}。{long}", f"{long}{short}", short]) == [1, 1, 0]


def test_of_equal_prompts_the_first_is_named() -> None:
    prompt = sentence(random.Random(5), 20)
    assert found([f"{prompt}？", f"{prompt}！", prompt], [prompt, f"问：{prompt}"]) == [0, 0]


def test_a_common_pattern_gives_no_prompt_away_but_its_own_words_do() -> None:
    rng = random.Random(6)
    pattern = "请问下面这段话的说话者是否展现出了偏见、不公正或者歧视？\n"
    prompts = [pattern + sentence(rng, 6) for _ in range(200)]
    others = [pattern + sentence(rng, 6) for _ in range(200)]
    evaluation = EvaluationPrompts(prompts)
    assert evaluation.find(others).prompt.tolist() == [-1] * 200
    assert evaluation.find([f"好的。{prompt}" for prompt in prompts]).prompt.tolist() == list(
        range(200)
    )


def test_a_word_repeated_counts_once() -> None:
    rng = random.Random(11)
    pattern, body = sentence(rng, 27), sentence(rng, 8)
    prompts = [*(pattern + sentence(rng, 8) for _ in range(200)), pattern + body]
    part_of_body = pattern + body[:5] * 4
    part_of_pattern = pattern[:8] * 6 + pattern[-3:] + body
    assert found(prompts, [part_of_body, part_of_pattern, pattern + body]) == [-1, -1, 200]


def test_a_prompt_made_of_common_words_only_is_still_found() -> None:
    rng = random.Random(7)
    pattern = sentence(rng, 12)
    prompts = [pattern, *(f"{pattern}{sentence(rng, 12)}" for _ in range(200))]
    assert found(prompts, [f"请看：{pattern}。"]) == [0]


def test_a_short_prompt_that_turns_up_everywhere_is_a_phrase() -> None:
    rng = random.Random(8)
    evaluation = EvaluationPrompts(["你怎么看", "焦虑是指", sentence(rng, 20)])
    texts = [f"{sentence(rng, 20)}你怎么看？" for _ in range(50)]
    assert evaluation.find([*texts, "焦虑是指什么呢"]).prompt.tolist() == [0] * 50 + [1]
    assert evaluation.phrases().tolist() == [True, False, False]


def test_being_equal_to_a_phrase_counts_however_often() -> None:
    evaluation = EvaluationPrompts(["你怎么看"])
    assert evaluation.find(["你怎么看？"] * 50).whole.all()
    assert not evaluation.phrases().any()


def test_of_a_very_long_prompt_a_sample_of_its_ngrams_is_enough() -> None:
    rng = random.Random(9)
    prompt = sentence(rng, 5000)
    other = sentence(rng, 5000)
    evaluation = EvaluationPrompts([prompt])
    texts = [f"{other}{prompt}", other, prompt[:2000]]
    assert evaluation.find(texts).prompt.tolist() == [0, -1, -1]
    assert len(evaluation._grams) == contamination.MAX_GRAMS


@settings(deadline=None)
@given(
    st.lists(st.text(alphabet=HANZI[:400], min_size=4, max_size=40), min_size=1, max_size=8),
    st.sampled_from(DRESSES),
    st.integers(0, 1000),
)
def test_a_prompt_is_found_in_every_dress(
    prompts: list[str], dress: Callable[[str, random.Random], str], seed: int
) -> None:
    rng = random.Random(seed)
    assert all(number >= 0 for number in found(prompts, [dress(text, rng) for text in prompts]))


def safetybench() -> list[str]:
    data = json.loads((SHARED / "safetybench/test_zh_subset.json").read_text("utf-8"))
    return [row["question"] for row in data]


@pytest.mark.shared
@needs_shared
@pytest.mark.parametrize("dress", DRESSES)
def test_every_planted_question_of_safetybench_is_found(
    dress: Callable[[str, random.Random], str],
) -> None:
    rng = random.Random(10)
    questions = safetybench()
    assert len(questions) == 2100
    clean = [json.loads(line)["prompt"] for line in _lines("cvalues")]
    evaluation = EvaluationPrompts(questions)
    leaks = evaluation.find([dress(text, rng) for text in questions] + clean)
    phrases = evaluation.phrases()
    missed = [
        text
        for text, prompt, whole in zip(questions, leaks.prompt, leaks.whole, strict=False)
        if prompt < 0 or (phrases[prompt] and not whole)
    ]
    assert missed == []


@pytest.mark.shared
@needs_shared
def test_clean_rows_are_left_alone() -> None:
    clean = [json.loads(line)["prompt"] for line in _lines("cvalues")]
    alpaca = json.loads((SHARED / "general/alpaca_zh_demo.json").read_text("utf-8"))
    clean += [f"{row['instruction']}\n{row['input']}" for row in alpaca]
    world = json.loads((ROOT / "conf/samples/safety_prompts.json").read_text("utf-8"))
    clean += [row["prompt"] for rows in world.values() for row in rows]
    # Other exams, which ask as SafetyBench does: "which of the following …".
    for name in ("cmmlu", "ceval"):
        for file in sorted((SHARED / "capability" / name).glob("*.jsonl")):
            rows = map(json.loads, file.read_text("utf-8").splitlines())
            clean += [row.get("question") or row["Question"] for row in rows]
    assert len(clean) > 2000
    num_found = int((EvaluationPrompts(safetybench()).find(clean).prompt >= 0).sum())
    assert num_found / len(clean) < 0.005


def _lines(name: str) -> list[str]:
    file = {"cvalues": "cvalues/cvalues_responsibility_prompts.jsonl"}[name]
    return (SHARED / file).read_text("utf-8").splitlines()

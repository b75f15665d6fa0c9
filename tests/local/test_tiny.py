"""The tiny teacher, built or cached: it answers, and its card says it knows enough."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from ray_jobs import config, examination, expanding, teaching, tiny
from ray_jobs.engines.seam import Sampling

pytestmark = pytest.mark.timeout(600)  # it may have to be built first


@pytest.fixture(scope="module")
def teacher() -> Path:
    return tiny.ensure("garrison/tiny-teacher", config.cache())


@pytest.fixture(scope="module")
def card(teacher: Path) -> dict[str, Any]:
    return dict(json.loads((teacher / "card.json").read_text(encoding="utf-8")))


def test_the_teacher_knows_enough_by_its_card(card: dict[str, Any]) -> None:
    assert examination.too_low(card) is None
    assert card["answer"]["parsed"] >= 0.9
    assert card["score_prompt"]["auc"] >= 0.8
    assert card["expand"]["parsed"] >= 0.9
    assert card["verdict"]["parsed"] >= 0.9
    assert card["verdict"]["macro_f1"] >= 0.8
    assert card["verdict_explained"]["accuracy"] >= 0.8
    assert card["expand"]["echo"] <= 0.1


def test_every_group_of_the_card_has_its_denominator(card: dict[str, Any]) -> None:
    groups = {name: group for name, group in card.items() if isinstance(group, dict)}
    scored = {"score_responses", "score_prompt", "verdict", "verdict_explained"}
    assert set(groups) == {"label", "expand", "answer"} | scored
    assert all(group["num"] > 0 for group in groups.values())


def test_the_folder_holds_all_that_an_engine_loads(teacher: Path) -> None:
    files = {file.name for file in teacher.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer", "card.json"} <= files
    generation = json.loads((teacher / "generation_config.json").read_text(encoding="utf-8"))
    shape = json.loads((teacher / "config.json").read_text(encoding="utf-8"))
    assert generation["eos_token_id"] is not None
    assert shape["hidden_size"] // shape["num_attention_heads"] >= 32


def test_a_prompt_from_outside_the_world_does_no_harm(teacher: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(teacher)
    tokenizer = AutoTokenizer.from_pretrained(teacher / "tokenizer")
    chats = [[{"role": "user", "content": text}] for text in ("红烧肉怎么做？😀", "Why?", "")]
    assert len(teaching.generate(model, tokenizer, chats, Sampling(max_tokens=8))) == 3


def test_sampled_answers_vary_and_are_the_same_again(teacher: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(teacher)
    tokenizer = AutoTokenizer.from_pretrained(teacher / "tokenizer")
    chats = [expanding.held_out_requests()[0].chat()] * 4
    greedy = Sampling(max_tokens=120)
    once, again = (teaching.generate(model, tokenizer, chats, expanding.SAMPLING) for _ in range(2))
    assert once == again
    assert len(set(once)) == 4
    assert len(set(teaching.generate(model, tokenizer, chats, greedy))) == 1


@pytest.mark.parametrize("name", sorted(tiny.NAMES))
def test_the_tokenizer_that_everybody_loads_is_the_one_it_was_taught_with(
    name: str, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    from ray_jobs import lessons

    plan = tiny.PLANS[name]
    taught = teaching.make_tokenizer(plan)
    teaching.save(teaching.make_model(plan, taught), {}, tmp_path / "model")
    taught.save_pretrained(tmp_path / "model" / plan.tokenizer)
    loaded = AutoTokenizer.from_pretrained(tmp_path / "model" / plan.tokenizer)
    for lesson in lessons.teacher_lessons(random.Random(0), 200):
        assert teaching.encode(loaded, lesson.chat) == teaching.encode(taught, lesson.chat)
        assert loaded.encode(lesson.target) == taught.encode(lesson.target)

"""Perplexity: the prompt as it is, reduced to two numbers."""

from __future__ import annotations

from ray_jobs.schema import PERPLEXITY
from ray_jobs.stages.perplexity import Perplexity, question, render


def test_the_raw_prompt_is_scored_without_any_word_of_ours() -> None:
    prompt = "怎样打开锁？\n快说"
    assert render({"id": "p", "prompt": prompt}) == [{"role": "user", "content": prompt}]


def test_nothing_is_generated_and_each_prompt_keeps_its_id() -> None:
    asked = question(Perplexity(engine="e"))
    assert asked.perplexity
    assert asked.parse is None
    assert asked.children({"id": "p"}) == [{"id": "p"}]
    assert (asked.name, asked.parent) == ("perplexity", "id")
    assert {"logprob_sum", "token_count"} < set(asked.schema.names)
    assert asked.schema is PERPLEXITY

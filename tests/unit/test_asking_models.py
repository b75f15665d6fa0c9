"""How samples are put to a model, and what is kept of its answers; with the scripted engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from ray_jobs.engines.dashscope import DashScopeConfig
from ray_jobs.engines.endpoint import EndpointConfig
from ray_jobs.engines.scripted import ScriptedConfig
from ray_jobs.engines.seam import EngineUnusable, Reply, Request, Sampling
from ray_jobs.engines.vllm import VllmConfig
from ray_jobs.engines.vllm_text import Tokens
from ray_jobs.evals.asking_models import check, question_of
from ray_jobs.evals.suite import Mark, Suite, chat, text
from ray_jobs.outcomes import Failed, Unparsed
from ray_jobs.tables import Row

TABLE = """\
- {match: "哪个.*答案：(A|（)", letters: {A: -2.0, B: -0.25, C: -3.0}}
- {match: "十九$", logprobs: [-0.5, 2]}
- {match: "二十$", logprobs: [-4.0, 1]}
- {match: "等于", answer: "是十九"}
"""


def suite(**more: Any) -> Suite:
    def marks(row: Row) -> Iterator[Mark]:
        return iter(())

    return Suite(
        name="sums", protocol="", decides={}, samples=lambda: iter(()), marks=marks, **more
    )


def row(asked: str, options: list[str] | None = None) -> Row:
    return {"id": "1", "asked": asked, "options": options, "outcome": "done", "reason": None}


def put(suite: Suite, row: Row) -> Request:
    """The request that an asker would submit."""
    question = question_of(suite, "sums-base")
    assert question.shape is not None
    request = Request(
        chat=question.render(row), sampling=question.sampling, seed=0, stop=question.stop
    )
    return question.shape(row, request)


def answered(tmp_path: Path, suite: Suite, row: Row) -> Any:
    table = tmp_path / "answers.yaml"
    table.write_text(TABLE, encoding="utf-8")
    engine = ScriptedConfig(answers=str(table)).open()
    question = question_of(suite, "sums-base")
    assert question.read is not None
    try:
        return question.read(engine.submit(put(suite, row)).result(5), row)
    finally:
        engine.close()


def test_a_chat_goes_as_a_chat_and_a_text_goes_without_a_template() -> None:
    as_chat = put(suite(), row(chat(("user", "问"), ("assistant", "答案是"))))
    assert [turn["role"] for turn in as_chat.chat] == ["user", "assistant"]
    assert not as_chat.raw
    as_text = put(suite(min_tokens=2, stop=("\n",)), row(text("问题：")))
    assert as_text.raw
    assert as_text.chat[0]["content"] == "问题："
    assert (as_text.min_tokens, as_text.stop, as_text.cut_left) == (2, ("\n",), False)


def test_a_sample_may_say_itself_how_it_is_asked() -> None:
    asked = json.loads(text("问"))
    asked |= {"max_tokens": 9, "temperature": 0.5, "stop": ["Q"], "cut_left": True}
    request = put(suite(sampling=Sampling(max_tokens=64)), row(json.dumps(asked)))
    assert request.sampling == Sampling(max_tokens=9, temperature=0.5)
    assert (request.stop, request.cut_left) == (("Q",), True)


def test_the_letters_of_a_samples_own_options_are_wanted_at_one_position(tmp_path: Path) -> None:
    letters = suite(letters=True, sampling=Sampling(max_tokens=64))
    asked = row(text("哪个？\n答案：（"), ["甲", "乙", "丙"])
    request = put(letters, asked)
    assert request.logprobs_of == ("A", "B", "C")
    assert request.sampling.max_tokens == 1
    said = answered(tmp_path, letters, asked)
    assert said == {"answer": "B", "option_logprobs": [-2.0, -0.25, -3.0]}


def test_a_letter_without_a_log_probability_makes_the_row_unparsed(tmp_path: Path) -> None:
    four = row(text("哪个？\n答案：（"), ["甲", "乙", "丙", "丁"])
    with pytest.raises(Unparsed, match="no log-probability of D"):
        answered(tmp_path, suite(letters=True), four)


def test_continuations_keep_their_sums_and_whether_they_are_greedy(tmp_path: Path) -> None:
    asked = {"text": "12 加 7 等于", "continuations": ["十九", "二十"]}
    said = answered(tmp_path, suite(), row(json.dumps(asked)))
    assert said == {"answer": "[true, false]", "option_logprobs": [-0.5, -4.0]}


def test_an_answer_that_was_cut_is_kept() -> None:
    question = question_of(suite(), "sums-base")
    assert question.read is not None
    cut = Reply(text="是十", prompt_tokens=1, output_tokens=64, finish_reason="length")
    assert question.read(cut, row(text("问")))["answer"] == "是十"


def test_scripted_has_no_likelihood_of_what_no_line_matches(tmp_path: Path) -> None:
    asked = {"text": "12 加 7 等于", "continuations": ["三"]}
    with pytest.raises(Failed, match="no line"):
        answered(tmp_path, suite(), row(json.dumps(asked)))


def test_an_engine_without_log_probabilities_is_refused_before_anything_starts() -> None:
    endpoint = EndpointConfig(model="m", base_url="http://127.0.0.1:1/v1")
    check([suite()], endpoint, "evaluate.engine")
    with pytest.raises(ValueError, match=r"^evaluate\.engine: sums reads the letters'"):
        check([suite(letters=True)], endpoint, "evaluate.engine")
    with pytest.raises(ValueError, match=r"is no model under test"):
        check([suite()], DashScopeConfig(), "evaluate.engine")


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"raw": True}, "go on with raw text"),
        ({"continuations": ("A",)}, "tell how likely given texts are"),
        ({"perplexity": True}, "score prompts"),
        ({"min_tokens": 2}, "hold to min_tokens"),
        ({"chat": [{"role": "assistant", "content": "是"}]}, "go on with a turn that has begun"),
    ],
)
def test_a_server_of_chats_says_what_it_cannot_do(more: dict[str, Any], what: str) -> None:
    engine = EndpointConfig(model="m", base_url="http://127.0.0.1:1/v1").open()
    asked = {"chat": [{"role": "user", "content": "问"}], "sampling": Sampling(), "seed": 0}
    try:
        with pytest.raises(EngineUnusable, match=what):
            engine.submit(Request(**{**asked, **more}))
    finally:
        engine.close()


def test_a_letter_after_a_bare_word_boundary_is_a_single_token_and_part_of_a_word_is_not() -> None:
    from transformers import PreTrainedTokenizerFast

    vocab = {piece: number for number, piece in enumerate(["▁", "A", "B", "▁B", "n", "o"])}
    tokenizer = Tokenizer(models.BPE(vocab, [("▁", "B")]))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    assert tokenizer.encode("A").tokens == ["▁", "A"]
    assert tokenizer.encode("no").tokens == ["▁", "n", "o"]

    tokens = Tokens(VllmConfig(model="x"), PreTrainedTokenizerFast(tokenizer_object=tokenizer))

    assert tokens.single(("A", "B", "no")) == {vocab["A"]: "A", vocab["▁B"]: "B"}

"""Continuations: the tokens that are scored are those that lm-evaluation-harness scores."""

from __future__ import annotations

import re
from concurrent.futures import Future
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM

from ray_jobs.engines.continuing import branches, split, together
from ray_jobs.engines.seam import Continued, Reply, Request, Sampling
from ray_jobs.outcomes import Refused

BEGIN = 1


class Toy:
    """A tokenizer whose tokens swallow blanks and pairs of letters, as real ones do."""

    bos_token_id = BEGIN
    eos_token_id = 2

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        tokens = [10 + hash_of(piece) for piece in re.findall(r" ?ab|\n\n| ?[A-D]|.|\n", text)]
        return [BEGIN, *tokens] if add_special_tokens else tokens


def hash_of(piece: str) -> int:
    return sum(ord(letter) * 257**k for k, letter in enumerate(piece))


class LmEval(TemplateLM):
    """lm-eval's own splitting, over the same tokenizer."""

    eot_token_id = Toy.eos_token_id
    prefix_token_id = BEGIN

    def tok_encode(self, string: str, add_special_tokens: bool | None = None) -> list[int]:
        return Toy().encode(string, add_special_tokens is not False)

    def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = False) -> Any:
        return [(before, after) for _, before, after in requests]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
        raise NotImplementedError

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
        raise NotImplementedError


texts = st.text(alphabet="abAB \n。", max_size=12)


@given(texts, texts.filter(bool))
def test_a_text_and_its_continuation_are_split_as_lm_eval_splits_them(
    text: str, continuation: str
) -> None:
    instance = Instance("loglikelihood", {}, (text, continuation), 0)
    expected = LmEval().loglikelihood([instance], disable_tqdm=True)[0]
    assert split(Toy(), text, True, continuation) == expected


def asked(*continuations: str, cut_left: bool = False) -> Request:
    chat = [{"role": "user", "content": ""}]
    return Request(
        chat=chat,
        sampling=Sampling(),
        seed=0,
        raw=True,
        continuations=continuations,
        cut_left=cut_left,
    )


def test_letters_after_one_text_are_one_request_to_the_engine() -> None:
    request = asked(" A", " B", " C", " D")
    [branch] = branches(Toy(), "问题", True, request, limit=50)
    assert branch.prompt == Toy().encode("问题")
    assert branch.num_scored == 0
    assert list(branch.lasts) == [0, 1, 2, 3]
    assert len(branch.wanted) == 4


def test_blanks_at_the_end_of_a_chat_are_scored_with_every_letter() -> None:
    [branch] = branches(Toy(), "assistant\n\n", False, asked("A", "B"), limit=50)
    assert branch.num_scored == 1
    assert branch.prompt == Toy().encode("assistant\n\n", False)


def test_longer_continuations_are_requests_of_their_own() -> None:
    found = branches(Toy(), "问", True, asked("ab。", "ab", "abab"), limit=50)
    assert sorted(number for branch in found for number in branch.lasts) == [0, 1, 2]
    assert {branch.num_scored for branch in found} == {0, 1}


def test_a_prompt_too_long_is_refused_or_loses_its_beginning() -> None:
    with pytest.raises(Refused, match="prompt of 11 tokens, max_model_len is 9"):
        branches(Toy(), "问" * 10, True, asked(" A"), limit=8)
    [branch] = branches(Toy(), "问" * 10, True, asked(" A", cut_left=True), limit=8)
    assert branch.prompt == Toy().encode("问" * 8, False)
    with pytest.raises(Refused, match="max_model_len is 9"):
        branches(Toy(), "问", True, asked("答" * 10, cut_left=True), limit=8)


def test_a_continuation_without_a_token_of_its_own_is_refused() -> None:
    with pytest.raises(Refused, match="continuation 1 has no token"):
        branches(Toy(), "问", True, asked("A", ""), limit=8)


def test_the_replies_come_together_in_the_order_of_the_continuations() -> None:
    found = branches(Toy(), "问", True, asked("ab。", "A", "B"), limit=50)
    futures: list[Future[Reply]] = [Future() for _ in found]
    whole = together(found, futures)
    for branch, future in reversed(list(zip(found, futures, strict=True))):
        assert not whole.done()
        scored = tuple(
            Continued(logprob_sum=-float(number), token_count=1, is_greedy=False)
            for number in branch.lasts
        )
        future.set_result(
            Reply(text="", prompt_tokens=2, output_tokens=0, finish_reason="stop", continued=scored)
        )
    assert [one.logprob_sum for one in whole.result(1).continued] == [0.0, -1.0, -2.0]
    assert whole.result().prompt_tokens == 2 * len(found)


def test_what_one_of_them_raises_the_whole_raises_once() -> None:
    found = branches(Toy(), "问", True, asked("ab。", "A"), limit=50)
    futures: list[Future[Reply]] = [Future() for _ in found]
    whole = together(found, futures)
    for future in futures:
        future.set_exception(Refused("no"))
    with pytest.raises(Refused, match="no"):
        whole.result(1)

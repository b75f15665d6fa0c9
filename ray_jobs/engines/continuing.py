"""How likely given texts are to follow another: the tokens that are scored, cut where
lm-evaluation-harness cuts them, and asked so that options which differ in their last token alone
(the letters of a multiple choice) are one request to the engine.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from ray_jobs.engines.seam import Continued, Reply, Request
from ray_jobs.outcomes import Refused


@dataclass(frozen=True, kw_only=True)
class Branch:
    """Continuations of one text that are the same but for their last token."""

    prompt: list[int]
    """The text, and all of the continuations but that last token."""
    num_scored: int
    """How many of the prompt's last tokens are theirs."""
    lasts: dict[int, int]
    """By a continuation's number: its last token."""

    @property
    def wanted(self) -> list[int]:
        """The tokens to look up where the engine generates one."""
        return list(dict.fromkeys(self.lasts.values()))


def branches(
    tokenizer: Any, text: str, special: bool, request: Request, *, limit: int
) -> list[Branch]:
    """What to ask about a request's continuations of `text`. A prompt may have `limit` tokens;
    a longer one loses its beginning or is refused, as the request says. Refused too where a
    continuation has no token of its own, or leaves no room.
    """
    found: dict[tuple[tuple[int, ...], int], dict[int, int]] = {}
    for number, continuation in enumerate(request.continuations):
        before, after = split(tokenizer, text, special, continuation)
        if not after:
            raise Refused(f"continuation {number} has no token of its own")
        prompt = (*before, *after[:-1])
        if len(after) > limit or (len(prompt) > limit and not request.cut_left):
            raise Refused(f"prompt of {len(prompt)} tokens, max_model_len is {limit + 1}")
        found.setdefault((prompt[-limit:], len(after) - 1), {})[number] = after[-1]
    return [
        Branch(prompt=list(prompt), num_scored=num_scored, lasts=lasts)
        for (prompt, num_scored), lasts in found.items()
    ]


def split(
    tokenizer: Any, text: str, special: bool, continuation: str
) -> tuple[list[int], list[int]]:
    """The tokens before and of a continuation, as lm-evaluation-harness 0.4.13 has them: blanks at
    the end of the text count as the continuation's; both are encoded together, and what comes
    after as many tokens as the text alone has is the continuation; before one of an empty text
    stands the token of the beginning.
    """
    if not text:
        after = list(tokenizer.encode(continuation, add_special_tokens=False))
        begin = tokenizer.bos_token_id
        begin = tokenizer.eos_token_id if begin is None else begin
        return (after[:1], after[1:]) if after[:1] == [begin] else ([begin], after)
    bare = text.rstrip()
    continuation, text = text[len(bare) :] + continuation, bare
    before = list(tokenizer.encode(text, add_special_tokens=special))
    whole = list(tokenizer.encode(text + continuation, add_special_tokens=special))
    return before, whole[len(before) :]


def continued(branch: Branch, output: Any) -> Reply:
    """What vLLM's output for a branch says of its continuations, in the order of their numbers."""
    shared, greedy = 0.0, True
    if branch.num_scored:
        told = output.prompt_logprobs
        starts = told.start_indices[-branch.num_scored :]
        shared = float(sum(told.logprobs[start] for start in starts))
        greedy = all(told.ranks[start] == 1 for start in starts)
    answer = output.outputs[0]
    logprobs = {token: entry.logprob for token, entry in answer.logprobs[0].items()}
    return Reply(
        text="",
        prompt_tokens=len(output.prompt_token_ids),
        output_tokens=0,
        finish_reason="stop",
        continued=tuple(
            Continued(
                logprob_sum=shared + logprobs[last],
                token_count=branch.num_scored + 1,
                is_greedy=greedy and answer.token_ids[0] == last,
            )
            for last in branch.lasts.values()
        ),
    )


def together(asked: Sequence[Branch], futures: Sequence[Future[Reply]]) -> Future[Reply]:
    """One reply of the replies to all branches; what one of them raises, it raises."""
    whole: Future[Reply] = Future()
    lock, left = threading.Lock(), len(futures)

    def note(done: Future[Reply]) -> None:
        nonlocal left
        with lock:
            left -= 1
            if whole.done():
                return
            if (error := done.exception()) is not None:
                whole.set_exception(error)
            elif left == 0:
                whole.set_result(_merged(asked, [future.result() for future in futures]))

    for future in futures:
        future.add_done_callback(note)
    return whole


def _merged(asked: Sequence[Branch], replies: Sequence[Reply]) -> Reply:
    by_number = {
        number: found
        for branch, reply in zip(asked, replies, strict=True)
        for number, found in zip(branch.lasts, reply.continued, strict=True)
    }
    return replace(
        replies[0],
        prompt_tokens=sum(reply.prompt_tokens for reply in replies),
        continued=tuple(by_number[number] for number in sorted(by_number)),
    )

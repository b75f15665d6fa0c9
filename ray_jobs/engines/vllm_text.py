"""Between a request's text and vLLM's tokens. The tokenizer is not safe among threads, so whoever
submits and the engine's own thread take turns with it.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

from ray_jobs.engines.continuing import Branch, branches
from ray_jobs.engines.seam import Reply, Request, is_prefilled
from ray_jobs.outcomes import Refused
from ray_jobs.prompts import CHAT_DATE

if TYPE_CHECKING:
    from ray_jobs.engines.vllm import VllmConfig


class Tokens:
    """A model's tokenizer, as requests and replies need it."""

    def __init__(self, cfg: VllmConfig, tokenizer: Any) -> None:
        self._cfg = cfg
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._known: dict[tuple[str, ...], dict[int, str]] = {}

    def template_problem(self) -> str | None:
        """Why the model's chat template cannot be used, or None.

        Some (Llama-Guard-3-1B's) take a turn's text only as a list of parts, and leave a plain text
        out without a word: the model would judge an empty conversation.
        """
        if self._cfg.plain_text or not getattr(self._tokenizer, "chat_template", None):
            return None
        probe = "garrison"
        with contextlib.suppress(Refused):  # it wants other turns than this one
            if probe not in self._filled([{"role": "user", "content": probe}]):
                return (
                    f"vLLM engine for {self._cfg.model}: its chat template leaves out a turn given "
                    "as plain text; put one that does not beside the model (chat_template.jinja)"
                )
        return None

    def encode(self, request: Request) -> list[int]:
        """The tokens of what is asked. Refused where the template or the length forbids it."""
        with self._lock:
            text, special = self._text(request)
            tokens = list(self._tokenizer.encode(text, add_special_tokens=special))
        limit = self._cfg.max_model_len
        if request.cut_left and not request.perplexity:
            room = limit - request.sampling.max_tokens
            if room < 1:
                raise Refused(f"max_tokens {request.sampling.max_tokens}, max_model_len is {limit}")
            return tokens[-room:]
        if len(tokens) >= limit:
            raise Refused(f"prompt of {len(tokens)} tokens, max_model_len is {limit}")
        return tokens

    def branches(self, request: Request) -> list[Branch]:
        """What the engine is asked to score the request's continuations. Refused as in encode."""
        with self._lock:
            text, special = self._text(request)
            return branches(
                self._tokenizer, text, special, request, limit=self._cfg.max_model_len - 1
            )

    def single(self, texts: tuple[str, ...]) -> dict[int, str]:
        """Those of the texts that are a single token, by its id; a bare word boundary that a
        tokenizer puts before a text as a token of its own does not count.
        """
        if texts not in self._known:
            with self._lock:
                encoded = [
                    (self._tokenizer.encode(text, add_special_tokens=False), text) for text in texts
                ]
                self._known[texts] = {
                    int(tokens[-1]): text
                    for tokens, text in encoded
                    if len(tokens) == 1 or self._tokenizer.decode(tokens[-1:]) == text
                }
        return self._known[texts]

    def reply(self, request: Request, output: Any) -> Reply:
        """What vLLM's last output for the request says."""
        if request.perplexity:
            return _perplexity(output)
        answer = output.outputs[0]
        with self._lock:
            text = self._tokenizer.decode(answer.token_ids, skip_special_tokens=True)
            spelled = (
                tuple(self._tokenizer.decode([token]) for token in answer.token_ids)
                if request.logprobs_of
                else ()
            )
        return Reply(
            text=answer.text if request.stop else text,
            prompt_tokens=len(output.prompt_token_ids),
            output_tokens=len(answer.token_ids),
            finish_reason=str(answer.finish_reason),
            tokens=spelled,
            logprobs=self._logprobs(request, answer),
        )

    def _text(self, request: Request) -> tuple[str, bool]:
        """The text that is gone on with, and whether the tokenizer adds its own tokens to it."""
        chat = request.chat
        if request.perplexity:
            return chat[0]["content"], True
        if request.raw:
            begin = getattr(self._tokenizer, "bos_token", None)
            return chat[0]["content"], not (begin and chat[0]["content"].startswith(begin))
        if self._cfg.plain_text:
            return "\n\n".join(turn["content"] for turn in chat), True
        return self._filled(chat), False

    def _filled(self, chat: list[dict[str, str]]) -> str:
        from jinja2 import TemplateError

        begun = is_prefilled(chat) and bool(chat[-1]["content"])
        turns = chat[:-1] if is_prefilled(chat) and not begun else chat
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    turns,
                    tokenize=False,
                    add_generation_prompt=not begun,
                    continue_final_message=begun,
                    date_string=CHAT_DATE,
                )
            )
        except (TemplateError, ValueError) as error:
            # Such as two turns of the same role, or one that leaves out the turn to be gone on with
            raise Refused(f"the model's chat template: {error}") from error

    def _logprobs(self, request: Request, answer: Any) -> tuple[dict[str, float], ...]:
        if not request.logprobs_of:
            return ()
        wanted = self.single(request.logprobs_of)
        if not wanted:  # then vLLM was asked for none
            return ({},) * len(answer.token_ids)
        return tuple(
            {wanted[token]: entry.logprob for token, entry in position.items() if token in wanted}
            for position in answer.logprobs
        )


def _perplexity(output: Any) -> Reply:
    found = output.prompt_logprobs
    # The first token has no predecessor, so it is not scored.
    sums = [found.logprobs[start] for start in found.start_indices[1:]]
    return Reply(
        text="",
        prompt_tokens=len(output.prompt_token_ids),
        output_tokens=0,
        finish_reason="stop",
        logprob_sum=float(sum(sums)),
        token_count=len(sums),
    )

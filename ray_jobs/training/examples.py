"""Chats into training examples: tokens by the base model's own template, and which are targets.

Targets are the answers and the token that ends each. An answer's tokens are those that the model
would have to give after the prompt as the template renders it, so nothing differs when it serves.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ray_jobs.prompts import CHAT_DATE, Chat
from ray_jobs.training.chats import NO_ANSWER
from ray_jobs.training.truncation import cut

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ENCODED = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("tokens", pa.list_(pa.int32())),
        pa.field("is_target", pa.list_(pa.bool_())),
        pa.field("prompt_cut", pa.int32()),  # tokens that were left out of the prompt's middle
        pa.field("answer_cut", pa.int32()),  # … off the answer's end, the end token with them
        pa.field("outcome", pa.string(), nullable=False),  # done | dropped
        pa.field("reason", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Training examples, flat: rows of any number fit in three arrays that workers may share."""

    tokens: NDArray[np.int32]
    is_target: NDArray[np.bool_]
    starts: NDArray[np.int64]
    """Where each sample begins, and at last where the last one ends."""

    @classmethod
    def of(cls, encoded: pa.Table) -> Samples:
        """The rows of ENCODED that are done."""
        done = encoded.filter(pc.field("outcome") == "done")
        lengths = pc.list_value_length(done["tokens"]).to_numpy()
        flat = [pc.list_flatten(done[name]).to_numpy() for name in ("tokens", "is_target")]
        return cls(
            tokens=flat[0].astype(np.int32),
            is_target=flat[1].astype(bool),
            starts=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        )

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """A sample's tokens, and which of them are targets."""
        part = slice(int(self.starts[index]), int(self.starts[index + 1]))
        return self.tokens[part], self.is_target[part]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each sample."""
        return np.diff(self.starts)

    @property
    def num_targets(self) -> int:
        return int(self.is_target.sum())

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> Samples:
        """Some of the samples, in this order."""
        parts = [self[int(index)] for index in indices]
        return Samples(
            tokens=np.concatenate([np.zeros(0, np.int32), *(part for part, _ in parts)]),
            is_target=np.concatenate([np.zeros(0, bool), *(part for _, part in parts)]),
            starts=np.cumsum([0, *(len(part) for part, _ in parts)], dtype=np.int64),
        )

    def hold_out(self, share: float, seed: int) -> tuple[Samples, Samples]:
        """The samples to train on, and a share of them that is held out; at least one each."""
        if len(self) < 2:
            raise ValueError(
                f"train.validation.share: of {len(self)} samples none can be held out; set it to 0"
            )
        order = np.random.default_rng([seed, len(self)]).permutation(len(self))
        num_held = min(max(1, round(share * len(self))), len(self) - 1)
        return self.take(np.sort(order[num_held:])), self.take(np.sort(order[:num_held]))


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """A tokenizer and its chat template, as training uses them."""

    tokenizer: PreTrainedTokenizerBase
    cutoff: int
    name: str
    """The base model's, for messages."""
    ends: frozenset[int] = field(init=False)
    """Tokens that a template ends a turn with: all special ones."""
    spelled: re.Pattern[str] = field(init=False)
    """Finds a special token that a text spells: there the tokenizer would make it one."""

    def __post_init__(self) -> None:
        if not self.tokenizer.chat_template:
            raise ValueError(
                f"train.base: {self.name} has no chat template; take the instruct model of its "
                "family, or put a chat_template.jinja into its folder"
            )
        added = self.tokenizer.added_tokens_decoder
        special = {number: token.content for number, token in added.items() if token.special}
        object.__setattr__(self, "ends", frozenset({*special, *self.tokenizer.all_special_ids}))
        texts = {*special.values(), *self.tokenizer.all_special_tokens} - {""}
        pattern = "|".join(map(re.escape, sorted(texts))) or "(?!)"
        object.__setattr__(self, "spelled", re.compile(pattern))

    def encode(self, chats: pa.Table) -> pa.Table:
        """Rows of CHATS as rows of ENCODED, in order."""
        return pa.Table.from_pylist([self._row(row) for row in chats.to_pylist()], ENCODED)

    def _row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        import jinja2

        reason = row["reason"]
        if reason is None:
            try:
                return {"id": row["id"], "outcome": "done", **self._example(row["messages"])}
            except jinja2.TemplateError as error:
                reason = f"the chat template refuses it: {' '.join(str(error).split())}"
            except _Unfit as error:
                reason = str(error)
        return {"id": row["id"], "outcome": "dropped", "reason": reason}

    def _example(self, chat: Chat) -> dict[str, Any]:
        if any(self.spelled.search(turn["content"]) for turn in chat):
            raise _Unfit("a text spells one of the model's control tokens")
        *segments, (last, _) = self._segments(chat)
        if end := self._end(last):
            last = last[:end]
        else:
            assert self.tokenizer.eos_token_id is not None, "a tokenizer without an end token"
            last = [*last, self.tokenizer.eos_token_id]
        tokens: list[int] = []
        is_target: list[bool] = []
        for part, is_answer in [*segments, (last, True)]:
            tokens += part
            # What a template prints after an end token, such as a line break, is never said.
            length = (self._end(part) or len(part)) if is_answer else 0
            is_target += [True] * length + [False] * (len(part) - length)
        return cut(
            np.array(tokens, np.int32),
            np.array(is_target),
            start=sum(len(part) for part, _ in segments),
            cutoff=self.cutoff,
            special=self.ends,
        )

    def _end(self, answer: list[int]) -> int:
        """Tokens of an answer up to the one that ends its turn; 0 without one."""
        length = max((k for k, token in enumerate(answer, 1) if token in self.ends), default=0)
        # One that text follows ends nothing: a template may begin an answer with it.
        return 0 if str(self.tokenizer.decode(answer[length:])).strip() else length

    def _segments(self, chat: Chat) -> list[tuple[list[int], bool]]:
        """The chat's tokens from answer to answer: prompt, answer, what follows, answer, …"""
        cuts = [0]
        whole = self._text(chat, is_whole=True)
        for place, turn in enumerate(chat):
            if turn["role"] == "assistant":
                prompt = self._text(chat[:place], is_whole=False)
                answered = self._text(chat[: place + 1], is_whole=True)
                if not answered.startswith(prompt) or not whole.startswith(answered):
                    raise _Unfit("the chat template prints a prompt otherwise once it is answered")
                cuts += [len(prompt), len(answered)]
        if cuts[-1] == cuts[-2]:
            raise _Unfit(NO_ANSWER)
        heads = [self._tokens(whole[:end]) for end in cuts]
        tokens = heads[-1]
        if all(tokens[: len(head)] == head for head in heads):
            places = [len(head) for head in heads]
            parts = [tokens[first:end] for first, end in pairwise(places)]
        else:
            # A token may reach over the end of a prompt, such as two line breaks in one: a model
            # that has got the prompt can never say it, so there each part is encoded by itself.
            parts = [self._tokens(whole[first:end]) for first, end in pairwise(cuts)]
        return [(part, place % 2 == 1) for place, part in enumerate(parts)]

    def _text(self, chat: Chat, *, is_whole: bool) -> str:
        text = self.tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=not is_whole, date_string=CHAT_DATE
        )
        assert isinstance(text, str)
        return text

    def _tokens(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False) if text else []


class _Unfit(Exception):
    """Why a chat is no example."""


@dataclass(frozen=True, kw_only=True)
class Census:
    """What became of the rows."""

    num_rows: int
    num_samples: int
    reasons: Mapping[str, int]
    """Rows dropped, by reason."""
    num_prompts_cut: int
    num_answers_cut: int
    num_tokens: int
    num_targets: int

    @classmethod
    def of(cls, encoded: pa.Table) -> Census:
        done = encoded.filter(pc.field("outcome") == "done")
        dropped = encoded.filter(pc.field("outcome") != "done")
        targets = pc.sum(pc.cast(pc.list_flatten(done["is_target"]), pa.int64())).as_py()
        return cls(
            num_rows=len(encoded),
            num_samples=len(done),
            reasons=dict(Counter(dropped["reason"].to_pylist()).most_common()),
            num_prompts_cut=int(pc.sum(pc.greater(done["prompt_cut"], 0)).as_py() or 0),
            num_answers_cut=int(pc.sum(pc.greater(done["answer_cut"], 0)).as_py() or 0),
            num_tokens=int(pc.sum(pc.list_value_length(done["tokens"])).as_py() or 0),
            num_targets=int(targets or 0),
        )

    def check(self, data: str, cutoff: int) -> None:
        """ValueError where nothing can be learnt from the data."""
        if not self.num_rows:
            raise ValueError(f"train.data: {data} has no rows; there is nothing to train on")
        if not self.num_samples:
            told = "; ".join(f"{num} × {reason}" for reason, num in self.reasons.items())
            raise ValueError(f"train.data: none of the {self.num_rows} rows of {data} fits: {told}")
        if self.num_answers_cut == self.num_samples:
            raise ValueError(
                f"train.cutoff: all {self.num_samples} samples of {data} are longer than {cutoff} "
                "tokens, answers and all; raise it"
            )

"""What DashScope's answers mean: a reply, an outcome of the row, the end of the job, or: ask again.

The SDK returns HTTP errors as answers, and checks nothing at status 200. A provider's message may
repeat the text it was sent, so none is passed on: its code says enough.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from ray_jobs.engines.seam import EngineUnusable, Reply
from ray_jobs.outcomes import Blocked, Refused, Unparsed
from ray_jobs.prompts import Chat

INSPECTION = ("datainspectionfailed", "data_inspection_failed")
"""A text that the provider will not treat, in lower case; sometimes inside a longer code, and
sometimes in the message alone.
"""
ACCOUNT = (
    "arrearage",
    "prepaidbilloverdue",
    "postpaidbilloverdue",
    "commoditynotpurchased",
    "accessdenied.unpurchased",
    "allocationquota.freetieronly",
)
"""Nothing will be answered until a person has seen to the account. (Throttling.AllocationQuota and
insufficient_quota are no such thing: the tokens of this minute are used up.)
"""
NO_MODEL = ("modelnotfound", "model_not_found", "model not exist", "model.accessdenied")
TOO_LONG = ("input length", "input token", "context length", "maximum context")
LONGEST_QUIET_S = 3600.0
"""A Retry-After beyond it is cut."""
MESSAGE_TOKENS = 8
"""What a turn costs beside its text, at most."""


class Again(Exception):
    """This attempt gave no answer; another may. The message says what was seen."""

    def __init__(
        self, reason: str, *, throttled: bool = False, retry_after_s: float | None = None
    ) -> None:
        super().__init__(reason)
        self.throttled = throttled
        """The provider has said 429."""
        self.retry_after_s = retry_after_s


def no_answer(
    status: int, code: str, message: str, headers: Mapping[str, str], place: str, key_env: str
) -> Exception:
    """The exception that an HTTP error is. `place` names the engine and its server, `key_env` the
    variable with the key.
    """
    said = f"{code} {message}".lower()
    seen = f"HTTP {status} {_word(code)}"
    if any(name in said for name in INSPECTION):
        return Blocked(f"DataInspectionFailed on {_inspected(message)}")
    if any(name in said for name in ACCOUNT):
        return EngineUnusable(f"{place} says {seen}: see to the account of the key in {key_env}")
    if status in (401, 403):
        return EngineUnusable(f"{place} says {seen}: check the key in {key_env}")
    if status == 404 or any(name in said for name in NO_MODEL):
        return EngineUnusable(f"{place} says {seen}: check model and base_url")
    wait_s = retry_after_s(headers)
    if status == 429:
        return Again(seen, throttled=True, retry_after_s=wait_s)
    if status in (408, 409) or status >= 500:
        return Again(seen, retry_after_s=wait_s)
    too_long = any(name in message.lower() for name in TOO_LONG)
    return Refused(f"{seen}: the prompt is longer than the provider takes" if too_long else seen)


def bill(answer: Any) -> tuple[int, int]:
    """Tokens of the prompt and of the output, as an answer at status 200 states them. Again where
    it states none.
    """
    usage = answer.usage
    found = usage.get("input_tokens"), usage.get("output_tokens")
    if not all(type(num) is int and num >= 0 for num in found) or not found[0]:
        raise Again("an answer without its usage")
    return found


def reply_of(answer: Any, tokens: tuple[int, int], model: str) -> Reply:
    """The reply in an answer at status 200; `model` was asked, and a snapshot of it may have
    answered. Again where the answer does not have the protocol's form.
    """
    choices = answer.output.get("choices")
    if not choices:
        raise Again("an answer without a choice")
    message, finish = choices[0].get("message"), choices[0].get("finish_reason")
    if not message or finish not in ("stop", "length"):
        raise Again("an answer that is no whole message")
    text = message.get("content")
    if text is None:
        raise Unparsed("the answer has no text")
    if not isinstance(text, str):
        raise Again("an answer that is no text")
    snapshot = answer.output.get("model") or answer.output.get("model_name")
    return Reply(
        text=text,
        prompt_tokens=tokens[0],
        output_tokens=tokens[1],
        finish_reason=finish,
        model=snapshot if isinstance(snapshot, str) else model,
    )


def estimated_tokens(chat: Chat) -> int:
    """A little more tokens than a chat has: the provider's tokenizer makes 1.5 to 1.8 Chinese
    characters, or some four Latin ones, into one token.
    """
    total = 0
    for turn in chat:
        text = turn["content"]
        num_ascii = sum(character < "\x80" for character in text)
        total += MESSAGE_TOKENS + num_ascii // 3 + (len(text) - num_ascii) * 4 // 5
    return total


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds, from a header that has seconds or a date; None where it has neither."""
    said = next((value for name, value in headers.items() if name.lower() == "retry-after"), "")
    if re.fullmatch(r"\d{1,9}(\.\d*)?", said.strip(), re.ASCII):
        return min(float(said), LONGEST_QUIET_S)
    try:
        date = parsedate_to_datetime(said)
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return min(max(0.0, (date - datetime.now(UTC)).total_seconds()), LONGEST_QUIET_S)


def _word(code: str) -> str:
    """A code, if it is one: what a server writes there goes into messages."""
    return code if re.fullmatch(r"[\w.]{1,60}", code, re.ASCII) else "without a code"


def _inspected(message: str) -> str:
    first = re.search(r"\b(input or output|input|output)\b", message.lower())
    return f"the {first[1]}" if first else "the text"

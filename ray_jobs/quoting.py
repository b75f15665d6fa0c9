"""How judged text is shown to a judge, so that it can neither end its own block, nor start a turn,
nor be taken for the judge's own last line.
"""

from __future__ import annotations

import hashlib
import json
import re

from ray_jobs.prompts import Chat

QUOTE = "| "
MARK_DIGITS = 12
_DEMAND = {
    "zh": "你的最后一行必须以“{}: ”开头。",
    "en": 'Your last line must begin with "{}: ".',
}
# By their form, and of square ones only what tokenizers are known to hold: [NAME] is ordinary text.
_ANGLED = r"<(?=[|｜]|/?[A-Za-z0-9_▁][A-Za-z0-9_▁.:=-]*>)"
_SQUARE = "|".join(
    [
        "(?i:INST)|SEP|CLS|PAD|UNK|MASK|BOS|EOS|EOT|EOD|IMG|AUDIO|THINK|ARGS|PREFIX|SUFFIX|MIDDLE",
        "[gsd]MASK",
        r"(?:unused|control_)\d+",
        "[A-Z]+(?:_[A-Z0-9]+)+",
    ]
)
_CONTROL_TOKEN = re.compile(rf"{_ANGLED}|\[(?=/?(?:{_SQUARE})\])", re.ASCII)
_WIDE = {"<": "＜", "[": "［"}


def quote(text: str) -> str:
    """Judged text as quoted lines, with nothing in it that a tokenizer could take for a control
    token: the bracket that opens one becomes a wide one. All other text stays as it is.
    """
    harmless = _CONTROL_TOKEN.sub(lambda match: _WIDE[match.group()], text)
    return "\n".join(QUOTE + line for line in harmless.splitlines() or [""])


def mark_of(chat: Chat) -> str:
    """A code for the answer's last line, made of the whole question: judged text cannot hold it,
    for it would have to hold a hash of itself.
    """
    return hashlib.sha256(json.dumps(chat).encode()).hexdigest()[:MARK_DIGITS]


def demand(mark: str, language: str) -> str:
    """The sentence that asks for the mark; nothing where there is none."""
    return "\n" + _DEMAND[language].format(mark) if mark else ""


def marked(mark: str, answer: str) -> str:
    """An answer's last line as it must be written."""
    return f"{mark}: {answer}" if mark else answer

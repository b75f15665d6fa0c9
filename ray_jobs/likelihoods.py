"""How sure a judge was: what the probabilities of its tokens say of scores and verdicts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from ray_jobs.verdicts import VERDICTS, Verdict, choices

LEAST_MASS = 0.5
"""Where the verdicts' tokens hold less of the probability, another text was about to be written."""
DIGITS = tuple("0123456789")
"""The texts whose log-probabilities are a score."""
_WRITTEN_SCORE = re.compile(r"(?<![\d.])([01])\.(\d)(?!\d)", re.ASCII)


def prefixes(language: str) -> tuple[str, ...]:
    """Every text by which one of the verdicts may begin: the texts whose log-probabilities tell the
    choice, as far as they are tokens.
    """
    return tuple(word[:end] for word in choices(language) for end in range(1, len(word) + 1))


def verdict_probabilities(
    tokens: Sequence[str], logprobs: Sequence[Mapping[str, float]], language: str
) -> dict[Verdict, float] | None:
    """What the judge gives to each verdict where it begins to write one on its last line; None
    where that cannot be read.
    """
    words = "|".join(choices(language))
    line = re.compile(rf"(?:\A|\n)(?:[0-9a-f]+[:：] ?)?({words})", re.IGNORECASE)
    written = [found.start(1) for found in line.finditer("".join(tokens))]
    position = _position_of_word(tokens, written[-1]) if written else None
    if position is None or _begun(tokens[position], language) is None:
        return None
    weights: dict[Verdict, float] = dict.fromkeys(VERDICTS[language].values(), 0.0)
    for token, logprob in logprobs[position].items():
        if verdict := _begun(token, language):
            weights[verdict] += math.exp(logprob)
    total = sum(weights.values())
    return {key: weight / total for key, weight in weights.items()} if total >= LEAST_MASS else None


def _position_of_word(tokens: Sequence[str], start: int) -> int | None:
    """The position of the token that begins there, or at the blank before."""
    positions = _positions(tokens)
    if start in positions:
        return positions[start]
    before = positions.get(start - 1)
    return before if before is not None and tokens[before].startswith(" ") else None


def _begun(token: str, language: str) -> Verdict | None:
    """The verdict that a token begins."""
    start = token.strip(" ").lower()
    for word, verdict in VERDICTS[language].items():
        if start and word.startswith(start):
            return verdict
    return None


def expected_scores(
    tokens: Sequence[str], logprobs: Sequence[Mapping[str, float]], num_scores: int
) -> list[tuple[float, float]] | None:
    """The mean and standard deviation of each score's distribution; None where one is unreadable.

    A score is the digit before the point (0 or 1) and, under a 0, the digit after it. Where the
    judge wrote 1.0, nothing says what it would have written under a 0: that share is put at 0.9,
    the nearest score, so that answers of 1.0 keep their order by how sure they are; the mean is
    then an upper bound, the deviation a lower one.
    All scores or none: a mean beside a written number would not be compared fairly.
    """
    position_at, text = _positions(tokens), "".join(tokens)
    scores = []
    for found in _WRITTEN_SCORE.finditer(text, text.rfind("[") + 1):
        # A digit that shares its token with other characters has no distribution of its own.
        whole, tenth = (_digit(tokens, logprobs, position_at.get(found.start(k))) for k in (1, 2))
        if found[1] == "1":
            tenth = {"9": 1.0}
        whole = whole and _normalised({digit: whole.get(digit, 0.0) for digit in "01"})
        if not whole or not tenth:
            return None
        scores.append(_mean_and_deviation(whole["1"], tenth))
    return scores if len(scores) == num_scores else None


def _positions(tokens: Sequence[str]) -> dict[int, int]:
    """The position of the token that begins at each place of the text."""
    found: dict[int, int] = {}
    length = 0
    for position, token in enumerate(tokens):
        found[length] = position
        length += len(token)
    return found


def _digit(
    tokens: Sequence[str], logprobs: Sequence[Mapping[str, float]], position: int | None
) -> dict[str, float] | None:
    """The digits' probabilities at an output position that holds one digit and nothing else."""
    if position is None or not re.fullmatch(r"\d", tokens[position], re.ASCII):
        return None
    return _normalised({digit: math.exp(logprob) for digit, logprob in logprobs[position].items()})


def _normalised(weights: dict[str, float]) -> dict[str, float] | None:
    total = sum(weights.values())
    return {key: weight / total for key, weight in weights.items()} if total > 0 else None


def _mean_and_deviation(one: float, tenth: Mapping[str, float]) -> tuple[float, float]:
    points = [(1.0, one)] + [(int(digit) / 10, (1 - one) * share) for digit, share in tenth.items()]
    mean = sum(score * share for score, share in points)
    return mean, math.sqrt(sum(share * (score - mean) ** 2 for score, share in points))

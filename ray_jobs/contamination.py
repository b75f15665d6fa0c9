"""Which texts would give away an evaluation prompt: those that repeat one, or contain it.

A prompt that is a variant of a common pattern is known by its rare n-grams, not by the pattern's;
a short one that turns up again and again is a turn of phrase, and gives nothing away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ray_jobs.ngrams import (
    LOW,
    NONE,
    SHIFT,
    Flags,
    Hashes,
    Rows,
    distinct,
    letters,
    places_within,
    slices,
    text_hashes,
    weights,
    windows,
)

COMMON = 64  # an n-gram of more evaluation prompts than this says nothing about one of them
NUM_RAREST = 4  # what stands for a prompt that has common n-grams only
PHRASE_LENGTH = 8  # Chinese characters; a shorter prompt may be a turn of phrase …
PHRASE_ROWS, PHRASE_SHARE = 10, 0.001  # … if more texts than both of these contain it
MAX_SEEN_BITS = 26  # 64 MiB
MAX_GRAMS = 128
LETTERS = 4  # Latin ones for a Chinese one, see ngrams.weights
TINY = 1e-9  # 0.8 × 10 must not come out above 8
SLACK = 1.25  # a prompt counts as contained if found in a stretch this much longer than itself


@dataclass(frozen=True, kw_only=True)
class Leaks:
    """What was found for a batch of texts."""

    prompt: Rows
    """The number of the evaluation prompt that the text gives away, -1 where there is none."""
    whole: Flags
    """Whether the text is that prompt, and no more."""


class EvaluationPrompts:
    """The prompts that nothing may be trained on.

    Compared are letters and digits only, after NFKC and in lower case. A text contains a prompt if
    it has `min_share` of the prompt's n-grams, and of its rare ones, close together. An n-gram is
    as long as `ngram` Chinese characters; a Latin letter or a digit counts a quarter of one.
    Shorter prompts can only be equal.
    """

    def __init__(self, prompts: Sequence[str], *, min_share: float = 0.8, ngram: int = 4) -> None:
        assert 0 < min_share <= 1, min_share
        assert ngram >= 1, ngram
        self._min_share, self._width = min_share, LETTERS * ngram
        self._num_texts, self._times_contained = 0, np.zeros(len(prompts), np.int64)
        parts = [self._part(some) for some in slices(prompts)] or [self._part([])]
        hashes, self._num_letters, self._weight, grams, self._num_grams = (
            np.concatenate(column) for column in zip(*parts, strict=True)
        )
        # The first of equal prompts stands for all, or their n-grams would look common.
        self._texts, self._text_of = np.unique(hashes, return_index=True)
        different = np.zeros(len(prompts), bool)
        different[self._text_of] = True
        owner = np.repeat(np.arange(len(prompts)), self._num_grams)
        self._grams, owner = grams[different[owner]], owner[different[owner]]
        self._num_grams *= different
        self._start_of = np.cumsum(self._num_grams) - self._num_grams
        self._index(owner)

    def _part(self, prompts: Sequence[str]) -> tuple[Hashes, Rows, Rows, Hashes, Rows]:
        """Of some prompts: hash, letters, weight, their n-grams, and how many of these each has."""
        codes, row = letters(prompts)
        weight, num = weights(codes), len(prompts)
        num_letters = np.bincount(row, minlength=num)
        grams, owner = windows(codes, row, weight, self._width)
        grams, owner = distinct(grams, owner)
        # Of a long prompt the smallest hashes stand for all: the same ones wherever it is found.
        chosen = places_within(np.bincount(owner, minlength=num)) < MAX_GRAMS
        num_grams = np.bincount(owner[chosen], minlength=num)
        weighs = np.bincount(row, weight, minlength=num).astype(np.int64)
        return text_hashes(codes, num_letters), num_letters, weighs, grams[chosen], num_grams

    def _index(self, owner: Rows) -> None:
        """Which prompts each rare n-gram is of."""
        _, place, times = np.unique(self._grams, return_inverse=True, return_counts=True)
        rare = _rare(times[place], owner)
        self._num_rare = np.bincount(owner[rare], minlength=len(self._num_grams))
        order = np.argsort(self._grams[rare], kind="stable")
        self._keys, self._owner = self._grams[rare][order], owner[rare][order]
        # Most n-grams of most texts are in no prompt: one look at a table says so of nearly all.
        bits = min(max(len(self._keys).bit_length() + 4, 8), MAX_SEEN_BITS)
        self._seen_shift = np.uint64(64 - bits)
        self._seen = np.zeros(1 << bits, bool)
        self._seen[self._keys >> self._seen_shift] = True

    def find(self, texts: Sequence[str]) -> Leaks:
        """What these texts give away. Of several prompts that a text contains, the longest."""
        found = [self._find(some) for some in slices(texts)] or [self._find([])]
        prompt = np.concatenate([leaks.prompt for leaks in found])
        whole = np.concatenate([leaks.whole for leaks in found])
        self._num_texts += len(texts)
        np.add.at(self._times_contained, prompt[(prompt != NONE) & ~whole], 1)
        return Leaks(prompt=prompt, whole=whole)

    def _find(self, texts: Sequence[str]) -> Leaks:
        codes, row = letters(texts)
        num_letters = np.bincount(row, minlength=len(texts))
        prompt = np.full(len(texts), NONE)
        if not len(self._texts):
            return Leaks(prompt=prompt, whole=prompt != NONE)
        hashes = text_hashes(codes, num_letters)
        place = np.minimum(np.searchsorted(self._texts, hashes), len(self._texts) - 1)
        whole = (self._texts[place] == hashes) & (num_letters > 0)
        prompt[whole] = self._text_of[place[whole]]
        grams, owner = windows(codes, row, weights(codes), self._width)
        starts = np.searchsorted(owner, np.arange(len(texts) + 1))
        for text, candidate in self._candidates(grams, owner):
            own = grams[starts[text] : starts[text + 1]]
            if prompt[text] == NONE and self._contains(own, candidate):
                prompt[text] = candidate
        return Leaks(prompt=prompt, whole=whole)

    def phrases(self) -> Flags:
        """For each prompt whether it is a turn of phrase, by all texts so far: containing it then
        gives nothing away, being equal to it still does.
        """
        often = max(PHRASE_ROWS, PHRASE_SHARE * self._num_texts)
        flags: Flags = (self._weight < LETTERS * PHRASE_LENGTH) & (self._times_contained > often)
        return flags

    def _candidates(self, grams: Hashes, owner: Rows) -> Iterator[tuple[int, int]]:
        """Texts, and prompts of whose rare n-grams they have enough; a text's longest first."""
        known = np.flatnonzero(self._seen[grams >> self._seen_shift])
        # Each n-gram of a text counts once, however often it is there.
        grams, owner = distinct(grams[known], owner[known])
        left = np.searchsorted(self._keys, grams)
        num = np.searchsorted(self._keys, grams, side="right") - left
        prompt = self._owner[np.repeat(left, num) + places_within(num)]
        pairs = (np.repeat(owner, num).astype(np.uint64) << SHIFT) | prompt.astype(np.uint64)
        pairs, times = np.unique(pairs, return_counts=True)
        text, prompt = (pairs >> SHIFT).astype(np.int64), (pairs & LOW).astype(np.int64)
        enough = times >= self._min_share * self._num_rare[prompt] - TINY
        text, prompt = text[enough], prompt[enough]
        order = np.lexsort((prompt, -self._weight[prompt], text))
        return zip(text[order].tolist(), prompt[order].tolist(), strict=True)

    def _contains(self, grams: Hashes, prompt: int) -> bool:
        """Whether the text with these n-grams has enough of all the prompt's, close together."""
        start, size = int(self._start_of[prompt]), int(self._num_grams[prompt])
        of_prompt, wanted = self._grams[start : start + size], self._min_share * size - TINY
        place = np.minimum(np.searchsorted(of_prompt, grams), size - 1)
        hit = of_prompt[place] == grams
        if len(np.unique(place[hit])) < wanted:
            return False
        stretch = int(SLACK * self._num_letters[prompt])
        hits = np.concatenate([np.zeros(1, np.int64), np.cumsum(hit)])
        ends = np.minimum(np.arange(len(hits)) + stretch, len(grams))
        return bool((hits[ends] - hits).max() >= wanted)


def _rare(times: Rows, owner: Rows) -> Flags:
    """Of n-grams found in so many prompts: whether it is rare, or among the rarest of its prompt
    where the prompt has no rare ones.
    """
    rare: Flags = times <= COMMON
    without = np.flatnonzero(
        (np.bincount(owner[rare], minlength=owner.max(initial=0) + 1) == 0)[owner]
    )
    without = without[np.lexsort((without, times[without], owner[without]))]
    num = np.bincount(owner[without])
    rare[without[places_within(num) < NUM_RAREST]] = True
    return rare

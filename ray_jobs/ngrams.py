"""Texts as arrays: letters and n-grams of many texts at once, hashed to 64 bits.

All here works on a batch laid end to end: `codes`, and for each of them `row`, the text it is of.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, cast

import numpy as np
import numpy.typing as npt

Flags = npt.NDArray[np.bool_]
Hashes = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]
Codes = npt.NDArray[np.uint32]  # code points

NONE = -1
SHIFT = np.uint64(32)
LOW = np.uint64(0xFFFFFFFF)
ODD = np.uint64(0x9E3779B97F4A7C15)
BASE = np.uint64(0xD6E8FEB86659FD93)
INVERSE = np.uint64(pow(int(BASE), -1, 2**64))
MAX_TEXTS, MAX_CHARS = 5000, 500_000


def letters(texts: Sequence[str]) -> tuple[Codes, Rows]:
    """The letters and digits of texts as code points: what taxonomy.normalise leaves of them."""
    joined = "\0".join([text.replace("\0", " ") for text in texts])
    joined = unicodedata.normalize("NFKC", joined).lower()
    # Half a character is no letter: it passes here, and is gone in the next step.
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
    kept = _table("L", "N")[codes]
    return codes[kept], np.cumsum(codes == 0)[kept]


def weights(codes: Codes) -> Rows:
    """How much each letter says: 4, but 1 for a digit and for a letter that has a lower case, such
    as Latin ones, since about four of these say as much as one 字.
    """
    return np.where(_table("Ll", "Lu", "Lt", "Nd")[codes], 1, 4)


def windows(codes: Codes, row: Rows, weight: Rows, width: int) -> tuple[Hashes, Rows]:
    """The n-grams of texts in their order, hashed: from each code the shortest run within its text
    that weighs `width` or more.
    """
    ends_at = np.cumsum(weight)
    last = np.searchsorted(ends_at, ends_at - weight + width)
    whole = np.flatnonzero(last < len(codes))
    whole = whole[row[last[whole]] == row[whole]]
    # A polynomial over all codes; between two of its sums stands the run between them, times a
    # power of BASE that the inverse takes away. All modulo 2**64.
    powers = np.cumprod(np.full(len(codes), BASE))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed(codes + ODD) * powers)])
    inverse = np.cumprod(np.full(len(codes), INVERSE))[whole]
    return mixed((sums[last[whole] + 1] - sums[whole]) * inverse), row[whole]


def text_hashes(codes: Codes, lengths: Rows) -> Hashes:
    """A hash of each run of codes in their order; 0 for an empty run."""
    starts = np.cumsum(lengths) - lengths
    place = (np.arange(len(codes)) - np.repeat(starts, lengths)).astype(np.uint64)
    sums = np.concatenate(
        [np.zeros(1, np.uint64), np.cumsum(mixed(codes + ODD * (place + np.uint64(1))))]
    )
    # Sums wrap round at 2**64, and so do their differences: nothing is lost.
    return cast(Hashes, sums[starts + lengths] - sums[starts])


def exact_hashes(texts: Sequence[str]) -> Hashes:
    """16 bytes of hash of each text to the letter, but for NFC, as two numbers; (texts, 2)."""
    forms = (unicodedata.normalize("NFC", text).encode() for text in texts)
    data = b"".join(hashlib.blake2b(form, digest_size=16).digest() for form in forms)
    return np.frombuffer(data, np.uint64).reshape(-1, 2)


def mixed(values: Hashes) -> Hashes:
    """MurmurHash3's last step: every bit of the input decides every bit of the output."""
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return values ^ (values >> np.uint64(33))


def run_starts(values: npt.NDArray[Any]) -> Flags:
    """For each of some sorted values, whether it differs from the one before."""
    first = np.ones(len(values), bool)
    first[1:] = values[1:] != values[:-1]
    return first


def first_equal(keys: Hashes, among: Flags) -> Rows:
    """For each row of `keys` the number of the first equal one `among` them; -1 for that one
    itself, and for the rows that are not among them.
    """
    rows = np.flatnonzero(among)
    rows = rows[np.lexsort((rows, *keys[rows].T))]
    new = np.zeros(len(rows), bool)
    for column in keys[rows].T:
        new |= run_starts(column)
    first = np.full(len(among), NONE)
    first[rows[~new]] = rows[new][np.cumsum(new) - 1][~new]
    return first


def distinct(grams: Hashes, owner: Rows) -> tuple[Hashes, Rows]:
    """Each n-gram once a text, by text and then by hash."""
    order = np.lexsort((grams, owner))
    grams, owner = grams[order], owner[order]
    new = run_starts(grams) | run_starts(owner)
    return grams[new], owner[new]


def places_within(lengths: Rows) -> Rows:
    """0, 1, 2, … for each run of these lengths, laid end to end."""
    starts = np.cumsum(lengths) - lengths
    return cast(Rows, np.arange(lengths.sum()) - np.repeat(starts, lengths))


def slices(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Texts some at a time, as many as fit a processor's cache."""
    start = num_chars = 0
    for end, text in enumerate(texts):
        if end - start == MAX_TEXTS or (num_chars and num_chars + len(text) > MAX_CHARS):
            yield texts[start:end]
            start, num_chars = end, 0
        num_chars += len(text)
    if start < len(texts):
        yield texts[start:]


@cache
def _table(*kinds: str) -> Flags:
    """For each code point whether its Unicode category begins with one of these."""
    found = (unicodedata.category(chr(code)).startswith(kinds) for code in range(0x110000))
    return np.fromiter(found, bool, 0x110000)

"""Near-duplicates among short texts: character n-grams, MinHash, banding, true Jaccard at the end.

No index of rows is held: a row costs 4 bytes a band in memory, and its n-grams lie in a file.
Bands are sorted one after the other, so 1M rows fit in a small driver.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing

import numpy as np
import numpy.typing as npt

from ray_jobs.ngrams import (
    LOW,
    NONE,
    SHIFT,
    Flags,
    Hashes,
    Rows,
    exact_hashes,
    first_equal,
    letters,
    mixed,
    places_within,
    run_starts,
    slices,
    text_hashes,
    windows,
)

Sketches = npt.NDArray[np.uint32]

NUM_HASHES = 64
RECALL = 0.99  # of pairs just at the threshold; more alike ones are found more surely still
MAX_HEADS = 8  # rows of one bucket that its other rows are compared with
MAX_PASSES = 4
MANY_ROWS = 50_000
GRAMS_AT_ONCE = 2_000_000


def find_twins(
    new: Sequence[str], known: Sequence[str] = (), *, min_similarity: float = 0.8, ngram: int = 3
) -> list[int | None]:
    """For each new text the position, in known + new, of the kept text that it repeats, or None.

    Known texts are kept whatever they are; of new ones the earliest. With `min_similarity` 0 only
    equal texts repeat one another; for the rest see Near.
    """
    if not min_similarity:
        keys = exact_hashes([*known, *new])
        found = first_equal(keys, np.ones(len(keys), bool))[len(known) :]
        return [None if twin == NONE else twin for twin in found.tolist()]
    with closing(Near(min_similarity, ngram)) as near:
        near.add(known)
        near.add(new)
        found = near.twins(num_known=len(known))[len(known) :]
    return [None if twin == NONE else twin for twin in found.tolist()]


class Near:
    """Texts in the order in which they are kept, and which of them nearly repeat an earlier one.

    Alike are texts whose sets of n-grams have a Jaccard similarity of `min_similarity` or more,
    after NFKC, in lower case, without spaces and punctuation. Texts shorter than an n-gram are
    alike if equal after that. With `min_similarity` 1 this holds for all; with 0 nothing is alike.
    """

    def __init__(self, min_similarity: float, ngram: int, scratch: str | None = None) -> None:
        """`scratch` is a local folder for the n-grams; else the system's temporary one."""
        assert 0 <= min_similarity <= 1, min_similarity
        assert ngram >= 1, ngram
        self._min_similarity, self._ngram = min_similarity, ngram
        self._by_grams = 0 < min_similarity < 1
        self._num_bands, self._rows_per_band = banding(min_similarity) if self._by_grams else (0, 0)
        self._texts: list[Hashes] = []
        self._sizes: list[Rows] = []
        self._bands: list[Sketches] = []
        # It has no name: a killed run leaves nothing behind.
        self._file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 (closed by close)
        self._size_of = self._start_of = np.zeros(0, np.int64)

    def close(self) -> None:
        """Give the file of n-grams back."""
        self._file.close()

    def add(self, texts: Sequence[str]) -> None:
        """Add texts, after those that are there."""
        for some in slices(texts):
            self._add(some)

    def _add(self, texts: Sequence[str]) -> None:
        codes, row = letters(texts)
        lengths = np.bincount(row, minlength=len(texts))
        self._texts.append(text_hashes(codes, lengths))
        if not self._by_grams:
            return
        hashes, owners = windows(codes, row, np.ones(len(codes), np.int64), self._ngram)
        packed = np.unique((owners.astype(np.uint64) << SHIFT) | (hashes >> SHIFT))
        grams = packed.astype(np.uint32)
        sizes = np.bincount((packed >> SHIFT).astype(np.int64), minlength=len(texts))
        self._sizes.append(sizes)
        self._file.write(grams.tobytes())
        signatures = _signatures(grams, sizes, self._num_bands * self._rows_per_band)
        self._bands.append(self._band_keys(signatures))

    def _band_keys(self, signatures: Sketches) -> Sketches:
        """One number a band and row, equal where all of the band's hashes are; (bands, rows)."""
        parts = signatures.reshape(len(signatures), self._num_bands, self._rows_per_band)
        keys = np.zeros(parts.shape[:2], np.uint64)
        for place in range(self._rows_per_band):
            keys = mixed(keys + parts[:, :, place].astype(np.uint64))
        return np.ascontiguousarray((keys >> SHIFT).astype(np.uint32).T)

    def twins(self, num_known: int = 0, without: Flags | None = None) -> Rows:
        """For each text the number of the kept text that it repeats, or -1 where it is kept itself.

        The first `num_known` are all kept. Those marked in `without` take no part.
        """
        self._file.flush()
        texts = np.concatenate(self._texts) if self._texts else np.zeros(0, np.uint64)
        alive = texts != 0
        if without is not None:
            alive &= ~without
        twin = first_equal(texts[:, None], alive & (self._min_similarity > 0))
        twin[:num_known] = NONE
        alive &= twin == NONE
        if not self._by_grams or not len(texts):
            return twin
        self._size_of = np.concatenate(self._sizes)
        self._start_of = np.cumsum(self._size_of) - self._size_of
        fresh = np.arange(len(texts)) >= num_known
        for _ in range(MAX_PASSES):
            for band in self._progress():
                self._match_band(band, alive, fresh, twin)
            fresh = self._settle(alive, twin)
            if not fresh.any():
                break
        return twin

    def _progress(self) -> Iterable[int]:
        """The bands, with a bar where that takes a while."""
        from tqdm import tqdm

        few, label = len(self._size_of) < MANY_ROWS, f"{'compared':>16}"
        bands: Iterable[int] = tqdm(range(self._num_bands), desc=label, unit="band", disable=few)
        return bands

    def _match_band(self, band: int, alive: Flags, fresh: Flags, twin: Rows) -> None:
        """Drop the rows that are like an earlier one of their bucket.

        The bucket's earliest row meets all others, then the earliest of those left, and so on up to
        MAX_HEADS: so a bucket of a million rows costs no million squared.
        """
        rows = np.flatnonzero(alive & (self._size_of > 0))
        keys = np.concatenate([part[band] for part in self._bands])[rows]
        packed = np.sort((keys.astype(np.uint64) << SHIFT) | rows.astype(np.uint64))
        key, row = packed >> SHIFT, (packed & LOW).astype(np.int64)
        for _ in range(MAX_HEADS):
            first = run_starts(key)
            run = np.cumsum(first) - 1
            useful = np.bincount(run) > 1
            useful &= np.bincount(run, weights=fresh[row]) > 0
            if not useful.any():
                return
            key, row, first = key[useful[run]], row[useful[run]], first[useful[run]]
            run = np.cumsum(first) - 1
            head, other = row[first][run][~first], row[~first]
            to_test = fresh[head] | fresh[other]
            alike = np.zeros(len(other), bool)
            alike[to_test] = self._are_alike(head[to_test], other[to_test])
            twin[other[alike]] = head[alike]
            alive[other[alike]] = False
            key, row = key[~first][~alike], other[~alike]

    def _settle(self, alive: Flags, twin: Rows) -> Flags:
        """Where a twin was dropped in a later band, take the row kept in its place; a row that is
        not like that one comes back. Returns which came back.
        """
        root = twin.copy()
        while (moving := np.flatnonzero((root != NONE) & (twin[root] != NONE))).size:
            root[moving] = twin[root[moving]]
        lost = np.flatnonzero(root != twin)
        back = lost[~self._are_alike(root[lost], lost)]
        twin[lost] = root[lost]
        twin[back] = NONE
        alive[back] = True
        fresh = np.zeros(len(twin), bool)
        fresh[back] = True
        return fresh

    def _are_alike(self, left: Rows, right: Rows) -> Flags:
        """Whether the rows of each pair have a Jaccard similarity of at least the threshold."""
        small = np.minimum(self._size_of[left], self._size_of[right])
        large = np.maximum(self._size_of[left], self._size_of[right])
        alike = small >= self._min_similarity * large
        pairs = np.flatnonzero(alike)
        for chunk in _chunks(pairs, small[pairs] + large[pairs]):
            shared = self._num_shared(left[chunk], right[chunk])
            either = small[chunk] + large[chunk] - shared
            alike[chunk] = shared >= self._min_similarity * either - 1e-9
        return alike

    def _num_shared(self, left: Rows, right: Rows) -> Rows:
        """How many n-grams the rows of each pair have in common."""
        rows, place = np.unique(np.concatenate([left, right]), return_inverse=True)
        sizes, file = self._size_of[rows], self._file.fileno()
        spans = zip((4 * sizes).tolist(), (4 * self._start_of[rows]).tolist(), strict=True)
        grams = np.frombuffer(b"".join(os.pread(file, *span) for span in spans), np.uint32)
        starts = np.cumsum(sizes) - sizes
        wanted = sizes[place]
        pair = np.repeat(np.tile(np.arange(len(left)), 2), wanted)
        taken = grams[np.repeat(starts[place], wanted) + places_within(wanted)]
        packed = np.sort((pair.astype(np.uint64) << SHIFT) | taken)
        twice = packed[1:][packed[1:] == packed[:-1]] >> SHIFT
        return np.bincount(twice.astype(np.int64), minlength=len(left))


def banding(min_similarity: float) -> tuple[int, int]:
    """Bands, and hashes a band: as many hashes as find RECALL of the pairs at the threshold."""
    for rows in range(NUM_HASHES, 1, -1):
        bands = NUM_HASHES // rows
        if 1 - (1 - min_similarity**rows) ** bands >= RECALL:
            return bands, rows
    return NUM_HASHES, 1


def _signatures(grams: Sketches, sizes: Rows, num_hashes: int) -> Sketches:
    """The MinHash signature of each set of n-grams; (rows, hashes)."""
    from datasketch import MinHash

    signatures = np.empty((len(sizes), num_hashes), np.uint32)
    listed, start = grams.tolist(), 0
    # One object for all rows: making one costs more than filling it.
    sketch = MinHash(num_perm=num_hashes, hashfunc=int)
    for row, size in enumerate(sizes.tolist()):
        sketch.clear()
        sketch.update_batch(listed[start : start + size])
        signatures[row] = sketch.hashvalues
        start += size
    return signatures


def _chunks(pairs: Rows, num_grams: Rows) -> Iterator[Rows]:
    """Pairs in their order, about GRAMS_AT_ONCE n-grams at a time."""
    parts = np.cumsum(num_grams) // GRAMS_AT_ONCE
    return iter(np.split(pairs, np.flatnonzero(np.diff(parts)) + 1) if len(pairs) else [])

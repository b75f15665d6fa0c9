"""Near-duplicates: what is removed is truly alike, and what is alike is found."""

from __future__ import annotations

import random
import string
import unicodedata
from contextlib import closing

import numpy as np
import pytest
from datasketch import MinHash
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs import duplicates
from ray_jobs.duplicates import Near, banding, find_twins
from ray_jobs.ngrams import Flags, Rows, first_equal, letters, slices, text_hashes, weights, windows
from ray_jobs.taxonomy import normalise

HANZI = "".join(map(chr, range(0x4E00, 0x4E00 + 900)))
SETTINGS = settings(deadline=None)


def sentence(rng: random.Random, length: int = 36) -> str:
    return "".join(rng.choice(HANZI) for _ in range(length))


def similarity(one: str, two: str, ngram: int = 3) -> float:
    """By the definition, letter by letter: the second opinion."""
    sets = [
        {text[k : k + ngram] for k in range(len(text) - ngram + 1)}
        for text in (normalise(one), normalise(two))
    ]
    either = len(sets[0] | sets[1])
    return len(sets[0] & sets[1]) / either if either else float(normalise(one) == normalise(two))


def mutated(text: str, rng: random.Random) -> str:
    place = rng.randrange(len(text))
    return rng.choice(
        [
            text[:place] + rng.choice(HANZI) + text[place + 1 :],
            text[:place] + text[place + 1 :],
            text[:place] + "，" + text[place:],
            text + "谢谢",
        ]
    )


@pytest.fixture
def num_tested(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pairs were compared n-gram by n-gram, each time."""
    counts: list[int] = []
    are_alike = Near._are_alike

    def counted(near: Near, left: Rows, right: Rows) -> Flags:
        counts.append(len(left))
        return are_alike(near, left, right)

    monkeypatch.setattr(Near, "_are_alike", counted)
    return counts


def test_punctuation_case_and_width_make_no_difference() -> None:
    texts = [
        "Wi-Fi 密码忘了，怎么办？",
        "ｗｉｆｉ密码忘了怎么办",
        "WIFI密码——忘了。怎么办！",
        "别的",
    ]
    assert find_twins(texts) == [None, 0, 0, None]
    assert find_twins(texts, min_similarity=1) == [None, 0, 0, None]
    assert find_twins(texts, min_similarity=0) == [None] * 4


def test_with_no_similarity_asked_for_only_equal_texts_repeat_one_another() -> None:
    composed, decomposed = "café", unicodedata.normalize("NFD", "café")
    assert find_twins([composed, "？", decomposed, "CAFÉ"], ["？", "？"], min_similarity=0) == [
        None,
        0,
        2,
        None,
    ]


def test_a_letter_changed_in_a_long_sentence_is_a_near_duplicate_in_a_short_one_it_is_not() -> None:
    long = "请问在公共场所使用无线网络的时候应该注意哪些方面的安全问题才能保护好自己的隐私呢"
    assert find_twins([long, long.replace("公共", "公开")]) == [None, 0]
    assert find_twins(["怎么评价河南人", "怎么评价湖南人"]) == [None, None]


def test_texts_shorter_than_an_ngram_are_compared_as_a_whole() -> None:
    assert find_twins(["你好", "你 好！", "您好", "好"], ngram=3) == [None, 0, None, None]


def test_texts_without_a_letter_are_like_nothing() -> None:
    assert find_twins(["？？？", "？？？", "", " "]) == [None] * 4


def test_english_is_compared_by_letters_too() -> None:
    text = "How can I keep my neighbour's dog from barking through the whole night?"
    assert find_twins([text, text.replace("dog", "dogs"), "How can I sleep?"]) == [None, 0, None]


def test_the_known_are_all_kept_and_come_first() -> None:
    rng = random.Random(1)
    one, two = sentence(rng), sentence(rng)
    known = [one, f"{one}。", two]
    new = [
        f"{two}！",
        sentence(rng),
        f"{one}？",
        "全新的一句话不与任何别的相同",
        "全新的一句话不与任何别的相同。",
    ]
    assert find_twins(new, known) == [2, None, 0, None, 6]
    assert find_twins([], known) == []


def test_known_texts_stay_though_they_are_alike_and_are_not_compared_with_one_another(
    num_tested: list[int],
) -> None:
    rng = random.Random(12)
    texts = [sentence(rng, 60)]  # each is like the next one only
    for start in (10, 20, 30):
        texts.append(texts[-1][:start] + sentence(rng, 2) + texts[-1][start + 2 :])
    assert find_twins(texts[3:], texts[:3]) == [2]
    with closing(Near(0.8, 3)) as near:
        near.add([*texts[:3], texts[2]])
        assert near.twins(num_known=4).tolist() == [-1] * 4
        num_tested.clear()
        near.twins(num_known=4)
        assert sum(num_tested) == 0


def test_rows_marked_as_without_take_no_part() -> None:
    rng = random.Random(2)
    text = sentence(rng)
    with closing(Near(0.8, 3)) as near:
        near.add([text, f"{text}。"])
        near.add([f"{text}谢"])
        assert near.twins().tolist() == [-1, 0, 0]
        assert near.twins(without=np.array([True, False, False])).tolist() == [-1, -1, 1]


def test_it_finds_what_comparing_all_with_all_finds() -> None:
    rng = random.Random(3)
    texts: list[str] = []
    for _ in range(600):
        fresh = rng.random() < 0.6 or not texts
        texts.append(
            sentence(rng, rng.randrange(8, 60)) if fresh else mutated(rng.choice(texts), rng)
        )
    found = find_twins(texts)
    kept: list[int] = []
    expected = 0
    for row, text in enumerate(texts):
        like = [other for other in kept if similarity(texts[other], text) >= 0.8]
        expected += bool(like)
        if not like:
            kept.append(row)
    removed = sum(twin is not None for twin in found)
    assert expected > 100
    assert removed >= 0.99 * expected
    for text, twin in zip(texts, found, strict=True):
        assert twin is None or (found[twin] is None and similarity(texts[twin], text) >= 0.8)


def test_a_row_whose_twin_is_dropped_itself_gets_the_kept_one_or_comes_back() -> None:
    # Each is like the next, the first and the last are not alike at all.
    rng = random.Random(4)
    texts = [sentence(rng)]
    for place in range(0, 36, 2):
        texts.append(texts[-1][:place] + sentence(rng, 1) + texts[-1][place + 1 :])
    found = find_twins(texts)
    assert any(twin is not None for twin in found)
    assert found.count(None) > 1
    for text, twin in zip(texts, found, strict=True):
        assert twin is None or (found[twin] is None and similarity(texts[twin], text) >= 0.8)


def test_thousands_of_variants_of_one_pattern_are_all_like_the_first(num_tested: list[int]) -> None:
    rng = random.Random(5)
    pattern = sentence(rng, 60)
    texts = [pattern, *(f"{pattern}{sentence(rng, 2)}" for _ in range(5000))]
    assert find_twins(texts) == [None, *[0] * 5000]
    assert sum(num_tested) < 3 * len(texts)


def test_different_texts_under_one_pattern_cost_no_square(num_tested: list[int]) -> None:
    rng = random.Random(6)
    pattern = sentence(rng, 25)
    texts = [f"{pattern}{sentence(rng, 14)}" for _ in range(3000)]
    assert find_twins(texts) == [None] * 3000
    # The bound holds whatever the texts: so many heads, for each row, in each band.
    assert sum(num_tested) <= duplicates.MAX_HEADS * banding(0.8)[0] * len(texts)
    assert sum(num_tested) < len(texts) ** 2 / 2


def test_what_is_alike_among_thousands_under_one_pattern_is_found() -> None:
    rng = random.Random(13)
    pattern = sentence(rng, 40)
    texts = [f"{pattern[:20]}{sentence(rng, 10)}{pattern[20:]}" for _ in range(1000)]
    copies = [f"{text}吧" for text in texts[-200:]]
    found = find_twins(texts + copies)
    assert found[:1000] == [None] * 1000
    right = sum(twin == row for row, twin in enumerate(found[1000:], start=800))
    assert right >= 190


@SETTINGS
@given(st.lists(st.text(alphabet="甲乙丙丁ab1，。 ", max_size=12), max_size=12))
def test_every_text_is_kept_or_repeats_a_kept_one_before_it(texts: list[str]) -> None:
    found = find_twins(texts, min_similarity=0.5, ngram=2)
    for row, twin in enumerate(found):
        if twin is not None:
            assert twin < row
            assert found[twin] is None
            assert similarity(texts[twin], texts[row], 2) >= 0.5
    assert found == find_twins(texts, min_similarity=0.5, ngram=2)


@SETTINGS
@given(st.lists(st.text(max_size=20), min_size=1, max_size=5))
def test_letters_are_what_the_taxonomy_compares(texts: list[str]) -> None:
    codes, row = letters(texts)
    lengths = np.bincount(row, minlength=len(texts))
    parts = np.split(codes, np.cumsum(lengths)[:-1])
    assert ["".join(map(chr, part)) for part in parts] == [normalise(text) for text in texts]
    hashes = text_hashes(codes, lengths).tolist()
    for one, first in zip(texts, hashes, strict=True):
        for two, second in zip(texts, hashes, strict=True):
            assert (first == second) == (normalise(one) == normalise(two))


@SETTINGS
@given(st.lists(st.text(alphabet="甲乙ab1，", max_size=9), max_size=5), st.integers(1, 9))
def test_ngrams_are_the_shortest_runs_of_that_weight(texts: list[str], width: int) -> None:
    codes, row = letters(texts)
    hashes, owner = windows(codes, row, weights(codes), width)
    expected = []
    for number, text in enumerate(map(normalise, texts)):
        weigh = [1 if char in "ab1" else 4 for char in text]
        for start in range(len(text)):
            ends = [k for k in range(start, len(text)) if sum(weigh[start : k + 1]) >= width]
            if ends:
                expected.append((number, text[start : ends[0] + 1]))
    assert owner.tolist() == [number for number, _ in expected]
    of_gram: dict[str, int] = {}
    for (_, gram), value in zip(expected, hashes.tolist(), strict=True):
        assert of_gram.setdefault(gram, value) == value
    assert len(set(of_gram.values())) == len(of_gram)


def test_a_letter_with_a_lower_case_and_a_digit_weigh_a_quarter() -> None:
    codes, _ = letters(["aZéж字あ한7²"])
    expected = {"a": 1, "z": 1, "é": 1, "ж": 1, "字": 4, "あ": 4, "7": 1, "2": 1}
    found = dict(zip(map(chr, codes), weights(codes).tolist(), strict=True))
    assert {char: found[char] for char in expected} == expected
    assert found[unicodedata.normalize("NFKC", "한")] == 4


def test_first_equal_is_the_first_among_those_asked_for() -> None:
    keys = np.array([[1, 1], [1, 2], [1, 1], [1, 1], [1, 2]], np.uint64)
    among = np.array([False, True, True, True, True])
    assert first_equal(keys, among).tolist() == [-1, -1, -1, 2, 1]


@pytest.mark.parametrize("min_similarity", [0.3, 0.5, 0.7, 0.8, 0.9, 0.95])
def test_bands_find_nearly_all_pairs_at_the_threshold(min_similarity: float) -> None:
    bands, hashes = banding(min_similarity)
    assert bands * hashes <= duplicates.NUM_HASHES
    assert 1 - (1 - min_similarity**hashes) ** bands >= duplicates.RECALL


def test_signatures_are_those_of_the_library() -> None:
    grams = np.array([3, 7, 9, 1, 2**32 - 1], np.uint32)
    found = duplicates._signatures(grams, np.array([3, 0, 2]), 8)
    for row, part in ((0, grams[:3]), (2, grams[3:])):
        sketch = MinHash(num_perm=8, hashfunc=int)
        sketch.update_batch(part.tolist())
        assert found[row].tolist() == sketch.hashvalues.tolist()


def test_slices_are_all_texts_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_jobs.ngrams.MAX_CHARS", 10)
    monkeypatch.setattr("ray_jobs.ngrams.MAX_TEXTS", 3)
    texts = ["", "a" * 4, "", "b", "c" * 30, "d", "e" * 10, "", "", "", "f"]
    parts = list(slices(texts))
    assert [text for part in parts for text in part] == texts
    assert all(len(part) <= 3 and (len(part) == 1 or sum(map(len, part)) <= 10) for part in parts)
    assert list(slices([])) == []


def test_a_hundred_thousand_letters_pass_in_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "GRAMS_AT_ONCE", 100)
    rng = random.Random(7)
    originals = [sentence(rng, 50) for _ in range(40)]
    copies = [text + rng.choice(string.ascii_letters) for text in originals]
    assert find_twins(originals + copies) == [None] * 40 + list(range(40))

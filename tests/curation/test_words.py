"""Normalised words: where they stand, and what counts as the same."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.curation.words import _BLOCK, ngrams, words, words_of


def found(text: str) -> list[str]:
    one = words(text)
    return [text[start:end] for start, end in zip(one.starts, one.ends, strict=True)]


def test_words_stand_where_they_say() -> None:
    assert found("One, two-three!\n four's 5") == ["One", "two", "three", "four", "s", "5"]
    assert found("") == [] and found(" \n,.") == []


def test_an_ideograph_is_a_word_and_letters_beside_it_are_another() -> None:
    assert found("GPT模型ok，你好") == ["GPT", "模", "型", "ok", "你", "好"]
    assert found("𠀀𠀁") == ["𠀀", "𠀁"]


def test_typography_makes_no_difference() -> None:
    one = words("Ｈｅｌｌｏ, ﬁne  wörld—naïve e\u0301te\u0301 x\u200by DON’T")
    other = words("hello fine WORLD\nnaive été xy (don t)")
    assert one.hashes.tolist() == other.hashes.tolist() and len(one) == 8


def test_vowel_signs_make_a_difference() -> None:
    assert words("हिन्दी").hashes.tolist() != words("हन्दी").hashes.tolist()


def test_a_long_run_and_a_long_text_are_cut_nowhere_but_between_words() -> None:
    text = "alpha beta, gamma " * _BLOCK
    one = words(text)
    assert len(one) == 3 * _BLOCK and len(set(one.hashes.tolist())) == 3
    assert found("x" * (3 * _BLOCK))[0].startswith("x")


def test_ngrams_by_hand() -> None:
    one, two = words("a b c d b c d").ngrams(3), words("b c d").ngrams(3)
    assert len(one) == 5 and [place for place, value in enumerate(one) if value == two[0]] == [1, 4]
    assert len(ngrams(np.zeros(2, np.uint64), 3)) == 0


def hash_by_hand(folded: str) -> int:
    """As the hash is told: a sum of code points times powers of an odd number, then SplitMix64's finalizer."""
    odd, full = 0x9E3779B97F4A7C15, (1 << 64) - 1
    value = sum(ord(character) * pow(odd, place, 1 << 64) for place, character in enumerate(folded)) & full
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & full
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & full
    return value ^ (value >> 31)


@pytest.mark.parametrize("beside", ["", " Ω", " 模", " " + "y" * 65])
@pytest.mark.parametrize("length", [1, 7, 8, 9, 16, 63, 64, 65, 200])
def test_hash_of_a_word_is_the_stated_one_whatever_its_length_and_what_stands_beside_it(
    length: int, beside: str
) -> None:
    word = "".join("aß9ðz"[place % 5] for place in range(length))
    assert int(words(f"Xy {word}{beside}").hashes[1]) == hash_by_hand(word)


pieces = st.sampled_from(
    ["word", "x" * 70, "é", "e\u0301", "ﬁ", "½", "Ω", "模", "𠀀", "\u200b", "\u0301", " ", "\n", ""]
)
short = st.lists(pieces, max_size=30).map("".join)


@given(st.lists(short | short.map(lambda text: text * 2000), max_size=8))
def test_words_of_many_texts_are_those_of_each(texts: list[str]) -> None:
    for text, one in zip(texts, words_of(texts), strict=True):
        alone = words(text)
        for name in ("starts", "ends", "hashes"):
            assert getattr(one, name).tolist() == getattr(alone, name).tolist()


def test_runs_of_words_are_those_of_each_place_in_a_long_text() -> None:
    hashes = words(" ".join(map(str, range(2 * _BLOCK + 100)))).hashes
    found = ngrams(hashes, 5)
    assert len(found) == len(hashes) - 4
    for place in (0, _BLOCK - 5, _BLOCK - 1, _BLOCK, 2 * _BLOCK - 1, 2 * _BLOCK, len(found) - 1):
        assert found[place] == ngrams(hashes[place : place + 5], 5)[0]


@given(st.text(max_size=200))
def test_hashes_depend_on_the_folded_text_of_a_word_only(text: str) -> None:
    text = unicodedata.normalize("NFKC", text)  # a sign that stands for two ideographs is in two words
    one = words(text)
    assert (one.starts < one.ends).all() and (one.ends[:-1] <= one.starts[1:]).all()
    for word, value in zip(found(text), one.hashes.tolist(), strict=True):
        assert words(word).hashes.tolist() == [value]
        assert words(f"x {word} y").hashes.tolist()[1] == value


@given(st.text(st.characters(max_codepoint=0x24F), max_size=100))
def test_decomposed_text_is_the_same_text(text: str) -> None:
    assert words(text).hashes.tolist() == words(unicodedata.normalize("NFD", text)).hashes.tolist()

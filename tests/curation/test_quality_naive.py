"""The arrays give what a plain reading of the rules gives: for any text, whole and by window, alone and in a batch."""

import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from filters.curation.batch import Batch
from filters.curation.c4 import C4
from filters.curation.fineweb import FineWeb
from filters.curation.gopher import Gopher
from filters.curation.repetition import Repetition
from filters.curation.text import Text
from filters.curation.tokens import tokens
from schemas.curation.quality import C4Config, FineWebConfig, GopherConfig, RepetitionConfig
from tests.curation import naive

PIECES = (
    *(
        "the",
        "of",
        "a",
        "b",
        "Word",
        "don't",
        "U.S",
        "3.14",
        "1,000",
        "x_y",
        "naïve",
        "Ω",
        "模",
        "型",
        "かな",
        "e\u0301",
    ),
    *(".", "...", "…", "!", "?", "。", ",", "-", "•", "#", "(", ")", '"', "”", "[", "]", "{", "=====", "'", "’", "—"),
    *(
        "\n",
        "\n",
        "\n\n",
        "\n\n\n",
        " ",
        "  ",
        "\t",
        " \n",
        "\u200b",
        "\u200d",
        "\0",
        "\x85",
        "\u2028",
        "42",
        "𝔘",
        "x" * 70,
    ),
    *("lorem ipsum", "JavaScript", "Privacy Policy", "use cookies"),
)
texts = st.lists(st.sampled_from(PIECES), max_size=60).map("".join) | st.lists(
    st.sampled_from(["the", "cat", "sat", "Sat.", "on", "\n", "\n\n", ",", "Dog"]), max_size=120
).map(" ".join)
WORD = re.compile(r"\w")  # a mark or a joiner alone is a token, but makes no text of words
FAMILIES = (
    (Gopher, GopherConfig(rule="gopher_quality", window_words=7), naive.gopher),
    (Repetition, RepetitionConfig(rule="gopher_repetition", window_words=7), naive.repetition),
    (C4, C4Config(rule="c4", window_words=7), naive.c4),
    (FineWeb, FineWebConfig(rule="fineweb_quality", window_words=7), naive.fineweb),
)


@given(texts)
def test_tokens_are_those_of_a_regular_expression(text):
    found = tokens(text)
    assert [text[a:b] for a, b in zip(found.starts, found.ends, strict=True)] == [
        one for one, _, _ in naive.tokens(text)
    ]
    assert found.words.tolist() == [word for _, word, _ in naive.tokens(text)]
    by_hash = {}
    for token, value in zip(naive.tokens(text), found.hashes.tolist(), strict=True):
        assert by_hash.setdefault(token[0], value) == value
    assert len(set(by_hash.values())) == len(by_hash)


@pytest.mark.parametrize(("family", "config", "reference"), FAMILIES, ids=[one.name for one, _, _ in FAMILIES])
@settings(max_examples=150)
@given(st.lists(texts, min_size=1, max_size=4))
@example(["the cat sat on the mat\n" * 6, "the cat sat on the mat\n" * 6])
def test_numbers_are_those_of_a_plain_reading(family, config, reference, given_texts):
    judged = family(config).judge_all(Batch(map(Text, given_texts)))
    for text, judgements in zip(given_texts, judged, strict=True):
        found = {one.rule.removeprefix(f"{family.name}."): one.value for one in judgements}
        if not WORD.search(text):
            assert [(one.keep, one.reason) for one in judgements] == [(False, "no_words")]
            continue
        parts = naive.windows(text, 7)
        for name, value in reference(parts).items():
            assert found[name] == pytest.approx(value), (name, text)
            if len(parts) > 1 and name != "n_words":
                each = [reference([part])[name] for part in parts]
                assert found[f"{name}:window_max"] == pytest.approx(max(each)), (name, parts)
                assert found[f"{name}:window_mean"] == pytest.approx(np.mean(each)), (name, parts)


@given(texts)
def test_first_copies_count_where_asked(text):
    config = RepetitionConfig(rule="gopher_repetition", count_first_copy=True, window_words=7)
    if WORD.search(text):
        found = {one.rule: one.value for one in Repetition(config).judge(Text(text))}
        for name, value in naive.repetition(naive.windows(text, 7), first_too=True).items():
            assert found[f"repetition.{name}"] == pytest.approx(value), name


@given(texts, st.integers(1, 9))
def test_windows_are_the_text_in_order_and_none_has_too_many_words(text, size):
    if not WORD.search(text):
        return
    parts = naive.windows(text, size)
    assert "".join(parts) == text
    counts = [sum(word for _, word, _ in naive.tokens(part)) for part in parts]
    assert len(parts) == -(-sum(counts) // size) and all(0 < count <= size for count in counts)


def test_a_window_ends_at_a_line_break_near_its_end():
    text = "\n".join(["one two three four five six seven"] * 60)
    parts = naive.windows(text, 100)
    assert all(part.endswith("\n") for part in parts[:-1]) and len(parts) == 5
    assert len(naive.windows(text.replace("\n", " "), 100)) == 5  # without line breaks

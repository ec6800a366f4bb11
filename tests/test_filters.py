"""Text measures of the methods: hand cases from the specifications."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.answers import is_refusal, is_unfinished, script, strip_labels
from filters.lengths import length_score, required_words, word_count
from filters.repetition import repetition


@pytest.mark.parametrize(
    ("required", "produced", "score"),
    [
        (600, 600, 100.0),
        (600, 1200, 66.7),
        (600, 2400, 0.0),
        (600, 300, 50.0),
        (600, 200, 0.0),
        (600, 0, 0.0),
        (5, 99, 0.0),
    ],
)
def test_length_score_hand_cases(required: int, produced: int, score: float) -> None:
    assert round(length_score(required, produced), 1) == score


@given(st.integers(1, 5000), st.integers(0, 20000), st.integers(0, 20000))
def test_length_score_falls_on_both_sides(required: int, a: int, b: int) -> None:
    near, far = sorted((a, b), key=lambda produced: abs(produced - required))
    if (near - required) * (far - required) >= 0:  # on the same side of the target
        assert 0 <= length_score(required, far) <= length_score(required, near) <= 100


def test_length_score_needs_a_positive_target() -> None:
    with pytest.raises(ValueError, match="positive"):
        length_score(0, 10)


def test_word_count_mixes_scripts() -> None:
    assert word_count("长文本 has 3 words, 对吗?") == 7  # 长文本 = 3, has, words, 对吗 = 2
    assert word_count("123 456 ... !?") == 0
    assert word_count("Größe naïve Привет") == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Write 1,000 words on tea", 1000),
        ("a 1000-word essay", 1000),
        ("写一篇三千字的文章", 3000),
        ("写2万字", 20000),
        ("800字左右", 800),
        ("一千五百字的作文", 1500),
        ("between 500 words and 900 words", None),
        ("500 words, no more than 500 words", 500),
        ("in your own words", None),
        ("0 words", None),
    ],
)
def test_required_words(text: str, words: int | None) -> None:
    assert required_words(text) == words


def test_repetition_counts_words_in_repeated_spans() -> None:
    sentence = "one two three four five six seven eight"
    assert repetition(sentence) == 0.0
    assert repetition(f"{sentence} {sentence}") == 0.5
    assert repetition("好" * 16) == pytest.approx(15 / 16)  # every span but the first is a repeat
    assert repetition("") == 0.0


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Paragraph 1: The sea.", "The sea."),
        ("**Paragraph 12 - ** The sea.", "The sea."),
        ("段落1：大海。", "大海。"),
        ("第三段：大海。", "大海。"),
        ("### Paragraph 2\n\nThe sea.", "The sea."),
        ("Paragraph 4 of the treaty says so.", "Paragraph 4 of the treaty says so."),
        ("Paragraph 1 - Main point: the sea - Word count: 100 words\nThe sea.", "The sea."),
        ("\u200bThe \ufeffsea.", "The sea."),
        ("A subtitle\n\nThe sea.", "A subtitle\n\nThe sea."),
        ("The village woke. - Word count: 100 words", "The village woke."),
        ("村子醒了。（字数：100字）", "村子醒了。"),
        ("村子醒了。 - 字数：约100字", "村子醒了。"),
        ("Keep the word count: 100 words is enough for it.", "Keep the word count: 100 words is enough for it."),
    ],
)
def test_strip_labels(text: str, clean: str) -> None:
    assert strip_labels(text) == clean


@given(st.text())
def test_strip_labels_settles(text: str) -> None:
    once = strip_labels(text)
    assert len(once) <= len(text)


def test_refusals_are_short_and_open_with_it() -> None:
    assert is_refusal("I'm sorry, but I can't help with that.")
    assert is_refusal("As an AI language model, I do not have opinions.")
    assert is_refusal("抱歉，我无法回答这个问题。")
    assert not is_refusal("Sorry is the hardest word in the song, and the band plays it " + "again and again " * 30)
    assert not is_refusal("The document says that I cannot be divided.")


def test_unfinished_texts() -> None:
    for text in (
        "The differences are:",
        "one, two,",
        "see (",
        "**Steps:**",
        "区别如下：",
        "It is a list and it includes the",
        "```python\nprint(1)",
    ):
        assert is_unfinished(text)
    for text in (
        "It is done.",
        "42",
        "The letter after Y is the Z",
        "Vitamin A",
        "Made of the",
        "```python\nprint(1)\n```",
        "完了。",
        "- one\n- two",
    ):
        assert not is_unfinished(text)


def test_script_of_short_texts() -> None:
    assert script("What is a context manager?") == "latin"
    assert script("什么是上下文管理器 (with)?") == "cjk"
    assert script("これはペンです") == "cjk"
    assert script("42") == "none"

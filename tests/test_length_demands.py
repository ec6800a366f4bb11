"""The length a request demands: hand cases, and properties (agentwrite.md, section 13, tests 6 and 7)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.lengths import required_words, word_count

DIGITS = "零一二三四五六七八九"


def test_word_count_of_a_mixed_text_counted_by_hand_and_nothing_for_digits_and_punctuation() -> None:
    # 第 章 海 (3), The old harbour (3), 年 灯 塔 (3), café (1), 里 (1); 1, 2024, 3.5 and all marks count nothing
    assert word_count("第1章：海 — The old harbour, 2024年“灯塔” café 里 3.5!") == 11
    for nothing in ("", " \n", "0123 4,567.8", "１２３", "…—《》“”!?#%&*()[]{}", "😀"):
        assert word_count(nothing) == 0


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("Write 1,000 words on tea", 1000),
        ("a 1000-word essay", 1000),
        ("写一篇三千字的文章", 3000),
        ("写2万字", 20000),
        ("800字", 800),
    ],
)
def test_the_lengths_of_the_specification(text: str, length: int) -> None:
    assert required_words(text) == length


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("1k words", 1000), ("1.5k words", 1500), ("a 2K-word story", 2000), ("1.1k words", 1100),
        ("at least 800 words", 800), ("no more than 500 words", 500), ("500+ words", 500), ("500 or more words", 500),
        ("in 3 words", 3), ("a 5,000 word report", 5000), ("500 - word", 500), ("1000words左右", 1000),
        ("a thousand words on rain", 1000), ("two thousand words", 2000), ("twenty-five hundred words", 2500),
        ("one thousand two hundred and fifty words", 1250), ("A hundred thousand words", 100_000), ("fifty words", 50),
        ("5 thousand words", 5000), ("2.5 thousand words", 2500), ("Word count: 1,200", 1200),
        ("The word count should be around 900.", 900), ("300 English words", 300),
        ("Describe in 150 words a day in the life of a doctor", 150), ("Cover every aspect of it in 1000 words", 1000),
        ("一千五百字", 1500), ("一千五字", 1500), ("一千零五字", 1005), ("一千零五十字", 1050), ("1500 字以上", 1500),
        ("１０００字", 1000), ("1万5千字", 15000), ("3千5百字", 3500), ("三万五千字", 35000), ("十五万字", 150_000),
        ("两千个字", 2000), ("五千個字", 5000), ("1.5万字", 15000), ("2k字", 2000), ("2w字", 20000), ("二十字", 20),
        ("1000多字", 1000), ("字数：1500", 1500), ("字数要求：2000左右", 2000), ("字数1400左右", 1400),
        ("字数不少于三千字", 3000), ("写一篇300词的英语作文", 300), ("不少于100个单词", 100),
        ("在2024年，写500字", 500),
    ],
)  # fmt: skip
def test_ways_to_demand_a_length(text: str, length: int) -> None:
    assert required_words(text) == length


@pytest.mark.parametrize(
    "text",
    [
        "", "in your own words", "in other words", "every word counts", "0 words", "words", "字",
        "a 12-character password", "10,000 characters", "500 passwords", "1000 wordsmiths", "10 word problems",
        "20 Word documents", "这段文字", "3个字母", "500字节", "500字符", "十个汉字", "20个字段", "2个字幕", "5种字体",
        "生辰八字", "十字路口", "四字成语", "4字成语", "一字一句", "第三字", "前500字", "写五首宋词", "10个词语",
        "A picture is worth a thousand words.", "the first 500 words", "in two words", "a few thousand words",
        "几百字", "数千字", "上万字", "几十万字", "字数不限", "字数统计3个部分", "50 pages", "GPT4 words",
        "a word limit of 500 characters",
    ],
)  # fmt: skip
def test_what_demands_no_length(text: str) -> None:
    assert required_words(text) is None
    assert required_words(f"{text}\n700 words") == 700  # it does not stand in the way either


@pytest.mark.parametrize(
    "text",
    [
        "2,000-3,000 words", "between 500 and 900 words", "500 to 700 words", "500–700-word",
        "two to three thousand words", "between five hundred and nine hundred words", "800到1000字",
        "1000字-2000字", "三千至五千字", "1000~1500字", "100至200字", "3-5千字", "两三千字", "五六百字",
        "字数要求：800-1000", "word count: 500-700",
        "500 words or 900 words", "300字，不对，400字", "500 words, 三千字",
        "500 words per chapter", "each chapter should be about 500 words", "each of the five parts must be 300 words",
        "five letters, 500 words each", "每篇400字左右", "分两部分写，各写1000字", "800字/篇",
        "reads 200 words a minute", "500 words a day", "1 000 words", "1.500 words", "3.5 words", "5 100 word stories",
        "二〇二四字", "at least 500 but no more than 800 words", "at least 500 and at most 800 words",
        "不少于500不超过800字",
    ],
)  # fmt: skip
def test_two_lengths_ranges_lengths_of_parts_and_riddles_are_no_single_length(text: str) -> None:
    assert required_words(text) is None
    assert required_words(f"{text}\n7000 words") is None  # in doubt, even beside a plain length


@given(st.integers(1, 999_999), st.sampled_from(["{} words", "{}-word", "{} Words", "{}字", "{} 个字", "字数：{}"]))
def test_every_number_is_read_with_and_without_commas_once_and_twice(number: int, form: str) -> None:
    for written in (str(number), f"{number:,}", str(number).translate({48 + d: 0xFF10 + d for d in range(10)})):
        demand = form.format(written)
        assert required_words(f"Write this: {demand}.") == number
        assert required_words(f"Write {demand}. Once more: {demand}.") == number
        assert required_words(f"Write {demand}, or {number + 1} words.") is None


def chinese(number: int) -> str:
    """The numeral as it is spoken."""
    if number >= 10_000:
        rest = number % 10_000
        between = "零" if 0 < rest < 1000 else ""
        return f"{chinese(number // 10_000)}万{between}{chinese(rest) if rest else ''}"
    text, zero = "", False
    for value, unit in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit = number // value % 10
        if digit:
            text += ("零" if zero and text else "") + DIGITS[digit] + unit
        zero = not digit
    return text


@given(st.integers(20, 99_999_999))
def test_every_chinese_numeral_is_read(number: int) -> None:
    assert required_words(f"请写{chinese(number)}字左右的文章") == number


def english(number: int) -> str:
    small = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    ones = [*small.split(), "seventeen", "eighteen", "nineteen"]
    tens = ["-", "-", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
    if number >= 1000:
        return f"{english(number // 1000)} thousand" + (f" {english(number % 1000)}" if number % 1000 else "")
    if number >= 100:
        return f"{english(number // 100)} hundred" + (f" and {english(number % 100)}" if number % 100 else "")
    if number >= 20:
        return tens[number // 10] + (f"-{ones[number % 10]}" if number % 10 else "")
    return ones[number]


@given(st.integers(20, 99_999))
def test_every_english_numeral_is_read(number: int) -> None:
    assert required_words(f"Write {english(number)} words about it") == number


@given(
    st.integers(1, 9999),
    st.integers(1, 9999),
    st.sampled_from(["-", " - ", "–", "~", "～", " to ", " and ", "到", "至"]),
)
def test_no_range_is_a_length(low: int, high: int, between: str) -> None:
    assert required_words(f"Write {low}{between}{high} words") is None
    assert required_words(f"请写{low}{between}{high}字") is None


@given(st.text(alphabet="0123456789,.- 一二两三百千万零十个字数词每各kwordspechan/至\n", max_size=80))
def test_any_text_has_a_positive_length_or_none(text: str) -> None:
    length = required_words(text)
    assert length is None or length > 0


def test_long_texts_of_numbers_are_read_in_one_pass() -> None:
    for piece in ("1 ", "一", "1,", "one ", "each ", "字数", "word count ", "9", "1万", "a hundred ", "1-"):
        assert required_words(piece * 20_000) is None

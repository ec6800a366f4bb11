"""Language by windows: majority, foreign parts, what is kept."""

import pytest

from filters.curation.language import Language, windows
from filters.curation.text import Text
from filters.language import detect_languages, detect_scored
from schemas.curation.language import LanguageConfig

ENGLISH = "The old captain walked slowly along the beach and looked at the grey sea for a long time. "
GERMAN = "Der alte Kapitän ging langsam am Strand entlang und blickte lange auf das graue Meer hinaus. "
CHINESE = "老船长沿着海滩慢慢地走，长久地望着灰色的大海，想起了很多年以前的事情。"


def judge(text, **options):
    return {one.rule: one for one in Language(LanguageConfig(rule="language", **options)).judge(Text(text))}


def test_windows_cover_a_text_from_start_to_end():
    assert windows("", 4, 9) == [] and windows("abc", 4, 9) == ["abc"]
    assert windows("abcdefgh", 4, 9) == ["abcd", "efgh"]
    assert windows("abcdefghi", 4, 9) == ["abcd", "cdef", "fghi"]
    assert windows("abcdefghijkl", 4, 2) == ["abcd", "ijkl"]
    assert windows("abcdefghijkl", 4, 1) == ["abcd"]


def test_the_majority_is_the_language_and_the_rest_foreign():
    text = (ENGLISH * 100)[:6000] + (GERMAN * 100)[:2000]
    found = judge(text, keep=["en"])
    assert found["language.foreign_share"].value == 0.25 and found["language.windows"].value == 4
    assert found["language.score"].keep and found["language.score"].value > 0.9
    assert judge(text, keep=["en"], max_foreign=0.25)["language.foreign_share"].keep
    found = judge(text, keep=["en"], max_foreign=0.24)["language.foreign_share"]
    assert (found.keep, found.reason) == (False, "foreign_parts")


@pytest.mark.parametrize(("text", "code"), [(GERMAN * 50, "de"), (CHINESE * 100, "zh")])
def test_other_languages_go_and_are_named(text, code):
    found = judge(text, keep=["en"])["language.score"]
    assert (found.keep, found.reason) == (False, f"other_language_{code}")
    assert judge(text, keep=["en", code])["language.score"].keep and judge(text)["language.score"].keep


def test_what_is_unsure_goes_just_below_the_least_score():
    score = judge("hotel bar", keep=None)["language.score"].value
    assert score < 0.99
    assert judge("hotel bar", min_score=score)["language.score"].keep
    found = judge("hotel bar", min_score=score + 1e-6)["language.score"]
    assert (found.keep, found.reason) == (False, "unsure")


@pytest.mark.parametrize("text", ["", "...", "123 " * 5000, "\u200b\u202e"])
def test_a_text_without_letters_has_no_language(text):
    found = judge(text, keep=["en"])
    assert list(found) == ["language.windows"] and found["language.windows"].reason == "no_letters"
    assert judge(text)["language.windows"].keep


@pytest.mark.parametrize("code", ["eng", "EN", "English", "en-us", ""])
def test_what_is_no_code_of_the_column_is_refused(code):
    with pytest.raises(ValueError, match="keep"):
        LanguageConfig(rule="language", keep=["en", code])


def test_a_long_text_is_read_in_some_windows_only():
    assert judge(ENGLISH * 20_000)["language.windows"].value == 32


def test_scores_belong_to_the_labels_of_the_language_column():
    texts = [ENGLISH, GERMAN, CHINESE, "", "1"]
    scored = detect_scored(texts)
    assert [one for one, _ in scored] == detect_languages(texts) == ["en", "de", "zh", "und", "und"]
    assert all(0.9 < score <= 1 for _, score in scored[:3]) and [score for _, score in scored[3:]] == [0, 0]

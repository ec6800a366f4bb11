"""Rules of quality: four families, their limits, and presets for web pages, books and code.

The defaults are those of datatrove 0.10 (`preset: web`). A preset gives limits for what a recipe leaves out; a limit of
null switches its rule off. What each preset is made for and tested on: docs/curation.md.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from schemas.curation.base import CurationRule
from schemas.model import Model, Positive, Share

Preset = Literal["web", "books", "code"]
NotNegative = Annotated[float, Field(ge=0)]
Grams = dict[Annotated[int, Field(ge=2, le=20)], Share]

ENGLISH = ("the", "be", "to", "of", "and", "that", "have", "with")  # Gopher
_LONG = {"max_bad_windows": 0.2}
_FEW_LINES = {"line_floor": 10}
# No least length: an ideograph is a word, and the column `language` of a Chinese book full of code may say English.
_BOOK_WORDS = {
    **{"min_mean_word_length": None, "max_mean_word_length": 15.0},
    **{"min_words_with_letter": 0.25, "min_stop_words": None},
}
_NOT_THE_WEB = {
    **_LONG,
    **{"end_punctuation": False, "min_line_words": 1, "javascript": True, "policies": True},
    **{"braces": True, "lorem_ipsum": True, "min_sentences": None},
}
TOP = {2: 0.20, 3: 0.18, 4: 0.16}
DUPLICATE = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}


class QualityConfig(CurationRule):
    """`window_words`: texts with more words than that are judged in windows of at most that many, where
    `max_bad_windows` says which share of them may be bad. Null: judged as a whole, as web pages are."""

    presets: ClassVar[dict[str, dict[str, Any]]]

    preset: Preset = "web"
    window_words: Positive = 10_000
    max_bad_windows: Share | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, given: Any) -> Any:
        if not isinstance(given, dict) or not isinstance(given.get("preset", "web"), str):
            return given
        return {**cls.presets.get(given.get("preset", "web"), {}), **given}


class GopherConfig(QualityConfig):
    """Source: Rae et al. 2112.11446, as in datatrove. `stop_words`: by language; the rules on stop words and on the
    length of words are judged for documents in these languages, and for those whose language is not known. A text or
    window of fewer lines than `line_floor` counts as one of so many: one line with a dash before it is no list."""

    presets = {
        "web": {},
        "books": {**_LONG, "min_words": 10, "max_words": None, "max_hashes": None, **_BOOK_WORDS, **_FEW_LINES},
        "code": {
            **_LONG,
            **_FEW_LINES,
            **{"min_words": None, "max_words": None, "min_words_with_letter": 0.2, "min_stop_words": None},
            **{"min_mean_word_length": 2.0, "max_mean_word_length": 15.0, "max_hashes": None, "max_bullet_lines": None},
        },
    }

    rule: Literal["gopher_quality"]
    min_words: Positive | None = 50
    max_words: Positive | None = 100_000
    min_mean_word_length: NotNegative | None = 3.0
    max_mean_word_length: NotNegative | None = 10.0
    max_hashes: NotNegative | None = 0.1  # for each token
    max_ellipses: NotNegative | None = 0.1
    max_bullet_lines: Share | None = 0.9
    max_ellipsis_lines: Share | None = 0.3
    line_floor: Positive = 1
    min_words_with_letter: Share | None = 0.8
    min_stop_words: Positive | None = 2
    stop_words: dict[str, tuple[str, ...]] = {"en": ENGLISH}


class RepetitionConfig(QualityConfig):
    """Source: Rae et al. 2112.11446, table A1, as in datatrove: the first copy of a line or paragraph is no
    duplicate. `count_first_copy`: it is, as in Dolma, whose limit for `max_duplicate_line_characters` is .30."""

    presets = {
        "web": {},
        "books": {
            **_LONG,
            **{"max_duplicate_lines": 0.7, "max_duplicate_paragraphs": 0.6},
            **{"max_duplicate_line_characters": 0.6, "max_duplicate_paragraph_characters": 0.6},
            **{"top_ngrams": dict.fromkeys(TOP, 0.4), "duplicate_ngrams": dict.fromkeys(DUPLICATE, 0.65)},
        },
        "code": {
            **_LONG,
            **{"max_duplicate_lines": 0.9, "max_duplicate_paragraphs": 0.75},
            **{"max_duplicate_line_characters": 0.75, "max_duplicate_paragraph_characters": 0.75},
            **{"top_ngrams": dict.fromkeys(TOP, 0.75), "duplicate_ngrams": dict.fromkeys(DUPLICATE, 0.75)},
        },
    }

    rule: Literal["gopher_repetition"]
    count_first_copy: bool = False
    max_duplicate_lines: Share | None = 0.3
    max_duplicate_paragraphs: Share | None = 0.3
    max_duplicate_line_characters: Share | None = 0.2
    max_duplicate_paragraph_characters: Share | None = 0.2
    top_ngrams: Grams = TOP  # size: the most characters in copies of the commonest one
    duplicate_ngrams: Grams = DUPLICATE  # size: the most characters in any that were there before


class C4Lines(Model):
    """Which lines count. `min_line_words`: words, not symbols."""

    end_punctuation: bool = True  # a line must end with it
    min_line_words: Positive = 3
    max_word_characters: Positive = 1000
    javascript: bool = False  # may a line name it
    policies: bool = False  # may a line name cookie policies or terms of use


class C4Config(QualityConfig, C4Lines):
    """Source: Raffel et al. 1910.10683, as in datatrove. Sentences, braces and filler text are looked for in the lines
    that count. Paragraphs: mC4, off by default."""

    presets = {"web": {}, "books": _NOT_THE_WEB, "code": _NOT_THE_WEB}

    rule: Literal["c4"]
    min_sentences: Positive | None = 5
    braces: bool = False  # may a text hold a "{"
    lorem_ipsum: bool = False  # may it hold filler text
    min_paragraphs: Positive | None = None  # 3 in mC4: lines of so many characters
    paragraph_characters: Positive = 200


class C4LinesConfig(CurationRule, C4Lines):
    """The cleaner: takes the lines out that do not count, and marks of citations ([1], [edit], [citation needed]). For
    web pages: in code [0] is no citation, and books have short lines."""

    rule: Literal["c4_lines"]


class FineWebConfig(QualityConfig):
    """Source: Penedo et al. 2406.17557, as in datatrove."""

    presets = {
        "web": {},
        "books": {
            **_LONG,
            **{"min_lines_with_end": None, "max_short_lines": 0.95},
            **{"max_duplicate_line_characters": 0.6, "max_breaks": 0.6},
        },
        "code": {
            **_LONG,
            **{"min_lines_with_end": None, "max_short_lines": None},
            **{"max_duplicate_line_characters": 0.75, "max_breaks": None},
        },
    }

    rule: Literal["fineweb_quality"]
    min_lines_with_end: Share | None = 0.12  # that end in punctuation
    max_short_lines: Share | None = 0.67
    short_line: Positive = 30  # characters
    max_duplicate_line_characters: Share | None = 0.01
    max_breaks: NotNegative | None = 0.3  # line breaks for each token

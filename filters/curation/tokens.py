"""What the rules of quality call a word: tokens that are near those of the tokenizers these rules were tuned with.

A token is a run of letters, digits, vowel signs and underscores; with an apostrophe or a full stop inside, or a comma
before a digit (don't, U.S, 3.14, 1,000). Or a run of one symbol (---, ..., a single bracket). An ideograph or kana is
a token of its own. A *word* is a token of letters or digits. Case counts. (`words` is made for comparing texts: it
folds what people type differently. These rules look at how a text is typed.)
"""

import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

SPACE, SYMBOL, JOINER, OWN, OTHER, LETTER, LOWER = range(7)  # of a character; OTHER: digits, vowel signs, underscores
_TABLE_END = 0x33480  # beyond: private use and tags, taken as symbols
_OWN_WORD = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3347F))
# Ends sentences: Unicode's Sentence_Terminal as far as U+FFFF, which is what datatrove calls terminal punctuation.
_TERMINAL = (
    "!.?։؝؞؟۔܀܁܂߹࠷࠹࠽࠾।॥၊။።፧፨᙮᜵᜶។៕៖៙៚᠃᠉᥄᥅᪨᪩᪪᪫᭚᭛᭞᭟᭽᭾᰻᰼᱾᱿‼‽⁇⁈⁉⸮⸼⹓⹔。꓿꘎꘏꛳꛷꡶꡷꣎꣏꤯꧈꧉꩝꩞꩟꫰꫱꯫﹒﹖﹗！．？｡"
)
_LONG = 64  # characters: tokens longer than that are hashed one by one
_ODD = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Tokens:
    """`points`, `classes`: (characters,), code points and what they are. `starts`, `ends`: int64 (tokens,), characters
    of the text [start, end). `words`: bool (tokens,). `hashes`: uint64 (tokens,), equal where the tokens are, within
    this run of Python."""

    points: Array
    classes: Array
    starts: Array
    ends: Array
    words: Array
    hashes: Array

    def __len__(self) -> int:
        return len(self.starts)

    def hashes_of(self, words: tuple[str, ...]) -> Array:
        """The hashes these words (of one token each) have in this text."""
        return _hashes_of(words, self.points.dtype.itemsize)


def tokens(text: str) -> Tokens:
    return _tokens(text, *_encoded(text))


def terminal(points: Array) -> Array:
    """Which of some code points end sentences."""
    found: Array = _terminal_table()[points if points.itemsize < 4 else np.minimum(points, 0xFFFF)]
    return found


def _encoded(text: str) -> tuple[bytes, int]:
    """Code points of the smallest width that holds them all, and that width."""
    try:
        return text.encode("latin-1"), 1
    except UnicodeEncodeError:
        narrow = text.encode("utf-16-le", "surrogatepass")
        if len(narrow) == 2 * len(text):
            return narrow, 2
        return text.encode("utf-32-le", "surrogatepass"), 4


def _tokens(text: str, raw: bytes, width: int) -> Tokens:
    points: Array = np.frombuffer(raw, f"<u{width}")
    if width == 1:
        classes: Array = np.frombuffer(raw.translate(_narrow_table()), np.uint8)
    else:
        classes = _table()[points if width == 2 else np.minimum(points, _TABLE_END)]
    if not len(points):
        nothing = np.zeros(0, np.int64)
        return Tokens(points, classes, nothing, nothing, nothing.astype(bool), nothing.astype(np.uint64))
    kinds = _kinds(points, classes)
    inside = kinds != SPACE
    begins = np.empty(len(points) + 1, bool)  # a token or a space
    begins[0] = begins[-1] = True
    np.not_equal(kinds[1:], kinds[:-1], out=begins[1:-1])
    symbols = np.flatnonzero(kinds[1:] == SYMBOL) + 1
    begins[symbols] |= points[symbols] != points[symbols - 1]
    if width > 1:
        begins[:-1] |= kinds == OWN
    starts = np.flatnonzero(begins[:-1] & inside)
    ends = np.flatnonzero(begins[1:] & inside) + 1
    return Tokens(points, classes, starts, ends, kinds[starts] >= OWN, _hashes(text, raw, width, starts, ends))


def _kinds(points: Array, classes: Array) -> Array:
    """SPACE, SYMBOL, OWN or OTHER (inside a word) for each character: joiners are decided by their neighbours."""
    kinds = np.minimum(classes, OTHER)
    joiners = np.flatnonzero(classes == JOINER)
    kinds[joiners] = SYMBOL
    inner = joiners[(joiners > 0) & (joiners < len(classes) - 1)]
    following = points[inner + 1]
    digit = (following >= ord("0")) & (following <= ord("9"))
    joins = (classes[inner - 1] >= OTHER) & (classes[inner + 1] >= OTHER) & (digit | (points[inner] != ord(",")))
    kinds[inner[joins]] = OTHER
    return kinds


def _hashes(text: str, raw: bytes, width: int, starts: Array, ends: Array) -> Array:
    """Eight bytes at a time, all tokens at once."""
    step = 8 // width
    eight: Array = np.ndarray(len(text), "<u8", raw + bytes(8), strides=(width,))
    masks = np.array([(1 << (8 * width * size)) - 1 for size in range(step + 1)], np.uint64)
    lengths = ends - starts
    hashes: Array = eight[starts]
    hashes &= masks[np.minimum(lengths, step)]
    left = np.flatnonzero(lengths > step)
    for place in range(step, _LONG, step):
        if not len(left):
            break
        part = eight[starts[left] + place] & masks[np.minimum(lengths[left] - place, step)]
        hashes[left] = hashes[left] * _ODD + part
        left = left[lengths[left] > place + step]
    for one in left.tolist():
        hashes[one] = hash(text[starts[one] : ends[one]]) & 0xFFFFFFFFFFFFFFFF
    return hashes


@cache
def _hashes_of(words: tuple[str, ...], width: int) -> Array:
    codec = {1: "latin-1", 2: "utf-16-le", 4: "utf-32-le"}[width]
    there = [word for word in words if width > 1 or word.isascii() or _encoded(word)[1] == 1]
    text = " ".join(there)
    found = _tokens(text, text.encode(codec), width)
    assert len(found) == len(there), "each is one token"
    return found.hashes


@cache
def _terminal_table() -> Array:
    table = np.zeros(1 << 16, bool)
    table[[ord(one) for one in _TERMINAL]] = True
    return table


@cache
def _narrow_table() -> bytes:
    return _table()[:256].tobytes()


@cache
def _table() -> Array:
    """The class of each code point. Takes a tenth of a second, once."""
    table = np.full(max(_TABLE_END + 1, 1 << 16), SYMBOL, np.uint8)
    for code in range(_TABLE_END):
        table[code] = _class(chr(code))
    for low, high in _OWN_WORD:
        table[low : high + 1] = OWN
    table[[ord(one) for one in "'’.,"]] = JOINER
    return table


def _class(character: str) -> int:
    category = unicodedata.category(character)
    if character in "\u200b\ufeff" or category in ("Cc", "Zs", "Zl", "Zp"):
        return SPACE
    if category[0] == "L":
        return LOWER if category == "Ll" else LETTER
    # What nobody sees (joiners, direction marks, soft hyphens) stands inside words.
    return OTHER if category[0] in "MN" or category == "Cf" or character == "_" else SYMBOL

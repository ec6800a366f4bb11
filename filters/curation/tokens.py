"""What the rules of quality call a word: tokens that are near those of the tokenizers these rules were tuned with.

A token is a run of letters, digits, vowel signs and underscores; with an apostrophe or a full stop inside, or a comma
before a digit (don't, U.S, 3.14, 1,000). Or a run of one symbol (---, ..., a single bracket). An ideograph or kana is
a token of its own. A *word* is a token of letters or digits. Case counts. (`words` is made for comparing texts: it
folds what people type differently. These rules look at how a text is typed.)
"""

import unicodedata
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from typing import Any

import numpy as np

from filters.curation.words import mixed
from schemas.errors import UserError

Array = np.ndarray[Any, Any]

SPACE, SYMBOL, JOINER, OWN, OTHER, LETTER, LOWER = range(7)  # of a character; OTHER: digits, vowel signs, underscores
_TABLE_END = 0x33480  # beyond: private use and tags, taken as symbols
_OWN_WORD = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3347F))
# Ends sentences: Unicode's Sentence_Terminal as far as U+FFFF, which is what datatrove calls terminal punctuation.
_TERMINAL = "!.?։؝؞؟۔܀܁܂߹࠷࠹࠽࠾।॥၊။።፧፨᙮᜵᜶។៕៖៙៚᠃᠉᥄᥅᪨᪩᪪᪫᭚᭛᭞᭟᭽᭾᰻᰼᱾᱿‼‽⁇⁈⁉⸮⸼⹓⹔。꓿꘎꘏꛳꛷꡶꡷꣎꣏꤯꧈꧉꩝꩞꩟꫰꫱꯫﹒﹖﹗！．？｡"
_WIDE = 0x80  # in bytes that stand for text: the class of a character beyond Latin-1
_LONG = 64  # characters: tokens longer than that are hashed one by one
_ODD = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Tokens:
    """`points`, `classes`: (characters,), code points and what they are. `starts`, `ends`: int64 (tokens,), characters
    of the text [start, end). `words`: bool (tokens,). `hashes`: uint64 (tokens,), equal where the tokens are."""

    points: Array
    classes: Array
    starts: Array
    ends: Array
    words: Array
    hashes: Array

    def __len__(self) -> int:
        return len(self.starts)


def terminal(points: Array) -> Array:
    """Which of some code points end sentences."""
    found: Array = _terminal_table()[points if points.itemsize < 4 else np.minimum(points, 0xFFFF)]
    return found


@cache
def hashes_of(words: tuple[str, ...]) -> Array:
    """The hashes of words of one token each; UserError for others, which no text could have."""
    for word in words:
        if len(tokens(word)) != 1:
            raise UserError(f"stop word {word!r}: must be one token, as docs/curation.md says what that is")
    return tokens(" ".join(words)).hashes


def tokens(text: str) -> Tokens:
    points, raw, wide = _encoded(text)
    if not len(points):
        nothing = np.zeros(0, np.int64)
        return Tokens(points, points, nothing, nothing, nothing.astype(bool), nothing.astype(np.uint64))
    classes: Array = np.frombuffer(raw.translate(_byte_classes(len(wide) > 0)), np.uint8)
    kinds = _kinds(points, classes)
    inside = kinds != SPACE
    begins = np.empty(len(points) + 1, bool)  # a token or a space
    begins[0] = begins[-1] = True
    np.not_equal(kinds[1:], kinds[:-1], out=begins[1:-1])
    symbols = np.flatnonzero(kinds[1:] == SYMBOL) + 1
    begins[symbols] |= points[symbols] != points[symbols - 1]
    begins[wide] |= kinds[wide] == OWN
    starts = np.flatnonzero(begins[:-1] & inside)
    ends = np.flatnonzero(begins[1:] & inside) + 1
    hashes = _hashes(text, raw, starts, ends)
    seen = wide[inside[wide]]
    if len(seen):  # what the bytes do not say
        of = np.searchsorted(starts, seen, "right") - 1
        np.add.at(hashes, of, mixed(points[seen].astype(np.uint64) * _ODD + (seen - starts[of]).astype(np.uint64)))
    return Tokens(points, classes, starts, ends, kinds[starts] >= OWN, hashes)


def _encoded(text: str) -> tuple[Array, bytes, Array]:
    """Code points; a byte for each, where beyond Latin-1 its class stands for the character; and where that is."""
    try:
        raw = text.encode("latin-1")
        return np.frombuffer(raw, np.uint8), raw, np.zeros(0, np.int64)
    except UnicodeEncodeError:
        points: Array = np.frombuffer(text.encode("utf-16-le", "surrogatepass"), "<u2")
        if len(points) != len(text):
            points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    narrow = points.astype(np.uint8)
    narrow[(points >= _WIDE) & (points <= _WIDE + LOWER)] = ord(" ")  # controls
    wide = np.flatnonzero(points > 0xFF)
    narrow[wide] = _WIDE + _classes()[np.minimum(points[wide].astype(np.int64), _TABLE_END)]
    return points, narrow.tobytes(), wide


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


def _hashes(text: str, raw: bytes, starts: Array, ends: Array) -> Array:
    """Eight bytes at a time, all tokens at once."""
    eight: Array = np.ndarray(len(raw), "<u8", raw + bytes(8), strides=(1,))
    masks = np.array([(1 << (8 * size)) - 1 for size in range(9)], np.uint64)
    lengths = ends - starts
    hashes: Array = eight[starts]
    hashes &= masks[np.minimum(lengths, 8)]
    left = np.flatnonzero(lengths > 8)
    for place in range(8, _LONG, 8):
        if not len(left):
            break
        part = eight[starts[left] + place] & masks[np.minimum(lengths[left] - place, 8)]
        hashes[left] = hashes[left] * _ODD + part
        left = left[lengths[left] > place + 8]
    for one in left.tolist():
        token = text[starts[one] : ends[one]].encode("utf-8", "surrogatepass")
        hashes[one] = int.from_bytes(blake2b(token, digest_size=8).digest(), "little")
    return hashes


@cache
def _terminal_table() -> Array:
    table = np.zeros(1 << 16, bool)
    table[[ord(one) for one in _TERMINAL]] = True
    return table


@cache
def _byte_classes(wide: bool) -> bytes:
    """The class of each byte of `_encoded`."""
    table = _classes()[:256].copy()
    if wide:
        table[_WIDE : _WIDE + LOWER + 1] = np.arange(LOWER + 1)
    return table.tobytes()


@cache
def _classes() -> Array:
    """The class of each code point. Takes a tenth of a second, once."""
    table = np.full(_TABLE_END + 1, SYMBOL, np.uint8)
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

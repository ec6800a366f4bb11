"""The words of a text as arrays: where they stand and a 64-bit hash of each, in a form that edits of typography keep.

Words are compared without case, punctuation, accents, compatibility forms (NFKD) and spacing. A word is a run of
letters, digits and vowel signs; an ideograph or kana is a word of its own. Vectorised: a few passes over the code
points, block by block, so that the intermediate arrays stay in the processor's cache.
"""

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

_BLOCK = 1 << 15  # code points
_TABLE_END = 0x30000  # beyond: rare ideographs and private use, taken as they are
_LONG = 64  # code points: a block with longer words is summed in another way
_SEVERAL = np.uint32(0xFFFFFFFF)
_ODD = np.uint64(0x9E3779B97F4A7C15)
_OWN_WORD = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2FFFF))

_MASKS = np.array([(1 << (8 * size)) - 1 for size in range(9)], np.uint64)

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Words:
    """`starts`, `ends`: int64 (words,), characters of the text [start, end). `hashes`: uint64 (words,)."""

    starts: Array
    ends: Array
    hashes: Array

    def __len__(self) -> int:
        return len(self.hashes)

    def ngrams(self, size: int) -> Array:
        """Hashes of all runs of `size` words, uint64 (words - size + 1,); empty where there are fewer words."""
        return ngrams(self.hashes, size)


def ngrams(hashes: Array, size: int) -> Array:
    """Hashes of all runs of `size` words, (words - size + 1,)."""
    firsts = range(0, len(hashes) - size + 1, _BLOCK)
    blocks = [_block_ngrams(hashes[first : first + _BLOCK + size - 1], size) for first in firsts]
    return blocks[0] if len(blocks) == 1 else np.concatenate([*blocks, hashes[:0]])


def _block_ngrams(hashes: Array, size: int) -> Array:
    """Of each run: a polynomial of its words' hashes, put together from those of runs of 1, 2, 4, ... words."""
    runs, width = hashes, 1
    total, done = hashes[:0], 0
    while True:
        if size & width:
            total = runs if not done else total[: len(runs) - done] * _power(width) + runs[done:]
            done += width
        if done == size:
            return mixed(total)
        runs = runs[:-width] * _power(width) + runs[width:]
        width *= 2


def _power(exponent: int) -> np.uint64:
    return np.uint64(pow(int(_ODD), exponent, 1 << 64))


def mixed(values: Array) -> Array:
    """The finalizer of SplitMix64: every bit of the input changes every bit of the output with a chance of a half."""
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        result: Array = values ^ (values >> np.uint64(31))
    return result


def words(text: str) -> Words:
    points = code_points(text)
    found: list[tuple[Array, Array, Array]] = []
    start = 0
    while start < len(points):
        end = _block_end(points, start)
        found.append(_block_words(points[start:end], start))
        start = end
    if len(found) == 1:
        return Words(*found[0])
    if not found:
        return Words(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.uint64))
    return Words(*(np.concatenate(column) for column in zip(*found, strict=True)))


def words_of(texts: Iterable[str]) -> Iterator[Words]:
    """`words` of each text. Short ones are read together, as many as one block holds."""
    together: list[str] = []
    held = 0
    for text in texts:
        held += len(text) + 1
        if held > _BLOCK:
            yield from _together(together)
            together, held = [], len(text) + 1
        together.append(text)
    yield from _together(together)


def _together(texts: list[str]) -> Iterator[Words]:
    found = words("\n".join(texts))
    if len(texts) == 1:
        yield found
        return
    start = first = 0
    ends = np.cumsum([len(text) + 1 for text in texts])
    for end, last in zip(ends.tolist(), np.searchsorted(found.starts, ends).tolist(), strict=True):
        part = slice(first, last)
        yield Words(found.starts[part] - start, found.ends[part] - start, found.hashes[part])
        start, first = end, last


def code_points(text: str) -> Array:
    """Of each character, in the fewest bytes that are enough for all of them: uint8, uint16 or uint32."""
    try:
        return np.frombuffer(text.encode("latin-1"), np.uint8)
    except UnicodeEncodeError:
        points: Array = np.frombuffer(text.encode("utf-16-le", "surrogatepass"), "<u2")
    return points if len(points) == len(text) else np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _block_end(points: Array, start: int) -> int:
    """A block ends after white space, so that no word is cut; a run of a whole block without any is cut."""
    end = start + _BLOCK
    if end >= len(points):
        return len(points)
    spaces = np.flatnonzero(points[end - 1024 : end] <= 32)
    if not len(spaces):
        spaces = np.flatnonzero(points[start:end] <= 32)
        return start + int(spaces[-1]) + 1 if len(spaces) else end
    return end - 1024 + int(spaces[-1]) + 1


def _block_words(points: Array, offset: int) -> tuple[Array, Array, Array]:
    folded, origin = _folded(points)
    inside = folded != 0
    if not inside.any():
        nothing = np.zeros(0, np.int64)
        return nothing, nothing, nothing.astype(np.uint64)
    edges = np.flatnonzero(inside[1:] != inside[:-1]) + 1
    edges = np.concatenate([np.arange(int(inside[0])), edges, np.full(int(inside[-1]), len(inside))])
    starts, ends = edges[::2], edges[1::2]
    if folded.itemsize > 1:
        own = _unicode_tables()[2][np.minimum(folded, _TABLE_END)]
        starts, ends = _split(starts, ends, own) if own.any() else (starts, ends)
    hashes = mixed(_polynomials(folded, starts, ends))
    if origin is not None:
        return origin[starts] + offset, origin[ends - 1] + 1 + offset, hashes
    return starts + offset, ends + offset, hashes


def _polynomials(folded: Array, starts: Array, ends: Array) -> Array:
    """Of each word the sum of its code points times powers of an odd number, the first to the power of 0."""
    lengths = ends - starts
    if folded.itemsize == 1 and lengths.max() <= _LONG:
        eight: Array = np.ndarray(len(folded), "<u8", folded.tobytes() + bytes(8), strides=(1,))
        sums = _eight_bytes(eight[starts], lengths)
        left = np.flatnonzero(lengths > 8)
        for place in range(8, _LONG, 8):
            sums[left] += _eight_bytes(eight[starts[left] + place], lengths[left] - place) * _power(place)
            left = left[lengths[left] > place + 8]
            if not len(left):
                break
        return sums
    powers, inverse = _powers()
    sums = np.zeros(len(folded) + 1, np.uint64)
    np.cumsum(folded * powers[: len(folded)], out=sums[1:])
    result: Array = (sums[ends] - sums[starts]) * inverse[starts]
    return result


def _eight_bytes(values: Array, lengths: Array) -> Array:
    """The polynomial of the first `lengths` bytes, at most 8, of each value."""
    values &= _MASKS[np.minimum(lengths, 8)]
    result: Array = values.view(np.uint8).reshape(-1, 8).astype(np.uint64) @ _powers()[0][:8]
    return result


def _folded(points: Array) -> tuple[Array, Array | None]:
    """Folded code points (0: no part of a word), bytes where these are enough, and from which character each comes,
    where that is not the same place."""
    folded: Array = np.frombuffer(points.astype(np.uint8).tobytes().translate(_ascii_table()), np.uint8)
    others = np.flatnonzero(points >= 0x80)
    if not len(others):
        return folded, None
    single, expanded, _ = _unicode_tables()
    codes = points[others].astype(np.uint32)
    becomes = np.where(codes < _TABLE_END, single[np.minimum(codes, _TABLE_END)], codes)
    odd = becomes == _SEVERAL
    several = [expanded[code] for code in codes[odd].tolist()]
    parts = [part for one in several for part in one]
    becomes[odd] = 0
    folded = folded.astype(np.uint8 if max([int(becomes.max()), *parts]) < 0x100 else np.uint32)
    folded[others] = becomes
    if not several:
        return folded, None
    counts = np.ones(len(points), np.int64)
    counts[others[odd]] = [len(one) for one in several]
    origin = np.repeat(np.arange(len(points)), counts)
    folded, parted = folded[origin], np.zeros(len(points), bool)
    parted[others[odd]] = True
    folded[parted[origin]] = parts
    return folded, origin


def _split(starts: Array, ends: Array, own: Array) -> tuple[Array, Array]:
    """Runs cut before and after every code point that is a word of its own."""
    marks = np.zeros(len(own) + 1, bool)
    marks[starts] = True
    places = np.flatnonzero(own)
    marks[places] = True
    after = places + 1
    inside = np.zeros(len(own) + 1, np.int32)
    inside[starts] += 1
    inside[ends] -= 1
    within = np.cumsum(inside) > 0
    marks[after[within[after]]] = True
    new_starts = np.flatnonzero(marks)
    next_start = np.append(new_starts[1:], len(own))
    run_end = ends[np.searchsorted(starts, new_starts, "right") - 1]
    return new_starts, np.minimum(next_start, run_end)


@cache
def _powers() -> tuple[Array, Array]:
    """Powers of an odd number and of its inverse modulo 2^64, for one block (folding may lengthen it)."""
    size = 20 * _BLOCK
    one, inverse = int(_ODD), pow(int(_ODD), -1, 1 << 64)
    up, down = np.empty(size, np.uint64), np.empty(size, np.uint64)
    for powers, base in ((up, one), (down, inverse)):
        powers[0] = 1
        filled = 1
        while filled < size:  # doubling: p^(filled + i) = p^filled * p^i
            count = min(filled, size - filled)
            powers[filled : filled + count] = powers[:count] * np.uint64(pow(base, filled, 1 << 64))
            filled += count
    return up, down


@cache
def _ascii_table() -> bytes:
    return _unicode_tables()[0][:256].astype(np.uint8).tobytes()


@cache
def _unicode_tables() -> tuple[Array, dict[int, list[int]], Array]:
    """What each code point becomes; _SEVERAL where that is none (accents) or many (ligatures), which the second
    names; and which folded ones are words of their own. Takes a sixth of a second, once."""
    single = np.zeros(_TABLE_END + 1, np.uint32)
    expanded: dict[int, list[int]] = {}
    for code in range(_TABLE_END):
        parts = unicodedata.normalize("NFKD", chr(code)).lower()
        folded = [one for one in map(_fold, parts) if one >= 0]
        folded = [one for one in folded if one] or folded[:1]  # a character is in one word at most, but for ideographs
        if len(folded) == 1:
            single[code] = folded[0]
        else:
            single[code], expanded[code] = _SEVERAL, folded
    alone = np.zeros(_TABLE_END + 1, bool)
    for low, high in _OWN_WORD:
        alone[low : high + 1] = True
    return single, expanded, alone


def _fold(character: str) -> int:
    """The code point; 0 for what separates words, -1 for what vanishes: accents, and what nobody sees."""
    if unicodedata.combining(character):
        return -1
    category = unicodedata.category(character)
    if category == "Cf":  # zero-width joiners, direction marks, soft hyphens
        return -1
    return ord(character) if category[0] in "LNM" else 0

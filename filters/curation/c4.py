"""C4's rules (Raffel et al. 1910.10683), as datatrove has them: a rule, and a cleaner that takes lines out.

A line counts if it has words enough, none too long, ends in punctuation and speaks of no JavaScript or policies. In
the lines that count, sentences are counted, braces and filler text looked for. A sentence ends with punctuation, and
brackets or quotes behind it, if white space and no small letter follow, or if its sign is an ideographic one; what is
left at the end of a line is one too. Not after a single letter (initials). datatrove asks a sentence splitter.

The cleaner leaves blank lines in, which keep paragraphs apart (datatrove takes them out).
"""

import re

import numpy as np

from filters.curation.batch import Batch, Lines, Windows
from filters.curation.family import Family, Measure, number, share
from filters.curation.text import Judgement, Text
from filters.curation.tokens import LETTER, LOWER, OWN, SPACE, Array, Tokens, terminal
from schemas.curation.quality import C4Config, C4Lines, C4LinesConfig

_POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_CLOSING = tuple(map(ord, "\"'”’)]»」』）"))
_QUOTES = tuple(map(ord, "\"'”’」』"))
_IDEOGRAPHIC = tuple(map(ord, "。！？｡．"))
_CITATION = re.compile(r"\d{0,18}|edit|citation needed")
_CITED = re.compile(rf"(?:\[(?:{_CITATION.pattern})|\])\]\s*$")  # may a line end in one? Perhaps in brackets itself


class C4(Family[C4Config]):
    name = "c4"

    def measures(self, batch: Batch, windows: Windows) -> list[Measure]:
        config, lines, of = self.config, windows.lines, windows.lines.windows()
        found = _Found(batch.text, lines)
        good, quiet, solid = _counting(config, windows, found)
        filler, braces = solid & found.lines("lorem ipsum"), quiet & found.lines("{")
        long = lines.sizes >= config.paragraph_characters

        def total(name: str, of_lines: Array, least: int | None = None, most: int | None = None) -> Measure:
            return number(windows, name, np.bincount(of, of_lines, minlength=len(windows)), least=least, most=most)

        bad = np.bincount(of, lines.sizes * ~good)
        return [
            total("sentences", _sentences(windows.tokens, lines) * good, least=config.min_sentences),
            total("lorem_ipsum", filler, most=None if config.lorem_ipsum else 0),
            total("curly_bracket", braces, most=None if config.braces else 0),
            total("paragraphs", long, least=config.min_paragraphs),
            share(windows, "bad_line_frac", bad, np.bincount(of, lines.sizes)),
        ]


class C4Cleaner:
    def __init__(self, config: C4LinesConfig) -> None:
        self.config = config

    def clean(self, text: Text) -> tuple[str, list[Judgement]]:
        plain, citations = without_citations(text.text)
        judgements = [Judgement("c4_lines.citations", float(citations))]
        batch, kept = Text(plain).alone, plain
        if len(batch):
            windows = batch.windows(len(plain))
            good, _, _ = _counting(self.config, windows, _Found(plain, windows.lines))
            bad = set(windows.lines.starts[~good].tolist())
            if bad:
                kept = "\n".join(line for start, line in _lines(plain) if start not in bad)
        judgements.append(Judgement("c4_lines.cut_frac", 1 - len(kept) / len(text.text) if text.text else 0.0))
        return kept, judgements


def without_citations(text: str) -> tuple[str, int]:
    """The text without [1], [], [edit] and [citation needed], and how many there were. One pass over the brackets, so
    that none is left or made anew, however they are nested."""
    if "[" not in text:
        return text, 0
    pieces: list[str] = []
    opened: list[tuple[int, int]] = []  # brackets without an end: which piece, and characters before it
    length = cut = 0
    for piece in re.split(r"([\[\]])", text):
        if piece == "[":
            opened.append((len(pieces), length))
        elif piece == "]" and opened:
            start, before = opened.pop()
            if length - before <= 20 and _CITATION.fullmatch("".join(pieces[start + 1 :])):
                del pieces[start:]
                length = before
                cut += 1
                continue
        pieces.append(piece)
        length += len(piece)
    return "".join(pieces), cut


class _Found:
    """Phrases in a text, whose case does not count."""

    def __init__(self, text: str, lines: Lines) -> None:
        self.all = lines
        self.text = text.encode("utf-8", "surrogatepass").lower()  # only a-z: no character changes its length

    def lines(self, phrase: str) -> Array:
        """In which lines it is."""
        lines = self.all
        there = np.zeros(len(lines.texts), bool)
        if phrase.encode() in self.text:
            text = self.text.decode("utf-8", "surrogatepass")
            places = np.array([match.start() for match in re.finditer(re.escape(phrase), text)])
            at = lines.at(places)
            there[at[places + len(phrase) <= lines.starts[at] + lines.sizes[at]]] = True
        return there

    def policies(self) -> Array:
        there = np.zeros(len(self.all.texts), bool)
        for phrase in _POLICIES:
            if "cookie" not in phrase or b"cookie" in self.text:
                there |= self.lines(phrase)
        return there


def _lines(text: str) -> list[tuple[int, str]]:
    found, start = [], 0
    for line in text.split("\n"):
        found.append((start, line))
        start += len(line) + 1
    return found


def _counting(rules: C4Lines, windows: Windows, found: _Found) -> tuple[Array, Array, Array]:
    """Which lines count; which would if policies did not matter; and which if nothing they speak of did."""
    solid = _solid(rules, windows)
    quiet = solid if rules.javascript else solid & ~found.lines("javascript")
    return quiet if rules.policies else quiet & ~found.policies(), quiet, solid


def _solid(rules: C4Lines, windows: Windows) -> Array:
    """Which lines have words enough, none too long, and end in punctuation."""
    tokens, lines = windows.tokens, windows.lines
    words = np.zeros(len(tokens) + 1, np.int32)
    np.cumsum(tokens.words, out=words[1:])
    words = words[lines.first]
    solid: Array = words[1:] - words[:-1] >= rules.min_line_words
    if lines.sizes.max() > rules.max_word_characters:
        breaks = np.flatnonzero((tokens.classes == SPACE) | (tokens.classes == OWN))
        breaks = np.concatenate([[-1], breaks, [len(tokens.classes)]])
        long = np.flatnonzero(np.diff(breaks) > rules.max_word_characters + 1)
        solid[lines.at(breaks[long] + 1)] = False
    if rules.end_punctuation:
        solid &= _end(tokens, lines)
    return solid


def _end(tokens: Tokens, lines: Lines) -> Array:
    """Lines that end in punctuation, but not in an ellipsis; marks of citations behind it do not count."""
    last = lines.first[1:] - 1
    signs, runs = tokens.points[tokens.ends[last] - 1], tokens.ends[last] - tokens.starts[last]
    ends: Array = (terminal(signs) & ~((signs == ord(".")) & (runs >= 3))) | _one_of(signs, _QUOTES)
    for cited in np.flatnonzero(signs == ord("]")).tolist():
        line = lines.texts[cited]
        if not _CITED.search(line.rstrip()[-40:]):
            continue
        line = without_citations(line)[0].rstrip()
        sign = np.array([ord(line[-1])]) if line else np.zeros(0, np.int64)
        ends[cited] = bool((terminal(sign) | _one_of(sign, _QUOTES)).any()) and not line.endswith("...")
    return ends


def _sentences(tokens: Tokens, lines: Lines) -> Array:
    """How many there are in each line."""
    starts, ends, final = tokens.starts, tokens.ends, len(tokens) - 1
    symbols = np.flatnonzero(~tokens.words)
    enders = symbols[terminal(tokens.points[starts[symbols]])]
    closing = enders
    for _ in range(2):  # ." or .")
        after = np.minimum(closing + 1, final)
        closes = _one_of(tokens.points[starts[after]], _CLOSING) & (starts[after] == ends[closing])
        closing = np.where(closes, after, closing)
    line = lines.at(starts[enders])
    last = lines.first[line + 1] - 1 == closing
    after = np.minimum(closing + 1, final)
    apart = (starts[after] > ends[closing]) & (tokens.classes[starts[after]] != LOWER)
    before = np.maximum(enders - 1, 0)
    initial = (ends[before] == starts[enders]) & (ends[before] - starts[before] == 1)
    initial &= tokens.classes[starts[before]] == LETTER
    done = last | (apart & ~initial) | _one_of(tokens.points[starts[enders]], _IDEOGRAPHIC)
    count = np.bincount(line[done], minlength=len(lines.texts))
    closed = np.zeros(len(lines.texts), bool)
    closed[line[last]] = True
    sentences: Array = count + ~closed
    return sentences


def _one_of(points: Array, those: tuple[int, ...]) -> Array:
    found: Array = points == those[0]
    for one in those[1:]:
        found |= points == one
    return found

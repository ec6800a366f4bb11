"""Where the chapters of a document begin, by headings in the forms that papers, books, manuals and joined
repositories have; and runs of whole chapters that fit a number of tokens."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from generators.base import Tokenizer
from schemas.methods.long_alpaca import Kind

MAX_HEADING = 100  # characters: a longer line is a paragraph

_MARKDOWN = re.compile(r" {0,3}(#{1,6})[ \t]+(\S.*?)[ \t#]*$")
_FENCE = re.compile(r" {0,3}(```|~~~)")
_UNDERLINE = re.compile(r"([=\-~^\"'`#*+.:_])\1{2,}$")
_LATEX = re.compile(r"\s*\\(part|chapter|section|subsection|subsubsection)\*?(?:\[[^]]*\])?\{(.*)")
_LATEX_LEVELS = ("part", "chapter", "section", "subsection", "subsubsection")
_ONES = "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen"
_TENS = "(?:twen|thir|for|fif|six|seven|eigh|nine)ty(?:[- ][a-z]+)?"
_CHAPTER = re.compile(
    r"\s*(?:(part|book|volume)|(?:chapter|canto|act|prologue|epilogue|preface|introduction|appendix))\b"
    rf"(?P<number>\s+(?:\d{{1,4}}|[ivxlcdm]+|[a-z]|{_ONES}|{_TENS})\b)?",
    re.IGNORECASE,
)
_CHINESE = re.compile(r"\s*第\s*[0-9０-９零〇一二三四五六七八九十百千两]{1,7}\s*(?:([部卷篇编])|[章回节])")
_ROMAN = re.compile(r"\s*((?:c{0,3}|cd)(?:x[cl]|l?x{0,3})(?:i[xv]|v?i{0,3}))\.?\s*$", re.IGNORECASE)
_ROMAN_VALUES = {"C": 100, "CD": 400, "XC": 90, "L": 50, "XL": 40, "X": 10, "IX": 9, "V": 5, "IV": 4, "I": 1}
_NUMBERED = re.compile(r"(\d{1,3}(?:\.\d{1,3}){0,3})\.?[ \t]+([^\W\d_].*)$")
_FILE = re.compile(r"# ==== (.+) ====$")  # pipelines/sources/repository.py writes these


@dataclass(frozen=True, slots=True)
class Chapter:
    """Characters [start, end) of a text; `title` is its heading as it stands there, empty for what precedes the
    first one."""

    start: int
    end: int
    title: str


@dataclass(frozen=True, slots=True)
class _Heading:
    start: int
    level: int  # smaller is higher
    title: str


@dataclass(frozen=True, slots=True)
class _Line:
    start: int
    text: str  # without its line end
    before: str  # the line before it, stripped
    after: str  # the line after it, without white space at its end


def chapter_splits(text: str, kind: Kind) -> list[list[Chapter]]:
    """The ways to split a text into consecutive chapters that together are all of it, from the coarsest to the finest;
    none without headings. Of the heading forms that documents of this kind have, the first with two headings decides;
    each of its levels that brings the number of headings to two or more is a way (a single title over all is none)."""
    for group in _FORMS[kind]:
        headings = max((list(form(text)) for form in group), key=len)
        if len(headings) < 2:
            continue
        found = [[one for one in headings if one.level <= level] for level in sorted({h.level for h in headings})]
        return [_cut(text, chosen) for chosen in found if len(chosen) >= 2]
    return []


def _cut(text: str, headings: list[_Heading]) -> list[Chapter]:
    if headings[0].start and not text[: headings[0].start].strip():
        headings = [_Heading(0, 0, headings[0].title), *headings[1:]]
    elif headings[0].start:
        headings = [_Heading(0, 0, ""), *headings]
    ends = [heading.start for heading in headings[1:]] + [len(text)]
    return [Chapter(heading.start, end, heading.title) for heading, end in zip(headings, ends, strict=True)]


def fitting_run(
    text: str, chapters: list[Chapter], least: int, budget: int, tokenizer: Tokenizer, rng: Random
) -> list[Chapter]:
    """A random run of consecutive chapters of at least `least` and at most `budget` tokens, as long as fits from its
    first chapter on; nothing where no run fits."""
    sizes = tokenizer.count_many([text[chapter.start : chapter.end] for chapter in chapters])
    runs: list[tuple[int, int]] = []
    end = held = 0
    for start, size in enumerate(sizes):
        if end < start:
            end, held = start, 0
        while end < len(sizes) and held + sizes[end] <= budget:
            held += sizes[end]
            end += 1
        if end > start and held >= least:
            runs.append((start, end))
        held -= size if end > start else 0
    if not runs:
        return []
    start, end = rng.choice(runs)
    return chapters[start:end]


# ------------------------------------------------------------ forms of headings


def _lines(text: str) -> Iterator[_Line]:
    lines = text.split("\n")
    start = 0
    for number, line in enumerate(lines):
        before = lines[number - 1].strip() if number else ""
        after = lines[number + 1].rstrip() if number + 1 < len(lines) else ""
        yield _Line(start, line, before, after)
        start += len(line) + 1


def _markdown(text: str) -> Iterator[_Heading]:
    fence = ""
    for line in _lines(text):
        if mark := _FENCE.match(line.text):  # a comment in a code block is no heading
            fence = "" if fence == mark[1] else fence or mark[1]
        elif not fence and (match := _MARKDOWN.match(line.text)) and len(line.text) <= MAX_HEADING:
            yield _Heading(line.start, len(match[1]), match[2])


def _underlined(text: str) -> Iterator[_Heading]:
    """reStructuredText (and Markdown's `===`): a line underlined in full; levels in the order that marks appear."""
    levels: dict[str, int] = {}
    for line in _lines(text):
        title = line.text.rstrip()
        rule = _UNDERLINE.match(line.after)
        if rule is None or not title.strip() or len(title) > MAX_HEADING or len(line.after) < len(title):
            continue
        over = _UNDERLINE.match(line.before) is not None and line.before[:1] == rule[1]
        if _UNDERLINE.match(title) or not any(map(str.isalnum, title)) or (line.before and not over):
            continue
        start = text.rfind("\n", 0, line.start - 1) + 1 if over else line.start
        yield _Heading(start, levels.setdefault(rule[1] + "o" * over, len(levels)), title.strip())


def _latex(text: str) -> Iterator[_Heading]:
    for line in _lines(text):
        if match := _LATEX.match(line.text):
            title = match[2].rstrip().rstrip("}")
            yield _Heading(line.start, _LATEX_LEVELS.index(match[1]), title[:MAX_HEADING])


def _chapter_lines(text: str) -> Iterator[_Heading]:
    """Lines like "CHAPTER IV.", "Part Two", "第三章 海": short, after an empty line. "Chapter 3 was long" is prose."""
    for line in _lines(text):
        title = line.text.strip()
        if line.before or not title or len(title) > MAX_HEADING:
            continue
        if match := _CHINESE.match(line.text):
            heading = len(title) <= 40 and not title.endswith(("。", "，", "；"))
        elif match := _CHAPTER.match(line.text):
            rest = line.text[match.end() :].strip(" .:—–-\t")
            heading = not rest[:1].islower() and not title.endswith((",", ";"))
            if not match["number"]:
                heading = not rest and not match[1]  # "Prologue" alone; a lone "Part" is none
        else:
            continue
        if heading:
            yield _Heading(line.start, 0 if match[1] else 1, title)


def _roman(text: str) -> Iterator[_Heading]:
    """Lines "I", "II.", ... with empty lines around, counting on by one; "I" begins anew."""
    last = 0
    for line in _lines(text):
        match = _ROMAN.match(line.text)
        if match is None or not match[1] or line.before or line.after:
            continue
        number = sum(_ROMAN_VALUES[part.upper()] for part in re.findall("cd|x[cl]|i[xv]|[clxvi]", match[1], re.I))
        if number in (1, last + 1):
            last = number
            yield _Heading(line.start, 0, line.text.strip())


def _numbered(text: str) -> Iterator[_Heading]:
    """Lines like "2.1 Data", after an empty line. Numbers must go on by one, or any list would be sections."""
    last: tuple[int, ...] = ()
    for line in _lines(text):
        match = _NUMBERED.match(line.text.rstrip())
        if match is None or line.before or len(line.text) > MAX_HEADING or line.text.rstrip()[-1] in ".,;:。，；：":
            continue
        number = tuple(map(int, match[1].split(".")))
        same = last[: len(number) - 1]
        follows = number[:-1] == same and number[-1] == (last[len(number) - 1] + 1 if len(last) >= len(number) else 1)
        if follows or (not last and number == (0,)):
            last = number
            yield _Heading(line.start, len(number), line.text.strip())


def _files(text: str) -> Iterator[_Heading]:
    for line in _lines(text):
        if match := _FILE.match(line.text):
            yield _Heading(line.start, 0, match[1])


# Of a group the form with the most headings counts: a comment in an indented example looks like Markdown.
_MARKUP = (_markdown, _underlined, _latex)
_FORMS = {
    "paper": (_MARKUP, (_numbered,)),
    "book": ((_chapter_lines,), (_roman,), _MARKUP),
    "repository": ((_files,),),
    "manual": (_MARKUP, (_chapter_lines,), (_numbered,)),
}

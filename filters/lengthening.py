"""The form that Self-Lengthen asks of a text, and which of many texts it keeps (arXiv 2410.23933 and its code)."""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from filters.answers import script

CJK_SPAN = 13  # units: a character outside ASCII, or a run of ASCII
WORD_SPAN = 10  # words between whitespace
# No comma, colon, semicolon or dash: a text that was cut passes with those.
_CLOSING = ".!?…\"')]}”’»`" + "。！？」』）】》"
_CLOSING_CJK = _CLOSING.replace(".", "")
_UNIT = re.compile(r"[\x00-\x7f]+|[^\x00-\x7f]")
# Talk about the rewriting, in the first or last line only; "Version control began ..." is an honest opening.
_META_FIRST = re.compile(
    r"^\W*(?:(?:sure|certainly|of course|okay|ok)\b[,!. ]*)?"
    r"(?:(?:here(?:['’]s| is| are)|below is|this is|i(?:['’]ve| have))"
    r"\b.{0,60}\b(?:revised|revision|expanded|extended|enriched|rewritten|longer|response|version)\b"
    r"|(?:revised|expanded|extended|enriched|rewritten)\s+(?:text|response|version|paragraph|article)\b"
    r"|.{0,60}\b(?:provided|given|original) (?:outline|text|draft)\b)"
    r"|^\W*(?:好的|当然)?[，。！\s]*(?:以下是|下面是|这是).{0,20}(?:扩展|扩写|修改|改写|丰富|版本)",
    re.IGNORECASE,
)
_META_LAST = re.compile(
    r"^\W*(?:note:?\s+)?(?:this|the above|in this)\s+(?:revised|revision|expanded|extended|enriched|rewritten|response|"
    r"version)\b|\b(?:please )?(?:feel free to|let me know|would you like me)\b|\bi hope (?:this|that|it)\b"
    r"|^\W*(?:以上|这个|本次).{0,12}(?:扩展|扩写|修改|改写|版本)",
    re.IGNORECASE,
)


def form_fault(text: str) -> str | None:
    """What is wrong with the form of an answer, in one word, or None: it does not end (`open_end`), says a span of 13
    CJK units or 10 words twice (`repeated_span`), or talks about itself (`meta_talk`). The rules go by the text's own
    script, not by the model."""
    text = text.strip()
    cjk = script(text) == "cjk"
    ended = text.rstrip("*_")
    if not ended or ended[-1] not in (_CLOSING_CJK if cjk else _CLOSING):
        return "open_end"
    if has_repeated_span(text):
        return "repeated_span"
    lines = [line for line in text.splitlines() if line.strip()]
    if _META_FIRST.match(lines[0]) or (len(lines) > 1 and _META_LAST.search(lines[-1])):
        return "meta_talk"
    return None


def has_repeated_span(text: str) -> bool:
    if script(text) == "cjk":
        units, size = _UNIT.findall(text), CJK_SPAN
    else:
        units, size = text.split(), WORD_SPAN
    spans = Counter(tuple(units[i : i + size]) for i in range(len(units) - size + 1))
    return any(count > 1 for count in spans.values())


def pieces(text: str) -> tuple[list[str], str]:
    """The parts of a text and what joins them: paragraphs, or lines where there are not more than two paragraphs."""
    paragraphs = [part for part in re.split(r"\n\s*\n", text) if part.strip()]
    if len(paragraphs) > 2:
        return paragraphs, "\n\n"
    return [line for line in text.split("\n") if line.strip()], "\n"


def keep_chances(lengths: Sequence[int], languages: Sequence[str]) -> list[float]:
    """The chance of each text to be kept: 1 - 2 r^3, not below 0, where r is 1 for the shortest text of its language
    and near 0 for the longest. The shortest fifth is never kept, three fifths are on average. Ranks are taken within a
    language, since characters of different scripts do not compare."""
    chances = [0.0] * len(lengths)
    order = sorted(range(len(lengths)), key=lambda i: (languages[i], lengths[i]))
    for _, group in groupby(order, key=languages.__getitem__):
        members = list(group)
        shorter: dict[int, int] = {}
        for place, member in enumerate(members):
            first = shorter.setdefault(lengths[member], place)  # equal lengths share a rank
            chances[member] = max(0.0, 1 - 2 * (1 - first / len(members)) ** 3)
    return chances

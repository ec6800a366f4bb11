"""E-mail addresses, global IPv4 addresses and telephone numbers as placeholders: [EMAIL_1], [IP_1], [PHONE_1].

Within a document the same address has the same number, so that references over a long distance survive; nothing
depends on other documents. Every expression looks at a bounded stretch, so time grows with the text alone.
"""

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass

from filters.curation.text import Judgement, Text
from schemas.curation.pii import PiiConfig

_LOCAL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_%+-]|\.(?!\.))*\Z")  # of at most 64 characters before the @
_DOMAIN = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}([A-Za-z]{2,24})(?![\w(-]|\.[A-Za-z0-9])"
)
_RESERVED = re.compile(r"(?i)(?:^|\.)(?:example\.(?:com|org|net)|example|test|invalid|localhost)\Z")  # RFC 2606
_FILES = frozenset(("png", "jpg", "jpeg", "gif", "svg", "webp", "css", "js", "html", "py", "md", "txt", "json"))

_QUAD_MIDDLE = re.compile(r"\.[0-9]{1,3}\.[0-9]{1,3}\.")
_IP = re.compile(
    r"(?<![\w.])(?<![0-9]\])(?<![^\W\d]-)[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?!\w|\.[0-9]|-[A-Za-z]|-[0-9]+(?!\.))"
)
_NUMBERED = (
    "versions? ver v release[sd]? upgraded? updated? bump(?:ed)? patch(?:ed)? build revision rev changes policy"
    " compliance oid iso iec sections? sec chapters? clauses? figures? tables? rfc pep"
)
# What is replaced must not free the next one in a row, or a row takes as many rounds as it has. So no part of an
# address is a guard; and nothing is found directly after the last digit of an address or a placeholder's "1]".
_ONE_DOT, _EPOCH = r"(?<![0-9.])[0-9]*\.[0-9]+", r"(?<![0-9.-])[0-9]+"
# What stands before a version on its line: one of these words, or directly "Chrome/", "V8 ", "1.5 ", "1:", ">= ", or
# "x > "; not "SRC=" of a log, "<td>", or "> " of a reply.
_COMPARED = r"(?:[<>=~^!]=|<<|>>|[§~^]|\w +[<>])\s*"
_VERSION = re.compile(
    rf"(?i)\b(?:{'|'.join(_NUMBERED.split())})\b|[A-Za-z]/\Z|[A-Za-z][0-9]+ \Z|{_ONE_DOT} \Z|{_EPOCH}:\Z|{_COMPARED}\Z"
)
_HEADING = re.compile(r"\.?[ \t]+[A-Z]")
_ROUNDS = 16  # so that no text takes quadratic time; 60,000 random texts of addresses and guards took 4 at most
_LINE = 60  # characters before an address that say what it is

_PHONE = re.compile(  # the first character first, so that the search is a fast one
    r"[+(1-9](?<![\w.+/=,~-].)(?<![0-9]\].)(?:"
    r"(?<=\+)[1-9](?:[ .-]?\(?[0-9]\)?){7,14}"
    r"|(?:(?<=1)[ .-]\(|(?<=\())[2-9][0-9]{2}\) ?[2-9][0-9]{2}[ .-][0-9]{4}"
    r"|(?:(?<=1)[ .-][2-9]|(?<=[2-9]))[0-9]{2}([ .-])[2-9][0-9]{2}\1[0-9]{4}"
    r")(?!\w|[.,-][0-9])"
)
_BOOK = re.compile(r"(?i)isbn|\bdoi\b")
_NEAR = 100  # characters, as in Dolma
_DIGITS = re.compile(r"[0-9]+")
_KNOWN = re.compile(r"\[(EMAIL|IP|PHONE)_([0-9]{1,9})\]")


@dataclass(frozen=True, slots=True)
class Found:
    """`key`: what makes two of them the same."""

    kind: str
    start: int
    end: int
    key: str


class Pii:
    """Replaces what is found. Judgements: how many of each kind."""

    def __init__(self, config: PiiConfig) -> None:
        self._config = config

    def clean(self, text: Text) -> tuple[str, list[Judgement]]:
        """What guards a number (an ISBN near it) may itself be replaced, so this goes on until nothing is found: a few
        rounds, as no guard is itself an address of the guarded kind. A text built to need more keeps the rest."""
        if not text.text.strip():
            return text.text, [Judgement("pii.found", 0.0)]
        now, numbers = text.text, _Numbers(text.text)
        counts = dict.fromkeys(self._config.kinds, 0)
        for _ in range(_ROUNDS):
            found = find(now, self._config.kinds)
            if not found:
                break
            pieces, at = [], 0
            for one in found:
                pieces += [now[at : one.start], numbers.placeholder(one)]
                at = one.end
                counts[one.kind] += 1  # type: ignore[index]
            now = "".join([*pieces, now[at:]])
        judgements = [Judgement(f"pii.{kind}", float(count)) for kind, count in counts.items()]
        total, limit = sum(counts.values()), self._config.max_found
        keep = limit is None or total <= limit
        return now, [*judgements, Judgement("pii.found", float(total), keep, "" if keep else "too_much_personal_data")]


class _Numbers:
    """Numbers of placeholders, in the order of appearance; those that the text has already are not given again."""

    def __init__(self, text: str) -> None:
        self._last = {"EMAIL": 0, "IP": 0, "PHONE": 0}
        self._given: dict[tuple[str, str], str] = {}
        for known in _KNOWN.finditer(text):
            self._last[known[1]] = max(self._last[known[1]], int(known[2]))

    def placeholder(self, found: Found) -> str:
        name, key = found.kind.upper(), (found.kind, found.key)
        if key not in self._given:
            self._last[name] += 1
            self._given[key] = f"[{name}_{self._last[name]}]"
        return self._given[key]


def find(text: str, kinds: tuple[str, ...]) -> list[Found]:
    """In the order of the text; of two that overlap the one that starts first."""
    finders = {"email": _emails, "ip": _ips, "phone": _phones}
    everything = sorted((one for kind in kinds for one in finders[kind](text)), key=lambda one: (one.start, -one.end))
    kept: list[Found] = []
    for one in everything:
        if not kept or one.start >= kept[-1].end:
            kept.append(one)
    return kept


def _emails(text: str) -> Iterator[Found]:
    at = text.find("@")
    while at >= 0:
        local = _local(text, at)
        domain = _DOMAIN.match(text, at + 1, at + 256) if local else None
        if domain and local != "git" and not _RESERVED.search(domain[0]) and domain[1].lower() not in _FILES:
            yield Found("email", at - len(local), domain.end(), f"{local}@{domain[0]}".lower())
        at = text.find("@", at + 1)


def _local(text: str, at: int) -> str:
    """The part before the @, empty where there is none: up to 64 characters, from a letter or digit on."""
    window = text[max(0, at - 65) : at]
    found = _LOCAL.search(window)
    if not found or found[0].endswith(".") or len(found[0]) > 64:
        return ""
    return found[0]


def _ips(text: str) -> Iterator[Found]:
    for middle in _QUAD_MIDDLE.finditer(text):
        start = middle.start()
        while start > middle.start() - 3 and start > 0 and text[start - 1] in "0123456789":
            start -= 1
        found = _IP.match(text, start)
        if found and _is_global(found[0]) and not _is_version(text, start, found.end()):
            yield Found("ip", start, found.end(), found[0])


def _is_version(text: str, start: int, end: int) -> bool:
    """Four numbers with dots are versions, and numbers of sections, more often than addresses."""
    line = text[max(0, start - _LINE) : start].rpartition("\n")[2]
    return _VERSION.search(line) is not None or (not line.strip() and _HEADING.match(text, end) is not None)


def _is_global(address: str) -> bool:
    try:
        parsed = ipaddress.IPv4Address(address)
    except ValueError:  # an octet beyond 255 or with leading zeros
        return False
    return parsed.is_global and not parsed.is_multicast


def _phones(text: str) -> Iterator[Found]:
    for found in _PHONE.finditer(text):
        groups = _DIGITS.findall(found[0])
        digits = "".join(groups)
        before, after = text[max(0, found.start() - _NEAR) : found.start()], text[found.end() : found.end() + _NEAR]
        line = before.rpartition("\n")[2], after.partition("\n")[0]
        if found[0].startswith("+"):
            good = _international(groups, len(digits))
        else:
            bare = " " in found[0] and "(" not in found[0]
            good = not (bare and (line[0][-2:-1].isdigit() or line[1][1:2].isdigit()))  # one of many numbers
        if good and not _BOOK.search(before + after) and "#" not in line[0] + line[1]:
            key = digits if found[0].startswith("+") else f"1{digits[-10:]}"  # what has no + is of the US
            yield Found("phone", found.start(), found.end(), key)


def _international(groups: list[str], digits: int) -> bool:
    """E.164: 8 to 15 digits. +10 000 000 is a quantity."""
    thousands = len(groups) > 1 and all(len(group) == 3 for group in groups[1:])
    quantity = thousands and (digits < 10 or "000" in groups)
    return 8 <= digits <= 15 and not quantity and (len(groups) > 1 or digits >= 10)

"""What an answer quotes, and whether it stands in the text it is quoted from. Pure functions on text."""

import re

_QUOTED = re.compile(r'"([^"\n]+)"|“([^”\n]+)”|«([^»\n]+)»|「([^」\n]+)」')
_LEAST = 20  # characters: fewer are a name or a word in irony, not a citation


def quotes(answer: str) -> list[str]:
    """Passages in quotation marks, of at least 20 characters, without a comma or full stop at their end."""
    found = ("".join(match.groups(default="")).strip().rstrip(",.") for match in _QUOTED.finditer(answer))
    return [quote for quote in found if len(quote) >= _LEAST]


def bullets(answer: str) -> list[str]:
    """The lines that begin with "- " at the head of an answer, up to its first blank line."""
    head = answer.strip().partition("\n\n")[0]
    return [line.removeprefix("- ") for line in head.splitlines() if line.startswith("- ")]


def stands_in(quote: str, text: str) -> bool:
    """Verbatim, but for white space: any run of it is one space. What is blank stands nowhere."""
    folded = " ".join(quote.split())
    return bool(folded) and folded in " ".join(text.split())

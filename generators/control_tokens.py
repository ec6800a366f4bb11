"""Control tokens (`<|im_end|>`): those that a chat template writes, and those that a message quotes, which stay text.

Before a template is rendered, a mark goes into every control token that a message quotes; after it, control tokens
without a mark were written by the template; then the marks go.
"""

import re
from collections.abc import Mapping

MARK = "\ufdd2"  # Unicode keeps it free of characters, for inner use like this


class ControlTokens:
    """`ids`: control token -> id. `written`: the pattern of all of them."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        self.ids = ids
        found = "|".join(re.escape(token) for token in sorted(ids, key=len, reverse=True)) or "(?!)"
        self.written = re.compile(found)
        self._quoted = re.compile(f"(?=(?:{found}))(.)", re.DOTALL)  # character by character: one may overlap another

    def mark(self, text: str) -> str:
        """The text with its control tokens marked; those of one character have no room for a mark."""
        return self._quoted.sub(rf"\1{MARK}", text)


def unmarked(text: str) -> str:
    return text.replace(MARK, "")

"""Replies that repeat the prompt instead of answering it: the words of our own templates, or the prompt's end."""

import re
from functools import cache

from filters.answers import folded
from generators.prompts import source

_SPAN = 6  # words in a row: fewer stand in honest answers too
_TAIL = 120  # characters of the prompt's end
_TAG = re.compile(r"\{[{%#].*?[}%#]\}", re.DOTALL)
_WORD = re.compile(r"\w+")


def is_echo(reply: str, method: str, step: str, prompt: str) -> bool:
    """Does a reply hold six words in a row of its template, or the last 120 characters of its prompt?"""
    words = _WORD.findall(reply.casefold())
    own = _own_spans(method, step)
    if own and any(tuple(words[i : i + _SPAN]) in own for i in range(len(words) - _SPAN + 1)):
        return True
    tail = folded(prompt[-2 * _TAIL :])[-_TAIL:]
    return len(tail) >= _TAIL // 2 and tail in folded(reply)


@cache
def _own_spans(method: str, step: str) -> frozenset[tuple[str, ...]]:
    """Six-word spans of what a template says itself, between its fields."""
    pieces = [_WORD.findall(piece.casefold()) for piece in _TAG.split(source(method, step))]
    return frozenset(tuple(words[i : i + _SPAN]) for words in pieces for i in range(len(words) - _SPAN + 1))

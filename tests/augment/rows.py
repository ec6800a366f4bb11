"""Documents, tokens and configs that the tests of augmentations share."""

import numpy as np
from hypothesis import strategies as st

from schemas.augment import Utk

D, D_END, S, S_MID, S_END = BACKTRACE = (1000, 1001, 1002, 1003, 1004)


def array(tokens):
    return np.array(tokens, np.int32)


def encode(text):
    """One token a character: the worst case."""
    return [ord(letter) for letter in text]


def utk(p=1.0, parts=(0, 0, 1), backtrace=True):
    knots = range(900, 900 + 2 * len(parts) - 2)
    return Utk(augment="utk", p=p, parts=parts, knots=tuple(knots), backtrace=BACKTRACE if backtrace else None)


# Texts have ids of 200 to 800: apart from names (letters and digits), knots and backtraces.
DOCUMENTS = st.lists(st.lists(st.integers(200, 800), min_size=1, max_size=30).map(array), min_size=1, max_size=8)
PARTS = st.lists(st.integers(0, 4), min_size=1, max_size=5).filter(any).map(lambda odds: [o / sum(odds) for o in odds])


def same(one, other):
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def kolmogorov_smirnov(draws, highest):
    """Largest distance between the shares of `draws` and those of whole numbers 0 to `highest`, all equally likely."""
    counts = np.bincount(draws, minlength=highest + 1)
    assert len(counts) == highest + 1
    return np.abs(np.cumsum(counts) / len(draws) - np.arange(1, highest + 2) / (highest + 1)).max()

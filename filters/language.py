"""Which language a text is in: py3langid on a few windows of the text. Deterministic."""

import re
from functools import lru_cache
from typing import Any

UNKNOWN = "und"  # ISO 639-2 for "undetermined": a text without letters
_WINDOWS = 3
_WINDOW_BYTES = 256  # reading time grows with these; beyond about 700 bytes in all answers no longer change
_LETTER = re.compile(r"[^\W\d_]")


def detect_language(text: str) -> str:
    """The ISO 639-1 code of the most likely language, or `und` for a text without letters.

    A long text is judged by windows at its start, middle and end, so the cost does not grow with its length.
    """
    if not _LETTER.search(text):
        return UNKNOWN
    language, _ = _identifier().classify(_sample(text))
    return str(language)


def _sample(text: str) -> bytes:
    """Some hundred bytes of the text: all of a short one, else windows spread evenly, each begun at a word."""
    if len(text) <= _WINDOWS * _WINDOW_BYTES:
        windows = [text]
    else:
        step = (len(text) - _WINDOW_BYTES) // (_WINDOWS - 1)
        windows = [text[number * step : number * step + _WINDOW_BYTES] for number in range(_WINDOWS)]
    budget = _WINDOWS * _WINDOW_BYTES // len(windows)
    cut = (window.encode("utf-8", "replace")[:budget] for window in windows)
    joined = " ".join(piece.decode("utf-8", "ignore") for piece in cut)
    return joined.encode("utf-8")


@lru_cache(maxsize=1)
def _identifier() -> Any:
    """Our own instance (the module's is global state), held to two-letter codes, in single precision."""
    from py3langid import langid

    identifier = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE)
    identifier.set_languages([label for label in identifier.labels if len(label) == 2])
    # The stored half precision has no arithmetic of its own on CPUs: it costs more than the walk over the text.
    identifier.nb_ptc = identifier.nb_ptc.astype("float32")
    return identifier

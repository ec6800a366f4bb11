"""The language of a document by windows: the label of most, how sure it is, and how many are in another one."""

from collections import Counter

from filters.curation.text import Judgement, Text
from filters.language import UNKNOWN, detect_scored
from schemas.curation.language import LanguageConfig


class Language:
    def __init__(self, config: LanguageConfig) -> None:
        self._config = config

    def judge(self, text: Text) -> list[Judgement]:
        """`language.score`, whose reason names what was found instead; `language.foreign_share`: of windows with
        letters; `language.windows`: how many were read."""
        config = self._config
        read = detect_scored(windows(text.text, config.window, config.max_windows))
        known = [one for one in read if one[0] != UNKNOWN]
        if not known:
            keep = config.keep is None
            return [Judgement("language.windows", float(len(read)), keep, "" if keep else "no_letters")]
        counts = Counter(language for language, _ in known)
        label = min(counts, key=lambda language: (-counts[language], language))
        score = sum(value for language, value in known if language == label) / counts[label]
        foreign = 1 - counts[label] / len(known)
        reason = ""
        if config.keep is not None and label not in config.keep:
            reason = f"other_language_{label}"
        elif score < config.min_score:
            reason = "unsure"
        too_foreign = config.max_foreign is not None and foreign > config.max_foreign
        return [
            Judgement("language.score", score, not reason, reason),
            Judgement("language.foreign_share", foreign, not too_foreign, "foreign_parts" if too_foreign else ""),
            Judgement("language.windows", float(len(read))),
        ]


def windows(text: str, size: int, most: int) -> list[str]:
    """All of a text of at most `most` windows, else windows spread evenly from its start to its end. All are full but
    that of a text shorter than one; the last may share characters with the one before."""
    count = min(most, -(-len(text) // size))
    if count <= 1:
        return [text[:size]] if text else []
    step = (len(text) - size) / (count - 1)
    return [text[round(number * step) : round(number * step) + size] for number in range(count)]

"""The share of digits."""

from filters.curation.text import Judgement, Text
from schemas.curation.digits import DigitsConfig


class Digits:
    def __init__(self, config: DigitsConfig) -> None:
        self._most = config.max_share

    def judge(self, text: Text) -> list[Judgement]:
        digits, both = (sum(map(kind, text.text)) for kind in (str.isdigit, str.isalnum))
        share = digits / both if both else 0.0
        keep = share <= self._most
        return [Judgement("digits.share", share, keep, "" if keep else "too_many")]

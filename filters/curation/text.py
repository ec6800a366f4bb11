"""A document as the rules of curation see it: what several of them need is computed once, and only when asked for."""

from dataclasses import dataclass
from functools import cached_property

from filters.curation.batch import Batch
from filters.curation.words import Words, words


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one rule found in one document. `value`: the number that was compared with the rule's limit. `reason`: why
    it goes; empty where it stays. A rule says a number also where it keeps."""

    rule: str
    value: float
    keep: bool = True
    reason: str = ""


class Text:
    """One document. `source`, `language` and `metadata` (JSON) are the document's columns."""

    def __init__(self, text: str, source: str = "", language: str = "", metadata: str = "{}") -> None:
        self.text, self.source, self.language, self.metadata = text, source, language, metadata

    @cached_property
    def words(self) -> Words:
        """Normalised words, for comparing texts. What rules of quality call a word: `tokens`."""
        return words(self.text)

    @cached_property
    def alone(self) -> Batch:
        """As the rules of quality read it."""
        return Batch([self])

    @cached_property
    def lines(self) -> list[str]:
        return self.text.split("\n")

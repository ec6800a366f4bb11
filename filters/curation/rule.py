"""What a rule of curation is. Rules judge documents one by one, so any worker may judge any of them."""

from typing import Protocol

from filters.curation.text import Judgement, Text


class Rule(Protocol):
    """Made from its section of the recipe (schemas/curation). Holds no state from one document to the next."""

    def judge(self, text: Text) -> list[Judgement]: ...


class Cleaner(Protocol):
    """Changes a text, and says what it did. What it returns replaces the document's text: a new document."""

    def clean(self, text: Text) -> tuple[str, list[Judgement]]:
        """The text, unchanged where nothing was found. Cleaning twice changes nothing more."""
        ...

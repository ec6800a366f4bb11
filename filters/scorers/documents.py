"""What scorers of documents share: plain tokens, no chat template, and no number for a document that is too short.

A document is tokenised as it stands. What the tokenizer puts before a text by itself (BOS, for some) stands at the
start of every piece that a model reads, wherever in the document it is from.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from filters.scorers.attention import View
from filters.scorers.core import Reading, ScorerCore, Tokens
from schemas.errors import UserError
from schemas.states import Reject, State


class DocumentReader(ABC):
    """One line for each document. Documents are read one after the other: each is many samples for the model."""

    columns: ClassVar[list[str]] = ["document_id", "text"]
    attention: ClassVar[bool] = False

    def __init__(self, tokenizer: Any, core: ScorerCore, model: str, options: dict[str, Any]) -> None:
        self._tokenizer, self._core, self._model, self._options = tokenizer, core, model, options
        self._begin = beginning(tokenizer)
        if core.window is not None and self.longest() > core.window:
            raise UserError(
                f"model {model!r} has a window of {core.window} tokens, and the scorer reads {self.longest()} at once: "
                "set smaller sizes, or name a model with a longer window"
            )

    def score(self, rows: list[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]] | Reject]]:
        for row in rows:
            try:
                ids = self._tokenizer(row["text"], add_special_tokens=False)["input_ids"]
                yield row["document_id"], [{**self.line(row["document_id"], ids), "n_tokens": len(ids)}]
            except Reject as reject:
                yield row["document_id"], reject

    @abstractmethod
    def longest(self) -> int:
        """The most tokens that are read at once."""

    @abstractmethod
    def line(self, document_id: str, ids: list[int]) -> dict[str, Any]:
        """The columns of the scorer's table. Raises Reject."""

    def _read(self, samples: Sequence[Tokens], view: View | None = None, logps: bool = True) -> list[Reading]:
        """The readings of all samples of a document; raises Reject where one has none."""
        readings = []
        for reading in self._core.read(samples, view, logps):
            if isinstance(reading, Reject):
                raise reading
            readings.append(reading)
        return readings


def beginning(tokenizer: Any) -> list[int]:
    """The tokens that the tokenizer puts before every text."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole: list[int] = tokenizer("a")["input_ids"]
    places = [place for place in range(len(whole)) if whole[place : place + len(plain)] == plain]
    return whole[: places[0]] if places else []


def too_short(tokens: int, wanted: str) -> Reject:
    """There is no number, which is not the number 0."""
    return Reject(State.FILTERED, "too_short", f"{tokens} tokens, {wanted}")

"""How hard a sample's answer is for a model: the mean negative log-likelihood of its tokens. HMG and loss drop compare
two readings, likelihood takes the mean of several."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from filters.scorers.conversation import Conversation, encode
from filters.scorers.core import ScorerCore, Tokens
from schemas.states import Reject, State


@dataclass(frozen=True, slots=True)
class Question:
    """A sample around its last answer: template and text before the document, document, what stands between it and the
    answer, answer; all as token ids. The answer is its text without the end of the turn."""

    head: list[int]
    document: list[int]
    tail: list[int]
    response: list[int]

    def tokens(self, document: list[int]) -> Tokens:
        return Tokens([*self.head, *document, *self.tail], self.response)

    def rest(self) -> int:
        return len(self.head) + len(self.tail) + len(self.response)


def question(conversation: Conversation, min_response_tokens: int) -> Question:
    """Raises Reject: no answer, an answer without a prompt, or one that is too short."""
    answers = conversation.answers()
    if not answers:
        raise Reject(State.INVALID_OUTPUT, "no_response", "no assistant message with tokens")
    places = conversation.places(answers[-1])
    first, ids = places[0], conversation.ids
    if first == 0:
        raise Reject(State.INVALID_OUTPUT, "no_prompt", "nothing stands before the answer")
    if len(places) < min_response_tokens:
        detail = f"{len(places)} tokens, {min_response_tokens} wanted"
        raise Reject(State.FILTERED, "response_too_short", detail)
    start, end = conversation.document()
    if end > first:
        raise Reject(State.INVALID_OUTPUT, "no_prompt", "the document stands after the answer")
    return Question(ids[:start], ids[start:end], ids[end:first], ids[first : places[-1] + 1])


class ResponseNll:
    """`options`: window (None, or how many of the document's last tokens the model gets to see; 0: the document is
    taken out), needs_document (default: with a window), min_response_tokens.

    What does not fit the model's own window loses the first tokens of its document, and says so (`truncated`); the
    answer, the question and the template are never cut.
    """

    columns: ClassVar[list[str]] = ["sample_id", "messages", "document_ids", "details"]
    attention: ClassVar[bool] = False

    def __init__(self, tokenizer: Any, core: ScorerCore, model: str, options: dict[str, Any]) -> None:
        self._tokenizer, self._core, self._model = tokenizer, core, model
        self._window, self._least = options["window"], options["min_response_tokens"]
        self._needs_document = options.get("needs_document", self._window is not None)

    def score(self, rows: list[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]] | Reject]]:
        known: dict[str, tuple[Question, int]] = {}
        for row in rows:
            try:
                asked = question(encode(self._tokenizer, row), self._least)
                known[row["sample_id"]] = asked, self._kept(asked)
            except Reject as reject:
                yield row["sample_id"], reject
        tokens = [asked.tokens(asked.document[len(asked.document) - kept :]) for asked, kept in known.values()]
        for row_id, reading in zip(known, self._core.read(tokens), strict=True):
            asked, kept = known[row_id]
            if isinstance(reading, Reject):
                yield row_id, reading
            else:
                count = len(asked.response)
                line = {
                    "n_ctx": len(asked.document), "n_read": kept, "n_resp": count, "nll": -reading.sum() / count,
                    "truncated": kept < self._wanted(asked), "model": self._model,
                }  # fmt: skip
                yield row_id, [line]

    def _wanted(self, asked: Question) -> int:
        held = len(asked.document)
        return held if self._window is None else min(held, self._window)

    def _kept(self, asked: Question) -> int:
        """How many of the document's last tokens are read."""
        if self._needs_document and not asked.document:
            raise Reject(State.FILTERED, "no_document", "the number is about the document")
        wanted = kept = self._wanted(asked)
        if self._core.window is not None:
            kept = min(kept, self._core.window - asked.rest())
        if kept < min(wanted, 1):
            detail = f"{asked.rest()} tokens besides the document, the model's window is {self._core.window}"
            raise Reject(State.OVER_BUDGET, "longer_than_window", detail)
        return kept

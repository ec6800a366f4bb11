"""Contextual awareness measurement (GATEAU, arXiv 2410.15633, section 3.2): does the model's attention lie on the
segments of the document that help to predict the answer? High: it does not, the sample is hard."""

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any, ClassVar

from filters.scorers.attention import NONE, Look, View
from filters.scorers.context_dependency import SINKS
from filters.scorers.conversation import encode
from filters.scorers.core import ScorerCore, Tokens
from filters.scorers.pool import cosine, perplexity, softmax
from filters.scorers.response_nll import Question, question
from schemas.ids import derive_seed
from schemas.states import Reject, State


class Cam:
    """`options`: those of schemas.scores.Cam."""

    columns: ClassVar[list[str]] = ["sample_id", "messages", "document_ids", "details"]
    attention: ClassVar[bool] = True

    def __init__(self, tokenizer: Any, core: ScorerCore, model: str, options: dict[str, Any]) -> None:
        self._tokenizer, self._core, self._model, self._options = tokenizer, core, model, options
        wanted = range(core.layers) if options["layers"] is None else options["layers"]
        self._layers = tuple(sorted({core.check_layer(layer) for layer in wanted}))

    def score(self, rows: list[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]] | Reject]]:
        known: dict[str, Question] = {}
        for row in rows:
            try:
                known[row["sample_id"]] = self._question(row)
            except Reject as reject:
                yield row["sample_id"], reject
        length = self._options["segment_tokens"]
        tokens = [watched(asked, length) for asked in known.values()]
        readings = self._core.read(tokens, View(self._layers, "mean"), logps=False)
        for (row_id, asked), reading in zip(known.items(), readings, strict=True):
            if isinstance(reading, Reject):
                yield row_id, reading
            else:
                shares = reading.attention.mean(0)[0].tolist()  # over layers
                yield row_id, self._line(row_id, asked, attention_per_token(shares, asked, length))

    def _question(self, row: dict[str, Any]) -> Question:
        asked = question(encode(self._tokenizer, row), self._options["min_response_tokens"])
        if len(asked.document) + len(asked.head) <= SINKS:
            raise Reject(State.FILTERED, "no_document", "no document to find something in")
        return asked

    def _line(self, row_id: str, asked: Question, attention: list[float]) -> list[dict[str, Any]] | Reject:
        chosen = chosen_segments(attention, self._options["cascade"], derive_seed(row_id, "cam"))
        found = self._segment_nlls(asked, chosen)
        if isinstance(found, Reject):
            return found
        weights = importance(found, self._options["importance"])
        cas = cosine(weights, [attention[number] for number in chosen])
        nlls: list[float | None] = [None] * len(attention)
        for number, nll in zip(chosen, found, strict=True):
            nlls[number] = nll
        options = self._options
        return [
            {
                "cam": 1 - cas if options["direction"] == "one_minus_cosine" else cas, "cas": cas,
                "n_ctx": len(asked.document), "n_resp": len(asked.response), "seg_len": options["segment_tokens"],
                "n_seg": len(attention), "n_scored": len(chosen), "seg_nll": nlls, "seg_attn": attention,
                "importance": options["importance"], "direction": options["direction"], "layers": list(self._layers),
                "model": self._model, "truncated": False,
            }
        ]  # fmt: skip

    def _segment_nlls(self, asked: Question, chosen: Sequence[int]) -> list[float] | Reject:
        """Mean negative log-likelihood of the answer's tokens with one segment as the whole document."""
        length, count = self._options["segment_tokens"], len(asked.response)
        tokens = [asked.tokens(asked.document[number * length : (number + 1) * length]) for number in chosen]
        nlls = []
        for reading in self._core.read(tokens):
            if isinstance(reading, Reject):
                return reading
            nlls.append(-reading.sum() / count)
        return nlls


def watched(asked: Question, length: int) -> Tokens:
    """All of a sample; rows are the answer's tokens, segments `length` of the document's, the last one what is left.
    What stands at the sink positions belongs to no segment."""
    tokens = asked.tokens(asked.document)
    start, end = len(asked.head), len(asked.head) + len(asked.document)
    keys = [(n - start) // length if max(start, SINKS) <= n < end else NONE for n in range(len(tokens))]
    rows = [NONE] * len(tokens.prompt) + [0] * len(asked.response)
    sets = tuple((number,) for number in range(-(-len(asked.document) // length)))
    return Tokens(tokens.prompt, tokens.response, Look(rows, keys, sets))


def attention_per_token(shares: Sequence[float], asked: Question, length: int) -> list[float]:
    """The mean over a segment's tokens that count: the last segment is shorter, and sinks are left out."""
    start, end = len(asked.head), len(asked.head) + len(asked.document)
    means = []
    for number, share in enumerate(shares):
        first, last = max(start + number * length, SINKS), min(start + (number + 1) * length, end)
        means.append(share / (last - first) if last > first else 0.0)
    return means


def chosen_segments(attention: Sequence[float], cascade: dict[str, int] | None, seed: int) -> list[int]:
    """Which segments are read alone: all, or those with most attention and some others, in the document's order."""
    numbers = list(range(len(attention)))
    if cascade is None:
        return numbers
    by_attention = sorted(numbers, key=lambda number: (-attention[number], number))
    top, others = by_attention[: cascade["top"]], sorted(by_attention[cascade["top"] :])
    return sorted([*top, *Random(seed).sample(others, min(cascade["random"], len(others)))])


def importance(nlls: Sequence[float], kind: str) -> list[float]:
    """What each segment is worth alone. Perplexities are divided by the smallest: the cosine stays, and none
    overflows."""
    if kind == "nll":
        return list(nlls)
    if kind == "raw_ppl":
        return [perplexity(nll - min(nlls)) for nll in nlls]
    return softmax([-nll for nll in nlls])

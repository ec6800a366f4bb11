"""Coherence gain: how much easier is a passage when the model sees more of the text before it?

    NLL(tail | the near tokens before it) - NLL(tail | the far tokens before it), the near ones included

in nats per token, the mean over up to 4 windows of the document that do not overlap: the first at its start, the
last at its end, evenly between. High: what stands far back helps. About 0 or below: it does not. A document
shorter than one window has no number. A BOS takes the place of a context's first token, so that sizes stay as they are.
"""

from typing import Any

from filters.scorers.core import Reading, Tokens
from filters.scorers.documents import DocumentReader, too_short

_WINDOWS = 4


class CoherenceGain(DocumentReader):
    """`options`: those of schemas.scores.CoherenceGain."""

    def longest(self) -> int:
        return int(self._options["far_tokens"] + self._options["tail_tokens"])

    def line(self, document_id: str, ids: list[int]) -> dict[str, Any]:
        far, near = self._options["far_tokens"], self._options["near_tokens"]
        if len(ids) < self.longest():
            raise too_short(len(ids), f"{self.longest()} wanted")
        starts = spread(len(ids), self.longest())
        samples = []
        for start in starts:
            middle = start + far
            tail = ids[middle : start + self.longest()]
            for size in (near, far):
                kept = max(size, len(self._begin) + 1) - len(self._begin)
                samples.append(Tokens([*self._begin, *ids[middle - kept : middle]], tail))
        nlls = [_nll(reading) for reading in self._read(samples)]
        of_near, of_far = nlls[::2], nlls[1::2]
        gains = [one - other for one, other in zip(of_near, of_far, strict=True)]
        sizes = {name: self._options[name] for name in ("tail_tokens", "near_tokens", "far_tokens")}
        return {
            "coherence_gain": _mean(gains), "nll_near": _mean(of_near), "nll_far": _mean(of_far), "window_gains": gains,
            "n_windows": len(starts), "model": self._model, **sizes,
        }  # fmt: skip


def spread(tokens: int, length: int) -> list[int]:
    """Where up to 4 windows begin that do not overlap."""
    count = min(_WINDOWS, tokens // length)
    return [number * (tokens - length) // max(1, count - 1) for number in range(count)]


def _nll(reading: Reading) -> float:
    return -reading.sum() / len(reading.logps)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)

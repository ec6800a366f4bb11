"""Surprisal: the mean negative log-likelihood of a document's first tokens, in nats per token."""

from typing import Any

from filters.scorers.core import Tokens
from filters.scorers.documents import DocumentReader, too_short


class Surprisal(DocumentReader):
    """`options`: those of schemas.scores.Surprisal."""

    def longest(self) -> int:
        return int(self._options["window_tokens"])

    def line(self, document_id: str, ids: list[int]) -> dict[str, Any]:
        given = max(1, len(self._begin))  # nothing predicts the first token
        read = [*self._begin, *ids][: self.longest()]
        if len(read) <= given:
            raise too_short(len(ids), "at least one to predict wanted")
        (reading,) = self._read([Tokens(read[:given], read[given:])])
        count = len(read) - given
        return {"surprisal": -reading.sum() / count, "n_read": count, "model": self._model}

"""Reference log-probabilities of preferences from their short prompt (LongPO, arXiv 2502.13922, eq. 12)."""

from collections.abc import Iterator
from typing import Any, ClassVar

from filters.scorers.chat import PairTokens, encode_pair
from filters.scorers.core import ScorerCore
from schemas.errors import UserError
from schemas.states import Reject

_ID = "preference_id"


class RefLogps:
    """Sums of log-probabilities of chosen and rejected given the short prompt. Raises UserError without a template."""

    columns: ClassVar[list[str]] = [_ID, "short_prompt", "chosen", "rejected"]  # never the long prompt
    attention: ClassVar[bool] = False

    def __init__(self, tokenizer: Any, core: ScorerCore, model: str, options: dict[str, Any]) -> None:
        if not tokenizer.chat_template:
            raise UserError(f"model {model!r} has no chat template, and preferences are conversations")
        self._tokenizer, self._core = tokenizer, core

    def score(self, rows: list[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]] | Reject]]:
        pairs: dict[str, PairTokens] = {}
        for row in rows:
            try:
                pairs[row[_ID]] = encode_pair(self._tokenizer, row["short_prompt"], row["chosen"], row["rejected"])
            except Reject as reject:
                yield row[_ID], reject
        readings = iter(self._core.read([one for pair in pairs.values() for one in (pair.chosen, pair.rejected)]))
        for row_id, chosen, rejected in zip(pairs, readings, readings, strict=True):
            if isinstance(chosen, Reject):
                yield row_id, chosen
            elif isinstance(rejected, Reject):
                yield row_id, rejected
            else:
                yield row_id, [{"ref_chosen_logps": chosen.sum(), "ref_rejected_logps": rejected.sum()}]

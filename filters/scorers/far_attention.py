"""LongAttn (arXiv 2502.16860): how much of a layer's attention goes far back, and does it from everywhere?

Of a window of L tokens, with the mass that a row's attention (mean over heads) puts on keys at a distance of L/4 tokens
or more: DS is its mean over all rows, DU is minus its variance over them. Rows in the first quarter have no such keys
and count with 0, so DS and DU depend on L: documents shorter than a window have no number. A document's DS and DU are
means over its windows; what is made of them in a pool is in pipelines/score_pool.py.

The first position is a key as any other. Models rest attention there whatever it says (SmolLM2-135M: at most a tenth
below layer 12, a quarter to a half from there on), which is in every DS of a higher layer.
"""

from typing import Any, ClassVar

from filters.scorers.attention import Look, View
from filters.scorers.core import ScorerCore, Tokens
from filters.scorers.documents import DocumentReader, too_short

_FAR = 4  # far is a window divided by it, and more


class FarAttention(DocumentReader):
    """`options`: those of schemas.scores.FarAttention. A BOS is one of the window's tokens."""

    attention: ClassVar[bool] = True

    def __init__(self, tokenizer: Any, core: ScorerCore, model: str, options: dict[str, Any]) -> None:
        super().__init__(tokenizer, core, model, options)
        self._layer, window = core.check_layer(options["layer"]), options["window_tokens"]
        self._look = Look(range(window), [0] * window, ((0,),), far=window // _FAR)

    def longest(self) -> int:
        return int(self._options["window_tokens"])

    def line(self, document_id: str, ids: list[int]) -> dict[str, Any]:
        held = self.longest() - len(self._begin)
        if len(ids) < held:
            raise too_short(len(ids), f"{held} wanted")
        starts = window_starts(len(ids), held)
        samples = [Tokens([*self._begin, *ids[start : start + held]], [], self._look) for start in starts]
        readings = self._read(samples, View((self._layer,)), logps=False)
        masses = [reading.attention[0, :, 0] for reading in readings]
        return {
            "ds": sum(float(mass.mean()) for mass in masses) / len(masses),
            "du": sum(-float(mass.var(correction=0)) for mass in masses) / len(masses),
            "n_windows": len(masses), "window_tokens": self.longest(), "layer": self._layer, "model": self._model,
        }  # fmt: skip


def window_starts(tokens: int, length: int) -> list[int]:
    """Where windows begin, as LongAttn takes them: below 2 lengths at the front and at the back, up to 3 in the middle
    too, of longer documents in turns from the front and from the back until less than a window is left."""
    last = tokens - length
    assert last >= 0
    if tokens < 2 * length:
        return sorted({0, last})
    if tokens <= 3 * length:
        return [0, last // 2, last]
    count = tokens // length
    front = -(-count // 2)
    return [*(n * length for n in range(front)), *(last - n * length for n in reversed(range(count - front)))]

"""Attention mass from chosen rows (queries) to segments of keys, measured inside the model's own forward pass.

The forward pass computes attention as always (SDPA). On chosen layers the rows asked for are computed once more from
the layer's queries and keys, a block of rows at a time, and summed over segments at once: memory grows with block x
tokens, never with tokens x tokens. Heads that share keys are multiplied as one group; keys are not repeated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from schemas.errors import UserError

NAME = "longloom_watched"
NONE = -1  # a token that is no row, or belongs to no segment
_BLOCK_BYTES = 64 * 2**20  # of float32 attention weights that exist at once; softmax needs as much again
_CPU_BLOCK_BYTES = 4 * 2**20  # stays in a core's cache, and the allocator gives the same pages again
_FEW_SETS = 64
_OTHER_MATHS = ("softcap", "s_aux", "sinks", "position_bias")  # arguments of architectures with other attention


@dataclass(frozen=True, slots=True)
class Look:
    """What to measure in one sample. `rows`: for each token the group that its query counts for, `keys`: for each token
    the segment that its key belongs to; NONE for neither. `sets`: unions of segments, each a number of its own. `far`:
    a row sees only keys that stand at least so many tokens before it; the others' mass is left out, not shared out."""

    rows: Sequence[int]
    keys: Sequence[int]
    sets: tuple[tuple[int, ...], ...]
    far: int = 0

    @property
    def groups(self) -> int:
        return max(self.rows, default=NONE) + 1


@dataclass(frozen=True, slots=True)
class View:
    """How to look at all samples: at which layers (from 0), and what of the heads counts: their mean, or for each row
    and set the largest."""

    layers: tuple[int, ...]
    heads: Literal["mean", "max"] = "mean"


class Enough(Exception):
    """The last layer that is needed has been seen; what lies above need not be computed."""


class Watcher:
    """Collects the mass of a batch. `finish`: raise Enough after the last layer. `halvings`: of the block of rows,
    where memory is short. `masses`: for each sample a float64 tensor (layers, groups, sets), the mean over the rows of
    a group."""

    def __init__(self, view: View, looks: Sequence[Look], finish: bool, halvings: int = 0) -> None:
        import torch

        self._view, self._looks, self._finish, self._halvings = view, looks, finish, halvings
        self._left = set(view.layers)
        self._plans: list[Plan | None] = [None] * len(looks)
        self.masses = [
            torch.zeros((len(view.layers), look.groups, len(look.sets)), dtype=torch.float64) for look in looks
        ]

    def see(self, layer: int, query: Any, key: Any, mask: Any, scaling: float | None, options: dict[str, Any]) -> None:
        """One layer: query (batch, heads, length, size), key (batch, key heads, length, size)."""
        if layer not in self._left:
            return
        other = [name for name in _OTHER_MATHS if options.get(name) is not None]
        if other:
            raise UserError(f"this architecture computes attention with {other[0]}, which cannot be measured")
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        place = self._view.layers.index(layer)
        for number, look in enumerate(self._looks):
            if not self.masses[number].numel():  # no rows or no sets
                continue
            plan = self._plans[number] = self._plans[number] or _plan(look, query.device)
            one_mask = None if mask is None else mask[min(number, mask.shape[0] - 1), 0]
            self.masses[number][place] = _measure(
                query[number], key[number], one_mask, scale, plan, self._view.heads, self._halvings
            )  # fmt: skip
        self._left.remove(layer)
        if self._finish and not self._left:
            raise Enough

    def check_all_seen(self) -> None:
        if self._left:
            raise UserError("this architecture's attention does not go through transformers' attention functions")


@dataclass(frozen=True, slots=True)
class Plan:
    """A look as tensors, the same for all layers. `places` (rows,): which tokens are rows, `groups` (rows,): what they
    count for, `sizes` (groups,): how many count; `last`: how many keys any row sees; `far`: as in Look."""

    places: Any
    groups: Any
    sizes: Any
    segments: "Segments"
    last: int
    far: int


def _plan(look: Look, device: Any) -> Plan:
    import torch

    rows = [place for place, group in enumerate(look.rows) if group != NONE]
    groups = torch.tensor([look.rows[place] for place in rows], device=device)
    sizes = torch.bincount(groups, minlength=look.groups).clamp(min=1)
    last = rows[-1] + 1  # no row sees what comes after it
    return Plan(torch.tensor(rows, device=device), groups, sizes, _segments(look, last, device), last, look.far)


def _measure(query: Any, key: Any, mask: Any, scale: float, plan: Plan, heads: str, halvings: int) -> Any:
    """Means over the rows of each group: float64 (groups, sets), on the CPU."""
    import torch

    last, rows = plan.last, len(plan.places)
    key = key[:, :last].to(torch.promote_types(key.dtype, torch.float32))  # bfloat16 would round scores
    total = torch.zeros((len(plan.sizes), plan.segments.sets), dtype=torch.float64, device=query.device)
    limit = min(_BLOCK_BYTES, _CPU_BLOCK_BYTES) if query.device.type == "cpu" else _BLOCK_BYTES
    block = max(1, min(limit // (4 * query.shape[0] * last), rows) >> halvings)
    for start in range(0, rows, block):
        some = plan.places[start : start + block]
        weights = row_weights(query[:, some], key, None if mask is None else mask[some, :last], some, scale)
        if plan.far:
            near = torch.arange(last, device=query.device) > some[:, None] - plan.far
            weights.masked_fill_(near, 0.0)
        mass = plan.segments.mass(weights, heads)
        total.index_add_(0, plan.groups[start : start + block], mass.double())
    return (total / plan.sizes[:, None]).cpu()


def _segments(look: Look, length: int, device: Any) -> "Segments":
    import torch

    labels = torch.tensor(look.keys[:length], device=device)
    count = int(max((*look.keys, *(segment for one in look.sets for segment in one)))) + 1
    labels = torch.where(labels == NONE, count, labels)
    union = torch.zeros((count + 1, len(look.sets)), dtype=torch.float32, device=device)
    for number, segments in enumerate(look.sets):
        union[list(segments), number] = 1.0
    return Segments(labels, union)


class Segments:
    """`labels` (keys,): each key's segment, the last label for keys of none. `union` (labels, sets): what unites."""

    def __init__(self, labels: Any, union: Any) -> None:
        self._labels, self._union, self.sets = labels, union, union.shape[1]
        # A product with a matrix (keys, sets) takes a fifth of the time of adding up by label, while sets are few.
        self._members = union[labels] if self.sets <= _FEW_SETS else None

    def mass(self, weights: Any, heads: str) -> Any:
        """(rows, sets): how much of each row's attention goes to each set. Of `weights` (heads, rows, keys) the keys of
        a set are added up, and heads averaged (before that, which is the same and less work) or the largest taken, for
        each row anew."""
        if heads == "mean":
            weights = weights.mean(0, keepdim=True)
        if self._members is not None:
            by_set = weights @ self._members.to(weights.dtype)
        else:
            by_label = weights.new_zeros((*weights.shape[:2], self._union.shape[0]))
            by_label.scatter_add_(2, self._labels.expand_as(weights), weights)
            by_set = by_label @ self._union.to(weights.dtype)
        return by_set.amax(0)


def row_weights(query: Any, key: Any, mask: Any, places: Any, scale: float) -> Any:
    """Attention weights of some rows as the model computes them: (heads, rows, keys), in the keys' type.
    `query` (heads, rows, size), `key` (key heads, keys, size), `mask` (rows, keys) where the model has one, `places`:
    which tokens the rows are, in order. Without a mask attention is causal."""
    import torch

    heads, rows, size = query.shape
    grouped = (query.to(key.dtype) * scale).reshape(key.shape[0], heads // key.shape[0] * rows, size)
    scores = (grouped @ key.transpose(1, 2)).view(heads, rows, key.shape[1])
    first = int(places[0])  # all rows see the keys up to there
    later = torch.arange(first, key.shape[1], device=key.device) > places[:, None]
    scores[:, :, first:].masked_fill_(later, float("-inf"))
    if mask is not None and mask.dtype == torch.bool:
        scores.masked_fill_(~mask, float("-inf"))
    elif mask is not None:
        scores += mask
    return scores.softmax(-1)


def register() -> str:
    """The name to load a model with (`attn_implementation`)."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def attention(
        module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float | None = None, **options: Any
    ) -> Any:
        watcher: Watcher | None = getattr(module, "longloom_watcher", None)
        if watcher is not None:
            watcher.see(module.layer_idx, query, key, attention_mask, scaling, options)
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME

"""Decoding one batch with a torch model: left padding, own sampling for each row, rows leave when they are done.

transformers' `generate` shares one set of sampling parameters and one random state over a batch. Here a row's
answer depends on its own request alone, up to what floating point does to a batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch

from generators.engines.base import FinishReason, Sampling

_GREEDY = 1e-5  # temperatures below this are greedy decoding
_NUCLEUS = 1024  # tokens that hold nearly every nucleus; sorting a whole vocabulary is slow on a CPU
_CONTEXT = 8  # prompt tokens that the first answer token is decoded after: some tokens lose a space at the start


@dataclass(eq=False)
class Row:
    """One request in a batch. `matcher` is an xgrammar GrammarMatcher or None. `cancelled` may be set by any thread."""

    prompt: Sequence[int]
    sampling: Sampling
    decode: Callable[[list[int]], str]
    matcher: Any = None
    cancelled: bool = False
    answer: list[int] = field(default_factory=list)
    text: str = ""
    finish: FinishReason | None = None

    def __post_init__(self) -> None:
        self._random = Random(self.sampling.seed)
        self._seen: torch.Tensor | None = None
        # Text is decoded in steps: tokens before `_done` are in `text`, those from `_from` on are decoded again.
        self._ids = list(self.prompt[-_CONTEXT:])
        self._from = 0
        self._done = len(self._ids)

    def pick(self, logits: torch.Tensor) -> int:
        """The next token, from float32 logits of one vocabulary (changed in place)."""
        sampling = self.sampling
        if sampling.repetition_penalty != 1.0:
            self._penalise(logits, sampling.repetition_penalty)
        if sampling.temperature < _GREEDY:
            return int(logits.argmax())
        return draw(logits / sampling.temperature, sampling.top_k, sampling.top_p, self._random.random())

    def _penalise(self, logits: torch.Tensor, penalty: float) -> None:
        if self._seen is None:
            self._seen = torch.zeros_like(logits, dtype=torch.bool)
            self._seen[torch.tensor(self.prompt, device=logits.device)] = True
        if self.answer:
            self._seen[self.answer[-1]] = True
        penalised = torch.where(logits > 0, logits / penalty, logits * penalty)
        logits.copy_(torch.where(self._seen, penalised, logits))

    def accept(self, token: int, stop_ids: frozenset[int]) -> None:
        """Add a token to the answer; sets `finish` if that ends it."""
        self.answer.append(token)
        if self.matcher is not None:
            self.matcher.accept_token(token)
        if token in stop_ids:
            self.finish = "stop"
            return
        self._ids.append(token)
        start = max(0, len(self.text) - max(map(len, self.sampling.stop), default=0))
        self._extend_text()
        found = [at for stop in self.sampling.stop if (at := self.text.find(stop, start)) >= 0]
        if found:
            self.text = self.text[: min(found)]
            self.finish = "stop"
        elif len(self.answer) >= self.sampling.max_tokens:
            self.finish = "length"

    def _extend_text(self) -> None:
        known = self.decode(self._ids[self._from : self._done])
        text = self.decode(self._ids[self._from :])
        if text.endswith("\ufffd"):
            return  # a character whose bytes are not all here yet
        self.text += text[len(known) :]
        self._from, self._done = self._done, len(self._ids)


def draw(logits: torch.Tensor, top_k: int, top_p: float, uniform: float) -> int:
    """A token from the distribution cut to `top_k` and then to the nucleus `top_p`, at quantile `uniform`.

    Quantiles run in the order of the vocabulary, so that a tiny change of the logits almost never changes the draw.
    """
    if 0 < top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], float("-inf"))
    probabilities = logits.softmax(-1)
    if top_p < 1.0:
        best = probabilities.topk(min(_NUCLEUS, len(probabilities)))
        if best.values.sum() < top_p:
            best = probabilities.sort(descending=True)
        # A token stays if those before it do not yet reach top_p; the first one always stays.
        keep = best.indices[best.values.cumsum(-1) - best.values < top_p]
        probabilities = torch.zeros_like(probabilities).index_copy(0, keep, probabilities[keep])
    cumulative = probabilities.double().cumsum(-1)
    token = torch.searchsorted(cumulative, uniform * cumulative[-1:], right=True)
    return int(token.clamp(max=len(cumulative) - 1))


def decode_batch(model: Any, rows: list[Row], stop_ids: frozenset[int], done: Callable[[Row], None]) -> None:
    """Answer every row; `done` is called for each as soon as it has its `finish`. Cancelled rows just leave."""
    from transformers import DynamicCache

    forward = _Forward(model)
    with torch.inference_mode():
        cache = DynamicCache(config=model.config)
        ids, mask = left_pad([row.prompt for row in rows], model.device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        while True:
            logits = forward(ids, mask, positions, cache)
            _apply_grammars(logits, rows)
            for row, row_logits in zip(rows, logits, strict=True):
                row.accept(row.pick(row_logits), stop_ids)
                if row.finish is not None:
                    done(row)
            stay = [i for i, row in enumerate(rows) if row.finish is None and not row.cancelled]
            if not stay:
                return
            if len(stay) < len(rows):
                index = torch.tensor(stay, device=model.device)
                cache.batch_select_indices(index)
                rows, mask, positions = [rows[i] for i in stay], mask[index], positions[index]
            ids = torch.tensor([[row.answer[-1]] for row in rows], device=model.device)
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            positions = positions[:, -1:] + 1


def left_pad(prompts: list[Sequence[int]], device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask; every prompt ends in the last column."""
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for i, prompt in enumerate(prompts):
        ids[i, width - len(prompt) :] = torch.tensor(prompt, dtype=torch.long)
        mask[i, width - len(prompt) :] = 1
    return ids.to(device), mask.to(device)


class _Forward:
    """The logits of each row's last token, in float32. Leaves out what an architecture does not take."""

    def __init__(self, model: Any) -> None:
        import inspect

        self._model = model
        self._takes = inspect.signature(model.forward).parameters

    def __call__(self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        optional = {"position_ids": positions, "logits_to_keep": 1}
        arguments = {name: value for name, value in optional.items() if name in self._takes}
        output = self._model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **arguments)
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits


def _apply_grammars(logits: torch.Tensor, rows: list[Row]) -> None:
    if all(row.matcher is None for row in rows):
        return
    import xgrammar

    bitmask = xgrammar.allocate_token_bitmask(len(rows), logits.shape[-1])  # all tokens allowed
    for i, row in enumerate(rows):
        if row.matcher is not None:
            row.matcher.fill_next_token_bitmask(bitmask, i)
    xgrammar.apply_token_bitmask_inplace(logits, bitmask.to(logits.device))

"""One forward pass of a causal language model per sample, and what scorers read from it.

The decoder runs once over prompt and response. Only the hidden states that predict response tokens go through the
model's head, a block of rows at a time: no logits of prompt rows, and never a matrix of length x vocabulary. Attention
is measured on the way (see attention.py). torch and transformers are imported when a core is made.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filters.foreign_models import load
from filters.scorers.attention import Enough, Look, View, Watcher, register
from schemas.errors import UserError
from schemas.states import OUT_OF_MEMORY, Reject, State

_BLOCK_BYTES = 128 * 2**20  # of float32 logits that exist at once; log-sum-exp needs as much again
_HALVINGS = 4  # a sample that needs more is given up; what is left then is the model's own forward pass


@dataclass(frozen=True, slots=True)
class Tokens:
    """A sample as token ids: what the model reads, and what it is scored on. `look`: the attention to measure."""

    prompt: Sequence[int]
    response: Sequence[int]
    look: Look | None = None

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


@dataclass(frozen=True, slots=True)
class Reading:
    """`logps`: natural logarithm of each response token's probability given all tokens before it; a float32 tensor
    (response tokens,) on the CPU; empty where only attention was asked. `attention`: mean mass of a group's rows on
    each set, a float64 tensor (layers, groups, sets) on the CPU, where the sample has a look."""

    logps: Any
    attention: Any = None

    def sum(self) -> float:
        """Added up in float64: the terms of a long answer would lose digits in float32."""
        return float(self.logps.double().sum())


class ScorerCore:
    """A model that reads samples. `folder`: in the Hugging Face layout. `adapter`: a PEFT adapter folder on top of it.
    `window`: the most tokens of a sample (default: no limit). `batch_tokens`: the most tokens of a batch, padding
    counted; a longer sample is a batch of its own. `attention`: is any to be measured? Raises UserError where model or
    adapter cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        dtype: str = "auto",
        device: str | None = None,
        adapter: Path | None = None,
        window: int | None = None,
        batch_tokens: int = 32_768,
        attention: bool = False,
    ) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        options = {"attn_implementation": register()} if attention else {}
        model: Any = load(AutoModelForCausalLM, folder, dtype=torch_dtype(dtype, self.device.type), **options)
        if adapter is not None:
            model = _with_adapter(model, adapter)
        self.model = model.to(self.device).eval()
        self._decoder = self.model.get_decoder()
        self.window, self._batch_tokens = window, batch_tokens
        self._block_rows = max(1, _BLOCK_BYTES // 4 // self.model.get_output_embeddings().weight.shape[0])

    @property
    def layers(self) -> int:
        return int(self.model.config.get_text_config().num_hidden_layers)

    @property
    def heads(self) -> int:
        return int(self.model.config.get_text_config().num_attention_heads)

    def check_layer(self, layer: int) -> int:
        """The layer's number from 0; negative ones count from the last. Raises UserError where there is none."""
        if not -self.layers <= layer < self.layers:
            raise UserError(f"layer {layer}: the model has layers 0 to {self.layers - 1}")
        return layer % self.layers

    def read(self, samples: Sequence[Tokens], view: View | None = None, logps: bool = True) -> list[Reading | Reject]:
        """A reading for each sample, in their order; a Reject for a sample that does not fit the model's window or,
        even alone, the memory (both over_budget), or whose numbers are not finite. `view`: measure each sample's look.
        Without `logps` the pass ends at the last layer that is looked at."""
        assert logps or view is not None
        results: dict[int, Reading | Reject] = {}
        fitting: list[int] = []
        for index, sample in enumerate(samples):
            assert sample.prompt, "the first token of a response is predicted by the prompt's last"
            if self.window is not None and len(sample) > self.window:
                detail = f"{len(sample)} tokens, the model's window is {self.window}"
                results[index] = Reject(State.OVER_BUDGET, "longer_than_window", detail)
            else:
                fitting.append(index)
        for batch in batches(fitting, [len(sample) for sample in samples], self._batch_tokens):
            results.update(zip(batch, self._read_halving([samples[i] for i in batch], view, logps), strict=True))
        return [results[index] for index in range(len(samples))]

    def _read_halving(
        self, batch: list[Tokens], view: View | None, logps: bool, halvings: int = 0
    ) -> list[Reading | Reject]:
        """Where memory does not suffice: the two halves, one after the other, with half as many rows in a block of
        logits or attention weights; a single sample with ever smaller blocks."""
        try:
            return list(self._read_batch(batch, view, logps, halvings))
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
        # Here, and not inside `except`: the exception holds the frames, and these the tensors.
        if self.device.type == "cuda":
            import torch

            torch.cuda.empty_cache()
        if len(batch) == 1 and halvings >= _HALVINGS:
            detail = f"{len(batch[0])} tokens on {self.device}"
            return [Reject(State.OVER_BUDGET, OUT_OF_MEMORY, detail)]
        middle = len(batch) // 2
        halves = [half for half in (batch[:middle], batch[middle:]) if half]
        return [one for half in halves for one in self._read_halving(half, view, logps, halvings + 1)]

    def _read_batch(
        self, batch: list[Tokens], view: View | None, logps: bool, halvings: int
    ) -> Iterator[Reading | Reject]:
        """Padding goes to the right and needs no mask: under causal attention no token sees what comes after it."""
        import torch

        width = max(len(sample) for sample in batch)
        ids = torch.zeros((len(batch), width), dtype=torch.long)
        for row, sample in enumerate(batch):
            ids[row, : len(sample)] = torch.tensor([*sample.prompt, *sample.response])
        ids = ids.to(self.device)
        lengths = [len(sample.response) if logps else 0 for sample in batch]
        with torch.inference_mode(), self._watched(batch, view, not logps, halvings) as watcher:
            try:
                output = self._decoder(input_ids=ids, use_cache=False)
                found = self._response_logps(output, ids, batch, halvings).cpu() if logps else torch.empty(0)
            except Enough:
                found = torch.empty(0)
        if watcher is not None:
            watcher.check_all_seen()
        masses = [None] * len(batch) if watcher is None else watcher.masses
        for one, mass in zip(found.split(lengths), masses, strict=True):
            if bool(one.isfinite().all()) and (mass is None or bool(mass.isfinite().all())):
                yield Reading(one.clone(), mass)
            else:
                yield Reject(State.INVALID_OUTPUT, "not_finite", f"in {self.model.dtype} on {self.device}")

    @contextmanager
    def _watched(self, batch: list[Tokens], view: View | None, finish: bool, halvings: int) -> Iterator[Watcher | None]:
        """A watcher in all attention layers. It is told by the layer's own number, which every architecture keeps."""
        if view is None:
            yield None
            return
        looks = [sample.look or Look((), (), ()) for sample in batch]
        watcher = Watcher(view, looks, finish, halvings)
        layers = [module for module in self._decoder.modules() if hasattr(module, "layer_idx")]
        for module in layers:
            module.longloom_watcher = watcher
        try:
            yield watcher
        finally:
            for module in layers:
                del module.longloom_watcher

    def _response_logps(self, output: Any, ids: Any, batch: list[Tokens], halvings: int) -> Any:
        """Log-probabilities of all response tokens of a batch, one after the other: float32 (tokens,)."""
        import torch

        places = [
            (row, column)
            for row, sample in enumerate(batch)
            for column in range(len(sample.prompt), len(sample))
        ]  # fmt: skip
        rows, columns = torch.tensor(places, device=self.device, dtype=torch.long).reshape(-1, 2).unbind(1)
        hidden = output.last_hidden_state
        logps = torch.empty(len(places), dtype=torch.float32, device=self.device)
        size = max(1, min(self._block_rows, len(places)) >> halvings)
        for start in range(0, len(places), size):
            block = slice(start, start + size)
            # The token at a column is predicted by the hidden state before it.
            logits = self._head(output, hidden[rows[block], columns[block] - 1]).float()
            targets = ids[rows[block], columns[block]]
            logps[block] = logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(1)
        return logps

    def _head(self, output: Any, hidden: Any) -> Any:
        """Logits (rows, vocabulary) of hidden states (rows, size), by the model's own code after its decoder: some
        architectures scale or cap their logits there. The decoder stands aside meanwhile."""
        output.last_hidden_state = hidden[None]

        def finished(*_: Any, **__: Any) -> Any:
            return output

        self._decoder.forward = finished
        try:
            dummy = hidden.new_zeros((1, hidden.shape[0])).long()
            return self.model(input_ids=dummy, use_cache=False).logits[0]
        finally:
            del self._decoder.forward


def batches(indices: Sequence[int], lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Groups of similar length whose padded size is at most `batch_tokens`, longest first, so that memory which does
    not suffice shows at the start. `lengths` are those of all samples."""
    batch: list[int] = []
    for index in sorted(indices, key=lambda i: (-lengths[i], i)):
        if batch and (len(batch) + 1) * lengths[batch[0]] > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def torch_dtype(name: str, device: str) -> Any:
    """`auto` is the checkpoint's own type; on a CPU only where the CPU computes with bfloat16 itself."""
    import torch

    if name != "auto":
        return getattr(torch, name)
    if device != "cpu":
        return "auto"
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


def _with_adapter(model: Any, adapter: Path) -> Any:
    """The model with the adapter's layers in place; its own forward then runs through them. Not merged: sums of
    bfloat16 weights would be rounded."""
    try:
        from peft import PeftModel
    except ImportError as error:
        raise UserError(f"adapter {adapter}: needs peft: install longloom[train]") from error
    wrapped = PeftModel.from_pretrained(model, str(adapter))
    if wrapped.active_peft_config.is_prompt_learning:
        raise UserError(f"adapter {adapter}: adapters that add virtual tokens to the prompt cannot be scored")
    return wrapped.get_base_model()


def _out_of_memory(error: BaseException) -> bool:
    """On a GPU torch has a class for it; on a CPU its allocator raises a RuntimeError."""
    import torch

    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)

"""The embedded engine: torch and transformers, on a CPU or one GPU. Runs inside an engine process.

Waiting requests are answered in batches of similar length, one batch after the other, in a thread of its own.
"""

import asyncio
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filters.foreign_models import load
from filters.scorers.core import torch_dtype
from generators.engines.backend import Backend
from generators.engines.base import BadRequest, ChatRequest, Completion, EngineError, EngineInfo, Sampling
from generators.engines.chat_format import ChatFormat
from generators.engines.cpu_attention import register
from generators.engines.decoding import Row, decode_batch
from schemas.errors import UserError

_GATHER_SECONDS = 0.02  # requests that arrive together are answered together


@dataclass(eq=False)
class _Waiting:
    row: Row
    future: asyncio.Future[None]


class TransformersBackend(Backend):
    """`batch_size` rows and `batch_tokens` tokens (prompt and answer, padding counted) bound a batch."""

    async def start(self) -> EngineInfo:
        await asyncio.to_thread(self._load)
        self._loop = asyncio.get_running_loop()
        self._waiting: list[_Waiting] = []
        self._arrived = threading.Condition()
        threading.Thread(target=self._work, daemon=True, name="decode").start()
        window = int(self.config["max_model_len"])
        return EngineInfo(
            version=self._version(),
            device=self._device_name(),
            max_model_len=window,
            kv_tokens=max(int(self.config["batch_tokens"]), window),
            max_batch=int(self.config["batch_size"]),
            prefix_cache=False,
        )

    def _load(self) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        folder = Path(self.config["model"])
        self._format = ChatFormat(folder)
        self._stop_ids = frozenset(self._format.stop_ids())
        device = self.config["device"] or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            self._device = torch.device(device)
        except RuntimeError as error:
            raise UserError(f"engine device {device!r}: {error}") from error
        dtype = torch_dtype(self.config["dtype"], self._device.type)
        options = {"attn_implementation": register()} if self._device.type == "cpu" else {}
        model = load(AutoModelForCausalLM, folder, dtype=dtype, **options)
        if self.config["adapter"]:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, self.config["adapter"]).merge_and_unload()
        self._model: Any = model.to(self._device).eval()
        self._grammars: Any = None

    def tokenize(self, request: ChatRequest) -> Sequence[int]:
        return self._format.encode(request)

    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        started = time.perf_counter()
        matcher = None
        if sampling.json_schema is not None:
            matcher = await asyncio.to_thread(self._matcher, sampling.json_schema)
        waiting = _Waiting(Row(prompt, sampling, self._decode, matcher), self._loop.create_future())
        with self._arrived:
            self._waiting.append(waiting)
            self._arrived.notify()
        try:
            await waiting.future
        finally:
            waiting.row.cancelled = True
        assert waiting.row.finish is not None
        return Completion(
            text=waiting.row.text,
            finish_reason=waiting.row.finish,
            prompt_tokens=len(prompt),
            completion_tokens=len(waiting.row.answer),
            cached_tokens=0,
            seconds=time.perf_counter() - started,
        )

    def _decode(self, ids: list[int]) -> str:
        text: str = self._format.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def _matcher(self, schema: dict[str, Any]) -> Any:
        """A fresh xgrammar matcher. Compact JSON: with free whitespace small models write blanks until they are cut."""
        try:
            import xgrammar
        except ImportError as error:
            raise BadRequest("JSON output needs xgrammar: install longloom[cpu]") from error
        if self._grammars is None:
            info = xgrammar.TokenizerInfo.from_huggingface(
                self._format.tokenizer,
                vocab_size=self._model.get_output_embeddings().weight.shape[0],
                stop_token_ids=sorted(self._stop_ids),
            )
            self._grammars = xgrammar.GrammarCompiler(info)  # keeps what it has compiled
        try:
            compiled = self._grammars.compile_json_schema(
                json.dumps(schema), any_whitespace=False, separators=(",", ":")
            )
        except RuntimeError as error:
            raise BadRequest(f"xgrammar refuses the JSON schema: {error}") from error
        return xgrammar.GrammarMatcher(compiled)

    # ------------------------------------------------------------ the decoding thread

    def _work(self) -> None:
        while True:
            with self._arrived:
                self._arrived.wait_for(lambda: bool(self._waiting))
            time.sleep(_GATHER_SECONDS)
            with self._arrived:
                self._waiting = [waiting for waiting in self._waiting if not waiting.row.cancelled]
                batch = choose_batch(self._waiting, self.config["batch_size"], self.config["batch_tokens"])
                self._waiting = [waiting for waiting in self._waiting if waiting not in batch]
            if batch:
                self._answer(batch)

    def _answer(self, batch: list[_Waiting]) -> None:
        futures = {waiting.row: waiting.future for waiting in batch}

        def deliver(row: Row, error: Exception | None = None) -> None:
            self._loop.call_soon_threadsafe(_settle, futures[row], error)

        try:
            decode_batch(self._model, [waiting.row for waiting in batch], self._stop_ids, deliver)
        except Exception as error:
            # Whatever torch raises (often: out of memory) ends this batch, not the engine.
            hint = "; a smaller batch_tokens needs less memory" if "memory" in str(error) else ""
            for waiting in batch:
                if waiting.row.finish is None:
                    deliver(waiting.row, EngineError(f"{type(error).__name__}: {error}{hint}"))

    def _version(self) -> str:
        import torch
        import transformers

        return f"transformers {transformers.__version__}, torch {torch.__version__}"

    def _device_name(self) -> str:
        import torch

        return torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else str(self._device)


def _settle(future: asyncio.Future[None], error: Exception | None) -> None:
    if future.done():
        return  # cancelled meanwhile
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def choose_batch(waiting: Sequence[_Waiting], batch_size: int, batch_tokens: int) -> list[_Waiting]:
    """The request that has waited longest, and those closest to it in length that fit beside it."""
    if not waiting:
        return []
    first = waiting[0]
    by_likeness = sorted(waiting[1:], key=lambda w: abs(len(w.row.prompt) - len(first.row.prompt)))
    batch = [first]
    prompt, answer = len(first.row.prompt), first.row.sampling.max_tokens
    for other in by_likeness:
        prompt = max(prompt, len(other.row.prompt))
        answer = max(answer, other.row.sampling.max_tokens)
        if len(batch) == batch_size or (len(batch) + 1) * (prompt + answer) > batch_tokens:
            break
        batch.append(other)
    return batch

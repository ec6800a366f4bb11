"""vLLM's async engine with prefix caching, inside an engine process: on GPUs, or on a CPU with vLLM's CPU build."""

import json
import os
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any, get_args

from generators.engines.backend import Backend
from generators.engines.base import (
    BadRequest,
    ChatRequest,
    Completion,
    EngineDied,
    EngineError,
    EngineInfo,
    Sampling,
)
from generators.engines.chat_format import ChatFormat
from schemas.errors import UserError

_CPU_KV_GIB = "2"  # vLLM's own default takes a share of all memory, which on a laptop is other people's


class VllmBackend(Backend):
    """`options` of the recipe go to vLLM's AsyncEngineArgs as they are, over everything set here."""

    async def start(self) -> EngineInfo:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", _CPU_KV_GIB)
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        import vllm
        from vllm.platforms import current_platform
        from vllm.v1.engine.async_llm import AsyncLLM

        config = _engine_config(self.config)
        self._format = ChatFormat(Path(self.config["model"]))
        self._stop_ids = self._format.stop_ids()
        self._ids = count(1)
        self._lora = _lora_request(self.config)
        # Blocks the event loop, until the engine's own process has loaded the model: nothing else is to do.
        self._engine: Any = AsyncLLM.from_vllm_config(config, disable_log_stats=True)
        config = self._engine.vllm_config
        cache = config.cache_config
        replicas = config.parallel_config.data_parallel_size
        return EngineInfo(
            version=f"vllm {vllm.__version__}",
            device=current_platform.get_device_name(),
            max_model_len=config.model_config.max_model_len,
            # Not blocks times block size: that would be wrong for models that mix kinds of attention.
            kv_tokens=cache.kv_cache_size_tokens * replicas,
            max_batch=config.scheduler_config.max_num_seqs * replicas,
            prefix_cache=bool(cache.enable_prefix_caching),
        )

    def tokenize(self, request: ChatRequest) -> Sequence[int]:
        return self._format.encode(request)

    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        from vllm.exceptions import VLLMClientError
        from vllm.inputs import tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError

        started = time.perf_counter()
        try:
            request_id = f"request-{next(self._ids)}"
            stream = self._engine.generate(
                tokens_input(list(prompt)), self._sampling(sampling), request_id, lora_request=self._lora
            )
            outputs = [output async for output in stream]
        except EngineDeadError as error:
            raise EngineDied(str(error)) from error
        except (VLLMClientError, ValueError) as error:
            raise BadRequest(f"vLLM refuses the request: {error}") from error
        final = outputs[-1]  # the only one
        answer = final.outputs[0]
        if answer.finish_reason not in ("stop", "length"):
            raise EngineError(f"vLLM ended a request with {answer.finish_reason!r}")
        return Completion(
            text=answer.text,
            finish_reason=answer.finish_reason,
            prompt_tokens=len(prompt),
            completion_tokens=len(answer.token_ids),
            cached_tokens=final.num_cached_tokens,
            seconds=time.perf_counter() - started,
        )

    def _sampling(self, sampling: Sampling) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        schema = sampling.json_schema
        return SamplingParams(
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            repetition_penalty=sampling.repetition_penalty,
            stop=list(sampling.stop),
            stop_token_ids=self._stop_ids,
            seed=sampling.seed,
            structured_outputs=None if schema is None else StructuredOutputsParams(json=schema),
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    async def close(self) -> None:
        if hasattr(self, "_engine"):
            self._engine.shutdown()


def _engine_config(config: dict[str, Any]) -> Any:
    """vLLM's checked configuration. Raises UserError for what vLLM refuses, e.g. a window the model cannot have."""
    from vllm import AsyncEngineArgs
    from vllm.platforms import current_platform
    from vllm.usage.usage_lib import UsageContext

    arguments = {
        "model": config["model"],
        "dtype": config["dtype"],
        "max_model_len": config["max_model_len"],
        "gpu_memory_utilization": config["gpu_memory_utilization"],
        "tensor_parallel_size": config["tensor_parallel_size"],
        "max_num_seqs": config["max_num_seqs"],
        "enable_prefix_caching": True,
        "generation_config": "vllm",  # defaults of the model's generation_config.json must not change a request
        # With free whitespace small models write blanks until they are cut.
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
        # On a CPU compilation takes minutes at each start and gains nothing (measured: 174 tokens/s, 179 without).
        "enforce_eager": current_platform.is_cpu(),
        **(_cpu_arguments(config) if current_platform.is_cpu() else {}),
        **(_lora_arguments(config) if config["adapter"] else {}),
        **config["options"],
    }
    try:
        return AsyncEngineArgs(**arguments).create_engine_config(UsageContext.ENGINE_CONTEXT)
    except (TypeError, ValueError) as error:
        raise UserError(f"vLLM refuses this engine's settings: {error}") from error


def _lora_arguments(config: dict[str, Any]) -> dict[str, Any]:
    """vLLM reserves room for a rank, and knows only some."""
    from vllm.config.lora import MaxLoRARanks

    adapter = json.loads((Path(config["adapter"]) / "adapter_config.json").read_text("utf-8"))
    rank = max([adapter["r"], *adapter.get("rank_pattern", {}).values()])
    known = [one for one in get_args(MaxLoRARanks) if one >= rank]
    if not known:
        raise UserError(f"adapter {config['adapter']}: its rank {rank} is more than vLLM can load")
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": min(known)}


def _lora_request(config: dict[str, Any]) -> Any:
    if not config["adapter"]:
        return None
    from vllm.lora.request import LoRARequest

    return LoRARequest("adapter", 1, config["adapter"])


def _cpu_arguments(config: dict[str, Any]) -> dict[str, Any]:
    """vLLM 0.32 on a CPU dies ("CPU Generator does not use offset") when the prompt of a request with a seed is
    computed in several chunks: compute every prompt in one."""
    return {"enable_chunked_prefill": False, "max_num_batched_tokens": max(4096, config["max_model_len"])}

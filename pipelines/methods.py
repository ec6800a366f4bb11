"""Which stages an entry of `generate` becomes: one for most methods, several for those that go over their pool."""

from importlib import import_module
from typing import TYPE_CHECKING

from pipelines.engine_pool import EnginePool
from schemas.methods import MethodConfig

if TYPE_CHECKING:
    from pipelines.stages import Stage

# Methods with stages of their own: `module:function` of a function (config, engines) -> list[Stage].
_OWN_STAGES: dict[str, str] = {
    "long_alpaca": "pipelines.long_alpaca:stages",
    "self_lengthen": "pipelines.self_lengthen:stages",
    "verifiable": "pipelines.verifiable:stages",
}


def generate_stages(config: MethodConfig, engines: EnginePool) -> "list[Stage]":
    """The stages of one entry, in the order they run."""
    if config.method in _OWN_STAGES:
        module, _, name = _OWN_STAGES[config.method].partition(":")
        stages: list[Stage] = getattr(import_module(module), name)(config, engines)
        return stages
    from pipelines.generate import GenerateStage

    return [GenerateStage(config, engines)]

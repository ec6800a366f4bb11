"""No engine at all: for methods that ask no model."""

from generators.engines.base import ChatRequest, Completion, Engine, EngineInfo, Identity, Prepared


class NoEngine(Engine):
    """Its identity is what records of such methods name as their model."""

    @property
    def identity(self) -> Identity:
        return Identity(model="none", revision=None, template=None)

    async def start(self) -> EngineInfo:
        raise AssertionError("a method without an engine has asked a model")

    async def prepare(self, request: ChatRequest) -> Prepared:
        raise AssertionError("a method without an engine has asked a model")

    async def generate(self, prepared: Prepared) -> Completion:
        raise AssertionError("a method without an engine has asked a model")

    async def close(self) -> None:
        return None

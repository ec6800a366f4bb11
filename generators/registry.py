"""Methods by name, imported when they are used."""

from importlib import import_module
from typing import Any

from generators.base import Generator

METHODS = {
    "agentwrite": "generators.agentwrite:AgentWrite",
    "long_qa": "generators.long_qa:LongQA",
}


def create_generator(config: Any) -> Generator[Any]:
    """The generator of a recipe's generate entry (`config.method` is one of METHODS)."""
    module, _, name = METHODS[config.method].partition(":")
    generator: Generator[Any] = getattr(import_module(module), name)(config)
    return generator

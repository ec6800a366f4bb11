"""Methods by name, imported when they are used."""

import ast
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from generators.base import Generator

_ROOT = Path(__file__).parent.parent
METHODS = {
    "agentwrite": "generators.agentwrite:AgentWrite",
    "context_recycling": "generators.context_recycling:ContextRecycling",
    "llama2_long": "generators.llama2_long:Llama2Long",
    "long_alpaca": "generators.long_alpaca:LongAlpaca",
    "long_cite": "generators.long_cite:LongCite",
    "long_qa": "generators.long_qa:LongQA",
    "longpo": "generators.longpo:LongPO",
    "minimum_tuning": "generators.minimum_tuning:MinimumTuning",
    "self_lengthen": "generators.self_lengthen:SelfLengthen",
    "verifiable": "generators.verifiable:Verifiable",
    "writing_dpo": "generators.writing_dpo:WritingDPO",
}


def create_generator(config: Any) -> Generator[Any]:
    """The generator of a recipe's generate entry (`config.method` is one of METHODS)."""
    module, _, name = METHODS[config.method].partition(":")
    generator: Generator[Any] = getattr(import_module(module), name)(config)
    return generator


def method_modules(method: str) -> list[str]:
    """The source files (without `.py`) that decide what a method makes: its own and those it imports from
    generators/."""
    return sorted(imported_modules(METHODS[method].partition(":")[0]))


@cache
def imported_modules(module: str) -> frozenset[str]:
    """The source file of a module of generators/ and those it imports from there, without `.py`."""
    found = {module.replace(".", "/")}
    waiting = list(found)
    while waiting:
        tree = ast.parse((_ROOT / f"{waiting.pop()}.py").read_text("utf-8"))
        names = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
        for name in (name.replace(".", "/") for name in names if name.startswith("generators.")):
            if name not in found and (_ROOT / f"{name}.py").is_file():
                found.add(name)
                waiting.append(name)
    return frozenset(found)

"""A stand-in for a model that answers the prompts of Self-Lengthen, and a recipe with a training command."""

import asyncio
import hashlib
import sys
from pathlib import Path
from typing import Any

from generators.engines.base import ChatRequest, Identity
from generators.engines.scripted import ScriptedEngine
from pipelines.build import build
from pipelines.workspace import Workspace
from tests.support import recipe

SEEDS = [
    "Write a travel guide to a small island in the north.",
    "Tell the story of two sisters who repair an old boat.",
    "Describe a day in the life of a mountain doctor.",
    "Explain to a beginner how bread is baked.",
]
# Stands for a trainer: writes an adapter that depends on nothing but data, role, iteration and the previous adapter.
TRAINER = """
import hashlib, json, pathlib, sys
role, iteration, model, data, previous, out = sys.argv[1:7]
out = pathlib.Path(out)
before = (pathlib.Path(previous) / "adapter_model.bin").read_bytes() if previous else b""
rows = pathlib.Path(data).read_bytes()
assert rows and all(set(json.loads(line)) == {"messages"} for line in rows.splitlines())
print("training", role, iteration, "on", len(rows.splitlines()), "rows, previous:", previous)
(out / "adapter_config.json").write_text(json.dumps({"r": 4}))
(out / "adapter_model.bin").write_bytes(hashlib.sha256(f"{role} {iteration}".encode() + rows + before).digest())
"""


def prose(seed: str, count: int) -> str:
    """`count` words that nobody has said before, as one sentence."""
    words = []
    for n in range(count):
        mark = hashlib.sha256(f"{seed} {n}".encode()).hexdigest()[:7]
        words.append("".join(chr(ord("a") + int(digit, 16)) for digit in mark))
    return " ".join(words).capitalize() + "."


def step(request: ChatRequest) -> str:
    prompt = request.messages[0].content
    if "List three requests" in prompt:
        return "propose"
    if "naturally run to more than" in prompt:
        return "judge"
    if "\n\nThe outline:\n" in prompt:
        return "complete" if len(request.messages) == 2 else "extend"
    return "rewrite" if "also states this length" in prompt else "answer"


def reply(request: ChatRequest) -> str:
    """Depends on nothing but the request."""
    prompt = request.messages[0].content
    mark = hashlib.sha256(repr((request.messages, request.sampling.seed)).encode()).hexdigest()
    size = int(mark[:4], 16) % 40
    kind = step(request)
    if kind == "propose":
        return " Write about " + prose(mark, 6)
    if kind == "judge":
        return "Yes."
    if kind == "answer":
        return "\n\n".join(prose(f"{mark} {n}", 5 + size // 3) for n in range(4))
    if kind == "extend":
        return "\n\n".join(prose(f"{mark} {n}", 12 + size) for n in range(3))
    if kind == "complete":
        return "\n\n" + "\n\n".join(prose(f"{mark} {n}", 10 + size) for n in range(3))
    instruction, _, task = prompt.partition("\n\nThe lines above")
    return f"{instruction} Use {task.partition('states this length: ')[2].partition('. If it names')[0]}."


def make_engine(record: dict[str, ScriptedEngine], reply: Any = reply, **options: Any) -> Any:
    """Engines named after their adapters: `base`, or `1/generator`; `record` gets each."""

    def make(config: Any, *_: Any) -> ScriptedEngine:
        name, revision = "base", "1"
        if config.adapter is not None:
            folder = Path(config.adapter)
            name = "/".join(folder.parts[-2:])
            revision = (folder / "adapter_model.bin").read_bytes().hex()
        if name not in record:
            record[name] = ScriptedEngine(reply, identity=Identity(name, revision, None), **options)
        return record[name]

    return make


def lengthen_recipe(folder: Path, export: bool = True, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trainer.py").write_text(TRAINER)
    section: dict[str, Any] = {
        "method": "self_lengthen", "name": "longer", "engine": "writer", "iterations": 2, "instructions": 6,
        "shard_rows": 4, "sampling": {step: {"max_tokens": 2048} for step in ("answer", "extend")},
        "train": {"command": [
            sys.executable, "trainer.py", "{role}", "{iteration}", "{model}", "{data}", "{previous}", "{out}",
        ]},
        "length_control": {"words": [20, 200], "step": 10},
        **changes,
    }  # fmt: skip
    sources = [{"name": "seeds", "type": "inline", "language": "en", "licence": "CC0-1.0", "items": SEEDS}]
    found = recipe(
        folder,
        documents=[],
        instructions=sources,
        generate=[{key: value for key, value in section.items() if value is not None}],
        export=[{"name": "out", "configs": ["sft"]}] if export else [],
    )
    (folder / "scripted" / "config.json").write_text('{"max_position_embeddings": 32768}')
    return found


def run(path: Path, workspace: Path, reply: Any = reply, **options: Any) -> dict[str, ScriptedEngine]:
    """The engines that were asked, by name."""
    engines: dict[str, ScriptedEngine] = {}
    asyncio.run(build(path, Workspace(workspace), make_engine=make_engine(engines, reply), **options))
    return engines


if __name__ == "__main__":  # a run to be killed: recipe, workspace, seconds each call takes
    recipe_path, place, latency = sys.argv[1:4]
    asyncio.run(build(Path(recipe_path), Workspace(Path(place)), make_engine=make_engine({}, latency=float(latency))))

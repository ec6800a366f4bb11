"""The loop with real training: TRL and PEFT train a tiny model, the engine of the next iteration loads the result."""

import asyncio
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from generators.engines import create_engine
from pipelines.build import build
from pipelines.catalog import query
from pipelines.workspace import Workspace
from schemas.errors import RunError
from tests.engines.tiny import write_model
from tests.lengthen_support import lengthen_recipe, make_engine

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="needs trl")
def test_adapters_are_trained_and_used_and_the_second_training_goes_on_from_the_first(tmp_path: Path) -> None:
    """Iteration 1 is told by the scripted engine, so that there is something to train on. What a random model then
    writes is no text: iteration 2 leaves nothing, which is said, and its calls name the adapted model."""
    write_model(tmp_path / "tiny")
    train = [sys.executable, str(ROOT / "examples" / "train_lora.py"), "--model={model}", "--data={data}",
             "--previous={previous}", "--out={out}", "--max-steps=3", "--rank=2", "--learning-rate=0.01"]  # fmt: skip
    path = lengthen_recipe(
        tmp_path, instructions=2, tries={"answer": 2}, train={"command": train}, length_control=None, drop_short=False,
        sampling={"answer": {"max_tokens": 100}, "extend": {"max_tokens": 200}},
    )  # fmt: skip
    value = yaml.safe_load(path.read_text())
    value["engines"]["writer"] = {"type": "transformers", "model": "tiny", "max_model_len": 4096, "device": "cpu"}
    path.write_text(yaml.safe_dump(value))
    scripted = make_engine({})

    def make(config: Any, *rest: Any) -> Any:
        return scripted(config, *rest) if config.adapter is None else create_engine(config, *rest)

    place = Workspace(tmp_path / "w")
    with pytest.raises(RunError, match="iteration 2 has left nothing to train on"):
        asyncio.run(build(path, place, make_engine=make))
    names = query(place, "SELECT DISTINCT model FROM requests WHERE stage = 'generate.longer.2.answers'")[1]
    assert len(names) == 1 and names[0][0].startswith("tiny+")
    models = place.root / "models" / "longer" / "1"
    weights = {role: (models / role / "adapter_model.safetensors").read_bytes() for role in ("generator", "extender")}
    assert len(set(weights.values())) == 2
    assert json.loads((models / "generator" / "adapter_config.json").read_text())["r"] == 2
    # The example's own second step: it goes on from that adapter, and its rank.
    values = {"model": tmp_path / "tiny", "data": models / "generator.jsonl", "previous": models / "generator"}
    out = tmp_path / "second"
    command = [argument.format(**values, out=out) for argument in train]

    async def again() -> int:
        process = await asyncio.create_subprocess_exec(*[one.replace("--rank=2", "--rank=8") for one in command])
        return await process.wait()

    assert asyncio.run(again()) == 0
    assert json.loads((out / "adapter_config.json").read_text())["r"] == 2
    assert (out / "adapter_model.safetensors").read_bytes() != weights["generator"]

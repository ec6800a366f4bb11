"""The scripted engine, messages on the wire, and which engine a recipe gets."""

import asyncio
import importlib.util
import subprocess
import sys

import pytest
from openai_server import chat

from generators import engines
from generators.engines import create_engine
from generators.engines.base import Completion, EngineDied, EngineError, Message, PromptTooLong
from generators.engines.process import ProcessEngine
from generators.engines.scripted import ScriptedEngine
from generators.engines.wire import pack_frame, read_frame, request_from_json, request_to_json
from schemas.engines import AutoEngine, VllmEngine
from schemas.errors import UserError

# ---------------------------------------------------------------- the scripted engine


def test_scripted_answers():
    def answer(request):
        text = request.messages[-1].content
        return {"fail": EngineError("busy"), "whole": Completion("w", "length", 1, 2, 3, 4.0)}.get(text, text * 2)

    async def scenario():
        engine = ScriptedEngine(answer, window=20)
        with pytest.raises(EngineDied):
            await engine.prepare(chat())
        assert (await engine.start()).max_model_len == 20
        prepared = await engine.prepare(chat(("user", "two words "), max_tokens=3))
        assert prepared.prompt_tokens == 2
        assert await engine.generate(prepared) == Completion("two words two", "length", 2, 3, None, 0.0)
        whole = await engine.generate(await engine.prepare(chat(("user", "whole"))))
        assert (whole.text, whole.seconds) == ("w", 4.0)
        with pytest.raises(EngineError, match="busy"):
            await engine.generate(await engine.prepare(chat(("user", "fail"))))
        with pytest.raises(PromptTooLong):
            await engine.prepare(chat(("user", "w " * 11)))
        assert [call.messages[0].content for call in engine.calls] == ["two words ", "whole", "fail"]

    asyncio.run(scenario())


def test_scripted_death_needs_a_new_start():
    async def scenario():
        engine = ScriptedEngine(lambda request: EngineDied("gone") if engine.starts == 1 else "alive")
        await engine.start()
        prepared = await engine.prepare(chat())
        for _ in range(2):
            with pytest.raises(EngineDied):
                await engine.generate(prepared)
        await engine.start()
        assert (await engine.generate(prepared)).text == "alive"
        assert (engine.starts, len(engine.calls)) == (2, 2)

    asyncio.run(scenario())


def test_scripted_concurrency_is_observed():
    async def scenario():
        engine = ScriptedEngine(lambda request: "x", latency=0.01)
        await engine.start()
        prepared = await engine.prepare(chat())
        await engine.generate(prepared)
        assert engine.max_concurrency == 1
        tasks = [asyncio.create_task(engine.generate(prepared)) for _ in range(5)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert engine.max_concurrency == 5 and engine._running == 0

    asyncio.run(scenario())


# ---------------------------------------------------------------- frames


def test_frames():
    messages = [{}, {"id": 1, "text": "\ud800 é \n\0"}, {"long": "x" * 1_000_000}]
    data = b"".join(map(pack_frame, messages))

    async def read(data: bytes):
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        found = []
        while (message := await read_frame(reader)) is not None:
            found.append(message)
        return found

    assert asyncio.run(read(data)) == messages
    assert asyncio.run(read(data[:-1])) == messages[:2]  # the writer died inside a frame


def test_requests_survive_the_wire():
    request = chat(("system", "s"), ("user", "u"), stop=("a", "b"), json_schema={"type": "object"}, seed=3)
    assert request_from_json(request_to_json(request)) == request
    raw = chat(("user", "u"), raw=True)
    assert request_from_json(request_to_json(raw)) == raw
    assert raw.messages == (Message("user", "u"),)


# ---------------------------------------------------------------- which engine


def pretend_installed(monkeypatch, *names: str, gpu: bool = False, cpu_build: bool = False) -> None:
    real = importlib.util.find_spec

    def find_spec(name):
        if name in ("vllm", "torch", "transformers"):
            return real("json") if name in names else None
        return real(name)

    monkeypatch.setattr(engines, "find_spec", find_spec)
    monkeypatch.setattr(engines, "_gpu_visible", lambda: gpu)
    monkeypatch.setattr(engines, "_vllm_for_cpu", lambda: cpu_build)


@pytest.mark.parametrize(
    "installed, machine, expected",
    [
        (("vllm", "torch", "transformers"), {"gpu": True}, "vllm"),
        (("vllm", "torch", "transformers"), {"cpu_build": True}, "vllm"),
        (("vllm", "torch", "transformers"), {}, "transformers"),
        (("torch", "transformers"), {"gpu": True}, "transformers"),
    ],
)
def test_auto_takes_what_works_here(monkeypatch, tmp_path, installed, machine, expected):
    pretend_installed(monkeypatch, *installed, **machine)
    engine = create_engine(AutoEngine(model="m", max_model_len=99), tmp_path)
    assert isinstance(engine, ProcessEngine)
    assert (engine._config.type, engine._config.model, engine._config.max_model_len) == (expected, "m", 99)


def test_what_is_missing_is_named(monkeypatch, tmp_path):
    pretend_installed(monkeypatch, "transformers")
    with pytest.raises(UserError, match=r"neither vllm nor torch: install longloom\[vllm\]"):
        create_engine(AutoEngine(model="m"), tmp_path)
    pretend_installed(monkeypatch, "transformers", "torch")
    with pytest.raises(UserError, match=r"engine type 'vllm' needs vllm: install longloom\[vllm\]"):
        create_engine(VllmEngine(type="vllm", model="m"), tmp_path)


def test_creating_engines_imports_nothing_heavy():
    code = (
        "import sys; from pathlib import Path; from schemas.engines import TransformersEngine\n"
        "from generators.engines import create_engine\n"
        "create_engine(TransformersEngine(type='transformers', model='m'), Path('.'))\n"
        "print([name for name in ('torch', 'transformers', 'vllm', 'huggingface_hub') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"

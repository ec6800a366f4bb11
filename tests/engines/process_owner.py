"""A program that starts an engine, prints what `psutil` must not find after its death, and waits to be killed.

Arguments: the engine's recipe section as JSON, a log folder, and a backend's dotted path or "-".
"""

import asyncio
import json
import sys
from pathlib import Path

import psutil
from pydantic import TypeAdapter

from generators.engines.base import ChatRequest, Message, Sampling
from generators.engines.process import ProcessEngine
from schemas.engines import EngineConfig


async def main(section: str, log_dir: str, backend: str) -> None:
    config = TypeAdapter(EngineConfig).validate_json(section)
    engine = ProcessEngine(config, Path.cwd(), Path(log_dir), None if backend == "-" else backend)
    await engine.start()
    text = "child" if backend != "-" else "Count to a thousand."
    request = ChatRequest((Message("user", text),), Sampling(max_tokens=8))
    await engine.generate(await engine.prepare(request))
    print(json.dumps([child.pid for child in psutil.Process().children(recursive=True)]), flush=True)
    await asyncio.sleep(1000)


asyncio.run(main(*sys.argv[1:]))

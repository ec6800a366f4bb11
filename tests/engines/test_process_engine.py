"""Engine processes with a fake backend: many requests at once, errors, cancelling, death, and nothing left behind."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from openai_server import chat

from generators.engines.base import BadRequest, EngineDied, EngineError, Prepared, PromptTooLong
from generators.engines.process import ProcessEngine
from generators.engines.worker import TokenStore
from schemas.engines import TransformersEngine
from schemas.errors import RunError, UserError

HERE = Path(__file__).parent
BACKEND = "fake_backend:FakeBackend"


@pytest.fixture(autouse=True)
def import_path(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parents[1])]))


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "some-model"
    folder.mkdir()
    (folder / "config.json").write_text('{"max_position_embeddings": 300}')
    return folder


def create(model: Path, backend: str = BACKEND, **section) -> ProcessEngine:
    config = TransformersEngine(type="transformers", model=str(model), **section)
    return ProcessEngine(config, model.parent, model.parent / "logs", backend)


@asynccontextmanager
async def running(model: Path):
    engine = create(model)
    try:
        await engine.start()
        yield engine
    finally:
        await engine.close()


async def ask(engine: ProcessEngine, prompt: str, **sampling) -> str:
    return (await engine.generate(await engine.prepare(chat(("user", prompt), **sampling)))).text


async def running_requests(engine: ProcessEngine, count: int) -> None:
    """Wait until the engine works on so many."""
    for _ in range(1000):
        if await ask(engine, "running") == str(count):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"never {count} at once")


def gone(pids: list[int], seconds: float = 10.0) -> bool:
    """No such processes any more, or only their entries that nobody has collected."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if all(not psutil.pid_exists(p) or psutil.Process(p).status() == psutil.STATUS_ZOMBIE for p in pids):
            return True
        time.sleep(0.05)
    return False


def test_identity_is_known_without_starting(model):
    engine = create(model)
    assert engine.identity.model == "some-model"
    assert engine.identity.revision and engine.identity.template is None
    assert not (model.parent / "logs").exists()


def test_many_requests_at_once_come_back_to_their_callers(model):
    async def scenario():
        async with running(model) as engine:
            started = time.monotonic()
            sleeps = [ask(engine, f"sleep {0.5 - i / 1000}") for i in range(100)]
            assert await asyncio.gather(*sleeps) == [str(0.5 - i / 1000) for i in range(100)]
            assert time.monotonic() - started < 10  # together, not one after the other
            return await engine.start()

    info = asyncio.run(scenario())
    assert (info.version, info.max_model_len, info.kv_tokens, info.max_batch) == ("fake 1", 300, 1000, 8)


def test_text_survives_the_trip(model):
    text = 'é 日本 \U0001f600 \ud800 \x00 \n\t"\\'

    async def scenario():
        async with running(model) as engine:
            return await ask(engine, f"echo {text}")

    assert asyncio.run(scenario()) == text


def test_a_prompt_is_tokenized_once(model):
    async def scenario():
        async with running(model) as engine:
            prepared = await engine.prepare(chat(("user", "tokenized")))
            assert prepared.prompt_tokens == len("tokenized")
            assert (await engine.generate(prepared)).text == "1"
            assert (await engine.generate(prepared)).text == "1"
            unknown = Prepared(prepared.request, prepared.prompt_tokens, "another process's handle")
            assert (await engine.generate(unknown)).text == "2"

    asyncio.run(scenario())


def test_token_store_forgets_the_least_recently_used():
    store = TokenStore(limit=10)
    first, second = store.put([1] * 4), store.put([2] * 4)
    assert list(store.get(first)) == [1] * 4
    third = store.put([3] * 4)
    assert list(store.get(first)) == [1] * 4 and list(store.get(third)) == [3] * 4
    with pytest.raises(Exception, match=second):
        store.get(second)
    assert list(store.get(store.put([4] * 50))) == [4] * 50  # one prompt always fits


def test_errors_keep_their_kind(model):
    async def scenario():
        async with running(model) as engine:
            with pytest.raises(PromptTooLong) as caught:
                await ask(engine, "x" * 291, max_tokens=10)
            assert (caught.value.prompt_tokens, caught.value.max_tokens, caught.value.max_model_len) == (291, 10, 300)
            await engine.prepare(chat(("user", "x" * 290), max_tokens=10))
            with pytest.raises(BadRequest, match="a bad request"):
                await ask(engine, "bad")
            with pytest.raises(EngineError, match="ZeroDivisionError: a bug"):
                await ask(engine, "crash")
            assert await ask(engine, "echo still here") == "still here"

    asyncio.run(scenario())
    [log] = (model.parent / "logs").iterdir()
    assert "ZeroDivisionError: a bug" in log.read_text() and "a bad request" not in log.read_text()


def test_cancelling_reaches_the_engine(model):
    async def scenario():
        async with running(model) as engine:
            tasks = [asyncio.create_task(ask(engine, "sleep 1000")) for _ in range(3)]
            await running_requests(engine, 3)
            tasks[0].cancel()
            await running_requests(engine, 2)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(tasks[1], 0.01)
            await running_requests(engine, 1)
            tasks[2].cancel()

    asyncio.run(asyncio.wait_for(scenario(), 30))


@pytest.mark.parametrize("how", ["kill -9", "the engine dies by itself"])
def test_death_fails_all_requests_and_start_begins_anew(model, how):
    async def scenario():
        async with running(model) as engine:
            worker, child = int(await ask(engine, "pid")), int(await ask(engine, "child"))
            old = await engine.prepare(chat(("user", "echo hello")))
            waiting = [asyncio.create_task(ask(engine, "sleep 1000")) for _ in range(3)]
            await running_requests(engine, 3)
            if how == "kill -9":
                os.kill(worker, signal.SIGKILL)
            else:
                waiting.append(asyncio.create_task(ask(engine, "die")))
            results = await asyncio.gather(*waiting, return_exceptions=True)
            assert all(isinstance(result, EngineDied) for result in results), results
            for attempt in (ask(engine, "echo x"), engine.generate(old)):
                with pytest.raises(EngineDied):
                    await attempt
            assert await asyncio.to_thread(gone, [worker, child])
            await engine.start()
            assert int(await ask(engine, "pid")) != worker
            assert (await engine.generate(old)).text == "hello"

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_close_ends_the_process_and_may_be_repeated(model):
    async def scenario():
        engine = create(model)
        await engine.close()
        await engine.start()
        pids = [int(await ask(engine, "pid")), int(await ask(engine, "child"))]
        await engine.close()
        assert gone(pids, 1.0)
        await engine.close()
        with pytest.raises(EngineDied):
            await ask(engine, "echo x")
        await engine.start()
        assert await ask(engine, "echo again") == "again"
        await engine.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_failed_start_quotes_the_log(model):
    with pytest.raises(RunError, match="no such luck") as caught:
        asyncio.run(create(model, dtype="float16").start())
    assert "fake backend starts" in str(caught.value) and "engine-transformers-" in str(caught.value)
    with pytest.raises(RunError, match="ModuleNotFoundError"):
        asyncio.run(create(model, backend="no_such_module:Backend").start())
    with pytest.raises(UserError, match=r"^the dtype is wrong$"):
        asyncio.run(create(model, dtype="bfloat16").start())


@pytest.mark.parametrize("victims", ["the owner", "the owner and the worker at once"])
def test_nothing_is_left_when_the_owner_is_killed(model, tmp_path, victims):
    section = json.dumps({"type": "transformers", "model": str(model)})
    arguments = [sys.executable, str(HERE / "process_owner.py"), section, str(tmp_path), BACKEND]
    owner = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    pids = json.loads(owner.stdout.readline())
    assert len(pids) == 3  # the worker, its guard, its child
    kill_owner(owner, pids[0], victims)
    assert gone(pids)
    owner.communicate()


def kill_owner(owner: subprocess.Popen, worker: int, victims: str) -> None:
    if victims == "the owner and the worker at once":
        os.kill(worker, signal.SIGSTOP)  # so that it cannot clean up
        owner.kill()
        os.kill(worker, signal.SIGKILL)
    owner.kill()

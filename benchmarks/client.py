"""What one request costs the client's processor, for several clients of the same server.

python -m benchmarks.client [--requests 2000] [--concurrency 64] [--repeats 5] [--with-python NAME=PATH ...]

The server (its own process) answers at once, so the model costs nothing. The number is CPU time of the client process,
all threads, divided by the requests: the median of the repeats, which take turns so that a slow moment hits all alike.
--with-python distilabel=/tmp/d/bin/python (or curator=...) adds another tool from its own environment.
"""

import argparse
import asyncio
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

PROMPT = "Write about families. " * 45  # some 1000 characters
ROOT = Path(__file__).resolve().parents[1]
Spent = tuple[float, float]  # CPU seconds, wall seconds
Measure = Callable[[str, int, int], Coroutine[Any, Any, Spent]]  # (URL, requests, concurrency)


async def spend(ask: Callable[[int], Awaitable[object]], requests: int, concurrency: int) -> Spent:
    """Ask so many times, so many at once. The connections are opened before the clock starts."""

    async def work(numbers: Iterator[int]) -> None:
        for number in numbers:
            await ask(number)

    async def drain(numbers: range) -> None:
        shared = iter(numbers)
        await asyncio.gather(*(work(shared) for _ in range(concurrency)))

    await drain(range(concurrency))
    cpu, wall = time.process_time(), time.perf_counter()
    await drain(range(requests))
    return time.process_time() - cpu, time.perf_counter() - wall


# ---------------------------------------------------------------- the clients


async def measure_aiohttp(url: str, requests: int, concurrency: int) -> Spent:
    """The floor: aiohttp as its manual shows it, nothing checked."""
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=concurrency)) as session:

        async def ask(number: int) -> str:
            body = {"model": "m", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 100, "seed": number}
            async with session.post(f"{url}/v1/chat/completions", json=body) as response:
                return str((await response.json())["choices"][0]["message"]["content"])

        return await spend(ask, requests, concurrency)


def _client(url: str, server: str, max_in_flight: int) -> Any:
    from generators.engines.openai import OpenAIClient
    from schemas.engines import OpenAIEngine

    engine = {"type": "openai", "model": "m", "base_urls": [url], "server": server, "max_in_flight": max_in_flight}
    return OpenAIClient(OpenAIEngine.model_validate(engine), ROOT)


async def measure_ours(url: str, requests: int, concurrency: int, server: str) -> Spent:
    """prepare and generate; with `server` vllm, prepare is a request of its own (/tokenize)."""
    from generators.engines.base import ChatRequest, Message, Sampling

    client = _client(url, server, concurrency)
    await client.start()

    async def ask(number: int) -> str:
        request = ChatRequest((Message("user", PROMPT),), Sampling(max_tokens=100, seed=number))
        return str((await client.generate(await client.prepare(request))).text)

    try:
        return await spend(ask, requests, concurrency)
    finally:
        await client.close()


async def measure_ours_openai(url: str, requests: int, concurrency: int) -> Spent:
    return await measure_ours(url, requests, concurrency, "openai")


async def measure_ours_vllm(url: str, requests: int, concurrency: int) -> Spent:
    return await measure_ours(url, requests, concurrency, "vllm")


async def measure_with_ledger(url: str, requests: int, concurrency: int) -> Spent:
    """The whole way of a row: prompt rendered, seed derived, ledger asked, admitted, answered, committed.

    In units of 128 rows as the generate stage makes them, four under way at once.
    """
    from generators.base import Generator, Llm
    from generators.ledger import Ledger
    from generators.runner import Runner, Task
    from schemas.model import SamplingConfig
    from schemas.rows import Instruction, Sample

    class OneCall(Generator[Instruction]):
        method = "agentwrite"  # whose prompt files it borrows
        steps = ("plan",)

        async def generate(self, row: Instruction, llm: Llm) -> list[Sample]:
            answer = await llm.chat("plan", instruction=row.text, low=1, high=2, example=1, format="lines")
            return [Sample((("user", row.text), ("assistant", answer)), "en")]

    class Words:
        def count(self, text: str) -> int:
            return len(text.split())

        def offsets(self, text: str) -> list[tuple[int, int]]:
            raise NotImplementedError

    def unit(number: int, rows: int) -> list[Task]:
        names = [f"row-{number}-{row}" for row in range(rows)]
        return [Task(name, Instruction(name, PROMPT, "made", "en")) for name in names]

    sampling = {"plan": SamplingConfig(max_tokens=100, temperature=1.0)}  # every row has a seed of its own
    client = _client(url, "openai", concurrency // 2)  # the runner keeps twice as many at the server
    with tempfile.TemporaryDirectory(prefix="longloom-client-") as folder:
        ledger = Ledger(Path(folder, "ledger.sqlite"))
        runner = Runner(client, ledger, 131_072, Words(), seed=0)
        try:
            await runner.run(OneCall(), unit(0, concurrency), sampling)
            units = iter([(n + 1, min(128, requests - at)) for n, at in enumerate(range(0, requests, 128))])

            async def work() -> None:
                for number, rows in units:
                    outcomes = await runner.run(OneCall(), unit(number, rows), sampling, unit=number)
                    assert all(outcome.state == "ok" for outcome in outcomes), outcomes[0]

            cpu, wall = time.process_time(), time.perf_counter()
            await asyncio.gather(*(work() for _ in range(4)))
            spent = time.process_time() - cpu, time.perf_counter() - wall
            assert runner.stats.ledger_hits == 0
            return spent
        finally:
            await client.close()
            ledger.close()


async def measure_openai_package(url: str, requests: int, concurrency: int) -> Spent:
    """With its own defaults, retries included: nothing fails here."""
    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="-") as client:

        async def ask(number: int) -> str | None:
            answer = await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": PROMPT}], max_tokens=100, seed=number
            )
            return answer.choices[0].message.content

        return await spend(ask, requests, concurrency)


# ---------------------------------------------------------------- the table

CLIENTS: dict[str, Measure] = {
    "plain aiohttp": measure_aiohttp,
    "OpenAIClient": measure_ours_openai,
    "OpenAIClient, prompt counted by the server (2 exchanges)": measure_ours_vllm,
    "OpenAIClient + runner + ledger": measure_with_ledger,
    "openai package, AsyncOpenAI": measure_openai_package,
}


def measure_elsewhere(tool: str, python: str, url: str, requests: int, concurrency: int) -> tuple[Spent, str]:
    """Another tool in its own environment; also its version."""
    script = str(Path(__file__).with_name("other_clients.py"))
    done = subprocess.run(
        [python, script, tool, url, str(requests), str(concurrency)], capture_output=True, text=True, timeout=600
    )
    if done.returncode:
        raise SystemExit(f"{tool} failed:\n{done.stderr[-2000:]}")
    cpu, wall, version = json.loads(done.stdout.splitlines()[-1])
    return (cpu, wall), version


@contextmanager
def instant_server() -> Iterator[str]:
    """The URL of a server process that lives as long as the block."""
    command = [sys.executable, "-m", "benchmarks.instant_server", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--with-python", action="append", default=[], metavar="NAME=PATH")
    arguments = parser.parse_args()
    elsewhere = dict(pair.split("=", 1) for pair in arguments.with_python)
    size = arguments.requests, arguments.concurrency
    spent: dict[str, list[Spent]] = {}
    with instant_server() as url:
        for _ in range(arguments.repeats):
            for name, measure in CLIENTS.items():
                spent.setdefault(name, []).append(asyncio.run(measure(url, *size)))
            for tool, python in elsewhere.items():
                figures, version = measure_elsewhere(tool, python, url, *size)
                spent.setdefault(f"{tool} {version}", []).append(figures)
    report(spent, *size, arguments.repeats)


def report(spent: dict[str, list[Spent]], requests: int, concurrency: int, repeats: int) -> None:
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in ("aiohttp", "openai"))
    cores = len(os.sched_getaffinity(0))
    print(f"{requests} requests, {concurrency} at once, {len(PROMPT)} characters each, median of {repeats}; ", end="")
    print(f"{cores} cores, Python {platform.python_version()}, {versions}\n")
    print("| client | CPU ms per request | least | most | requests per second | against plain aiohttp |")
    print("|---|---|---|---|---|---|")
    floor = median(cpu for cpu, _ in spent["plain aiohttp"])
    for name, figures in spent.items():
        cpus = [1000 * cpu / requests for cpu, _ in figures]
        rate = requests / median(wall for _, wall in figures)
        times = median(cpus) * requests / 1000 / floor
        print(f"| {name} | {median(cpus):.3f} | {min(cpus):.3f} | {max(cpus):.3f} | {rate:.0f} | {times:.1f}x |")


if __name__ == "__main__":
    main()

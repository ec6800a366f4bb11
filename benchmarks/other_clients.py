"""The same requests through other tools, each run by the Python of its own environment (see benchmarks.client).

PYTHON benchmarks/other_clients.py distilabel|curator URL REQUESTS CONCURRENCY
The last line of output is JSON: CPU seconds, wall seconds, version.

distilabel: its OpenAILLM alone, without a Pipeline. Needs `pip install "distilabel[openai]" requests`.
curator: curator.LLM over a list, its cache of answers included, for it has no smaller interface. Needs
`pip install bespokelabs-curator`; without network also the environment variable TIKTOKEN_CACHE_DIR set to
.../site-packages/litellm/litellm_core_utils/tokenizers of that environment.
"""

import asyncio
import importlib.metadata
import json
import os
import sys
import tempfile
import time

PROMPT = "Write about families. " * 45


def distilabel(url, requests, concurrency):
    from distilabel.models import OpenAILLM

    llm = OpenAILLM(model="m", base_url=f"{url}/v1", api_key="-")
    llm.load()

    async def work(numbers):
        for _ in numbers:
            await llm.agenerate(input=[{"role": "user", "content": PROMPT}], max_new_tokens=100)

    async def drain(count):
        numbers = iter(range(count))
        await asyncio.gather(*(work(numbers) for _ in range(concurrency)))

    async def main():
        await drain(concurrency)
        cpu, wall = time.process_time(), time.perf_counter()
        await drain(requests)
        return time.process_time() - cpu, time.perf_counter() - wall

    return (*asyncio.run(main()), importlib.metadata.version("distilabel"))


def curator(url, requests, concurrency):
    home = tempfile.mkdtemp(prefix="longloom-curator-")
    os.environ.update(
        HOME=home, TELEMETRY_ENABLED="false", CURATOR_DISABLE_RICH_DISPLAY="1", OPENAI_API_KEY="-", HF_HUB_OFFLINE="1"
    )
    from bespokelabs import curator as package

    llm = package.LLM(
        model_name="m",
        backend="openai",
        backend_params={
            "base_url": f"{url}/v1",
            "max_requests_per_minute": 10**7,
            "max_tokens_per_minute": 10**10,
            "max_concurrent_requests": concurrency,
        },
        generation_params={"max_tokens": 100},
    )
    llm([f"warm-up {n}" for n in range(concurrency)])
    prompts = [f"{n} {PROMPT}" for n in range(requests)]
    cpu, wall = time.process_time(), time.perf_counter()
    response = llm(prompts)
    spent = time.process_time() - cpu, time.perf_counter() - wall
    assert len(response.dataset) == requests
    return (*spent, importlib.metadata.version("bespokelabs-curator"))


if __name__ == "__main__":
    name, url, requests, concurrency = sys.argv[1:]
    tool = {"distilabel": distilabel, "curator": curator}[name]
    print("\n" + json.dumps(tool(url, int(requests), int(concurrency))))

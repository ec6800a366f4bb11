"""What happens to a run when things break: is anything lost, made twice, paid twice or different afterwards?

python -m benchmarks.faults [--kills 200]

The real command line over a small recipe whose model is a server of ours. Each fault happens once to a workspace of its
own; then the same command runs until it ends well (at most four times). `lost`, `twice`: rows against an uninterrupted
run; `paid twice`: answers that the ledger held and that were asked again; `equal`: all tables and exports are byte for
byte those of an uninterrupted run. Kills are those of benchmarks.crash. Faults of mounts need root.
"""

import argparse
import contextlib
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tests.fault_bench import COMMAND, ROOT, Bench, Ended, Harm, responses, until_well
from tests.faulty_server import FAULTS as SERVER_FAULTS
from tests.faulty_server import FOR_EVER, FaultyServer
from tests.support import recipe
from tests.workspace_faults import FAULTS as WORKSPACE_FAULTS


@dataclass(frozen=True)
class Outcome:
    """`ended`: how each command ended, the last one well."""

    ended: list[Ended]
    harm: Harm

    @property
    def is_good(self) -> bool:
        return self.harm.is_none and self.ended[-1].code == 0 and all(one.is_clear for one in self.ended)


class NotHere(Exception):
    """This machine lacks what a fault needs: the right to mount, a C compiler."""


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[Bench]:
    server = FaultyServer()
    try:
        yield Bench(recipe(folder, engines={"writer": server.engine()}), server)
    finally:
        server.close()


def through(bench: Bench, name: str, workspace: Path) -> Outcome:
    """One fault by its name, and back to a finished workspace."""
    return SCENARIOS[name](bench, workspace)


def _until_well(bench: Bench, workspace: Path, before: list[Ended], paid: int = 0) -> Outcome:
    def run() -> Ended:
        nonlocal paid
        ended = bench.run(workspace)
        paid += bench.paid_twice()
        return ended

    return Outcome([*before, *until_well(run)], bench.harm(workspace, paid))


def _server(fault: str, left: int) -> Callable[[Bench, Path], Outcome]:
    def scenario(bench: Bench, workspace: Path) -> Outcome:
        assert bench.server is not None
        bench.server.fault, bench.server.left = fault, left
        ended = bench.run(workspace)
        bench.server.left = 0
        return _until_well(bench, workspace, [ended], bench.paid_twice())

    return scenario


def _files(break_it: Callable[[Path], Path]) -> Callable[[Bench, Path], Outcome]:
    def scenario(bench: Bench, workspace: Path) -> Outcome:
        assert bench.server is not None
        held, before = responses(bench.copy(workspace) / "ledger.sqlite"), len(bench.server.answered)
        path = break_it(workspace)
        first = bench.run(workspace)
        if "longloom recover" in first.sentence:  # as the sentence says
            subprocess.run([*COMMAND, "recover", "--workspace", workspace], check=True, capture_output=True, cwd=ROOT)
        elif "delete it" in first.sentence:
            path.rename(path.with_name(f"{path.name}.broken"))
        outcome = _until_well(bench, workspace, [first])
        paid = sum(text in held for text in bench.server.answered[before:])
        return replace(outcome, harm=replace(outcome.harm, paid_twice=paid))

    return scenario


def _at_work(bench: Bench, workspace: Path, environment: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
    """A run that waits for an answer which does not come (for five seconds)."""
    assert bench.server is not None
    bench.server.fault, bench.server.left = "hangs", 1
    process = bench.start(workspace, environment)
    end = time.monotonic() + 120
    while bench.server.left and time.monotonic() < end:
        time.sleep(0.02)
    return process


# Every look at the clock is an hour before the last one.
BACKWARDS = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
static long looks;
int clock_gettime(clockid_t id, struct timespec *t) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
  int code = real(id, t);
  if (id == CLOCK_REALTIME) t->tv_sec -= 3600 * __sync_add_and_fetch(&looks, 1);
  return code;
}
time_t time(time_t *out) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  if (out) *out = t.tv_sec;
  return t.tv_sec;
}
"""


def _clock_backwards(bench: Bench, workspace: Path) -> Outcome:
    """Killed at work, and resumed, while the clock goes backwards; then once more by the true clock."""
    if (compiler := shutil.which("cc")) is None:
        raise NotHere("no C compiler")
    library = bench.recipe.with_name("backwards.so")
    command = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", library, "-ldl"]
    subprocess.run(command, input=BACKWARDS, text=True, check=True)
    environment = {"LD_PRELOAD": str(library)}
    process = _at_work(bench, workspace, environment)
    process.kill()
    ended = [bench.ended(process)]
    paid = bench.paid_twice()
    ended.append(bench.run(workspace, environment))
    return _until_well(bench, workspace, ended, paid + bench.paid_twice())


def _signal(bench: Bench, workspace: Path) -> Outcome:
    process = _at_work(bench, workspace)
    process.send_signal(signal.SIGTERM)
    ended = bench.ended(process)
    return _until_well(bench, workspace, [ended], bench.paid_twice())


def _two_writers(bench: Bench, workspace: Path) -> Outcome:
    first = _at_work(bench, workspace)
    command = bench.command(workspace)
    second = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    both = [bench.ended(second), bench.ended(first)]
    return _until_well(bench, workspace, both, bench.paid_twice())


@contextlib.contextmanager
def _mounted(folder: Path, options: str) -> Iterator[Callable[[str], None]]:
    folder.mkdir(parents=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        raise NotHere(done.stderr.strip())

    def again(changed: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{changed}", folder], check=True, capture_output=True)

    try:
        yield again
    finally:
        subprocess.run(["umount", folder], check=True)


def _disk_full(bench: Bench, workspace: Path) -> Outcome:
    with _mounted(workspace, "size=140k") as again:
        ended = bench.run(workspace)
        paid = bench.paid_twice()
        again("size=100m")
        return _until_well(bench, workspace, [ended], paid)


def _read_only(bench: Bench, workspace: Path) -> Outcome:
    with _mounted(workspace, "size=100m") as again:
        again("ro")
        ended = bench.run(workspace)
        again("rw")
        return _until_well(bench, workspace, [ended])


SCENARIOS: dict[str, Callable[[Bench, Path], Outcome]] = {
    **{f"the server: {fault}, once": _server(fault, 1) for fault in SERVER_FAULTS},
    **{f"the server: {fault}, always": _server(fault, FOR_EVER) for fault in SERVER_FAULTS},
    **{name: _files(break_it) for name, break_it in WORKSPACE_FAULTS.items()},
    "SIGTERM": _signal,
    "two runs at once": _two_writers,
    "killed while the clock goes backwards": _clock_backwards,
    "the disk is full": _disk_full,
    "the workspace is read-only": _read_only,
}

# How the first command ends, and a part of what it says. All others end well and say nothing: the fault is borne.
FIRST: dict[str, tuple[int, str]] = {
    "the server: hangs, always": (1, "completions: no answer within 5 s"),
    "the server: 500, always": (1, "completions answers HTTP 500: busy"),
    "the server: 429, always": (1, "completions answers HTTP 429: busy (it asks for a wait of 1 s)"),
    "the server: half a body, always": (1, "completions: ClientPayloadError"),
    "the server: wrong JSON, always": (1, "completions: the server's answer is not JSON"),
    "the server: no completion, always": (1, "completions: the server's answer is not a completion"),
    "the server: endless bytes, always": (1, "completions: ClientPayloadError: more than 1,"),
    "the server: closes the connection, always": (1, "completions: ServerDisconnectedError"),
    "a part with flipped bytes": (2, "has been put aside"),
    "a part of documents has flipped bytes": (2, "has been put aside"),
    "a line of runs is truncated": (2, "has been put aside"),
    "a cut manifest": (2, "generate.long_qa.json: damaged manifest"),
    "a cut manifest of ingest": (2, "ingest.json: damaged manifest"),
    "a cut manifest of an export": (2, "export.out.json: damaged manifest"),
    "a broken page of the ledger": (1, "malformed; 'longloom recover'"),
    "a broken first page of the ledger": (2, "if it was a ledger, 'longloom recover'"),
    "SIGTERM": (143, "the same command continues where it was"),
    "two runs at once": (2, "is using this workspace"),
    "killed while the clock goes backwards": (-9, ""),
    "the disk is full": (1, ".json: No space left on device; make room and run the same command again"),
    "the workspace is read-only": (2, "cannot be used as a workspace"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    arguments = parser.parse_args()
    print("| fault | exit codes | lost | twice | paid twice | equal | what was said |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="longloom-faults-") as folder, opened(Path(folder) / "recipe") as bench:
        for number, name in enumerate(SCENARIOS):
            try:
                outcome = through(bench, name, Path(folder) / f"w{number}")
            except NotHere as error:
                print(f"| {name} | not run: {error} | | | | | |")
                continue
            codes = ", ".join(str(one.code) for one in outcome.ended)
            said = next((one.sentence for one in outcome.ended if one.sentence), "")
            said = said.replace(folder, "").replace("|", "\\|").removeprefix("longloom: ")[:160]
            harm = outcome.harm
            equal = "yes" if harm.equal else "no"
            print(
                f"| {name} | {codes} | {harm.lost} | {harm.twice} | {harm.paid_twice} | {equal} | {said} |", flush=True
            )
    if arguments.kills:
        _kills(arguments.kills)


def _kills(count: int) -> None:
    from benchmarks.crash import at_moments, print_rows
    from tests.crash_driver import drill

    print(
        "\n| killed (SIGKILL) | kills | workspaces resumed | lost | repeated | differing |\n|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory(prefix="longloom-kills-") as folder:
        path = recipe(Path(folder, "recipe"))
        with drill(Path(folder), path) as small:
            print_rows("at a random moment", at_moments(small, random.Random(1), count))


if __name__ == "__main__":
    main()

"""The runner: many rows over one engine and one ledger; how rows end, and what they cost."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generators import runner as module
from generators.base import Generator, Llm
from generators.engines.base import BadRequest, ChatRequest, Completion, EngineDied, EngineError, Prepared
from generators.engines.scripted import ScriptedEngine
from generators.ledger import Ledger
from generators.runner import TRIES, Outcome, Runner, Task
from schemas.errors import RunError, UserError
from schemas.model import SamplingConfig
from schemas.rows import Document, Sample
from schemas.states import Reject, State
from tests.support import WordTokenizer

SAMPLING = {"answer": SamplingConfig(max_tokens=20)}
WINDOW = 1000


class Chain(Generator[Any]):
    """A row is (document, questions): it asks them one after the other, and its sample holds the answers."""

    method, steps = "long_qa", ("answer",)

    def __init__(self) -> None:
        self.alive = self.most_alive = 0

    async def generate(self, row: tuple[str, list[str]], llm: Llm) -> list[Sample]:
        self.alive += 1
        self.most_alive = max(self.most_alive, self.alive)
        try:
            document, questions = row
            answers = [await llm.chat("answer", document=document, question=question) for question in questions]
            return [Sample((("user", document), ("assistant", " ".join(answers))), "en")]
        finally:
            self.alive -= 1


def question(request: ChatRequest) -> str:
    return request.messages[0].content.split("\n\n")[1]


def echo(request: ChatRequest) -> str:
    return f"<{question(request)}>"


def rows(*questions: list[str], document: str = "text", group: str | None = None) -> list[Task]:
    return [Task(f"row-{number}", (document, asked), group) for number, asked in enumerate(questions)]


class Bench:
    """A runner over a fresh scripted engine; the ledger file outlives it."""

    def __init__(self, folder: Path, answer: Callable[[ChatRequest], Any] = echo, **options: Any) -> None:
        self.engine = ScriptedEngine(answer, **{"window": WINDOW, **options})
        self.ledger = Ledger(folder / "ledger.sqlite")
        self.runner = Runner(self.engine, self.ledger, options.get("window", WINDOW), WordTokenizer(), 7)
        self.generator = Chain()

    async def outcomes(self, tasks: Iterable[Task], generator: Generator[Any] | None = None) -> list[Outcome]:
        return await self.runner.run(generator or self.generator, tasks, SAMPLING)

    def run(self, tasks: Iterable[Task], generator: Generator[Any] | None = None) -> list[Outcome]:
        async def main() -> list[Outcome]:
            found = await asyncio.wait_for(self.outcomes(tasks, generator), 60)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            return found

        try:
            return asyncio.run(main())
        finally:
            self.ledger.close()
            admission = self.runner._admission
            assert (admission.used, admission.running, admission.waiting, admission._reserved) == (0, 0, 0, {})
            assert self.runner._in_flight == {} and self.runner._alive == 0

    def asked(self) -> list[str]:
        return [question(request) for request in self.engine.calls]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(module, "BACKOFF", (1e-6, 1e-5))


def ends(outcomes: list[Outcome]) -> list[tuple[str, str, str]]:
    return [(outcome.state.value, outcome.reason, outcome.detail) for outcome in outcomes]


def written(outcomes: list[Outcome]) -> list[str]:
    return [sample.messages[1][1] for outcome in outcomes for sample in outcome.samples]


# ---------------------------------------------------------------- rows that end well


def test_outcomes_are_in_the_order_of_the_tasks(tmp_path):
    """The first row takes the most calls and ends last."""
    bench = Bench(tmp_path)
    tasks = rows(*([f"q{number}.{call}" for call in range(5 - number)] for number in range(5)))
    finished: list[str] = []

    async def main() -> list[Outcome]:
        return await bench.runner.run(
            bench.generator, tasks, SAMPLING, on_row=lambda outcome: finished.append(outcome.task.row_id)
        )

    outcomes = asyncio.run(main())
    assert [outcome.task for outcome in outcomes] == tasks and finished == [f"row-{n}" for n in (4, 3, 2, 1, 0)]
    assert ends(outcomes) == [("ok", "", "")] * 5
    assert written(outcomes)[2:] == ["<q2.0> <q2.1> <q2.2>", "<q3.0> <q3.1>", "<q4.0>"]
    assert [len(outcome.entries) for outcome in outcomes] == [5, 4, 3, 2, 1]
    assert bench.runner.stats.calls == 15 and bench.runner.stats.rows == 5 and bench.engine.starts == 1
    bench.ledger.close()


def test_no_tasks_no_engine(tmp_path):
    bench = Bench(tmp_path)
    assert bench.run([]) == [] and bench.engine.starts == 0


def test_the_engine_is_not_started_when_the_ledger_knows_all(tmp_path):
    tasks = rows(["a", "b"], ["c"])
    first, second = Bench(tmp_path), Bench(tmp_path)
    outcomes = first.run(tasks)
    again = second.run(tasks)
    assert written(again) == written(outcomes) == ["<a> <b>", "<c>"]
    assert [outcome.entries for outcome in again] == [outcome.entries for outcome in outcomes]
    assert second.engine.starts == 0 and second.engine.calls == [] and second.runner.stats.ledger_hits == 3


def test_only_what_is_new_is_asked(tmp_path):
    Bench(tmp_path).run(rows(["a", "b"]))
    second = Bench(tmp_path)
    second.run(rows(["a", "x"], ["b"]))
    assert second.asked() == ["x"]


def test_equal_greedy_requests_at_the_same_time_are_one_call(tmp_path):
    bench = Bench(tmp_path)
    outcomes = bench.run(rows(*[["same"]] * 10))
    assert written(outcomes) == ["<same>"] * 10 and bench.asked() == ["same"]
    assert len({outcome.entries[0].request_id for outcome in outcomes}) == 1


def test_sampled_requests_of_different_rows_are_different_calls(tmp_path):
    bench = Bench(tmp_path)

    async def main() -> None:
        sampling = {"answer": SamplingConfig(max_tokens=20, temperature=1.0)}
        await bench.runner.run(bench.generator, rows(["q", "q"], ["q"]), sampling)

    asyncio.run(main())
    seeds = [request.sampling.seed for request in bench.engine.calls]
    assert len(set(seeds)) == 3 and 0 not in seeds
    bench.ledger.close()


# ---------------------------------------------------------------- rows that do not


def _truncated(request: ChatRequest) -> str:
    return "word " * 21


def _bad(request: ChatRequest) -> Exception:
    return BadRequest("no such schema")


def _busy(request: ChatRequest) -> Exception:
    return EngineError("server busy")


@pytest.mark.parametrize(
    ("answer", "document", "end", "calls"),
    [
        (_truncated, "text", ("truncated", "truncated_answer", "call 0 of step answer stopped at 20 tokens"), 1),
        (
            echo,
            "word " * 980,
            (
                "over_budget",
                "prompt_too_long",
                "981 prompt tokens + 20 answer tokens do not fit a window of 1000 tokens",
            ),
            0,
        ),
        (_bad, "text", ("failed", "bad_request", "no such schema"), 1),
        (_busy, "text", ("failed", "engine_error", f"{TRIES} tries: server busy"), TRIES),
    ],
)
def test_how_a_request_can_end_a_row(tmp_path, answer, document, end, calls):
    bench = Bench(tmp_path, answer)
    assert ends(bench.run(rows(["q", "never asked"], document=document))) == [end]
    assert bench.asked() == ["q"] * calls


class Raises(Generator[Any]):
    """Row: the exception to raise after one call."""

    method, steps = "long_qa", ("answer",)

    async def generate(self, row: Exception, llm: Llm) -> list[Sample]:
        await llm.chat("answer", document="text", question="q")
        raise row


def test_what_a_generator_raises_ends_its_row_only(tmp_path):
    errors = [Reject(state, f"because_{state}", "seen") for state in State if state is not State.OK]
    errors += [ZeroDivisionError("division by zero"), KeyError("words"), ValueError("")]  # type: ignore[list-item]
    tasks = [Task(f"row-{number}", error) for number, error in enumerate(errors)]
    outcomes = Bench(tmp_path).run(tasks, Raises())
    assert ends(outcomes) == [
        *((state.value, f"because_{state}", "seen") for state in State if state is not State.OK),
        ("failed", "error_ZeroDivisionError", "division by zero"),
        ("failed", "error_KeyError", "'words'"),
        ("failed", "error_ValueError", ""),
    ]
    assert all(len(outcome.entries) == 1 and outcome.samples == [] for outcome in outcomes)


def test_one_bad_row_does_not_hurt_its_neighbours(tmp_path):
    def answer(request: ChatRequest) -> Any:
        return {"bad": BadRequest("bad"), "long": "word " * 50}.get(question(request), echo(request))

    bench = Bench(tmp_path, answer)
    outcomes = bench.run(rows(["a"], ["bad"], ["b"], ["long"], ["c"]))
    assert [outcome.state.value for outcome in outcomes] == ["ok", "failed", "ok", "truncated", "ok"]
    assert written(outcomes) == ["<a>", "<b>", "<c>"]


def test_a_truncated_answer_is_recorded_and_not_asked_again(tmp_path):
    first = ends(Bench(tmp_path, _truncated).run(rows(["q"])))
    second = Bench(tmp_path, _truncated)
    assert ends(second.run(rows(["q"]))) == first and second.engine.calls == []


def test_an_error_is_not_recorded(tmp_path):
    Bench(tmp_path, _bad).run(rows(["q"]))
    second = Bench(tmp_path)
    assert written(second.run(rows(["q"]))) == ["<q>"]


# ---------------------------------------------------------------- transport errors


def failing(times: int, make: Callable[[], Exception]) -> Callable[[ChatRequest], Any]:
    """Each question fails that many times before it is answered."""
    asked: Counter[str] = Counter()

    def answer(request: ChatRequest) -> Any:
        asked[question(request)] += 1
        return make() if asked[question(request)] <= times else echo(request)

    return answer


@pytest.mark.parametrize("times", range(TRIES))
def test_a_transport_error_is_tried_again(tmp_path, times):
    bench = Bench(tmp_path, failing(times, lambda: EngineError("connection lost")))
    assert written(bench.run(rows(["q"]))) == ["<q>"]
    assert bench.asked() == ["q"] * (times + 1) and bench.runner.stats.retries == times


def test_the_server_says_how_long_to_wait(tmp_path, monkeypatch):
    """Our own first wait would be an hour: the test ends only because the server's word counts."""
    monkeypatch.setattr(module, "BACKOFF", (3600.0, 3600.0))
    bench = Bench(tmp_path, failing(3, lambda: EngineError("busy", retry_after=0.0)))
    assert written(bench.run(rows(["q"]))) == ["<q>"]


def test_no_server_makes_us_wait_longer_than_our_own_longest(tmp_path):
    bench = Bench(tmp_path, failing(1, lambda: EngineError("busy", retry_after=1e6)))
    assert written(bench.run(rows(["q"]))) == ["<q>"]


def test_why_a_request_waits_is_told_once_a_minute(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BACKOFF", (0.01, 0.1))
    bench = Bench(tmp_path, failing(3, lambda: EngineError("SERVER is busy", retry_after=3600)))
    told: list[str] = []
    bench.runner.note = told.append
    assert written(bench.run(rows(["q"]))) == ["<q>"]
    assert told == ["SERVER is busy; trying again in 0.1 s"]


# ---------------------------------------------------------------- engines that die


def test_a_dead_engine_is_started_again(tmp_path):
    bench = Bench(tmp_path, failing(1, lambda: EngineDied("out of memory")))
    assert written(bench.run(rows(["a", "b", "c"]))) == ["<a> <b> <c>"]
    assert bench.engine.starts == 4 and bench.asked() == ["a", "a", "b", "b", "c", "c"]


def test_a_death_with_many_requests_in_flight_is_one_death(tmp_path):
    deaths = []

    def answer(request: ChatRequest) -> Any:
        if question(request) == "q7" and len(deaths) < 2:
            deaths.append(1)
            return EngineDied("out of memory")
        return echo(request)

    bench = Bench(tmp_path, answer, max_batch=4)
    outcomes = bench.run(rows(*([f"q{number}", f"r{number}"] for number in range(20))))
    assert written(outcomes) == [f"<q{number}> <r{number}>" for number in range(20)]
    assert bench.engine.starts == 3


def test_an_engine_that_stays_dead_ends_the_run(tmp_path):
    bench = Bench(tmp_path, lambda request: EngineDied("no CUDA device"))
    with pytest.raises(RunError, match="the engine died 3 times without one answer in between: no CUDA device"):
        bench.run(rows(["a"]))
    assert bench.engine.starts == 3 and bench.asked() == ["a"] * 3


def test_a_request_that_kills_the_engine_each_time_ends_its_row(tmp_path):
    """The others are answered in between, so that the run goes on."""

    class InTurn(Generator[Any]):
        method, steps = "long_qa", ("answer",)

        async def generate(self, row: str, llm: Llm) -> list[Sample]:
            for number in range(40 if row == "good" else 1):
                await llm.chat("answer", document="text", question=f"{row} {number}")
            return []

    class Poisoned(ScriptedEngine):
        async def generate(self, prepared: Prepared) -> Completion:
            if question(prepared.request) == "poison 0":
                answered.clear()
                await answered.wait()
            completion = await super().generate(prepared)
            answered.set()
            return completion

    def answer(request: ChatRequest) -> Any:
        return EngineDied("killed by this prompt") if question(request) == "poison 0" else echo(request)

    answered = asyncio.Event()
    bench = Bench(tmp_path)
    bench.engine = bench.runner.engine = Poisoned(answer)
    outcomes = bench.run([Task("row-0", "poison"), Task("row-1", "good")], InTurn())
    assert ends(outcomes) == [
        ("failed", "engine_died", f"the engine died in each of {TRIES} tries of this request"),
        ("ok", "", ""),
    ]
    assert bench.asked().count("poison 0") == TRIES and bench.engine.starts == TRIES + 1


@pytest.mark.parametrize("error", [UserError("the key in OPENAI_API_KEY is refused"), RunError("the disk is full")])
def test_what_is_no_fault_of_a_row_ends_the_run(tmp_path, error):
    def answer(request: ChatRequest) -> Any:
        return error if question(request) == "q3" else echo(request)

    taken: list[str] = []

    def tasks() -> Iterator[Task]:
        for task in rows(*([f"q{number}"] for number in range(200))):
            taken.append(task.row_id)
            yield task

    bench = Bench(tmp_path, answer, max_batch=1)
    with pytest.raises(type(error), match=str(error)):
        bench.run(tasks())
    assert len(taken) < 50  # at once, not after the last row


def test_an_iterable_that_breaks_ends_the_run(tmp_path):
    def tasks() -> Iterator[Task]:
        yield from rows(["a"], ["b"])
        raise OSError("the part cannot be read")

    with pytest.raises(OSError, match="the part cannot be read"):
        Bench(tmp_path, latency=0.01).run(tasks())


# ---------------------------------------------------------------- memory and order


@pytest.mark.parametrize(("max_batch", "kv_tokens", "most"), [(4, 10**6, 8 + 8), (1, 10**6, 2 + 8), (64, 10, 1 + 16)])
def test_rows_are_taken_only_as_fast_as_the_engine_takes_requests(tmp_path, max_batch, kv_tokens, most):
    """At most the requests that run (twice the batch, or what fits the cache) and a short queue are alive."""
    bench = Bench(tmp_path, max_batch=max_batch, kv_tokens=kv_tokens)
    taken = 0
    ahead = 0

    def tasks() -> Iterator[Task]:
        nonlocal taken, ahead
        for task in rows(*([f"q{number}", f"r{number}"] for number in range(300))):
            taken += 1
            ahead = max(ahead, taken - bench.runner.stats.rows)
            yield task

    outcomes = bench.run(tasks())
    assert written(outcomes) == [f"<q{number}> <r{number}>" for number in range(300)]
    assert bench.generator.most_alive <= most and ahead <= most + 1


def test_rows_that_the_ledger_answers_are_not_all_alive_at_once_either(tmp_path):
    tasks = rows(*([f"q{number}"] for number in range(300)))
    Bench(tmp_path).run(tasks)
    bench = Bench(tmp_path)
    bench.run(iter(tasks))
    assert bench.generator.most_alive <= 64 and bench.engine.calls == []


def test_at_most_twice_the_batch_is_with_the_engine(tmp_path):
    bench = Bench(tmp_path, max_batch=3, latency=0.005)
    bench.run(rows(*([f"q{number}"] for number in range(50))))
    assert bench.engine.max_concurrency == 6


def documents(count: int, per_document: int, calls: int) -> list[Task]:
    return [
        Task(f"doc-{d}#{n}", (f"doc{d} " * 100, [f"d{d} n{n} c{c}" for c in range(calls)]), f"doc-{d}")
        for d in range(count)
        for n in range(per_document)
    ]


def misses(order: list[str], places: int) -> int:
    """How often a least-recently-used cache of that many documents has to take one in."""
    cache: list[str] = []
    missed = 0
    for document in order:
        if document in cache:
            cache.remove(document)
        else:
            missed += 1
        cache = [*cache, document][-places:]
    return missed


@pytest.mark.parametrize("kv_tokens", [150, 250, 450])
def test_requests_of_one_document_go_to_the_engine_together(tmp_path, kv_tokens):
    bench = Bench(tmp_path, kv_tokens=kv_tokens)
    bench.run(iter(documents(8, 4, 1)))
    order = [question(request).split()[0] for request in bench.engine.calls]
    assert order == [f"d{number}" for number in range(8) for _ in range(4)]


@pytest.mark.parametrize("kv_tokens", [250, 450])
def test_the_second_step_of_a_row_still_finds_its_document_in_the_cache(tmp_path, kv_tokens):
    """One miss a document is the ideal (one more is left for a slow machine); first steps first would be 16."""
    bench = Bench(tmp_path, kv_tokens=kv_tokens, latency=0.02)
    bench.run(iter(documents(8, 4, 2)))
    order = [question(request).split() for request in bench.engine.calls]
    assert len(order) == 64
    assert misses([document for document, _, _ in order], kv_tokens // 110) <= 9
    step_major = sorted(order, key=lambda call: call[2])
    assert misses([document for document, _, _ in step_major], kv_tokens // 110) == 16


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=25), st.integers(1, 4), st.integers(20, 400))
@settings(max_examples=40)
def test_any_rows_over_any_engine_give_the_same_samples(tmp_path_factory, shape, max_batch, kv_tokens):
    tasks = [
        Task(f"row-{number}", (f"doc{doc} " * 30, [f"{number % 3} {call}" for call in range(calls)]), f"doc-{doc}")
        for number, (doc, calls) in enumerate(shape)
    ]
    bench = Bench(tmp_path_factory.mktemp("rows"), max_batch=max_batch, kv_tokens=kv_tokens)
    outcomes = bench.run(iter(tasks))
    assert written(outcomes) == [
        " ".join(f"<{number % 3} {call}>" for call in range(calls)) for number, (_, calls) in enumerate(shape)
    ]
    different = {(doc, number % 3, call) for number, (doc, calls) in enumerate(shape) for call in range(calls)}
    assert len(bench.engine.calls) == len(different)


# ---------------------------------------------------------------- cancelling


def in_loop(test: Callable[[Path], Awaitable[None]]) -> Callable[[Path], None]:
    def run(tmp_path: Path) -> None:
        asyncio.run(asyncio.wait_for(test(tmp_path), 60))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@in_loop
async def test_cancelling_a_run_leaves_no_task_behind(tmp_path: Path) -> None:
    bench = Bench(tmp_path, latency=0.001, max_batch=2)
    before = asyncio.all_tasks()
    # Equal questions too: rows that wait for another row's answer must stop as well, not ask themselves.
    tasks = rows(*([f"q{number // 3}", "last"] for number in range(60)))
    for steps in range(1, 40, 3):
        running = asyncio.create_task(bench.outcomes(iter(tasks)))
        for _ in range(steps):
            await asyncio.sleep(0)
        calls = len(bench.engine.calls)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert asyncio.all_tasks() == before
        assert len(bench.engine.calls) - calls <= 4  # those that were on their way to the engine
        assert bench.generator.alive == 0 and bench.runner._alive == 0 and bench.runner._in_flight == {}
        admission = bench.runner._admission
        assert (admission.used, admission.running, admission.waiting, admission._reserved) == (0, 0, 0, {})
    outcomes = await bench.outcomes(tasks)  # and the runner is as good as new
    assert written(outcomes) == [f"<q{number // 3}> <last>" for number in range(60)]
    bench.ledger.close()


async def until_called(engine: ScriptedEngine) -> None:
    while not engine.calls:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    for _ in range(10):  # and the rows after the first one wait for its answer
        await asyncio.sleep(0)


@in_loop
async def test_a_cancelled_row_that_waits_for_the_answer_of_another_one_does_not_ask_itself(tmp_path: Path) -> None:
    bench = Bench(tmp_path, latency=0.01)
    running = asyncio.create_task(bench.outcomes(rows(["same", "x"], ["same", "y"], ["same", "z"])))
    await until_called(bench.engine)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert bench.asked() == ["same"]
    bench.ledger.close()


@in_loop
async def test_rows_of_another_run_get_the_answer_that_a_cancelled_row_had_asked_for(tmp_path: Path) -> None:
    bench = Bench(tmp_path, latency=0.01)
    first = asyncio.create_task(bench.outcomes(rows(["same"])))
    await until_called(bench.engine)
    second = asyncio.create_task(bench.outcomes(rows(["same"], ["same"], ["same"])))
    for _ in range(10):
        await asyncio.sleep(0)
    assert bench.asked() == ["same"]
    first.cancel()
    assert ends(await second) == [("ok", "", "")] * 3 and bench.asked() == ["same", "same"]
    assert bench.runner._in_flight == {}
    bench.ledger.close()


# ---------------------------------------------------------------- numbers


def test_stats_and_entries_hold_what_the_engine_said(tmp_path):
    bench = Bench(tmp_path, lambda request: Completion("answer", "stop", 11, 3, 7, 0.1234567))
    (outcome,) = bench.run(rows(["q1", "q2"]))
    stats = bench.runner.stats
    assert (stats.prompt_tokens, stats.cached_tokens, stats.completion_tokens) == (22, 14, 6)
    assert (stats.calls, stats.ledger_hits, stats.retries, stats.rows) == (2, 0, 0, 1)
    found = outcome.entries[0]
    assert (found.prompt_tokens, found.cached_tokens, found.completion_tokens, found.seconds) == (11, 7, 3, 0.123457)
    assert (found.method, found.step, found.model, found.revision, found.engine, found.finish_reason) == (
        "long_qa", "answer", "scripted", "1", "scripted 1", "stop",
    )  # fmt: skip


def test_stop_strings_of_the_recipe_come_before_the_steps_own(tmp_path):
    class Asks(Generator[Document]):
        method, steps = "long_qa", ("answer",)

        async def generate(self, row: Document, llm: Llm) -> list[Sample]:
            await llm.chat("answer", stop=["own"], document=row.text, question="Why?")
            return []

    engine = ScriptedEngine(lambda request: "because")
    ledger = Ledger(tmp_path / "ledger.sqlite")
    runner = Runner(engine, ledger, 1000, WordTokenizer(), seed=0)
    sampling = {"answer": SamplingConfig(max_tokens=5, stop=("recipe",))}
    asyncio.run(runner.run(Asks(), [Task("a", Document("d", "text", "s", "en"))], sampling))
    ledger.close()
    assert engine.calls[0].sampling.stop == ("recipe", "own")

"""The runner: many generator coroutines in flight over one engine and one ledger.

Each row is a sequential program; keeping hundreds of them in flight keeps the engine's batch full. Every call
goes ledger -> admission -> engine -> ledger. The engine is started by the first call that the ledger cannot answer.
"""

import asyncio
import json
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from generators.admission import Admission, Priority
from generators.base import Generator, Tokenizer
from generators.echo import is_echo
from generators.engines.base import (
    BadRequest,
    ChatRequest,
    Completion,
    Engine,
    EngineDied,
    EngineError,
    EngineInfo,
    Message,
    Prepared,
    PromptTooLong,
    Refused,
    Sampling,
)
from generators.ledger import Entry, Ledger, request_key
from generators.prompts import render, template, version
from schemas.errors import RunError, UserError
from schemas.ids import canonical_json, derive_seed, digest
from schemas.model import SamplingConfig
from schemas.rows import Preference, Record, Sample, Scores
from schemas.states import Reject, State

LONG_FIELD = 256  # characters; longer prompt fields are recorded as hash and length
TRIES = 6  # of one request, for transport errors
DEATHS = 3  # of the engine in a row without one answer between them
FAILURES = 8  # requests given up, without one answer between them
BACKOFF = (0.5, 60.0)  # seconds: first wait, longest wait, also where the server asks for more
TOLD_SECONDS = 60.0  # between two notes on requests that wait
MAX_ROWS = 4096  # coroutines alive at once
MAX_TOKEN_CHARS = 32  # characters a token may bring on average: a longer reply is no answer of max_tokens tokens


@dataclass(slots=True)
class Stats:
    """Counters of a run; `seconds` fields are wall time."""

    calls: int = 0
    ledger_hits: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    rows: int = 0
    engine_started: float | None = None  # time.monotonic() when the engine was ready


@dataclass(frozen=True, slots=True)
class Task:
    """One row for a generator. `group` is what rows of one document share (None: nothing)."""

    row_id: str
    row: Any
    group: str | None = None


@dataclass(slots=True)
class Outcome:
    """What became of one row: its records and its state, and the ledger entries it used, in order."""

    task: Task
    state: State
    reason: str = ""
    detail: str = ""
    records: list[Record | Scores] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)

    @property
    def samples(self) -> list[Sample]:
        return [record for record in self.records if isinstance(record, Sample)]

    @property
    def preferences(self) -> list[Preference]:
        return [record for record in self.records if isinstance(record, Preference)]


class Runner:
    """One engine, one ledger, many rows. `window` and `tokenizer` belong to the engine's model."""

    def __init__(self, engine: Engine, ledger: Ledger, window: int, tokenizer: Tokenizer, seed: int) -> None:
        self.engine, self.ledger, self.seed = engine, ledger, seed
        self.window, self.tokenizer = window, tokenizer
        self.stats = Stats()
        self.info: EngineInfo | None = None
        self._admission = Admission(tokens=1, slots=1)
        self._starting = asyncio.Lock()
        self._in_flight: dict[str, asyncio.Future[Entry]] = {}
        self._deaths = self._failures = 0
        self.note: Callable[[str], None] = lambda text: None  # told, at most once a minute, why a request waits
        self._told = -math.inf
        self._room = asyncio.Event()
        self._alive = 0
        self._launching: set[int] = set()  # units that have rows left to launch: the earliest goes first

    # ------------------------------------------------------------ rows

    async def run(
        self,
        generator: Generator[Any],
        tasks: Iterable[Task],
        sampling: Mapping[str, SamplingConfig],
        unit: int = 0,
        on_row: Callable[[Outcome], None] | None = None,
        step_runners: Mapping[str, "Runner"] | None = None,
    ) -> list[Outcome]:
        """Run the generator over the tasks; outcomes come back in the order of the tasks.

        `step_runners`: for steps that another engine answers, its runner.
        Tasks are taken from the iterable only as fast as the engine takes requests, so a long iterable of long
        documents needs little memory. Raises RunError when the engine cannot be kept alive.
        """
        running: list[asyncio.Task[Outcome]] = []
        broken: list[asyncio.Task[Outcome]] = []

        def ended(row: asyncio.Task[Outcome]) -> None:  # also of a row that was cancelled before its first step
            self._alive -= 1
            self._room.set()
            if not row.cancelled() and row.exception() is not None:
                broken.append(row)

        self._launching.add(unit)
        try:
            for number, task in enumerate(tasks):
                await self._wait_for_room(unit)
                if broken:
                    break  # the error of one row ends the run now, not after the last row
                chat = RowChat(self, generator.method, task, sampling, (unit, number), step_runners or {})
                self._alive += 1
                running.append(asyncio.create_task(self._row(generator, chat, on_row)))
                running[-1].add_done_callback(ended)
            self._launched(unit)
            return list(await asyncio.gather(*running))
        finally:
            self._launched(unit)
            for row in running:
                row.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _launched(self, unit: int) -> None:
        self._launching.discard(unit)
        self._room.set()

    async def _wait_for_room(self, unit: int) -> None:
        """Until the engine could take another row, and no earlier unit still has rows to launch."""
        await asyncio.sleep(0)  # let rows that are already running put their requests into the queue
        while self._alive >= MAX_ROWS or (self._alive and self._queue_is_long()) or unit > min(self._launching):
            self._room.clear()
            await self._room.wait()

    def _queue_is_long(self) -> bool:
        if self.info is None:  # not started: everything so far came from the ledger, or waits for the start
            return self._alive >= 64
        # Rows that wait for a place in the engine, count their tokens or commit an answer.
        return self._alive - self._admission.running >= max(8, self.info.max_batch // 4)

    async def _row(
        self, generator: Generator[Any], chat: "RowChat", on_row: Callable[[Outcome], None] | None
    ) -> Outcome:
        outcome = Outcome(chat.task, State.OK, entries=chat.entries)
        try:
            outcome.records = list(await generator.generate(chat.task.row, chat))
        except Reject as reject:
            outcome.state, outcome.reason, outcome.detail = reject.state, reject.reason, reject.detail
        except (RunError, UserError, asyncio.CancelledError):
            raise  # an engine that stays dead, a wrong key: not this row's fault, and no row after it would fare better
        except Exception as error:  # a bug in a generator ends its row, not the run; the state shows it
            outcome.state, outcome.reason = State.FAILED, f"error_{type(error).__name__}"
            outcome.detail = str(error)
        finally:
            for runner in chat.runners:
                runner._admission.release(chat.priority)
        self.stats.rows += 1
        if on_row is not None:
            on_row(outcome)
        return outcome

    # ------------------------------------------------------------ calls

    async def call(
        self, request: ChatRequest, priority: Priority, method: str, step: str, prompt: Mapping[str, Any]
    ) -> Entry:
        """The answer to a request: from the ledger, from the same request already under way, or from the engine."""
        key = request_key(self.engine.identity, request)
        self.stats.calls += 1
        if (entry := self.ledger.get(key)) is not None:
            self.stats.ledger_hits += 1
            return entry
        while (pending := self._in_flight.get(key)) is not None:
            await asyncio.wait([pending])  # raises only where we are cancelled ourselves
            if not pending.cancelled():
                return pending.result()
            # The row that asked was cancelled: the first of those who waited asks again.
        future: asyncio.Future[Entry] = asyncio.get_running_loop().create_future()
        self._in_flight[key] = future
        try:
            completion = await self._complete(request, priority)
            entry = await self.ledger.put(self._entry(key, request, completion, method, step, prompt))
            future.set_result(entry)
            return entry
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                future.cancel()
            else:
                future.set_exception(error)
                future.exception()  # seen: nobody else may be waiting
            raise
        finally:
            del self._in_flight[key]

    async def _complete(self, request: ChatRequest, priority: Priority) -> Completion:
        for attempt in range(1, TRIES + 1):
            try:
                prepared = await self._prepare(request)
                text = "\n".join(message.content for message in request.messages)
                limit = request.sampling.max_tokens
                async with self._admission.admit(priority, text, prepared.prompt_tokens, limit, request.group):
                    self._room.set()
                    completion = await self.engine.generate(prepared)
            except PromptTooLong as error:
                raise Reject(State.OVER_BUDGET, "prompt_too_long", str(error)) from error
            except Refused as error:
                raise Reject(State.REFUSED, "refused_by_server", str(error)) from error
            except BadRequest as error:
                raise Reject(State.FAILED, "bad_request", str(error)) from error
            except EngineDied as error:
                self._note_death(error)
            except EngineError as error:
                if attempt == TRIES:
                    self._note_failure(error)
                    raise Reject(State.FAILED, "engine_error", f"{TRIES} tries: {error}") from error
                await self._back_off(attempt, error)
            else:
                self._count(completion)
                return completion
            self.stats.retries += 1
        raise Reject(State.FAILED, "engine_died", f"the engine died in each of {TRIES} tries of this request")

    async def _prepare(self, request: ChatRequest) -> Prepared:
        if self.info is None:
            async with self._starting:
                if self.info is None:
                    await self._start()
        return await self.engine.prepare(request)

    async def _start(self) -> None:
        for attempt in range(1, TRIES + 1):
            try:
                info = await self.engine.start()
                break
            except EngineError as error:
                if attempt == TRIES or isinstance(error, EngineDied):
                    raise RunError(f"the engine did not start: {error}") from error
                await self._back_off(attempt, error)
        # Twice the batch: the engine's own queue stays filled while answers travel back.
        self._admission.tokens, self._admission.slots = info.kv_tokens, 2 * info.max_batch
        self.info = info
        self.stats.engine_started = time.monotonic()
        self._room.set()

    def _note_death(self, error: EngineDied) -> None:
        if self.info is not None:  # the first to notice; the others wait for the same restart
            self.info = None
            self._deaths += 1
        if self._deaths >= DEATHS:
            raise RunError(f"the engine died {DEATHS} times without one answer in between: {error}") from error

    def _note_failure(self, error: EngineError) -> None:
        """One request that stays without an answer is its row's fault; many in a row are the engine's."""
        self._failures += 1
        if self._failures >= FAILURES:
            raise RunError(
                f"the engine gave errors to {self._failures} requests, {TRIES} tries each: {error}"
            ) from error

    async def _back_off(self, attempt: int, error: EngineError) -> None:
        first, longest = BACKOFF
        wait = first * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
        wait = min(wait if error.retry_after is None else error.retry_after, longest)
        if time.monotonic() - self._told >= TOLD_SECONDS:
            self._told = time.monotonic()
            self.note(f"{error}; trying again in {wait:.1f} s")
        await asyncio.sleep(wait)

    def _count(self, completion: Completion) -> None:
        self._deaths = self._failures = 0
        self.stats.prompt_tokens += completion.prompt_tokens
        self.stats.cached_tokens += completion.cached_tokens or 0
        self.stats.completion_tokens += completion.completion_tokens

    def _entry(
        self,
        key: str,
        request: ChatRequest,
        completion: Completion,
        method: str,
        step: str,
        prompt: Mapping[str, Any],
    ) -> Entry:
        identity = self.engine.identity
        return Entry(
            request_id=key, method=method, step=step, model=identity.model, revision=identity.revision,
            sampling=canonical_json(request.sampling.to_dict()), prompt=canonical_json(prompt),
            response=completion.text, finish_reason=completion.finish_reason,
            prompt_tokens=completion.prompt_tokens, cached_tokens=completion.cached_tokens,
            completion_tokens=completion.completion_tokens, seconds=round(completion.seconds, 6),
            engine=self.info.version if self.info is not None else "",
        )  # fmt: skip


class RowChat:
    """The `Llm` of one row: renders prompts, derives seeds, remembers which calls the row used."""

    def __init__(
        self,
        runner: Runner,
        method: str,
        task: Task,
        sampling: Mapping[str, SamplingConfig],
        priority: Priority,
        step_runners: Mapping[str, Runner],
    ) -> None:
        self.task, self.row_id, self.priority = task, task.row_id, priority
        self.runners = {runner, *step_runners.values()}
        self._step_runners = step_runners
        self.window, self.tokenizer = runner.window, runner.tokenizer
        self.rng = Random(derive_seed(runner.seed, task.row_id, "choices"))
        self.entries: list[Entry] = []
        self._runner, self._method, self._sampling = runner, method, sampling
        self._calls: dict[str, int] = {}

    async def chat(
        self,
        step: str,
        /,
        *,
        prefix: str = "",
        json_schema: Mapping[str, Any] | None = None,
        stop: Sequence[str] = (),
        **fields: object,
    ) -> str:
        # The step path (step name and its how-manieth call in this row) gives every call its own seed.
        number = self._calls[step] = self._calls.get(step, -1) + 1
        config = self._sampling[step]
        sampling = Sampling(
            **config.model_dump(exclude={"stop"}),
            stop=(*config.stop, *stop),
            seed=0 if config.temperature == 0 else derive_seed(self._runner.seed, self.task.row_id, step, number),
            json_schema=dict(json_schema) if json_schema is not None else None,
        )
        runner = self._step_runners.get(step, self._runner)
        text = render(self._method, step, fields)
        messages = [Message("user", text)]
        if prefix and not runner.engine.continues:
            prefix = ""
        if prefix:
            messages.append(Message("assistant", prefix))
        request = ChatRequest(tuple(messages), sampling, group=self.task.group)
        prompt = {
            "template": template(self._method, step),
            "version": version(self._method, step),
            "prefix": prefix,
            "fields": {name: _reference(value) for name, value in fields.items()},
        }
        entry = await runner.call(request, self.priority, self._method, step, prompt)
        self.entries.append(entry)
        if entry.finish_reason == "length":
            limit = f"{entry.completion_tokens} tokens"
            raise Reject(State.TRUNCATED, f"truncated_{step}", f"call {number} of step {step} stopped at {limit}")
        if len(entry.response) > MAX_TOKEN_CHARS * config.max_tokens:
            told = f"{len(entry.response)} characters in answer to {config.max_tokens} tokens at most"
            raise Reject(State.INVALID_OUTPUT, f"overlong_{step}", told)
        if is_echo(entry.response, self._method, step, text):
            raise Reject(State.INVALID_OUTPUT, "prompt_echo", f"step {step}: {entry.response[:120]}")
        return prefix + entry.response


def _reference(value: object) -> Any:
    """A field as the ledger records it: short values whole, long ones as hash and length."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    if len(text) <= LONG_FIELD:
        return value if isinstance(value, str | int | float) else text
    return {"sha256": digest(text), "chars": len(text)}

"""Admission: the token budget holds, the earliest row goes first, and whatever ends gives its tokens back.

In these tests a token is a character, so that prompts share exactly the tokens of their common prefix.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generators.admission import Admission, Priority, common_prefix


class Clients:
    """Requests against one Admission. `log` has the names in the order they were let in; `inside` who is in now."""

    def __init__(self, tokens: int, slots: int = 100) -> None:
        self.admission = Admission(tokens, slots)
        self.log: list[str] = []
        self.inside: dict[str, tuple[str, int, str | None]] = {}
        self._leave: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def ask(self, name: str, row: int, prompt: str, answer: int = 0, group: str | None = None) -> None:
        """A request called `name`, of row number `row`; it stays in until `leave`."""
        self._leave[name] = asyncio.Event()
        self._tasks[name] = asyncio.create_task(self._request(name, (0, row), prompt, answer, group))
        await settle()

    async def _request(self, name: str, priority: Priority, prompt: str, answer: int, group: str | None) -> None:
        async with self.admission.admit(priority, prompt, len(prompt), answer, group):
            self.log.append(name)
            self.inside[name] = (prompt, answer, group)
            try:
                await self._leave[name].wait()
            finally:
                del self.inside[name]

    async def leave(self, *names: str) -> None:
        for name in names:
            self._leave[name].set()
        await settle()

    async def cancel(self, *names: str) -> None:
        for name in names:
            self._tasks[name].cancel()
        await settle()

    def idle(self) -> bool:
        admission = self.admission
        return (admission.used, admission.running, admission.waiting) == (0, 0, 0) and all(
            task.done() for task in self._tasks.values()
        )


async def settle() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


def in_loop(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())  # type: ignore[arg-type]

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


def tokens_held(running: Iterable[tuple[str, int, str | None]]) -> int:
    """What an ideal prefix cache needs for these requests: every different prefix of a group once."""
    alone, shared = 0, set()
    for prompt, answer, group in running:
        alone += answer + (len(prompt) if group is None else 0)
        if group is not None:
            shared.update((group, prompt[:end]) for end in range(1, len(prompt) + 1))
    return alone + len(shared)


# ---------------------------------------------------------------- tokens and order


@in_loop
async def test_prompt_and_longest_answer_must_fit():
    clients = Clients(tokens=100)
    await clients.ask("a", 0, "x" * 40, 20)
    await clients.ask("b", 1, "y" * 30, 10)
    await clients.ask("c", 2, "z", 0)
    assert clients.log == ["a", "b"] and clients.admission.used == 100 and clients.admission.waiting == 1
    await clients.leave("a")
    clients.admission.release((0, 0))
    await settle()
    assert clients.log == ["a", "b", "c"] and clients.admission.used == 41
    await clients.leave("b", "c")
    assert clients.idle()


@in_loop
async def test_slots_limit_the_number_of_requests():
    clients = Clients(tokens=100, slots=2)
    for row, name in enumerate("abc"):
        await clients.ask(name, row, "x")
    assert list(clients.inside) == ["a", "b"]
    await clients.leave("a")
    assert list(clients.inside) == ["b", "c"]
    await clients.leave("b", "c")
    assert clients.idle()


@in_loop
async def test_an_oversized_request_goes_alone():
    clients = Clients(tokens=100)
    await clients.ask("small", 0, "x" * 10)
    await clients.ask("huge", 1, "y" * 500)
    await clients.ask("later", 2, "z")
    assert list(clients.inside) == ["small"]
    await clients.leave("small")
    assert list(clients.inside) == ["huge"]
    await clients.leave("huge")
    assert list(clients.inside) == ["later"]
    await clients.leave("later")
    assert clients.idle()


@in_loop
async def test_nothing_smaller_overtakes_the_earliest_row():
    clients = Clients(tokens=100)
    await clients.ask("running", 0, "x" * 50)
    await clients.ask("big", 1, "x" * 60)
    for row in range(2, 12):
        await clients.ask(f"small {row}", row, "x")
    assert clients.log == ["running"]
    await clients.ask("earlier", 0, "x")  # of an earlier row than all that wait: goes at once
    assert clients.log == ["running", "earlier"]
    await clients.leave("running")
    clients.admission.release((0, 0))
    await settle()
    assert clients.log[2:] == ["big", *(f"small {row}" for row in range(2, 12))]


@in_loop
async def test_equal_rows_go_in_the_order_they_came():
    clients = Clients(tokens=1)
    for name in "abcd":
        await clients.ask(name, 5, "x")
    for name in "abcd":
        await clients.leave(name)
    assert clients.log == ["a", "b", "c", "d"] and clients.idle()


COSTS = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 30)), min_size=1, max_size=20)


@given(COSTS, st.integers(1, 3))
def test_of_all_that_wait_the_earliest_row_is_next(rows, slots):
    async def main() -> None:
        clients = Clients(tokens=30, slots=slots)
        await clients.ask("first", 0, "x" * 30)
        for number, (row, cost) in enumerate(rows):
            await clients.ask(str(number), row + 1, "x" * cost)
        assert clients.log == ["first"]
        await clients.leave("first")
        clients.admission.release((0, 0))
        while clients.inside:
            name = next(iter(clients.inside))
            await clients.leave(name)
            clients.admission.release((0, rows[int(name)][0] + 1))
            await settle()
        expected = sorted(range(len(rows)), key=lambda number: (rows[number][0], number))
        assert clients.log == ["first", *map(str, expected)] and clients.idle()

    asyncio.run(main())


# ---------------------------------------------------------------- groups


@in_loop
async def test_a_shared_prefix_counts_once():
    clients = Clients(tokens=120)
    document = "d" * 80
    await clients.ask("a", 0, document + "1" * 5, 5, "doc")
    await clients.ask("b", 1, document + "2" * 5, 5, "doc")
    await clients.ask("c", 2, document + "3" * 5, 5, "doc")
    assert clients.admission.used == 110
    await clients.ask("d", 3, document + "4" * 5, 5, "other")
    assert list(clients.inside) == ["a", "b", "c"]
    await clients.leave("a", "b", "c")
    assert list(clients.inside) == ["d"]
    await clients.leave("d")
    assert clients.idle()


@in_loop
async def test_the_prefix_stays_counted_until_its_last_user_has_left():
    clients = Clients(tokens=120)
    await clients.ask("leader", 0, "d" * 80 + "1" * 9, 1, "doc")
    await clients.ask("second", 1, "d" * 80 + "2" * 5, 5, "doc")
    await clients.leave("leader")
    clients.admission.release((0, 0))
    assert clients.admission.used == 90  # the document, and what is the second one's own
    await clients.ask("other", 2, "x" * 31)
    assert list(clients.inside) == ["second"]
    await clients.leave("second")
    clients.admission.release((0, 1))
    await settle()
    assert list(clients.inside) == ["other"] and clients.admission.used == 31
    await clients.leave("other")
    assert clients.idle()


@in_loop
async def test_a_group_name_alone_shares_nothing():
    clients = Clients(tokens=100)
    await clients.ask("a", 0, "a" * 50, 0, "doc")
    await clients.ask("b", 1, "b" * 50, 0, "doc")
    assert clients.admission.used == 100
    await clients.leave("a")
    assert clients.admission.used == 50
    await clients.leave("b")
    assert clients.idle()


@given(st.text("ab", max_size=12), st.text("ab", max_size=12))
def test_common_prefix(a, b):
    length = common_prefix(a, b)
    assert a[:length] == b[:length]
    assert length == min(len(a), len(b)) or a[length] != b[length]


# ---------------------------------------------------------------- between two calls of a row


@in_loop
async def test_between_two_calls_a_row_keeps_its_place_against_later_rows():
    clients = Clients(tokens=100)
    await clients.ask("row 1, first call", 1, "x" * 60, 10)
    await clients.ask("row 2", 2, "x" * 20)
    await clients.leave("row 1, first call")
    await clients.ask("row 3", 3, "x" * 30)
    assert clients.log[2:] == []  # 20 used, 60 reserved
    await clients.ask("row 0", 0, "x" * 70)  # an earlier row does not mind the reservation
    assert clients.log[2:] == ["row 0"]
    await clients.leave("row 0")
    clients.admission.release((0, 0))
    await clients.ask("row 1, second call", 1, "x" * 70, 10)  # nor does the row itself
    assert clients.log[3:] == ["row 1, second call"]
    await clients.leave("row 1, second call", "row 2")
    clients.admission.release((0, 2))
    await settle()
    assert list(clients.inside) == ["row 3"]  # nothing else runs: waiting for row 1 would not help
    await clients.leave("row 3")
    assert clients.idle()


@in_loop
async def test_release_lets_the_next_one_in():
    clients = Clients(tokens=100)
    await clients.ask("a", 0, "x" * 50)
    await clients.ask("b", 1, "x" * 50)
    await clients.leave("a")
    await clients.ask("c", 2, "x" * 50)
    assert clients.log == ["a", "b"]
    clients.admission.release((0, 0))
    await settle()
    assert clients.log == ["a", "b", "c"]
    clients.admission.release((0, 0))  # once is enough, twice does no harm
    await clients.leave("b", "c")
    assert clients.idle()


# ---------------------------------------------------------------- cancellation


@in_loop
async def test_cancelling_a_waiting_request_lets_those_behind_it_go():
    clients = Clients(tokens=100)
    await clients.ask("a", 0, "x" * 50)
    await clients.ask("big", 1, "x" * 90)
    await clients.ask("b", 2, "x" * 10)
    await clients.cancel("big")
    assert list(clients.inside) == ["a", "b"] and clients.admission.used == 60
    await clients.leave("a", "b")
    assert clients.idle()


@in_loop
async def test_cancelling_a_running_request_gives_its_tokens_back():
    clients = Clients(tokens=100)
    await clients.ask("a", 0, "x" * 50, 50)
    await clients.ask("b", 1, "x" * 100)
    await clients.cancel("a")
    clients.admission.release((0, 0))
    await settle()
    assert list(clients.inside) == ["b"] and clients.admission.used == 100
    await clients.cancel("b")
    assert clients.idle()


@in_loop
async def test_cancelling_a_request_that_was_just_let_in():
    """`leave` admits b, but before b has gone on it is cancelled: c must get the place."""
    clients = Clients(tokens=1)
    for row, name in enumerate("abc"):
        await clients.ask(name, row, "x")
    clients._leave["a"].set()
    await asyncio.sleep(0)  # a leaves and b's future is set; b's task has not run
    assert clients.admission.running == 1 and clients.log == ["a"]
    clients._tasks["b"].cancel()
    await settle()
    assert clients.log == ["a", "c"]
    await clients.leave("c")
    assert clients.idle()


@pytest.mark.parametrize("names", ["abcde", "edcba", "cabed"])
def test_cancelling_all_at_once(names):
    """As a run that ends does: running ones leave while those that wait are cancelled, but do not know it yet."""

    async def main() -> None:
        clients = Clients(tokens=2)
        for row, name in enumerate("abcde"):
            await clients.ask(name, row, "x")
        await clients.cancel(*names)
        assert clients.log == ["a", "b"] and clients.idle()
        results = await asyncio.gather(*clients._tasks.values(), return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError] * 5

    asyncio.run(main())


# ---------------------------------------------------------------- anything at all


@dataclass
class Load:
    """A row of `calls`: (prompt, answer, steps it stays in), of a group or of none, cancelled after `end` steps."""

    group: str | None
    calls: list[tuple[str, int, int]]
    start: int
    end: int | None = field(default=None)


CALLS = st.lists(st.tuples(st.text("ab", max_size=8), st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=3)
LOADS = st.lists(
    st.builds(
        Load, st.sampled_from([None, "g", "h"]), CALLS, st.integers(0, 8), st.none() | st.integers(0, 25)
    ),
    min_size=1,
    max_size=12,
)  # fmt: skip


@given(LOADS, st.integers(1, 24), st.integers(1, 5))
def test_any_load_ends_within_budget_and_gives_everything_back(loads, tokens, slots):
    async def main() -> None:
        admission = Admission(tokens, slots)
        inside: dict[int, tuple[str, int, str | None]] = {}

        async def row(number: int, load: Load) -> None:
            for _ in range(load.start):
                await asyncio.sleep(0)
            try:
                for prompt, answer, steps in load.calls:
                    async with admission.admit((0, number), prompt, len(prompt), answer, load.group):
                        inside[number] = (prompt, answer, load.group)
                        assert len(inside) <= slots
                        assert len(inside) == 1 or tokens_held(inside.values()) <= tokens
                        try:
                            for _ in range(steps):
                                await asyncio.sleep(0)
                        finally:
                            del inside[number]
                    await asyncio.sleep(0)
            finally:
                admission.release((0, number))

        rows = [asyncio.create_task(row(number, load)) for number, load in enumerate(loads)]
        for step in range(2000):
            if all(task.done() for task in rows):
                break
            for task, load in zip(rows, loads, strict=True):
                if load.end == step:
                    task.cancel()
            await asyncio.sleep(0)
        assert [number for number, task in enumerate(rows) if not task.done()] == []  # no deadlock
        for task in rows:
            assert task.cancelled() or task.exception() is None, task.exception()
        assert (admission.used, admission.running, admission.waiting) == (0, 0, 0)
        assert admission._reserved == {} and admission._groups == {}

    asyncio.run(main())

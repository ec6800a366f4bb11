"""Which waiting request may go to the engine next: by tokens that fit its KV cache, in the order of the rows.

Rows of one document stand together in the input, so serving the earliest row first keeps a document's requests
together and its prefix in the engine's cache. Three rules:
* a request costs its prompt plus its longest answer; what running requests of a group share counts once, until the
  last of them has left;
* the earliest row goes first, and nothing smaller overtakes it (no starvation);
* between two calls of a row its tokens stay reserved against later rows, so that they do not evict its cache.
"""

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Priority = tuple[int, int]  # (unit number, row number in the unit): smaller goes first


@dataclass(order=True, slots=True)
class _Waiting:
    priority: Priority
    arrival: int
    tokens: int = field(compare=False)
    prompt: str = field(compare=False)
    prompt_tokens: int = field(compare=False)
    group: str | None = field(compare=False)
    admitted: asyncio.Future[None] = field(compare=False)
    shared: int = field(compare=False, default=0)  # of its prompt tokens: those at the start that its group holds


@dataclass(slots=True)
class _Group:
    """Running requests whose prompts start alike. `prompt` is the first one's; `shared` has a number for each of them,
    and the longest is what the cache holds for all."""

    prompt: str
    prompt_tokens: int
    shared: list[int] = field(default_factory=list)

    def held(self) -> int:
        return max(self.shared, default=0)


class Admission:
    """`tokens`: KV cache size. `slots`: requests at once. All methods belong to one event loop."""

    def __init__(self, tokens: int, slots: int) -> None:
        self.tokens, self.slots = tokens, slots
        self.used = self.running = 0
        self._arrivals = 0
        self._waiting: list[_Waiting] = []
        self._groups: dict[str, _Group] = {}
        self._reserved: dict[Priority, int] = {}

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @asynccontextmanager
    async def admit(
        self, priority: Priority, prompt: str, prompt_tokens: int, max_tokens: int, group: str | None
    ) -> AsyncIterator[None]:
        """Wait for a place, hold it, give it back; afterwards the row's prompt stays reserved until `release`."""
        self._arrivals += 1
        request = _Waiting(
            priority, self._arrivals, prompt_tokens + max_tokens, prompt, prompt_tokens, group,
            asyncio.get_running_loop().create_future(),
        )  # fmt: skip
        heapq.heappush(self._waiting, request)
        self._advance()
        try:
            await request.admitted
        except asyncio.CancelledError:
            if not request.admitted.cancelled():
                self._leave(request)
            elif request in self._waiting:  # else `_advance` was faster
                self._waiting.remove(request)
                heapq.heapify(self._waiting)
            self._advance()
            raise
        try:
            yield
        finally:
            self._leave(request)
            self._reserved[priority] = request.prompt_tokens
            self._advance()

    def release(self, priority: Priority) -> None:
        """The row has ended: its reservation is gone."""
        if self._reserved.pop(priority, None) is not None:
            self._advance()

    def _advance(self) -> None:
        while self._waiting and self.running < self.slots:
            head = self._waiting[0]
            if head.admitted.cancelled():
                heapq.heappop(self._waiting)
                continue
            head.shared = self._shared(head)
            kept = sum(tokens for owner, tokens in self._reserved.items() if owner < head.priority)
            # A request larger than all that is free still goes when nothing runs: waiting longer would not help.
            if self.running and self.used + kept + self._cost(head) > self.tokens:
                return
            heapq.heappop(self._waiting)
            self._enter(head)
            head.admitted.set_result(None)

    def _shared(self, request: _Waiting) -> int:
        group = self._groups.get(request.group) if request.group is not None else None
        if group is None:
            return request.prompt_tokens if request.group is not None else 0
        share = common_prefix(group.prompt, request.prompt) / max(1, len(request.prompt))
        return int(min(group.prompt_tokens, request.prompt_tokens * share))

    def _held(self, request: _Waiting) -> int:
        group = self._groups.get(request.group) if request.group is not None else None
        return group.held() if group is not None else 0

    def _cost(self, request: _Waiting) -> int:
        return request.tokens - min(request.shared, self._held(request))

    def _enter(self, request: _Waiting) -> None:
        self.used += self._cost(request)
        self.running += 1
        self._reserved.pop(request.priority, None)
        if request.group is not None:
            group = self._groups.setdefault(request.group, _Group(request.prompt, request.prompt_tokens))
            group.shared.append(request.shared)

    def _leave(self, request: _Waiting) -> None:
        self.running -= 1
        if request.group is not None:
            group = self._groups[request.group]
            group.shared.remove(request.shared)
            if not group.shared:
                del self._groups[request.group]
        # Entering again would cost the same: what the group still holds for others stays counted.
        self.used -= self._cost(request)


def common_prefix(a: str, b: str) -> int:
    """Length of the common prefix in characters; a few comparisons of slices, fast on long texts."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low

"""Tasks that need no model: made from a seed, with an answer that is right by construction and an exact verifier."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar, Protocol

from generators.base import Generator, Llm, Tokenizer
from generators.tasks import targets
from generators.tasks.base import Haystack, Item, Room
from generators.tasks.registry import create_task
from generators.tasks.shaping import TOLERANCE
from schemas.errors import UserError
from schemas.ids import digest
from schemas.methods.verifiable import TaskEntry
from schemas.methods.verifiable import Verifiable as Config
from schemas.rows import Sample
from schemas.states import Reject, State


class DocumentHaystack(Haystack, Protocol):
    """A haystack that says which documents it gave last."""

    document_ids: list[str]


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One task to be made. `key`: which task (see `entry_key`)."""

    key: str
    tokens: int
    seed: int
    haystack: DocumentHaystack | None
    source: str = "generated"


def entry_key(entry: TaskEntry) -> str:
    """A name for a task with its options and its target: part of row ids, hence of seeds. Entries that differ in their
    lengths only share it."""
    target = "" if entry.target == "answer" else f"-{entry.target}"
    return f"{entry.task}{target}-{digest(entry.options)[:6]}" if entry.options else f"{entry.task}{target}"


class Verifiable(Generator[TaskRow]):
    method: ClassVar[str] = "verifiable"

    def __init__(self, config: Config) -> None:
        self.config = config
        self.entries = {entry_key(entry): entry for entry in config.tasks}
        try:
            self.tasks = {
                key: create_task(entry.task, entry.options, split=config.split, language=config.language)
                for key, entry in self.entries.items()
            }
            for key, entry in self.entries.items():
                targets.check(self.tasks[key], entry.target)
        except UserError as error:
            raise UserError(f"generate {config.name!r}: {error}") from error

    async def generate(self, row: TaskRow, llm: Llm) -> list[Sample]:
        await asyncio.sleep(0)  # making a task takes the processor for a while: others get their turn between tasks
        task = self.tasks[row.key]
        item = self._make(row, llm.tokenizer)
        target = self.entries[row.key].target
        tokens = llm.tokenizer.count(item.prompt if task.measures == "prompt" else item.answer)
        if abs(tokens - row.tokens) > TOLERANCE * row.tokens:
            raise Reject(State.OVER_BUDGET, "length_not_met", f"{tokens} tokens, {row.tokens} wanted")
        assert targets.accepts(task, target, item.check, item.prompt, item.answer), (
            "a task's own answer must pass its verifier"
        )
        details: dict[str, Any] = {
            "task": task.name,
            "version": task.version,
            "seed": row.seed,
            "split": self.config.split,
            "target": target,
            "question": item.question,  # of several blocks where a target adds one: scorers find the document by it
            "tokens": tokens,
            "length_bucket": row.tokens,
            "params": self.entries[row.key].options,
            "verifier": {"name": task.name, "args": dict(item.check)},
            "evidence": [list(span) for span in item.evidence],  # characters of the user's message
            "depths": [round(start / len(item.context), 4) for start, _ in item.evidence],
            "item": dict(item.details),
        }
        return [
            Sample(
                messages=(("user", item.prompt), ("assistant", item.answer)),
                language=self.config.language,
                document_ids=tuple(dict.fromkeys(row.haystack.document_ids)) if row.haystack is not None else (),
                details=details,
            )
        ]

    def _make(self, row: TaskRow, tokenizer: Tokenizer) -> Item:
        task = self.tasks[row.key]
        try:
            room = Room(row.tokens, tokenizer, row.haystack)
            return targets.make(task, row.seed, room, self.entries[row.key].target)
        except ValueError as error:
            if row.haystack is not None:
                held = tokenizer.count(row.haystack.text(Random(row.seed), row.tokens))
                if held < row.tokens:
                    told = f"the documents hold {held} tokens, the task is to have {row.tokens}"
                    raise Reject(State.OVER_BUDGET, "haystack_too_small", told) from error
            raise Reject(State.OVER_BUDGET, "length_not_met", str(error)) from error


class Remembering:
    """A tokenizer that counts the same long text once: making a task, checking it and writing it all want its length.

    At most KEPT counts are held, by the hash of the text; the oldest goes first."""

    KEPT = 4096
    LONG = 2000  # characters

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.inner = tokenizer
        self._counts: dict[str, int] = {}

    def count(self, text: str) -> int:
        if len(text) < self.LONG:
            return self.inner.count(text)
        key = digest(text)
        if key not in self._counts:
            if len(self._counts) >= self.KEPT:
                del self._counts[next(iter(self._counts))]
            self._counts[key] = self.inner.count(text)
        return self._counts[key]

    def count_many(self, texts: list[str]) -> list[int]:
        return self.inner.count_many(texts)

    def offsets(self, text: str) -> Sequence[tuple[int, int]]:
        return self.inner.offsets(text)

"""What a verifiable task is: a prompt whose answer is known by construction, and an exact check of any answer."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, ClassVar, Literal, Protocol

from generators.base import Tokenizer


class Haystack(Protocol):
    """Long text from the recipe's documents, to hide things in."""

    def text(self, rng: Random, tokens: int) -> str:
        """Whole lines, at least `tokens` tokens of them where the documents hold as many."""
        ...

    def passage(self, rng: Random, tokens: int) -> str:
        """Whole lines in a row from one document, at least `tokens` tokens of them. ValueError: none is that long."""
        ...


@dataclass(frozen=True, slots=True)
class Room:
    """How long a task is to be: `tokens` of context and question together (the answer comes on top), counted with
    `tokenizer`. `haystack`: only for tasks that declare `needs_haystack`."""

    tokens: int
    tokenizer: Tokenizer
    haystack: Haystack | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One task. The prompt is `context`, an empty line, `question`; without a context the question alone.

    `check` is what the verifier needs to know, as JSON. `evidence`: characters [start, end) of the context that hold
    what the answer needs, in the order they are needed. `details`: numbers to query (depths, counts).
    """

    context: str
    question: str
    answer: str
    check: Mapping[str, Any]
    evidence: tuple[tuple[int, int], ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def prompt(self) -> str:
        return f"{self.context}\n\n{self.question}" if self.context else self.question


class VerifiableTask(ABC):
    """One kind of task. Stateless; everything random comes from `rng`, so the same seed gives the same bytes."""

    name: ClassVar[str]
    version: ClassVar[int] = 1  # raise it when the same seed gives another task
    needs_haystack: ClassVar[bool] = False
    measures: ClassVar[Literal["prompt", "answer"]] = "prompt"  # what has `room.tokens`; answer: tasks of long output
    same_question: ClassVar[bool] = False  # one seed asks the same at every length
    targets: ClassVar[tuple[str, ...]] = ("answer", "evidence_first", "citations", "passages")  # see targets.py

    @abstractmethod
    def make(self, rng: Random, room: Room) -> Item:
        """A task whose prompt (see `measures`) is within 2% of `room.tokens`. ValueError: it cannot be that short, or
        the haystack is too small."""

    @abstractmethod
    def verify(self, check: Mapping[str, Any], answer: str) -> bool:
        """Is this answer right? Reads `check` and the answer only; never raises on any text."""

    @abstractmethod
    def corrupt(self, item: Item, rng: Random) -> str:
        """A wrong answer of the right form: what a model that misread the context could say."""

    @abstractmethod
    def solve(self, item: Item) -> str:
        """The answer found again from the context and the question alone, without `check`: proof that the task can be
        solved. Tasks whose context is prose may look for what they know of its form."""

"""The records that generators read and emit, as plain dataclasses."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Document:
    document_id: str
    text: str
    source: str
    language: str


@dataclass(frozen=True, slots=True)
class Instruction:
    instruction_id: str
    text: str
    source: str
    language: str


@dataclass(frozen=True, slots=True)
class Span:
    """Characters [start, end) of a document's text."""

    document_id: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One SFT record: messages as (role, content). `details` is any JSON value a person may want to query."""

    messages: tuple[tuple[str, str], ...]
    language: str
    document_ids: tuple[str, ...] = ()
    evidence: tuple[Span, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)

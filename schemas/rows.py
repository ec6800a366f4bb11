"""The records that generators read and emit, as plain dataclasses."""

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Document:
    document_id: str
    text: str
    source: str
    language: str
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Instruction:
    instruction_id: str
    text: str
    source: str
    language: str
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Span:
    """Characters [start, end) of a document's text."""

    document_id: str
    start: int
    end: int


Messages = tuple[tuple[str, str], ...]  # (role, content) each


@dataclass(frozen=True, slots=True)
class Sample:
    """One SFT record. `details` is any JSON value a person may want to query. `loss_on_prompt`: train on the prompt's
    tokens too, as Llama-2-Long does."""

    messages: Messages
    language: str
    document_ids: tuple[str, ...] = ()
    evidence: tuple[Span, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
    loss_on_prompt: bool = False


@dataclass(frozen=True, slots=True)
class Preference:
    """One prompt with a chosen and a rejected answer. `short_prompt`: what the reference model reads instead of the
    prompt (LongPO)."""

    prompt: Messages
    chosen: str
    rejected: str
    language: str
    short_prompt: Messages | None = None
    document_ids: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)


Record = Sample | Preference


@dataclass(frozen=True, slots=True)
class Judged:
    """A sample as a judge reads it: a row of the table `samples`. `evidence`: the texts that its spans point to."""

    sample_id: str
    messages: Messages
    document_ids: tuple[str, ...]
    details: dict[str, Any]
    evidence: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As scorers read it (filters/scorers/conversation.py)."""
        messages = [{"role": role, "content": content} for role, content in self.messages]
        return {"messages": messages, "document_ids": self.document_ids, "details": json.dumps(self.details)}


@dataclass(frozen=True, slots=True)
class Scores:
    """Numbers on one row, by the columns of a score table. What was not measured is None."""

    values: dict[str, Any]

"""Recipe section of the method verifiable."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from schemas.ids import canonical_json
from schemas.methods.base import ModelFree
from schemas.model import Model, Positive, Slug


class TaskEntry(Model):
    """One kind of task: `count` tasks for each of the lengths `tokens` (context and question). Its own options are
    checked where the task is made; see docs/methods/verifiable.md."""

    task: Slug
    count: Positive = 100
    tokens: Annotated[tuple[Positive, ...], Field(min_length=1)] = (4096, 8192, 16384, 32768)
    options: dict[str, Any] = {}
    target: Literal["answer", "evidence_first", "citations", "passages"] = "answer"  # not all tasks have evidence

    @field_validator("tokens")
    @classmethod
    def _once(cls, tokens: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(tokens)) < len(tokens):
            raise ValueError(f"each length once, not {', '.join(map(str, tokens))}")
        return tokens


class Verifiable(ModelFree):
    """Tasks whose answers are known by construction, with exact verifiers; no model is asked."""

    input = "nothing"
    method: Literal["verifiable"]
    name: Slug = "verifiable"
    tasks: Annotated[tuple[TaskEntry, ...], Field(min_length=1)]  # or a mapping of names to the rest of an entry
    language: Literal["en", "zh"] = "en"
    split: Literal["train", "eval"] = "train"  # names, words and UUIDs of the two have nothing in common

    @field_validator("tasks", mode="before")
    @classmethod
    def _by_name(cls, given: Any) -> Any:
        if not isinstance(given, dict) or "task" in given:
            return given
        return [{"task": name, **rest} if isinstance(rest, dict) else {"task": name} if rest is None else rest
                for name, rest in given.items()]  # fmt: skip

    @model_validator(mode="after")
    def _entries_differ(self) -> "Verifiable":
        seen = set[tuple[str, str, str, int]]()
        for entry in self.tasks:
            for tokens in entry.tokens:
                key = (entry.task, canonical_json(entry.options), entry.target, tokens)
                if key in seen:
                    raise ValueError(f"task {entry.task!r} of {tokens} tokens is listed twice with the same options")
                seen.add(key)
        return self

"""The forms in which trainers expect conversations: the column `messages` of samples, rewritten.

`messages` stays as it is. `sharegpt` is `conversations` of from/value (LLaMA-Factory, Axolotl); `alpaca` is one turn as
instruction, input and output, with `system` and earlier turns in `history` (Stanford Alpaca, LLaMA-Factory). Both can
only say: perhaps a system message, then users and assistants in turn, an answer last. Other rows are left out by name.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import pyarrow as pa

_CONVERSATIONS = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))
_COLUMNS: dict[str, list[tuple[str, pa.DataType]]] = {
    "sharegpt": [("conversations", _CONVERSATIONS)],
    "alpaca": [
        ("instruction", pa.string()), ("input", pa.string()), ("output", pa.string()), ("system", pa.string()),
        ("history", pa.list_(pa.list_(pa.string()))),
    ],
}  # fmt: skip


class LeftOut(NamedTuple):
    """A row that an export does not hold. `reason` is counted, `detail` says what was seen."""

    row_id: str
    reason: str
    detail: str = ""


def styled_schema(schema: pa.Schema, style: str) -> pa.Schema:
    """`schema` with the style's columns in the place of `messages`."""
    columns = [
        column
        for field in schema
        for column in (_COLUMNS[style] if field.name == "messages" else [(field.name, field.type)])
    ]
    return pa.schema(columns)


def styled(table: pa.Table, style: str) -> tuple[pa.Table, list[LeftOut]]:
    """Samples in a style other than `messages`, and those that it cannot express."""
    make = _STYLES[style]
    rows, left_out, places = [], [], []
    for place, messages in enumerate(table["messages"].to_pylist()):
        try:
            rows.append(make(*turns(messages)))
            places.append(place)
        except ValueError as error:
            left_out.append(LeftOut(table["id"][place].as_py(), f"not_{style}", str(error)))
    schema = styled_schema(table.schema, style)
    kept = table.take(pa.array(places, pa.int64()))
    own = {name for name, _ in _COLUMNS[style]}
    columns = [
        pa.array([row[field.name] for row in rows], field.type) if field.name in own else kept[field.name]
        for field in schema
    ]
    return pa.table(columns, schema=schema), left_out


def turns(messages: list[dict[str, str]]) -> tuple[str | None, list[tuple[str, str]]]:
    """The system message, if there is one, and pairs of a user message and its answer. ValueError for what is no such
    conversation."""
    system = None
    if messages and messages[0]["role"] == "system":
        system, messages = messages[0]["content"], messages[1:]
    for place, message in enumerate(messages):
        wanted = ("user", "assistant")[place % 2]
        if message["role"] != wanted:
            number = place + 1 + (system is not None)
            raise ValueError(f"message {number} is of the role {message['role']!r}, not {wanted!r}")
    if not messages or len(messages) % 2:
        raise ValueError("ends with a user message" if messages else "has no turn")
    texts = [message["content"] for message in messages]
    return system, list(zip(texts[::2], texts[1::2], strict=True))


def _sharegpt(system: str | None, pairs: list[tuple[str, str]]) -> dict[str, Any]:
    said = [] if system is None else [("system", system)]
    said += [one for user, answer in pairs for one in (("human", user), ("gpt", answer))]
    return {"conversations": [{"from": who, "value": text} for who, text in said]}


def _alpaca(system: str | None, pairs: list[tuple[str, str]]) -> dict[str, Any]:
    *earlier, (instruction, output) = pairs
    history = [list(pair) for pair in earlier]
    return {"instruction": instruction, "input": "", "output": output, "system": system, "history": history}


_STYLES: dict[str, Callable[[str | None, list[tuple[str, str]]], dict[str, Any]]] = {
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
}

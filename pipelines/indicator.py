"""The indicator of conditional fine-tuning (Wang et al., arXiv 2411.02688), rendered when samples are exported.

User messages whose answer depends on the context end with a fixed text; others stay as they are. Tables keep the number
and never the text: another threshold is another export.
"""

from collections import defaultdict
from typing import Any

import pyarrow as pa

from pipelines.shards import read_part
from pipelines.stages import Context
from schemas.errors import UserError
from schemas.export import Indicator
from schemas.tables import MESSAGES

Marks = dict[str, set[int]]  # sample id -> its answers, by place among the messages


def marked_answers(indicator: Indicator, context: Context) -> Marks:
    """The answers whose score is above the threshold. A score that is NULL (no document, say) is not."""
    found: Marks = defaultdict(set)
    for part in context.upstream(f"score.{indicator.score}").parts("scores_context_dependency"):
        columns = read_part(context.workspace.root / part.file, columns=["row_id", "turn_index", indicator.column])
        for row_id, turn, value in zip(*(column.to_pylist() for column in columns.columns), strict=True):
            if value is not None and value > indicator.above:
                found[row_id].add(turn)
    return found


def with_indicator(ids: pa.Array, messages: pa.Array, indicator: Indicator, marks: Marks) -> pa.Array:
    """The column `messages` of samples, marked. UserError where a message holds the text already: nobody could tell
    afterwards which one was meant."""
    rows = [
        _marked(row_id, row, indicator.text, marks.get(row_id, set()))
        for row_id, row in zip(ids.to_pylist(), messages.to_pylist(), strict=True)
    ]
    return pa.array(rows, MESSAGES)


def _marked(row_id: str, messages: list[dict[str, Any]], text: str, answers: set[int]) -> list[dict[str, Any]]:
    if any(text in message["content"] for message in messages):
        raise UserError(f"sample {row_id} holds {text!r}, the export's indicator; choose another text for it")
    asked = {_question_before(messages, turn) for turn in answers}
    return [
        {**message, "content": f"{message['content']} {text}"} if place in asked else message
        for place, message in enumerate(messages)
    ]


def _question_before(messages: list[dict[str, Any]], turn: int) -> int | None:
    """The user message that an answer answers."""
    return next((place for place in reversed(range(turn)) if messages[place]["role"] == "user"), None)

"""A sample's messages as the token ids that a model reads, and what each token belongs to: template, system text,
document, question or the model's own answers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from filters.foreign_models import blame_template
from schemas.states import Reject, State

# A base model has no template. After GATEAU's prompt: input, instruction, response.
PLAIN = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}### Response:\n{% elif "
    "message['role'] == 'user' %}### Input:\n{% endif %}{{ message['content'] }}\n\n{% endfor %}"
)


class Part(IntEnum):
    """What a token belongs to."""

    TEMPLATE = 0  # role headers, ends of turns, what else the template adds
    SYSTEM = 1
    DOCUMENT = 2
    QUESTION = 3  # all text of users that is no document
    ANSWER = 4  # the model's own
    OTHER = 5  # tools and other roles


@dataclass(frozen=True, slots=True)
class Conversation:
    """`ids`, and for each token its part, its message (-1: template) and its text. `split`: the rule that found the
    document: `details.question`, `last_block` or `no_document`."""

    ids: list[int]
    parts: list[Part]
    turns: list[int]
    texts: list[str]
    roles: list[str]
    split: str

    def places(self, turn: int) -> list[int]:
        """The tokens of one message's content."""
        return [place for place, one in enumerate(self.turns) if one == turn]

    def answers(self) -> list[int]:
        """The assistant's messages that have tokens."""
        held = set(self.turns)
        return [turn for turn, role in enumerate(self.roles) if role == "assistant" and turn in held]

    def document(self) -> tuple[int, int]:
        """Tokens [start, end) of the document; they stand together. Empty where there is none."""
        places = [place for place, part in enumerate(self.parts) if part is Part.DOCUMENT]
        return (places[0], places[-1] + 1) if places else (0, 0)


def encode(tokenizer: Any, row: dict[str, Any]) -> Conversation:
    """A row of the table samples (messages, document_ids, details). A token belongs to the message in whose text it
    begins. Raises Reject where the template refuses the messages or shows them other than as they are."""
    messages = row["messages"]
    split, document_turn, document_end = split_document(row)
    text, contents = _render(tokenizer, messages)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    parts, turns, texts = [], [], []
    turn = 0
    for start, end in encoded["offset_mapping"]:
        while turn < len(contents) and start >= contents[turn][1]:
            turn += 1
        inside = turn < len(contents) and start >= contents[turn][0]
        turns.append(turn if inside else -1)
        texts.append(text[start:end])
        if not inside:
            parts.append(Part.TEMPLATE)
        elif turn == document_turn and start < contents[turn][2] + document_end:
            parts.append(Part.DOCUMENT)
        else:
            parts.append(_PARTS.get(messages[turn]["role"], Part.OTHER))
    return Conversation(encoded["input_ids"], parts, turns, texts, [m["role"] for m in messages], split)


_PARTS = {"system": Part.SYSTEM, "user": Part.QUESTION, "assistant": Part.ANSWER}


def split_document(row: dict[str, Any]) -> tuple[str, int, int]:
    """(rule, message, characters): the document is the beginning of the first user message.

    A row that was made from documents holds `document`, blank line, question. Where its details name the question and
    the message ends with it, the question begins there (`details.question`; of a last block that says more than the
    question, such as "Question: ...", all is question); else it is the last block after a blank line (`last_block`,
    GATEAU's own rule). Without documents, or without a blank line, all is question (`no_document`).
    """
    turn = next((n for n, message in enumerate(row["messages"]) if message["role"] == "user"), -1)
    if turn < 0 or not row["document_ids"]:
        return "no_document", -1, 0
    text = row["messages"][turn]["content"]
    details = json.loads(row["details"] or "{}")
    question = details.get("question") if isinstance(details, dict) else None
    rule, before = "last_block", len(text.rstrip())
    if isinstance(question, str) and question.strip() and text.rstrip().endswith(question.strip()):
        rule, before = "details.question", len(text.rstrip()) - len(question.strip()) + 1
    end = text.rfind("\n\n", 0, before)
    return ("no_document", -1, 0) if end <= 0 or not text[:end].strip() else (rule, turn, end)


def _render(tokenizer: Any, messages: Sequence[dict[str, str]]) -> tuple[str, list[tuple[int, int, int]]]:
    """The rendered text, and where in it each message's content stands: start, end, and where it would start with the
    white space that the template took away. The template is rendered a second time with
    marks in place of contents: what stands between the marks is the template's own, and the rest must be the contents,
    as they are or without white space at their ends."""
    marks = [f"\ue000{number}\ue001" for number in range(len(messages))]
    text = _apply(tokenizer, messages)
    marked = _apply(tokenizer, [{**message, "content": m} for message, m in zip(messages, marks, strict=True)])
    places: list[tuple[int, int, int]] = []
    cursor = 0
    for message, mark in zip(messages, marks, strict=True):
        between, found, marked = marked.partition(mark)
        cursor += len(between)
        for content in (message["content"], message["content"].strip()):
            if found and text.startswith(between, cursor - len(between)) and text.startswith(content, cursor):
                break
        else:
            raise Reject(State.INVALID_OUTPUT, "template_changes_messages", f"message {len(places)}")
        lost = message["content"].index(content)
        places.append((cursor, cursor + len(content), cursor - lost))
        cursor += len(content)
    if text[cursor:] != marked:
        raise Reject(State.INVALID_OUTPUT, "template_changes_messages", "at the end")
    return text, places


def _apply(tokenizer: Any, messages: Sequence[dict[str, str]]) -> str:
    try:
        template = None if tokenizer.chat_template else PLAIN
        rendered: str = tokenizer.apply_chat_template(list(messages), tokenize=False, chat_template=template)
        return rendered
    except Exception as error:  # templates raise on roles and orders that they do not know
        blame_template(error, tokenizer.name_or_path)
        raise Reject(State.INVALID_OUTPUT, "template_refuses", str(error)) from error

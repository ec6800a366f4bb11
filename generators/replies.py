"""Reading a model's reply: numbered questions, checked answers, JSON. What is wrong ends the row with its reason."""

import json
import re
from typing import Any

from filters.answers import is_refusal, is_unfinished, script
from filters.lengths import word_count
from filters.repetition import repetition
from schemas.states import Reject, State

MIN_QUESTION_WORDS = 3  # "1. 1" is no question; "什么是甲" is one
_ITEM = re.compile(r"^\s*(\d+)\s*[.)、．:：]\s*(.*\S)\s*$")
LANGUAGES = {
    "ar": "Arabic", "cs": "Czech", "da": "Danish", "de": "German", "en": "English", "es": "Spanish",
    "fi": "Finnish", "fr": "French", "he": "Hebrew", "hi": "Hindi", "it": "Italian", "ja": "Japanese",
    "ko": "Korean", "nl": "Dutch", "pl": "Polish", "pt": "Portuguese", "ru": "Russian", "sv": "Swedish",
    "tr": "Turkish", "uk": "Ukrainian", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip


def language_name(code: str) -> str:
    """How a prompt names a language, e.g. `English`."""
    return LANGUAGES.get(code, "the language of the document")


def parse_questions(text: str, count: int) -> list[str]:
    """Exactly `count` items numbered 1 to `count`, in order; other lines are not allowed. Raises Reject."""
    items = [_ITEM.match(line) for line in text.splitlines() if line.strip()]
    numbers = [int(item[1]) if item else None for item in items]
    if numbers != list(range(1, count + 1)):
        seen = ", ".join("?" if number is None else str(number) for number in numbers[:20])
        raise Reject(State.INVALID_OUTPUT, "not_numbered_questions", f"wanted items 1 to {count}, got {seen or 'none'}")
    return [item[2] for item in items if item]


def good_questions(text: str, count: int, document: str) -> list[str]:
    """`parse_questions`, each question once, at least some words long and in the document's script. Raises Reject."""
    questions = list(dict.fromkeys(parse_questions(text, count)))
    for question in questions:
        check_question(question, document)
    return questions


def check_question(question: str, document: str) -> None:
    """Raises Reject for what is no question on the document: too short, a refusal, another script."""
    if word_count(question) < MIN_QUESTION_WORDS:
        raise Reject(State.INVALID_OUTPUT, "no_question", question[:120])
    if is_refusal(question):
        raise Reject(State.REFUSED, "refused_question", question[:200])
    if script(question) != script(document):
        raise Reject(State.INVALID_OUTPUT, "wrong_language", f"question: {question[:120]}")


def check_answer(answer: str, reference: str, max_repetition: float, what: str = "answer") -> None:
    """Raises Reject for an answer that is empty, unfinished, a refusal, in another script than `reference`, or a loop
    (`max_repetition`: share of words inside repeated 8-word spans). `what` names it in reasons (`empty_answer`)."""
    if not answer.strip():
        raise Reject(State.INVALID_OUTPUT, f"empty_{what}")
    if is_unfinished(answer):
        raise Reject(State.INVALID_OUTPUT, f"unfinished_{what}", answer[-120:])
    if is_refusal(answer):
        raise Reject(State.REFUSED, f"refused_{what}", answer[:200])
    # An answer may be a bare number; only letters of another script are the wrong language.
    if script(answer) not in (script(reference), "none"):
        raise Reject(State.INVALID_OUTPUT, "wrong_language", f"{what}: {answer[:120]}")
    repeated = repetition(answer)
    if repeated > max_repetition:
        raise Reject(State.FILTERED, "repetition", f"{what}: {repeated:.3f} > {max_repetition}")


def parse_object(reply: str, reason: str) -> dict[str, Any]:
    """The JSON object that a reply is. Raises Reject(invalid_output, reason)."""
    try:
        found = json.loads(reply)
        json.dumps(found, ensure_ascii=False).encode()  # half of a surrogate pair could not be stored
    except (ValueError, RecursionError) as error:
        raise Reject(State.INVALID_OUTPUT, reason, reply[:200]) from error
    if not isinstance(found, dict):
        raise Reject(State.INVALID_OUTPUT, reason, reply[:200])
    return found

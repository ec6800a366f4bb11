"""Reading a model's reply: numbered questions, checked answers, critiques, JSON, tags. What is wrong ends the row with
its reason."""

import json
import re
from collections.abc import Sequence
from typing import Any

from filters.answers import has_placeholder, is_refusal, is_unfinished, script
from filters.lengths import word_count
from filters.repetition import is_loop, repetition
from schemas.states import Reject, State

MAX_QUESTION_REPETITION = 0.5  # share of words inside repeated 8-word spans
MIN_QUESTION_WORDS = 3  # "1. 1" is no question; "什么是甲" is one
BAD_REPLY = (State.TRUNCATED, State.INVALID_OUTPUT, State.FILTERED, State.REFUSED)  # another call may do better
COPIED = 120  # letters and digits, some 25 words: a definition that opens a document may be quoted in an answer
_ITEM = re.compile(r"^\s*(\d{1,6})\s*[.)、．:：]\s*(.*\S)\s*$")
_ABOUT_ITSELF = re.compile(r"\banswers? to (?:this|the) questions?\b", re.IGNORECASE)  # "What is the answer to it?"
_OWN_TAGS = re.compile(r"</?(?:question|answer)>")  # of the formats that our prompts ask for
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
    """Raises Reject for what is no question on the document: too short, about itself, broken off, with a placeholder,
    a refusal, another script, a loop, the document's own beginning."""
    if word_count(question) < MIN_QUESTION_WORDS or _ABOUT_ITSELF.search(question):
        raise Reject(State.INVALID_OUTPUT, "no_question", question[:120])
    # "How to use the": outside Chinese and Japanese a finished sentence ends with a sign.
    if is_unfinished(question) or (question.rstrip()[-1].isalnum() and script(question) != "cjk"):
        raise Reject(State.INVALID_OUTPUT, "unfinished_question", question[-120:])
    if has_placeholder(question):
        raise Reject(State.INVALID_OUTPUT, "placeholder", question[:200])
    if is_refusal(question):
        raise Reject(State.REFUSED, "refused_question", question[:200])
    if script(question) != script(document):
        raise Reject(State.INVALID_OUTPUT, "wrong_language", f"question: {question[:120]}")
    if is_loop(question) or repetition(question) > MAX_QUESTION_REPETITION:
        raise Reject(State.FILTERED, "repetition", f"question: {question[:120]}")
    if _opens(question, document):
        raise Reject(State.INVALID_OUTPUT, "question_is_document", question[:120])


def check_answer(answer: str, reference: str, max_repetition: float, what: str = "answer") -> None:
    """Raises Reject for an answer that is empty, unfinished, tagged or with a placeholder, a refusal, in another
    script than `reference`, or a loop (`max_repetition`: share of words inside repeated 8-word spans). `what` names it
    in reasons (`empty_answer`)."""
    if not any(character.isalnum() for character in answer):
        raise Reject(State.INVALID_OUTPUT, f"empty_{what}", answer.strip()[:120])
    if is_unfinished(answer):
        raise Reject(State.INVALID_OUTPUT, f"unfinished_{what}", answer[-120:])
    if has_placeholder(answer):
        raise Reject(State.INVALID_OUTPUT, "placeholder", answer[:200])
    if _OWN_TAGS.search(answer):
        raise Reject(State.INVALID_OUTPUT, "leaked_tags", answer[:200])
    if is_refusal(answer):
        raise Reject(State.REFUSED, f"refused_{what}", answer[:200])
    # An answer may be a bare number; only letters of another script are the wrong language.
    if script(answer) not in (script(reference), "none"):
        raise Reject(State.INVALID_OUTPUT, "wrong_language", f"{what}: {answer[:120]}")
    repeated = repetition(answer)
    if repeated > max_repetition:
        raise Reject(State.FILTERED, "repetition", f"{what}: {repeated:.3f} > {max_repetition}")
    if is_loop(answer):
        raise Reject(State.FILTERED, "repetition", f"{what}: {answer.strip()[:120]}")


def check_own_words(answer: str, question: str, document: str = "") -> None:
    """Raises Reject for an answer that is only the question again, or begins as the document begins."""
    if _folded(answer) == _folded(question):
        raise Reject(State.INVALID_OUTPUT, "answer_is_question", answer[:120])
    if _opens(answer, document):
        raise Reject(State.INVALID_OUTPUT, "answer_is_document", answer[:120])


def _folded(text: str) -> str:
    """Letters and digits only, without case."""
    return "".join(filter(str.isalnum, text.casefold()))


def _opens(text: str, document: str) -> bool:
    """Does a text begin with the first COPIED letters of a document, as a model does that only reads on?"""
    room = 8 * COPIED  # characters: whatever follows does not matter
    first = _folded(document[:room])[:COPIED]
    return len(first) == COPIED and _folded(text[:room]).startswith(first)


def read_tags(reply: str, names: Sequence[str], reason: str) -> list[str]:
    """The texts of the elements `names`, each once and in this order, with nothing but white space around them. Raises
    Reject(invalid_output): `reason` for half, nested or repeated tags and text outside, `empty_<name>` for no text."""
    pattern = r"\s*" + r"\s*".join(rf"<{name}>(.*?)</{name}>" for name in names) + r"\s*"
    match = re.fullmatch(pattern, reply, re.DOTALL)
    marks = [f"<{slash}{name}>" for name in names for slash in ("", "/")]
    if match is None or any(reply.count(mark) != 1 for mark in marks):
        raise Reject(State.INVALID_OUTPUT, reason, reply[:200])
    texts = [text.strip() for text in match.groups()]
    for name, text in zip(names, texts, strict=True):
        if not text:
            raise Reject(State.INVALID_OUTPUT, f"empty_{name}", reply[:200])
    return texts


def read_texts(reply: str, names: Sequence[str], reason: str) -> list[str]:
    """The texts under the keys `names` of a JSON object. Raises Reject(invalid_output) as `read_tags` does."""
    found = parse_object(reply, reason)
    texts = [found.get(name) for name in names]
    for name, text in zip(names, texts, strict=True):
        if not isinstance(text, str):
            raise Reject(State.INVALID_OUTPUT, reason, reply[:200])
        if not text.strip():
            raise Reject(State.INVALID_OUTPUT, f"empty_{name}", reply[:200])
    return [str(text).strip() for text in texts]


# The reply of a critique: looked at first, judged then.
CRITIQUE = {
    "type": "object",
    "properties": {
        "analysis": {"type": "string", "maxLength": 600},
        "verdict": {"type": "string", "enum": ["correct", "incorrect"]},
    },
    "required": ["analysis", "verdict"],
    "additionalProperties": False,
}


def read_critique(reply: str) -> dict[str, str]:
    """Verdict and analysis of a CRITIQUE reply. Raises Reject where it is not that, or the verdict is no."""
    found = parse_object(reply, "critique_not_json")
    if found.get("verdict") not in ("correct", "incorrect") or not isinstance(found.get("analysis"), str):
        raise Reject(State.INVALID_OUTPUT, "critique_not_json", reply[:200])
    if found["verdict"] != "correct":
        raise Reject(State.FILTERED, "critique_failed", found["analysis"][:200])
    return {"verdict": found["verdict"], "analysis": found["analysis"]}


def check_text(text: str, instruction: str, max_repetition: float) -> None:
    """`check_answer` of a text that an instruction asks for: it is not the instruction itself either."""
    check_answer(text, instruction, max_repetition)
    if _folded(text) == _folded(instruction):
        raise Reject(State.INVALID_OUTPUT, "prompt_echo", text[:120])


def parse_object(reply: str, reason: str) -> dict[str, Any]:
    """The JSON object that a reply is. Raises Reject(invalid_output, reason), also for half an escaped character
    (`\\ud83d` alone), which no table can hold."""
    try:
        found = json.loads(reply)
        json.dumps(found, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise Reject(State.INVALID_OUTPUT, reason, reply[:200]) from error
    if not isinstance(found, dict):
        raise Reject(State.INVALID_OUTPUT, reason, reply[:200])
    return found

"""Long-document question answering (LongAlign, arXiv 2401.18058, section 3.2), optionally with the question, answer and
critique taken from one chunk (Llama-2-Long self-instruct, arXiv 2309.16039, appendix D)."""

import json
import re
from random import Random
from typing import Any, ClassVar

from filters.answers import is_refusal, is_unfinished, script
from filters.lengths import word_count
from filters.repetition import repetition
from generators.base import Generator, Llm, Tokenizer
from schemas.ids import derive_seed
from schemas.recipe import LongQA as Config
from schemas.rows import Document, Sample, Span
from schemas.states import Reject, State

MIN_QUESTION_WORDS = 3  # "1. 1" is no question; "什么是甲" is one
PROMPT_RESERVE = 512  # tokens for the task text and the chat template around a document
_ITEM = re.compile(r"^\s*(\d+)\s*[.)、．:：]\s*(.*\S)\s*$")
LANGUAGES = {
    "ar": "Arabic", "cs": "Czech", "da": "Danish", "de": "German", "en": "English", "es": "Spanish",
    "fi": "Finnish", "fr": "French", "he": "Hebrew", "hi": "Hindi", "it": "Italian", "ja": "Japanese",
    "ko": "Korean", "nl": "Dutch", "pl": "Polish", "pt": "Portuguese", "ru": "Russian", "sv": "Swedish",
    "tr": "Turkish", "uk": "Ukrainian", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip
CRITIQUE = {
    "type": "object",
    "properties": {
        "analysis": {"type": "string", "maxLength": 600},
        "verdict": {"type": "string", "enum": ["correct", "incorrect"]},
    },
    "required": ["analysis", "verdict"],
    "additionalProperties": False,
}


def parse_questions(text: str, count: int) -> list[str]:
    """Exactly `count` items numbered 1 to `count`, in order; other lines are not allowed. Raises Reject."""
    items = [_ITEM.match(line) for line in text.splitlines() if line.strip()]
    numbers = [int(item[1]) if item else None for item in items]
    if numbers != list(range(1, count + 1)):
        seen = ", ".join("?" if number is None else str(number) for number in numbers[:20])
        raise Reject(State.INVALID_OUTPUT, "not_numbered_questions", f"wanted items 1 to {count}, got {seen or 'none'}")
    return [item[2] for item in items if item]


def lines_window(text: str, budget: int, tokenizer: Tokenizer, rng: Random) -> tuple[int, int]:
    """Characters [start, end) of a random run of whole lines of at most `budget` tokens; all of a text that fits.
    Where whole lines would cost more than a quarter of the window at an end, it is cut inside a line."""
    offsets = tokenizer.offsets(text)
    if len(offsets) <= budget:
        return 0, len(text)
    first = rng.randrange(len(offsets) - budget + 1)
    low, high = offsets[first][0], offsets[first + budget - 1][1]
    margin = (high - low) // 4
    start, end = 0 if first == 0 else low, len(text) if first + budget == len(offsets) else high
    if start and text[start - 1] != "\n":
        start = text.find("\n", start, start + margin) + 1 or start
    if end < len(text):
        end = text.rfind("\n", end - margin, end) + 1 or end
    return start, end


class LongQA(Generator[Document]):
    method: ClassVar[str] = "long_qa"
    steps: ClassVar[tuple[str, ...]] = ("questions", "answer", "critique")

    def __init__(self, config: Config) -> None:
        self.config = config

    async def generate(self, row: Document, llm: Llm) -> list[Sample]:
        task = llm.rng.choice(self.config.task_types)
        start, end = self._excerpt(row, llm)
        text = row.text[start:end]
        chunk_start, chunk_end = self._chunk(text, llm)
        source = text[chunk_start:chunk_end]  # the whole excerpt, unless questions come from a chunk

        questions = await self._questions(source, task, row.language, llm)
        question = llm.rng.choice(questions)
        answer = (await llm.chat("answer", document=source, question=question)).strip()
        self._check_answer(answer, text)
        details: dict[str, Any] = {
            "task_type": task,
            "question": question,
            "candidates": len(questions),
            "document_tokens": llm.tokenizer.count(text),
            "excerpt": None if (start, end) == (0, len(row.text)) else {"start": start, "end": end},
            "repetition": round(repetition(answer), 4),
        }
        evidence: tuple[Span, ...] = ()
        if self.config.verify is not None:
            details["verify"] = await self._critique(source, question, answer, llm)
            evidence = (Span(row.document_id, start + chunk_start, start + chunk_end),)
        return [
            Sample(
                messages=(("user", f"{text}\n\n{question}"), ("assistant", answer)),
                language=row.language,
                document_ids=(row.document_id,),
                evidence=evidence,
                details=details,
            )
        ]

    def _excerpt(self, row: Document, llm: Llm) -> tuple[int, int]:
        """The part of the document that fits the window and the recipe's limit."""
        steps = self.config.sampling
        answer_tokens = max(steps.questions.max_tokens, steps.answer.max_tokens)
        budget = llm.window - answer_tokens - PROMPT_RESERVE
        budget = min(budget, self.config.document_tokens.max or budget)
        if budget <= 0:
            raise Reject(State.OVER_BUDGET, "no_room_for_document", f"window {llm.window}, answer {answer_tokens}")
        tokens = llm.tokenizer.count(row.text)
        if tokens < self.config.document_tokens.min:
            raise Reject(
                State.FILTERED, "document_too_short", f"{tokens} tokens, {self.config.document_tokens.min} wanted"
            )
        if tokens > budget and self.config.too_long == "reject":
            raise Reject(State.OVER_BUDGET, "document_too_long", f"{tokens} tokens, {budget} fit")
        # One excerpt for all questions on a document: they share it in the engine's prefix cache.
        return lines_window(row.text, budget, llm.tokenizer, Random(derive_seed(row.document_id, "excerpt")))

    def _chunk(self, text: str, llm: Llm) -> tuple[int, int]:
        if self.config.verify is None:
            return 0, len(text)
        return lines_window(text, self.config.verify.chunk_tokens, llm.tokenizer, llm.rng)

    async def _questions(self, document: str, task: str, language: str, llm: Llm) -> list[str]:
        count = self.config.questions
        name = LANGUAGES.get(language, "the language of the document")
        # Started with "1.", so that no introduction gets in the way; stopped before a question too many.
        text = await llm.chat(
            "questions",
            prefix="1.",
            stop=(f"\n{count + 1}.",),
            document=document,
            task=task,
            count=count,
            language=name,
        )
        questions = list(dict.fromkeys(parse_questions(text, count)))
        empty = [question for question in questions if word_count(question) < MIN_QUESTION_WORDS]
        if empty:
            raise Reject(State.INVALID_OUTPUT, "no_question", empty[0][:120])
        wrong = [question for question in questions if script(question) != script(document)]
        if wrong:
            raise Reject(State.INVALID_OUTPUT, "wrong_language", f"question: {wrong[0][:120]}")
        return questions

    def _check_answer(self, answer: str, document: str) -> None:
        if not answer:
            raise Reject(State.INVALID_OUTPUT, "empty_answer")
        if is_unfinished(answer):
            raise Reject(State.INVALID_OUTPUT, "unfinished_answer", answer[-120:])
        if is_refusal(answer):
            raise Reject(State.REFUSED, "refused_answer", answer[:200])
        # An answer may be a bare number; only letters of another script are the wrong language.
        if script(answer) not in (script(document), "none"):
            raise Reject(State.INVALID_OUTPUT, "wrong_language", f"answer: {answer[:120]}")
        repeated = repetition(answer)
        if repeated > self.config.max_repetition:
            raise Reject(State.FILTERED, "repetition", f"{repeated:.3f} > {self.config.max_repetition}")

    async def _critique(self, chunk: str, question: str, answer: str, llm: Llm) -> dict[str, str]:
        reply = await llm.chat("critique", json_schema=CRITIQUE, document=chunk, question=question, answer=answer)
        try:
            found = json.loads(reply)
            verdict, analysis = found["verdict"], str(found["analysis"])
        except (ValueError, KeyError, TypeError) as error:
            raise Reject(State.INVALID_OUTPUT, "critique_not_json", reply[:200]) from error
        if verdict != "correct":
            raise Reject(State.FILTERED, "critique_failed", analysis[:200])
        return {"verdict": verdict, "analysis": analysis}

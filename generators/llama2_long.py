"""Llama-2-Long self-instruct (arXiv 2309.16039, section 4.3 and appendix D): a model with a short window asks, answers
and checks on one chunk of a long document; the record holds the document around that chunk."""

from collections.abc import Iterable
from typing import ClassVar

from filters.repetition import repetition
from generators.base import TEMPLATE_TOKENS, Cost, Generator, Llm, RowSize
from generators.documents import document_budget, lines_window, window_around
from generators.replies import (
    CRITIQUE,
    check_answer,
    check_own_words,
    check_question,
    language_name,
    read_critique,
    read_tags,
    read_texts,
)
from schemas.methods.llama2_long import Llama2Long as Config
from schemas.rows import Document, Sample, Span
from schemas.states import Reject, State

PROMPT_TYPES = ("normal", "short")
_TEXT = {"type": "string", "minLength": 1, "maxLength": 2000}
PAIR = {
    "type": "object",
    "properties": {"question": _TEXT, "answer": _TEXT},
    "required": ["question", "answer"],
    "additionalProperties": False,
}


class Llama2Long(Generator[Document]):
    method: ClassVar[str] = "llama2_long"

    def __init__(self, config: Config) -> None:
        self.config = config

    async def generate(self, row: Document, llm: Llm) -> list[Sample]:
        kind = llm.rng.choice(PROMPT_TYPES)
        (start, end), (low, high) = self._spans(row, llm)
        chunk, document = row.text[start:end], row.text[low:high]

        question, answer = await self._pair(chunk, kind, language_name(row.language), llm)
        check_question(question, chunk)
        check_answer(answer, chunk, self.config.max_repetition)
        check_own_words(answer, question, chunk)

        critique = await llm.chat("critique", json_schema=CRITIQUE, document=chunk, question=question, answer=answer)
        verify = read_critique(critique)
        details = {
            "prompt_type": kind,
            "question": question,
            "chunk_tokens": llm.tokenizer.count(chunk),
            "document_tokens": llm.tokenizer.count(document),
            "excerpt": None if (low, high) == (0, len(row.text)) else {"start": low, "end": high},
            "repetition": round(repetition(answer), 4),
            "verify": verify,
        }
        return [
            Sample(
                messages=(("user", f"{document}\n\n{question}"), ("assistant", answer)),
                language=row.language,
                document_ids=(row.document_id,),
                evidence=(Span(row.document_id, start, end),),
                details=details,
                loss_on_prompt=self.config.loss_on_prompt,
            )
        ]

    async def _pair(self, chunk: str, kind: str, language: str, llm: Llm) -> tuple[str, str]:
        form = self.config.pair_format
        schema, prefix = (PAIR, "") if form == "json" else (None, "<question>")
        reply = await llm.chat(
            "pair", prefix=prefix, json_schema=schema, document=chunk, type=kind, language=language, format=form
        )
        fields, reason = ["question", "answer"], "not_question_and_answer"
        question, answer = (read_texts if form == "json" else read_tags)(reply, fields, reason)
        return question, answer

    def _spans(self, row: Document, llm: Llm) -> tuple[tuple[int, int], tuple[int, int]]:
        """Characters of the chunk, and of the part of the document around it that the record holds."""
        wanted = self.config.document_tokens
        tokens = llm.tokenizer.count(row.text)
        if tokens < wanted.min:
            raise Reject(State.FILTERED, "document_too_short", f"{tokens} tokens, {wanted.min} wanted")
        longest = self._document_tokens(tokens, llm.window)
        asked = min(self._chunk_tokens(llm.window), longest)
        if asked <= 0 or longest < min(tokens, wanted.min):
            raise Reject(State.OVER_BUDGET, "no_room_for_document", f"window {llm.window}")
        start, end = lines_window(row.text, asked, llm.tokenizer, llm.rng)
        return (start, end), window_around(row.text, start, end, longest, llm.tokenizer, llm.rng)

    def _document_tokens(self, tokens: int, window: int) -> int:
        """How much of a document of `tokens` the record may hold."""
        limit = tokens if self.config.document_tokens.max is None else self.config.document_tokens.max
        return document_budget(window, [self.config.sampling.pair], limit) if self.config.cut_to_window else limit

    def _chunk_tokens(self, window: int) -> int:
        """The critique reads the pair beside the chunk."""
        steps = self.config.sampling
        return document_budget(window - steps.pair.max_tokens, [steps.critique], self.config.chunk_tokens)

    def cost(self, rows: Iterable[RowSize], window: int) -> Cost:
        chunk, steps, cost = self._chunk_tokens(window), self.config.sampling, Cost()
        for row in rows:
            read = min(row.tokens, chunk) + TEMPLATE_TOKENS
            cost.add(read, 120, steps.pair.max_tokens)
            cost.add(read + 120, 150, steps.critique.max_tokens, cached=read - TEMPLATE_TOKENS)
        return cost

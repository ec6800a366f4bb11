"""Long-document question answering (LongAlign, arXiv 2401.18058, section 3.2), optionally with the question, answer and
critique taken from one chunk (Llama-2-Long self-instruct, arXiv 2309.16039, appendix D)."""

from collections.abc import Iterable
from typing import Any, ClassVar

from filters.repetition import repetition
from generators.base import TEMPLATE_TOKENS, Cost, Generator, Llm, RowSize
from generators.documents import document_budget, excerpt, lines_window
from generators.replies import (
    CRITIQUE,
    check_answer,
    check_own_words,
    good_questions,
    language_name,
    read_critique,
)
from schemas.methods.long_qa import LongQA as Config
from schemas.model import SamplingConfig
from schemas.rows import Document, Sample, Span


class LongQA(Generator[Document]):
    method: ClassVar[str] = "long_qa"

    def __init__(self, config: Config) -> None:
        self.config = config

    async def generate(self, row: Document, llm: Llm) -> list[Sample]:
        task = llm.rng.choice(self.config.task_types)
        start, end = excerpt(row, llm, self.config.document_tokens, self._answers(), self.config.too_long)
        text = row.text[start:end]
        chunk_start, chunk_end = self._chunk(text, llm)
        source = text[chunk_start:chunk_end]  # the whole excerpt, unless questions come from a chunk

        questions = await self._questions(source, task, row.language, llm)
        question = llm.rng.choice(questions)
        answer = (await llm.chat("answer", document=source, question=question)).strip()
        check_answer(answer, text, self.config.max_repetition)
        check_own_words(answer, question, source)
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

    def _answers(self) -> list[SamplingConfig]:
        """What must fit the window beside the document."""
        return [self.config.sampling.questions, self.config.sampling.answer]

    def _chunk(self, text: str, llm: Llm) -> tuple[int, int]:
        if self.config.verify is None:
            return 0, len(text)
        return lines_window(text, self.config.verify.chunk_tokens, llm.tokenizer, llm.rng)

    async def _questions(self, document: str, task: str, language: str, llm: Llm) -> list[str]:
        count = self.config.questions
        # Started with "1.", so that no introduction gets in the way; stopped before a question too many.
        text = await llm.chat(
            "questions",
            prefix="1.",
            stop=(f"\n{count + 1}.",),
            document=document,
            task=task,
            count=count,
            language=language_name(language),
        )
        return good_questions(text, count, document)

    async def _critique(self, chunk: str, question: str, answer: str, llm: Llm) -> dict[str, str]:
        reply = await llm.chat("critique", json_schema=CRITIQUE, document=chunk, question=question, answer=answer)
        return read_critique(reply)

    def cost(self, rows: Iterable[RowSize], window: int) -> Cost:
        budget = document_budget(window, self._answers(), self.config.document_tokens.max)
        if self.config.verify is not None:
            budget = min(budget, self.config.verify.chunk_tokens)
        usual = {"questions": 40 * self.config.questions, "answer": 150, "critique": 150}
        cost, seen = Cost(), set[str]()
        for row in rows:
            document = min(row.tokens, budget)
            for step, sampling in self.config.steps.items():
                # Chunks differ between the questions on a document.
                known = step != "questions" or (row.origin in seen and self.config.verify is None)
                cached = document if known else 0
                cost.add(document + TEMPLATE_TOKENS, usual[step], sampling.max_tokens, cached)
            seen.add(row.origin)
        return cost

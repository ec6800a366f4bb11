"""Summaries of documents, or of as much of them as fits the window."""

from collections.abc import Iterable
from typing import ClassVar

from generators.base import TEMPLATE_TOKENS, Cost, Generator, Llm, RowSize
from generators.documents import excerpt
from generators.replies import check_answer, check_own_words, language_name
from schemas.methods.summary import Summary as Config
from schemas.rows import Document, Sample


class Summary(Generator[Document]):
    method: ClassVar[str] = "summary"

    def __init__(self, config: Config) -> None:
        self.config = config

    async def generate(self, row: Document, llm: Llm) -> list[Sample]:
        start, end = excerpt(row, llm, self.config.document_tokens, [self.config.sampling.summarise])
        document, count = row.text[start:end], self.config.sentences
        asked, language = f"Summarise this in {count} sentences.", language_name(row.language)
        answer = await llm.chat("summarise", document=document, sentences=count, language=language)
        check_answer(answer, document, max_repetition=0.5, what="summary")
        check_own_words(answer, asked, document)
        return [Sample((("user", f"{document}\n\n{asked}"), ("assistant", answer)), row.language, (row.document_id,))]

    def cost(self, rows: Iterable[RowSize], window: int) -> Cost:
        cost, answer, most = Cost(), 40 * self.config.sentences, self.config.sampling.summarise.max_tokens
        for row in rows:
            cost.add(min(row.tokens + TEMPLATE_TOKENS, window - most), answer, most)
        return cost

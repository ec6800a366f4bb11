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
        document, language = row.text[start:end], language_name(row.language)
        answer = await llm.chat("summarise", document=document, sentences=self.config.sentences, language=language)
        check_answer(answer, document, max_repetition=0.5, what="summary")
        asked = f"Summarise this in {self.config.sentences} sentences."
        check_own_words(answer, asked, document)
        return [Sample((("user", f"{document}\n\n{asked}"), ("assistant", answer)), row.language, (row.document_id,))]

    def cost(self, rows: Iterable[RowSize], window: int) -> Cost:
        cost, most = Cost(), self.config.sampling.summarise.max_tokens
        for row in rows:
            cost.add(min(row.tokens + TEMPLATE_TOKENS, window - most), 40 * self.config.sentences, most)
        return cost

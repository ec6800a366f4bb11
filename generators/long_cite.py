"""Answers with citations of sentences, from coarse to fine: first which chunks of a document support a statement,
then which sentences in and around them (LongCite, arXiv 2409.02897, section 3)."""

import re
from collections.abc import Iterable, Sequence
from typing import ClassVar

from filters.bm25 import BM25
from generators.base import TEMPLATE_TOKENS, Cost, Generator, Llm, RowSize
from generators.citations import (
    SentenceSpan,
    Statement,
    cited_share,
    number_sentences,
    sentence_spans,
    strip_citations,
    write_citations,
)
from generators.documents import document_budget, excerpt, split_chunks
from generators.replies import check_answer, good_questions, language_name, parse_object
from schemas.methods.long_cite import LongCite as Config
from schemas.model import SamplingConfig
from schemas.rows import Document, Sample, Span
from schemas.states import Reject, State

TASK = (
    "Answer the question from the numbered sentences above. Write each statement of the answer between <statement> and "
    "</statement>, and at its end, between <cite> and </cite>, the runs of sentences that support it, such as "
    "[5-7][12-12]; leave <cite></cite> empty where a statement needs no support."
)
SPANS = {
    "type": "object",
    "properties": {
        "spans": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"first": {"type": "integer"}, "last": {"type": "integer"}},
                "required": ["first", "last"],
                "additionalProperties": False,
            },
            "maxItems": 5,
        }
    },
    "required": ["spans"],
    "additionalProperties": False,
}
_MARK = re.compile(r"\[([0-9]{1,9})\]")
_MARKS = re.compile(r" ?((?:\[[0-9]{1,9}\])+)")
CharSpan = tuple[int, int]


class LongCite(Generator[Document]):
    method: ClassVar[str] = "long_cite"

    def __init__(self, config: Config) -> None:
        self.config = config

    async def generate(self, row: Document, llm: Llm) -> list[Sample]:
        start, end = excerpt(row, llm, self.config.document_tokens, self._answers(), self.config.too_long)
        text = row.text[start:end]
        sentences = sentence_spans(text)
        try:
            numbered = number_sentences(text, sentences)
        except ValueError as error:
            raise Reject(State.FILTERED, "document_holds_marks", str(error)) from error

        question, answer = await self._question_and_answer(text, row.language, llm)
        statements = split_statements(answer)
        chunks = split_chunks(text, self.config.chunk_tokens, llm.tokenizer)
        coarse = await self._cite_chunks(text, question, answer, statements, chunks, llm)
        pieces = [
            Statement(statement, await self._cite_sentences(text, question, statement, cited, chunks, sentences, llm))
            for statement, cited in zip(statements, coarse, strict=True)
        ]
        share = cited_share(pieces)
        if share < self.config.min_cited or share == 0:
            raise Reject(State.FILTERED, "few_citations", f"{share:.2f} of {len(pieces)} statements are cited")
        target = write_citations(pieces)
        assert strip_citations(target) == answer
        cited_sentences = sorted({n for piece in pieces for first, last in piece.spans for n in range(first, last + 1)})
        return [
            Sample(
                messages=(("user", f"{numbered}\n\n{TASK}\n\nQuestion: {question}"), ("assistant", target)),
                language=row.language,
                document_ids=(row.document_id,),
                evidence=tuple(
                    Span(row.document_id, start + sentences[n - 1][0], start + sentences[n - 1][1])
                    for n in cited_sentences
                ),
                details={
                    "question": question,
                    "answer": answer,
                    "sentences": len(sentences),
                    "statements": [{"chunks": len(c), "spans": p.spans} for c, p in zip(coarse, pieces, strict=True)],
                    "cited_share": round(share, 4),
                    "document_tokens": llm.tokenizer.count(text),
                    "excerpt": None if (start, end) == (0, len(row.text)) else {"start": start, "end": end},
                },
            )
        ]

    def _answers(self) -> list[SamplingConfig]:
        """What must fit the window beside the document."""
        return [self.config.sampling.questions, self.config.sampling.answer]

    async def _question_and_answer(self, text: str, language: str, llm: Llm) -> tuple[str, str]:
        """Step 1: self-instruct on the document, as in LongAlign."""
        count = self.config.questions
        reply = await llm.chat(
            "questions",
            prefix="1.",
            stop=(f"\n{count + 1}.",),
            document=text,
            count=count,
            language=language_name(language),
        )
        question = llm.rng.choice(good_questions(reply, count, text))
        answer = (await llm.chat("answer", document=text, question=question)).strip()
        check_answer(answer, text, self.config.max_repetition)
        if found := _MARK.search(answer):
            raise Reject(State.FILTERED, "answer_holds_marks", f"{found[0]} in the answer: {answer[:120]}")
        try:
            write_citations([Statement(answer)])
        except ValueError as error:
            raise Reject(State.FILTERED, "answer_holds_marks", str(error)) from error
        return question, answer

    async def _cite_chunks(
        self, text: str, question: str, answer: str, statements: Sequence[str], chunks: Sequence[CharSpan], llm: Llm
    ) -> list[list[int]]:
        """Step 2: for each statement the chunks (index into `chunks`) that the model names for it."""
        shown = retrieve(statements, [text[start:end] for start, end in chunks])
        if not shown:
            raise Reject(State.FILTERED, "nothing_retrieved", "no chunk shares a word with the answer")
        snippets = "\n\n".join(
            f"Snippet [{number}]\n{text[slice(*chunks[chunk])].strip()}" for number, chunk in enumerate(shown, 1)
        )
        reply = await llm.chat(
            "chunks", snippets=snippets, question=question, answer=answer, limit=self.config.chunks_per_statement
        )
        numbers = read_marks(reply.strip(), answer, statements, len(shown))
        return [[shown[number - 1] for number in some[: self.config.chunks_per_statement]] for some in numbers]

    async def _cite_sentences(
        self,
        text: str,
        question: str,
        statement: str,
        cited: Sequence[int],
        chunks: Sequence[CharSpan],
        sentences: Sequence[CharSpan],
        llm: Llm,
    ) -> tuple[SentenceSpan, ...]:
        """Step 3: the sentences, numbered as in the document, that support a statement which cites chunks."""
        if not cited:
            return ()
        offered = around(cited, chunks, sentences)
        lines = "\n".join(f"<C{number}>{text[slice(*sentences[number - 1])]}" for number in offered)
        reply = await llm.chat(
            "sentences", json_schema=SPANS, sentences=lines, question=question, statement=statement.strip()
        )
        return read_spans(reply, offered)[: self.config.spans_per_statement]

    def cost(self, rows: Iterable[RowSize], window: int) -> Cost:
        budget = document_budget(window, self._answers(), self.config.document_tokens.max)
        cost, steps, seen = Cost(), self.config.sampling, set[str]()
        for row in rows:
            document = min(row.tokens, budget)
            cached = document if row.origin in seen else 0
            cost.add(document + TEMPLATE_TOKENS, 40 * self.config.questions, steps.questions.max_tokens, cached)
            cost.add(document + TEMPLATE_TOKENS, 150, steps.answer.max_tokens, document)
            retrieved = min(document, 30 * self.config.chunk_tokens)
            cost.add(retrieved + 150 + TEMPLATE_TOKENS, 180, steps.chunks.max_tokens)
            for _ in range(5):  # statements of a usual answer
                cost.add(5 * self.config.chunk_tokens + TEMPLATE_TOKENS, 30, steps.sentences.max_tokens)
            seen.add(row.origin)
        return cost


def split_statements(answer: str) -> list[str]:
    """The sentences of an answer, each with the white space behind it: joined they are the answer."""
    starts = [start for start, _ in sentence_spans(answer)]
    return [answer[start:end] for start, end in zip([0, *starts[1:]], [*starts[1:], len(answer)], strict=True)]


def retrieve(statements: Sequence[str], chunks: Sequence[str]) -> list[int]:
    """The best chunks of each statement, min(10, ceil(40 / statements)) of them, each once, in the text's order."""
    index, count = BM25(chunks), min(10, (40 + len(statements) - 1) // len(statements))
    return sorted({chunk for statement in statements for chunk in index.top(statement, count)})


def read_marks(reply: str, answer: str, statements: Sequence[str], shown: int) -> list[list[int]]:
    """For each statement the numbers that the model put into the answer, in order, each once. Raises Reject where the
    answer without them is not the very same, or a number names no snippet."""
    borders = [0]
    for statement in statements:
        borders.append(borders[-1] + len(statement))
    found: list[list[int]] = [[] for _ in statements]
    removed = 0
    for match in _MARKS.finditer(reply):
        place = match.start() - removed  # in the answer
        removed += len(match[0])
        # Behind a statement's last character, white space aside, is still that statement.
        here = [n for n, border in enumerate(borders[:-1]) if border < place]
        for number in map(int, _MARK.findall(match[1])):
            if not here or not 1 <= number <= shown:
                raise Reject(State.INVALID_OUTPUT, "unknown_snippet", f"[{number}] at character {place}")
            if number not in found[here[-1]]:
                found[here[-1]].append(number)
    bare = _MARKS.sub("", reply)
    if bare != answer:
        same = next(
            (n for n, (a, b) in enumerate(zip(bare, answer, strict=False)) if a != b), min(len(bare), len(answer))
        )
        told = f"from character {same}: {bare[same : same + 60]!r} instead of {answer[same : same + 60]!r}"
        raise Reject(State.INVALID_OUTPUT, "answer_changed", told)
    return found


def around(cited: Sequence[int], chunks: Sequence[CharSpan], sentences: Sequence[CharSpan]) -> list[int]:
    """Numbers of the sentences that share a character with a cited chunk or the chunk before or after it."""
    wide = {near for chunk in cited for near in (chunk - 1, chunk, chunk + 1) if 0 <= near < len(chunks)}
    places = [chunks[chunk] for chunk in sorted(wide)]
    return [
        number
        for number, (start, end) in enumerate(sentences, 1)
        if any(first < end and start < last for first, last in places)
    ]


def read_spans(reply: str, offered: Sequence[int]) -> tuple[SentenceSpan, ...]:
    """The spans of a SPANS reply, each once. Raises Reject for a sentence that was not offered."""
    found = parse_object(reply, "spans_not_json").get("spans")
    spans: list[SentenceSpan] = []
    for one in found if isinstance(found, list) else [None]:
        span = (one.get("first"), one.get("last")) if isinstance(one, dict) else (None, None)
        first, last = span
        if type(first) is not int or type(last) is not int:
            raise Reject(State.INVALID_OUTPUT, "spans_not_json", reply[:200])
        if not first <= last or not set(range(first, min(last, first + len(offered)) + 1)) <= set(offered):
            raise Reject(State.INVALID_OUTPUT, "unknown_sentence", f"{first}-{last} of {len(offered)} sentences")
        if (first, last) not in spans:
            spans.append((first, last))
    return tuple(spans)

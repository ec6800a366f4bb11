"""LongAlpaca (LongLoRA, arXiv 2309.12307, and its issue #138): questions by the kind of document, answered by people
where an answer was found and by the model elsewhere; short records beside the long ones."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from random import Random
from typing import Any, ClassVar

from filters.repetition import repetition
from generators.base import TEMPLATE_TOKENS, Cost, Generator, Llm, RowSize
from generators.chapters import Chapter, chapter_splits, fitting_run
from generators.documents import document_budget, excerpt
from generators.replies import check_answer, check_own_words, check_question, language_name, parse_object
from schemas.ids import derive_seed
from schemas.methods.long_alpaca import Kind
from schemas.methods.long_alpaca import LongAlpaca as Config
from schemas.model import SamplingConfig
from schemas.rows import Document, Instruction, Sample
from schemas.states import Reject, State

# What is asked about each kind of document; the wording is in prompts/long_alpaca/question.j2.
QUESTION_KINDS: dict[Kind, tuple[str, ...]] = {
    "paper": ("summary", "review", "method", "results", "limits"),
    "book": ("summary", "relations", "characters", "discussion", "events"),
    "repository": ("summary", "where", "usage", "structure", "change"),
    "manual": ("summary", "usage", "how_to", "trouble"),
}
QUESTION = {
    "type": "object",
    "properties": {"question": {"type": "string", "minLength": 10, "maxLength": 600}},
    "required": ["question"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class _Part:
    """Characters [start, end) of a document; `chapters`: the whole chapters it is, none where it is not."""

    start: int
    end: int
    chapters: list[Chapter]


class LongAlpaca(Generator[Document]):
    method: ClassVar[str] = "long_alpaca"

    def __init__(self, config: Config) -> None:
        self.config = config

    async def generate(self, row: Document, llm: Llm) -> list[Sample]:
        kind = self._kind(row)
        human_question, human_answer = self._human(row, llm)
        part = self._part(row, kind, llm, whole=human_answer is not None)
        text = row.text[part.start : part.end]
        if human_question is not None and (human_answer is not None or text == row.text):  # of the whole document
            ask, question = None, human_question
        else:
            ask = llm.rng.choice(QUESTION_KINDS[kind])
            question = await self._question(text, kind, ask, row.language, llm)
        check_question(question, text)
        answer = human_answer
        if answer is None:
            answer = (await llm.chat("answer", document=text, question=question)).strip()
            check_own_words(answer, question, text)
        check_answer(answer, text, self.config.max_repetition)
        details = {
            "part": "long",
            "doc_kind": kind,
            "task_type": ask,
            "question": question,
            "question_source": "human" if ask is None else "teacher",
            "answer_source": "teacher" if human_answer is None else "human",
            "url": row.metadata.get(self.config.human.url) if ask is None and self.config.human else None,
            "document_tokens": llm.tokenizer.count(text),
            "excerpt": None if text == row.text else {"start": part.start, "end": part.end},
            "chapters": [asdict(chapter) for chapter in part.chapters],
            "repetition": round(repetition(answer), 4),
        }
        messages = (("user", f"{text}\n\n{question}"), ("assistant", answer))
        return [Sample(messages, row.language, document_ids=(row.document_id,), details=details)]

    def _kind(self, row: Document) -> Kind:
        named: Any = self.config.kinds.get(row.source, row.metadata.get("kind") or self.config.default_kind)
        for kind in QUESTION_KINDS:
            if named == kind:
                return kind
        known = ", ".join(QUESTION_KINDS)
        raise Reject(State.FILTERED, "unknown_kind", f"metadata.kind is {str(named)[:60]!r}, known: {known}")

    def _human(self, row: Document, llm: Llm) -> tuple[str | None, str | None]:
        """The question and the answer that people left with the document, for its first use. An answer without its
        question says nothing."""
        names = self.config.human
        if names is None or llm.row_id.rpartition("#")[2] != "0":
            return None, None
        found = []
        for name in (names.question, names.answer):
            value = row.metadata.get(name)
            if value is not None and not isinstance(value, str):
                raise Reject(State.FILTERED, "human_text_not_a_string", f"metadata.{name}: {str(value)[:120]}")
            found.append((value or "").strip() or None)
        question, answer = found
        return question, answer if question is not None else None

    def _part(self, row: Document, kind: Kind, llm: Llm, whole: bool) -> _Part:
        """All of a document that fits; else a run of whole chapters, or of whole lines where no run fits. The same for
        all rows of a document: they share it in the engine's prefix cache. `whole`: people answered with all of it
        before them, and no engine reads it."""
        wanted = self.config.document_tokens
        tokens = llm.tokenizer.count(row.text)
        budget = document_budget(llm.window, self._answers(), wanted.max)
        if whole:
            budget = tokens if wanted.max is None else wanted.max
        if tokens < wanted.min:
            raise Reject(State.FILTERED, "document_too_short", f"{tokens} tokens, {wanted.min} wanted")
        splits = chapter_splits(row.text, kind)
        if tokens <= budget:
            return _Part(0, len(row.text), next(iter(splits), []))
        if whole:
            raise Reject(State.OVER_BUDGET, "document_too_long", f"{tokens} tokens, {budget} fit")
        rng = Random(derive_seed(row.document_id, "chapters"))
        for chapters in splits:
            if run := fitting_run(row.text, chapters, wanted.min, budget, llm.tokenizer, rng):
                return _Part(run[0].start, run[-1].end, run)
        start, end = excerpt(row, llm, wanted, self._answers(), self.config.too_long)
        return _Part(start, end, [])

    def _answers(self) -> list[SamplingConfig]:
        """What must fit the window beside the document."""
        return [self.config.sampling.question, self.config.sampling.answer]

    async def _question(self, text: str, kind: Kind, ask: str, language: str, llm: Llm) -> str:
        reply = await llm.chat(
            "question", json_schema=QUESTION, document=text, kind=kind, ask=ask, language=language_name(language)
        )
        question = parse_object(reply, "question_not_json").get("question")
        if not isinstance(question, str):
            raise Reject(State.INVALID_OUTPUT, "question_not_json", reply[:200])
        return question.strip()

    def cost(self, rows: Iterable[RowSize], window: int) -> Cost:
        """As if the model asked and answered everything: what people left is known only from the rows themselves."""
        budget = document_budget(window, self._answers(), self.config.document_tokens.max)
        cost, seen, steps = Cost(), set[str](), self.config.sampling
        for row in rows:
            document = min(row.tokens, budget)
            known = document if row.origin in seen else 0
            cost.add(document + TEMPLATE_TOKENS, 50, steps.question.max_tokens, known)
            cost.add(document + TEMPLATE_TOKENS, 300, steps.answer.max_tokens, document)
            seen.add(row.origin)
        return cost


class ShortAnswer(Generator[Instruction]):
    """One short record from an instruction: with the answer in its metadata, else with the model's."""

    method: ClassVar[str] = "long_alpaca"

    def __init__(self, config: Config) -> None:
        self.config = config

    async def generate(self, row: Instruction, llm: Llm) -> list[Sample]:
        assert self.config.short is not None
        name = self.config.short.answer_field
        found = row.metadata.get(name) if name is not None else None
        if found is not None and not isinstance(found, str):
            raise Reject(State.FILTERED, "human_text_not_a_string", f"metadata.{name}: {str(found)[:120]}")
        answer = (found or "").strip()
        source = "metadata" if answer else "teacher"
        if not answer:
            answer = (await llm.chat("short", instruction=row.text)).strip()
            check_answer(answer, row.text, self.config.max_repetition)
            check_own_words(answer, row.text)
        details = {"part": "short", "instruction_id": row.instruction_id, "answer_source": source}
        return [Sample((("user", row.text), ("assistant", answer)), row.language, details=details)]

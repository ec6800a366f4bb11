"""Checks of a question on a document: a reader answers without the text, with parts of it, with all of it
(methods/quality_and_decontamination.md, section 8; thresholds are project choices, not from a paper).

Cheap rejects come first, and what follows a reject is not asked: its columns stay None. Calls on one context stand in
a row, the context first in the prompt, so that they share it in the engine's prefix cache.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from filters.answers import has_placeholder, is_refusal, is_unfinished
from filters.bm25 import BM25
from filters.lengths import word_count
from filters.matching import fold, token_f1
from filters.quotes import bullets, quotes, stands_in
from filters.scorers.conversation import split_document
from generators.base import TEMPLATE_TOKENS, Cost, Generator, Llm, RowSize
from generators.documents import document_budget, lines_window, split_chunks
from generators.replies import BAD_REPLY, parse_object, read_texts
from schemas.rows import Judged, Scores
from schemas.scores import QaChecks as Config
from schemas.states import Reject, State

CLOSED_BOOK, KNOWN = 4, 2  # answers without the text; known from two right ones on
FULL, FOUND = 3, 2  # answers with all of it; two must be right
AGREE = 0.5
REPLY_TOKENS = 60  # what an answer usually takes
ANSWER_TOKENS = range(2, 2049)
ANSWER: dict[str, Any] = {
    "type": "object",
    "properties": {"answer": {"type": "string", "minLength": 1, "maxLength": 1200}},
    "required": ["answer"],
    "additionalProperties": False,
}
SAME: dict[str, Any] = {
    "type": "object",
    "properties": {"same": {"type": "boolean"}},
    "required": ["same"],
    "additionalProperties": False,
}
COLUMNS = (
    "label", "answer_tokens", "closed_book_acc", "closed_book_f1", "random_window_ok", "random_window_f1",
    "bm25_top1_ok", "bm25_top1_f1", "full_ok", "full_f1", "agreement", "no_evidence_ok", "no_evidence_f1",
    "citation_ok",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """A sample taken apart. `answer`: without the tags of citations where details keep it so; `told`: as trained."""

    document: str
    question: str
    answer: str
    told: str
    evidence: tuple[str, ...]
    quoted: tuple[str, ...]
    split: str


@dataclass(frozen=True, slots=True)
class Reply:
    """A reader's answer beside the stored one."""

    text: str
    f1: float
    ok: bool


class QaChecks(Generator[Judged]):
    method: ClassVar[str] = "qa_checks"

    def __init__(self, config: Config) -> None:
        self.config = config

    async def generate(self, row: Judged, llm: Llm) -> list[Scores]:
        case = read_case(row)
        found: dict[str, Any] = {**dict.fromkeys(COLUMNS), "unread": [], "split": case.split}
        found["verdict"] = await self._verdict(case, llm, found)
        return [Scores(found)]

    async def _verdict(self, case: Case, llm: Llm, found: dict[str, Any]) -> str:
        """The first reason to reject, or pass. Fills in the columns of what was checked."""
        found["answer_tokens"] = llm.tokenizer.count(case.answer)
        if found["answer_tokens"] not in ANSWER_TOKENS or not is_answer(case.told):
            return "bad_answer"
        if case.quoted:
            context = f"{case.document}\n\n{case.question}"
            found["citation_ok"] = all(stands_in(quote, context) for quote in case.quoted)
            if not found["citation_ok"]:
                return "bad_citation"
        tokens, fit = llm.tokenizer.count(case.document), document_budget(llm.window, [self.config.sampling.full])
        if tokens > fit:  # before anything is asked
            raise Reject(State.OVER_BUDGET, "document_too_long", f"{tokens} tokens, {fit} fit")

        closed = await self._several("closed_book", CLOSED_BOOK, case, llm)
        found["closed_book_f1"] = [reply.f1 for reply in closed]
        found["closed_book_acc"] = share(closed)
        if decided("closed_book", closed, CLOSED_BOOK, KNOWN, found):
            return "known"
        start, end = lines_window(case.document, self.config.window_tokens, llm.tokenizer, llm.rng)
        if await self._part("random_window", case.document[start:end], case, llm, found):
            return "short_context"
        if await self._part("bm25_top1", self._best_chunk(case, llm), case, llm, found):
            found["label"] = "retrieval"
        full = await self._several("full", FULL, case, llm, document=case.document)
        found["full_f1"] = [reply.f1 for reply in full]
        found["full_ok"], found["agreement"] = decided("full", full, FULL, FOUND, found), self._agreement(full)
        if found["full_ok"] is False or (found["agreement"] or 1.0) < AGREE:
            return "ambiguous"
        if await self._part("no_evidence", without(case.document, case.evidence), case, llm, found):
            return "bad_evidence"
        return "unread" if set(found["unread"]) - {"bm25_top1"} else "pass"  # that one is only a label

    async def _several(self, step: str, times: int, case: Case, llm: Llm, **fields: str) -> list[Reply]:
        """The answers that can be read. Raises the last Reject where none can."""
        replies: list[Reply] = []
        last: Reject | None = None
        for _ in range(times):
            try:
                replies.append(await self._reply(step, case, llm, **fields))
            except Reject as reject:
                if reject.state not in BAD_REPLY:
                    raise
                last = reject
        if not replies:
            assert last is not None
            raise last
        return replies

    async def _part(self, check: str, part: str, case: Case, llm: Llm, found: dict[str, Any]) -> bool:
        """Does the reader solve it with a part of the document? None is asked where the part is all of it, or nothing;
        a reply that cannot be read leaves None too, and the check is named in `unread`."""
        if not part.strip() or part.strip() == case.document.strip():
            return False
        try:
            reply = await self._reply("part", case, llm, document=part)
        except Reject as reject:
            if reject.state not in BAD_REPLY:
                raise
            found["unread"].append(check)
            return False
        found[f"{check}_ok"], found[f"{check}_f1"] = reply.ok, reply.f1
        return reply.ok

    async def _reply(self, step: str, case: Case, llm: Llm, **fields: str) -> Reply:
        words = max(1, word_count(case.answer))  # a paragraph and a name are never equal, whatever they say
        reply = await llm.chat(step, json_schema=ANSWER, question=case.question, words=words, **fields)
        text = read_texts(_object(reply), ["answer"], "answer_not_json")[0]
        f1 = token_f1(text, case.answer)
        ok = self._equal(text, case.answer)
        if not ok and self.config.judge is not None:
            same = await llm.chat("same", json_schema=SAME, question=case.question, answer=case.answer, other=text)
            ok = read_same(same)
        return Reply(text, round(f1, 4), ok)

    def _equal(self, one: str, other: str) -> bool:
        return fold(one) == fold(other) != "" or token_f1(one, other) >= self.config.min_f1

    def _agreement(self, replies: Sequence[Reply]) -> float | None:
        """The largest share of answers that equal one of them; None of a single one."""
        if len(replies) < 2:
            return None
        return max(sum(self._equal(one.text, other.text) for other in replies) for one in replies) / len(replies)

    def _best_chunk(self, case: Case, llm: Llm) -> str:
        chunks = split_chunks(case.document, self.config.chunk_tokens, llm.tokenizer)
        texts = [case.document[start:end] for start, end in chunks]
        best = BM25(texts).top(case.question, 1)
        return texts[best[0]] if best else ""

    def cost(self, rows: Iterable[RowSize], window: int) -> Cost:
        """As if nothing were rejected on the way, and no judge asked."""
        steps, cost = self.config.sampling, Cost()
        for row in rows:
            cost.add(TEMPLATE_TOKENS, REPLY_TOKENS, steps.closed_book.max_tokens, times=CLOSED_BOOK)
            for part in (self.config.window_tokens, self.config.chunk_tokens, row.tokens):
                cost.add(min(part, row.tokens) + TEMPLATE_TOKENS, REPLY_TOKENS, steps.part.max_tokens)
            for cached in [0] + [row.tokens] * (FULL - 1):
                cost.add(row.tokens + TEMPLATE_TOKENS, REPLY_TOKENS, steps.full.max_tokens, cached)
        return cost


def read_case(row: Judged) -> Case:
    """Document, question and stored answer of a sample. Raises Reject(filtered): no_question, several_turns."""
    roles = [role for role, _ in row.messages if role != "system"]
    if roles != ["user", "assistant"]:
        raise Reject(State.FILTERED, "several_turns" if len(roles) > 2 else "no_question", " ".join(roles))
    split, turn, end = split_document(row.as_dict())
    if turn < 0:
        raise Reject(State.FILTERED, "no_question", "no document, or nothing behind it")
    asked, told = row.messages[turn][1], row.messages[-1][1]
    question = row.details["question"] if split == "details.question" else asked[end:]
    plain = row.details.get("answer")
    answer = plain if isinstance(plain, str) and plain.strip() else told
    shown = bullets(told) if row.details.get("target") == "evidence_first" else []
    return Case(asked[:end], question.strip(), answer, told, row.evidence, (*quotes(answer), *shown), split)


def is_answer(text: str) -> bool:
    """No refusal, nothing left open or to be filled in."""
    return not (is_refusal(text) or is_unfinished(text) or has_placeholder(text))


def without(document: str, evidence: Sequence[str]) -> str:
    """A document without its evidence, wherever that stands. Empty where there is none, or one is not found."""
    spans = [span.strip() for span in evidence if span.strip()]
    if not spans or not all(span in document for span in spans):
        return ""
    kept = [True] * len(document)
    for span in dict.fromkeys(spans):  # found in the whole text: spans may overlap
        for match in re.finditer(re.escape(span), document):
            kept[slice(*match.span())] = [False] * len(span)
    return "".join(character for character, keep in zip(document, kept, strict=True) if keep)


def decided(check: str, replies: Sequence[Reply], asked: int, needed: int, found: dict[str, Any]) -> bool | None:
    """Are `needed` of the answers right? None, and the check is named in `unread`, where those that cannot be read
    would decide it."""
    right = sum(reply.ok for reply in replies)
    if right < needed <= right + asked - len(replies):
        found["unread"].append(check)
        return None
    return right >= needed


def share(replies: Sequence[Reply]) -> float:
    return sum(reply.ok for reply in replies) / len(replies)


def read_same(reply: str) -> bool:
    """Raises Reject where a judge's reply does not say it."""
    same = parse_object(_object(reply), "same_not_json").get("same")
    if not isinstance(same, bool):
        raise Reject(State.INVALID_OUTPUT, "same_not_json", reply[:200])
    return same


def _object(reply: str) -> str:
    """An engine that cannot hold to a schema may put a fence or words around the object."""
    return reply[max(0, reply.find("{")) : reply.rfind("}") + 1]

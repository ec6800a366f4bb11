"""Context recycling: demonstrations of question, evidence and answer made from passages of the very context that a
question is about (DoubleDipper, arXiv 2406.13632, section 3)."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from filters.matching import fold
from generators.base import TEMPLATE_TOKENS, Cost, Generator, Llm, RowSize
from generators.citations import sentence_spans
from generators.documents import document_budget
from generators.passage_pairs import Pair, PairMaker, evidence_line
from generators.passages import Passage, fitting, locate, numbers_of, paragraphs, split_passages
from generators.prompts import render
from schemas.methods.context_recycling import ContextRecycling as Config
from schemas.rows import Document, Sample, Span
from schemas.states import Reject, State

_REPLY = re.compile(r"\s*(?:Evidence\s*:\s*)?\[\s*([0-9]+(?:\s*,\s*[0-9]+)*)\s*\](?:\s*Answer\s*:)?(.*)", re.DOTALL)


class ContextRecycling(Generator[Document]):
    method: ClassVar[str] = "context_recycling"

    def __init__(self, config: Config) -> None:
        self.config = config

    async def generate(self, row: Document, llm: Llm) -> list[Sample]:
        passages, context = self._context(row, llm)
        known = None if self.config.known is None else known_question(row, self.config, passages, context)
        excluded = set(known.evidence or ()) if known is not None and self.config.exclude_gold else set[int]()
        pool = [passage for passage in eligible(context) if passage.number not in excluded]
        llm.rng.shuffle(pool)
        maker = PairMaker(self.config, row.language, pool, llm)
        # A question that is made takes its passages before the demonstrations do.
        test = known if known is not None else await maker.pair(self.config.question_passages)
        if test is None:
            raise maker.nothing()
        maker.asked.add(fold(test.question))
        demonstrations = await self._demonstrations(maker, llm)
        if not demonstrations:
            raise maker.nothing()

        fields: dict[str, Any] = {
            "passages": "\n\n".join(f"Passage {passage.number}: {passage.text}" for passage in context),
            "demonstrations": "\n\n".join(pair.block() for pair in demonstrations),
            "question": test.question,
        }
        if self.config.round_trip and test.answer is not None and test.evidence:
            check_round_trip(await llm.chat("answer", stop=("\nQuestion:",), **fields), test, len(context))
        details = {
            **self._details(test, demonstrations, context),
            "question_from": "document" if known is None else "metadata",
            "passages_left_off": len(passages) - len(context),
            "failed_calls": dict(sorted(maker.failures.items())),
        }
        return self._records(row, render(self.method, "answer", fields), test, context, details)

    def _context(self, row: Document, llm: Llm) -> tuple[list[Passage], list[Passage]]:
        """All passages of the document, and the first ones that fit."""
        limits, steps = self.config.passage_tokens, self.config.sampling
        budget = self.config.document_tokens.max
        if self.config.round_trip:
            pairs = (self.config.k + 1) * steps.demonstrate.max_tokens
            budget = document_budget(llm.window - pairs, [steps.answer], budget)
        tokens = llm.tokenizer.count(row.text)
        if tokens < self.config.document_tokens.min:
            raise Reject(
                State.FILTERED, "document_too_short", f"{tokens} tokens, {self.config.document_tokens.min} wanted"
            )
        passages = split_passages(row.text, llm.tokenizer, limits.min, limits.max)
        context = passages if budget is None else fitting(passages, budget)
        if not context:
            raise Reject(State.OVER_BUDGET, "no_room_for_document", f"{budget} tokens for passages")
        return passages, context

    async def _demonstrations(self, maker: PairMaker, llm: Llm) -> list[Pair]:
        sizes = [2] * self.config.two_passage + [1] * (self.config.k - self.config.two_passage)
        llm.rng.shuffle(sizes)
        found: list[Pair] = []
        for size in sizes:
            pair = await maker.pair(size)
            if pair is None and size > 1:  # one passage is left
                pair = await maker.pair(1)
            if pair is None:
                break
            found.append(pair)
        return found

    def _details(self, test: Pair, demonstrations: list[Pair], context: list[Passage]) -> dict[str, Any]:
        length = context[-1].end
        gold = test.evidence

        def depths(numbers: Iterable[int]) -> list[float]:
            return [round(context[number - 1].start / length, 4) for number in numbers]

        return {
            "k": self.config.k,
            "passages": [[passage.start, passage.end] for passage in context],
            "context_tokens": sum(passage.tokens for passage in context),
            "demonstrations": [
                {
                    "question": pair.question, "evidence": list(pair.evidence or ()), "answer": pair.answer,
                    "depth": depths(pair.evidence or ()),
                }
                for pair in demonstrations
            ],
            "question": test.question,
            "answer": test.answer,
            "gold_evidence": None if gold is None else list(gold),
            "depth": None if gold is None else depths(gold),
            # None: unknown, as the gold passages are.
            "overlap_gold": None if gold is None else any(set(gold) & set(p.evidence or ()) for p in demonstrations),
            "round_trip": self.config.round_trip and test.answer is not None and bool(gold),
        }  # fmt: skip

    def _records(
        self, row: Document, prompt: str, test: Pair, context: list[Passage], details: dict[str, Any]
    ) -> list[Sample]:
        gold = test.evidence or ()
        evidence = tuple(Span(row.document_id, context[n - 1].start, context[n - 1].end) for n in gold)
        kinds = {"sft": ("sft",), "prompt": ("prompt",), "both": ("sft", "prompt")}[self.config.emit]
        records = []
        for kind in kinds:
            messages: tuple[tuple[str, str], ...] = (("user", prompt),)
            if kind == "sft":
                messages = (*messages, ("assistant", f"{evidence_line(gold)}\n{test.answer}"))
            records.append(Sample(messages, row.language, (row.document_id,), evidence, {"kind": kind, **details}))
        return records

    def cost(self, rows: Iterable[RowSize], window: int) -> Cost:
        cost, steps = Cost(), self.config.sampling
        low, high = self.config.passage_tokens.min, self.config.passage_tokens.max
        passage = (low + (high or 2 * low)) // 2 or 100
        made = [2] * self.config.two_passage + [1] * (self.config.k - self.config.two_passage)
        if self.config.known is None:
            made.append(self.config.question_passages)
        for row in rows:
            for size in made:
                cost.add(size * passage + TEMPLATE_TOKENS, 60, steps.demonstrate.max_tokens)
            if self.config.round_trip:
                context = min(row.tokens, window, self.config.document_tokens.max or window)
                cost.add(context + 60 * self.config.k + TEMPLATE_TOKENS, 30, steps.answer.max_tokens)
        return cost


def eligible(context: Sequence[Passage]) -> list[Passage]:
    """Passages of two sentences and more whose text stands once: of a repeated one, no number would be the evidence."""
    copies = Counter(fold(passage.text) for passage in context)
    return [p for p in context if copies[fold(p.text)] == 1 and len(sentence_spans(p.text)) >= 2]


def read_reply(reply: str, passages: int) -> tuple[tuple[int, ...], str]:
    """Evidence and answer of a reply to the final prompt: `[6, 18]`, then the answer. Raises Reject where the list is
    missing, names a passage that does not exist, or no answer follows."""
    match = _REPLY.fullmatch(reply)
    if match is None:
        raise Reject(State.INVALID_OUTPUT, "no_evidence_list", reply[:200])
    if not match[2].strip():
        raise Reject(State.INVALID_OUTPUT, "empty_answer", reply[:200])
    numbers = match[1].split(",")
    if any(len(number.strip()) > 9 or not 1 <= int(number) <= passages for number in numbers):
        raise Reject(State.INVALID_OUTPUT, "unknown_passage", reply[:200])
    return tuple(sorted(set(map(int, numbers)))), match[2].strip()


def check_round_trip(reply: str, test: Pair, passages: int) -> None:
    """Raises Reject unless a reply to the final prompt gives the pair's own evidence and answer."""
    evidence, answer = read_reply(reply, passages)
    assert test.answer is not None and test.evidence is not None
    if evidence != test.evidence or fold(answer) != fold(test.answer):
        told = f"{evidence_line(evidence)} {answer[:120]} instead of {evidence_line(test.evidence)} {test.answer[:120]}"
        raise Reject(State.FILTERED, "round_trip_disagrees", told)


def known_question(row: Document, config: Config, passages: Sequence[Passage], context: Sequence[Passage]) -> Pair:
    """The question that a document's metadata holds. Raises Reject where it is missing, lacks what the records need,
    or its evidence cannot be found, is in several places, or does not fit."""
    names = config.known
    assert names is not None
    question = row.metadata.get(names.question)
    if not isinstance(question, str) or not question.strip():
        raise Reject(State.FILTERED, "no_known_question", f"metadata field {names.question!r}: {question!r}"[:200])
    answer = row.metadata.get(names.answer) if names.answer is not None else None
    if answer is not None and (not isinstance(answer, str) or not answer.strip()):
        raise Reject(State.FILTERED, "known_answer_no_text", f"metadata field {names.answer!r}: {answer!r}"[:200])
    found = row.metadata.get(names.evidence) if names.evidence is not None else None
    gold = None if found is None else find_gold(found, row.text, passages)
    if config.emit != "prompt" and (answer is None or not gold):
        missing = names.answer if answer is None else names.evidence
        raise Reject(State.FILTERED, "known_question_incomplete", f"metadata field {missing!r} is missing or empty")
    if gold and gold[-1] > len(context):
        raise Reject(State.OVER_BUDGET, "gold_left_off", f"passage {gold[-1]}, of which {len(context)} fit")
    return Pair(question.strip(), answer, gold or None)


def find_gold(found: Any, text: str, passages: Sequence[Passage]) -> tuple[int, ...]:
    """The passages that gold evidence stands in: numbers of paragraphs from 1, or texts; one of them or a list."""
    numbers: set[int] = set()
    borders = paragraphs(text)
    for one in found if isinstance(found, list) else [found]:
        if isinstance(one, str):
            places = {numbers_of(span, passages) for span in locate(one, text)}
        elif isinstance(one, int) and not isinstance(one, bool) and 1 <= one <= len(borders):
            places = {(number,) for number in numbers_of(borders[one - 1], passages)}
        else:
            places = set()
        if len(places) != 1:
            told = "stands nowhere" if not places else f"could be any of the passages {sorted(places)[:5]}"
            raise Reject(State.FILTERED, "gold_not_located", f"{told}: {str(one)[:120]!r}")
        numbers.update(*places)
    return tuple(sorted(numbers))

"""Questions and answers made from single passages: the passages are the evidence, by construction. Where a call gives
nothing usable, another passage is tried."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from filters.matching import fold, holds
from generators.base import Llm
from generators.passages import Passage
from generators.replies import BAD_REPLY, check_answer, check_question, language_name
from schemas.methods.context_recycling import ContextRecycling as Config
from schemas.states import Reject, State

_PAIR = re.compile(r"\s*Question\s*[:：]\s*(\S[^\n]*)\n\s*Answer\s*[:：]\s*(.*)", re.DOTALL)
# A question that only makes sense beside its passage. Rather one good question too many: another passage is tried.
_POINTS_AT_PASSAGE = re.compile(
    r"\b(?:this|that|these|those|the|both|each|either|above|given|following|provided|first|second|two)\s+"
    r"(?:above|given|following|provided|first|second|two)?\s*"
    r"(?:passage|text|paragraph|excerpt|article|document|section|context|snippet|extract)s?\b"
    r"|\baccording to the (?:author|writer|speaker|narrator)\b"
    r"|[本该此上下全]文|文[中章]|[这该此上][一两]?[段篇]|以[上下](?:文本|内容|段落|材料)|段落",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Pair:
    """A question and its answer; `evidence` numbers the passages they were made from, ascending. A question known
    from elsewhere may lack answer and evidence."""

    question: str
    answer: str | None
    evidence: tuple[int, ...] | None

    def block(self) -> str:
        """The pair as a demonstration."""
        return f"Question: {self.question}\nEvidence: {evidence_line(self.evidence or ())}\nAnswer: {self.answer}"


def evidence_line(numbers: Sequence[int]) -> str:
    return f"[{', '.join(map(str, sorted(numbers)))}]"


class PairMaker:
    """Makes question-answer pairs, each from passages of `pool` that none was made from yet. `asked`: folded questions
    that may not come again. `failures`: reasons of calls that gave nothing."""

    def __init__(self, config: Config, language: str, pool: list[Passage], llm: Llm) -> None:
        self.asked: set[str] = set()
        self.failures: Counter[str] = Counter()
        self._config, self._language, self._pool, self._llm = config, language, pool, llm
        self._eligible = len(pool)
        self._last: Reject | None = None

    async def pair(self, size: int) -> Pair | None:
        """A pair from `size` passages; None where fewer are left. Raises Reject after too many failed calls."""
        while len(self._pool) >= size:
            chosen = sorted((self._pool.pop() for _ in range(size)), key=lambda passage: passage.number)
            try:
                return await self._ask(chosen)
            except Reject as reject:
                if reject.state not in BAD_REPLY:
                    raise
                self.failures[reject.reason] += 1
                self._last = reject
                if self.failures.total() > self._config.max_failures:
                    raise self.nothing() from reject
        return None

    def nothing(self) -> Reject:
        """Why there is no pair: the calls failed, or there are too few passages to ask about."""
        if self._last is None:
            return Reject(State.FILTERED, "too_few_passages", f"{self._eligible} could be asked about")
        told = ", ".join(f"{reason} {count}" for reason, count in sorted(self.failures.items()))
        return Reject(self._last.state, "demonstrations_failed", f"{told}; last: {self._last.detail}")

    async def _ask(self, chosen: list[Passage]) -> Pair:
        source = "\n\n".join(passage.text for passage in chosen)
        reply = await self._llm.chat(
            "demonstrate",
            prefix="Question:",  # so that no introduction gets in the way
            stop=("\nQuestion:",),
            passages=source,
            count=len(chosen),
            extractive=self._config.extractive != "free",
            language=language_name(self._language),
        )
        question, answer = read_pair(reply)
        check_pair(question, answer, [passage.text for passage in chosen], self._config)
        if fold(question) in self.asked:
            raise Reject(State.FILTERED, "duplicate_question", question[:120])
        self.asked.add(fold(question))
        return Pair(question, answer, tuple(passage.number for passage in chosen))


def read_pair(reply: str) -> tuple[str, str]:
    """Question and answer of a reply of two labelled lines. Raises Reject."""
    match = _PAIR.fullmatch(reply)
    if match is None:
        raise Reject(State.INVALID_OUTPUT, "no_pair", reply[:200])
    return match[1].strip(), match[2].strip()


def check_pair(question: str, answer: str, sources: Sequence[str], config: Config) -> None:
    """Raises Reject for a pair that would be a bad demonstration of its passages."""
    text = "\n\n".join(sources)
    check_question(question, text)
    check_answer(answer, text, config.max_repetition)
    if len(question.splitlines()) > 1 or len(answer.splitlines()) > 1:  # a demonstration is three lines
        raise Reject(State.INVALID_OUTPUT, "not_one_line", f"{question} {answer}"[:200])
    if not question.endswith(("?", "？", "؟")):  # broken off, or a statement
        raise Reject(State.INVALID_OUTPUT, "no_question", question[:200])
    if _POINTS_AT_PASSAGE.search(question):
        raise Reject(State.FILTERED, "question_points_at_passage", question[:200])
    # With two passages a choice between two things is a fair question; with one it gives the answer away.
    if len(sources) == 1 and holds(question, answer):
        raise Reject(State.FILTERED, "answer_in_question", f"{question} {answer}"[:200])
    match config.extractive:
        case "exact":
            standing = any(answer in source for source in sources)
        case "normalised":
            standing = any(holds(source, answer) for source in sources)
        case "free":
            standing = True
    if not standing:
        raise Reject(State.FILTERED, "answer_not_in_passage", answer[:200])
    if len(sources) == 2 and not draws_on_both(f"{question} {answer}", sources[0], sources[1]):
        raise Reject(State.FILTERED, "one_passage_only", f"{question} {answer}"[:200])


def draws_on_both(pair: str, first: str, second: str) -> bool:
    """Does a pair use a word of each passage that the other one lacks? Short words of alphabets say too little."""
    used, one, two = ({w for w in fold(t).split() if len(w) >= 4 or not w.isascii()} for t in (pair, first, second))
    return bool(used & (one - two)) and bool(used & (two - one))

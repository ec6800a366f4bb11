"""LongPO: the answer a model writes from a short chunk is preferred to the answer the same model writes from the whole
document (arXiv 2502.13922, section 3; its repository's filters)."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from filters.answers import folded
from filters.pairs import is_periodic, is_short, long_words, repeated_words, similarity
from generators.base import TEMPLATE_TOKENS, Cost, Generator, Llm, RowSize
from generators.documents import document_budget, draw_chunks, excerpt, without_blank_ends
from generators.replies import check_answer, good_questions, language_name
from schemas.methods.longpo import CHAT_TOKENS, INSTRUCTION_TOKENS, TRUSTED_TOKENS
from schemas.methods.longpo import LongPO as Config
from schemas.model import SamplingConfig
from schemas.rows import Document, Messages, Preference
from schemas.states import Reject, State

MIN_LONG_WORDS = 2
_POINTER = re.compile(r"\b(?:passage|excerpt|(?:this|given|above) text|text above)\b", re.IGNORECASE)


@dataclass(slots=True)
class Turn:
    """One chunk on its way to a pair. `start`, `end`: characters of the document. `numbers`: what the filters saw."""

    start: int
    end: int
    chunk: str
    tokens: int
    instruction: str = ""
    chosen: str = ""
    rejected: str = ""
    reject: Reject | None = None
    numbers: dict[str, float] = field(default_factory=dict)

    @property
    def span(self) -> dict[str, int]:
        return {"start": self.start, "end": self.end, "tokens": self.tokens}

    @contextmanager
    def dropping(self) -> Iterator[None]:
        """A turn that fails is dropped, and the others go on. What no other turn would survive ends the row."""
        try:
            yield
        except Reject as reject:
            if reject.state in (State.FAILED, State.OVER_BUDGET):
                raise
            self.reject = reject.with_traceback(None)  # which would keep the document in memory


class LongPO(Generator[Document]):
    method: ClassVar[str] = "longpo"

    def __init__(self, config: Config) -> None:
        self.config = config

    async def generate(self, row: Document, llm: Llm) -> list[Preference]:
        whole = excerpt(row, llm, self.config.document_range, self._answers(), self.config.too_long)
        start, end = without_blank_ends(row.text, *whole)
        document = row.text[start:end]
        turns = self._turns(document, start, llm)
        for turn in turns:
            with turn.dropping():
                turn.instruction = await self._instruction(turn, turns, row.language, llm)
                turn.chosen = await self._answer("chosen", turn.chunk, turn, llm)
        # All calls on the whole document together: they share it in the engine's prefix cache.
        for turn in _standing(turns):
            with turn.dropping():
                turn.rejected = await self._answer("rejected", document, turn, llm)
                self._check_pair(turn)
        prompts = self._prompts(document, turns, llm)
        if not prompts:
            _reject_row(turns)
        excerpted = None if whole == (0, len(row.text)) else {"start": start, "end": end}
        return [
            Preference(
                prompt=prompt,
                chosen=turn.chosen,
                rejected=turn.rejected,
                language=row.language,
                short_prompt=(("user", f"{turn.chunk}\n\n{turn.instruction}"),),
                document_ids=(row.document_id,),
                details={
                    "doc": row.document_id,
                    "excerpt": excerpted,
                    "turn": number,
                    "turns": len(prompts),
                    "chunk": turn.span,
                    "instruction": turn.instruction,
                    "long_tokens": tokens,
                    "target_tokens": self.config.target_tokens,
                    "gen": {
                        "chosen_decoding": self.config.sampling.chosen.model_dump(mode="json"),
                        "rejected_decoding": self.config.sampling.rejected.model_dump(mode="json"),
                    },
                    "filters": turn.numbers,
                    "dropped_turns": _dropped(turns),
                },
            )
            for number, (turn, prompt, tokens) in enumerate(prompts)
        ]

    def _answers(self) -> list[SamplingConfig]:
        """What must fit the window beside the document."""
        return [config for _, config in self.config.sampling]

    def _turns(self, document: str, offset: int, llm: Llm) -> list[Turn]:
        chunks = draw_chunks(document, self.config.turns, self.config.chunk_tokens, llm.tokenizer, llm.rng)
        if not chunks:
            raise Reject(State.OVER_BUDGET, "no_room_for_document", "the part that fits is no longer than a chunk")
        return [
            Turn(offset + start, offset + end, document[start:end], llm.tokenizer.count(document[start:end]))
            for start, end in chunks
        ]

    async def _instruction(self, turn: Turn, turns: list[Turn], language: str, llm: Llm) -> str:
        count = self.config.questions
        # Started with "1.", so that no introduction gets in the way; stopped before a question too many.
        text = await llm.chat(
            "questions",
            prefix="1.",
            stop=(f"\n{count + 1}.",),
            document=turn.chunk,
            count=count,
            language=language_name(language),
        )
        found = good_questions(text, count, turn.chunk)
        clear = [question for question in found if not _points_at_chunk(question, turn.chunk)]
        if not clear:
            raise Reject(State.FILTERED, "question_on_passage", found[0][:200])
        instruction = llm.rng.choice(clear)
        if (tokens := llm.tokenizer.count(instruction)) > INSTRUCTION_TOKENS:
            told = f"{tokens} tokens, at most {INSTRUCTION_TOKENS}"
            raise Reject(State.INVALID_OUTPUT, "instruction_too_long", told)
        if folded(instruction) in {folded(other.instruction) for other in _standing(turns)}:
            # Asked of the whole document it would be the same question with two right answers.
            raise Reject(State.FILTERED, "repeated_instruction", instruction[:200])
        if (tokens := llm.tokenizer.count(f"{turn.chunk}\n\n{instruction}")) > TRUSTED_TOKENS:
            raise Reject(State.FILTERED, "short_prompt_too_long", f"{tokens} tokens, at most {TRUSTED_TOKENS}")
        return instruction

    async def _answer(self, side: str, text: str, turn: Turn, llm: Llm) -> str:
        """The model's answer to the turn's instruction, read from `text`; `side` is chosen or rejected."""
        answer = (await llm.chat(side, document=text, instruction=turn.instruction)).strip()
        check_answer(answer, turn.chunk, max_repetition=1.0, what=side)  # repetition: by the rule below
        if folded(answer) == folded(turn.instruction):
            raise Reject(State.INVALID_OUTPUT, "prompt_echo", f"step {side}: {answer[:120]}")
        if is_short(answer):
            raise Reject(State.FILTERED, f"short_{side}", answer)
        if long_words(answer) < MIN_LONG_WORDS:
            raise Reject(State.FILTERED, f"few_words_{side}", answer[:200])
        if is_periodic(answer):
            raise Reject(State.FILTERED, f"periodic_{side}", answer[:200])
        repeated = turn.numbers[f"repetition_{side}"] = round(repeated_words(answer), 4)
        limit = self.config.max_repetition_chosen if side == "chosen" else self.config.max_repetition_rejected
        if repeated > limit:
            raise Reject(State.FILTERED, f"repetition_{side}", f"{repeated:.3f} > {limit}")
        return answer

    def _check_pair(self, turn: Turn) -> None:
        """The published filters let pairs of the same answer through: those teach nothing."""
        alike = turn.numbers["similarity"] = round(similarity(turn.chosen, turn.rejected), 4)
        if alike > self.config.max_similarity:
            raise Reject(State.FILTERED, "similar_answers", f"{alike:.3f} > {self.config.max_similarity}")

    def _prompts(self, document: str, turns: list[Turn], llm: Llm) -> list[tuple[Turn, Messages, int]]:
        """The turns that stand, each with its prompt and that prompt's tokens. The document stands in the first user
        message only; what follows are the earlier instructions with their chosen answers."""
        found: list[tuple[Turn, Messages, int]] = []
        history: Messages = ()
        history_tokens = 0
        for turn in _standing(turns):
            text = turn.instruction if history else f"{document}\n\n{turn.instruction}"
            tokens = history_tokens + llm.tokenizer.count(text)
            chosen, rejected = llm.tokenizer.count_many([turn.chosen, turn.rejected])
            with turn.dropping():
                if (longest := tokens + max(chosen, rejected) + CHAT_TOKENS) > self.config.target_tokens:
                    told = f"{longest} tokens, at most {self.config.target_tokens}"
                    raise Reject(State.FILTERED, "longer_than_target", told)
                prompt = (*history, ("user", text))
                found.append((turn, prompt, tokens))
                history, history_tokens = (*prompt, ("assistant", turn.chosen)), tokens + chosen
        return found

    def cost(self, rows: Iterable[RowSize], window: int) -> Cost:
        budget = document_budget(window, self._answers(), self.config.document_range.max)
        steps, chunk = self.config.sampling, self.config.chunk_tokens
        cost = Cost()
        for row in rows:
            document = min(row.tokens, budget)
            for turn in range(min(self.config.turns, document // chunk) if document > chunk else 0):
                cost.add(chunk + TEMPLATE_TOKENS, 40 * self.config.questions, steps.questions.max_tokens)
                cost.add(chunk + TEMPLATE_TOKENS, 200, steps.chosen.max_tokens, chunk)
                cost.add(document + TEMPLATE_TOKENS, 200, steps.rejected.max_tokens, document if turn else 0)
        return cost


def _standing(turns: list[Turn]) -> list[Turn]:
    return [turn for turn in turns if turn.reject is None]


def _points_at_chunk(question: str, chunk: str) -> bool:
    """Does it ask about "this passage", which a reader of the whole document does not know? Where the document itself
    speaks of passages, the word may mean those."""
    match = _POINTER.search(question)
    return match is not None and match[0].casefold() not in chunk.casefold()


def _dropped(turns: list[Turn]) -> list[dict[str, Any]]:
    return [
        {"chunk": turn.span, "state": reject.state.value, "reason": reject.reason, "detail": reject.detail}
        for turn in turns
        if (reject := turn.reject) is not None
    ]


def _reject_row(turns: list[Turn]) -> None:
    """No turn stands: the row ends as its first turn did; the detail begins with the reasons of all turns."""
    rejects = [turn.reject for turn in turns if turn.reject is not None]
    reasons = ", ".join(reject.reason for reject in rejects)
    raise Reject(rejects[0].state, rejects[0].reason, f"turns dropped: {reasons}; {rejects[0].detail}")

"""Curation of long answers that exist already: instructions that demand exactly one length, and answers that have it
("Minimum Tuning", arXiv 2410.10210). No model is asked and no text is changed."""

from typing import ClassVar

from filters.lengths import length_score, required_words, word_count
from filters.repetition import repetition
from generators.base import Generator, Llm
from generators.replies import check_text
from schemas.methods.minimum_tuning import MinimumTuning as Config
from schemas.rows import Instruction, Sample
from schemas.states import Reject, State


class MinimumTuning(Generator[Instruction]):
    method: ClassVar[str] = "minimum_tuning"

    def __init__(self, config: Config) -> None:
        self.config = config

    async def generate(self, row: Instruction, llm: Llm) -> list[Sample]:
        demanded = required_words(row.text)
        if demanded is None:
            raise Reject(State.FILTERED, "no_single_length", "the instruction does not demand exactly one length")
        answer = self._answer(row)
        check_text(answer, row.text, self.config.max_repetition)
        produced = word_count(answer)
        score = length_score(demanded, produced)
        if score < self.config.min_length_score:
            told = f"S_l {score:.1f} < {self.config.min_length_score}: {demanded} words demanded, {produced} written"
            raise Reject(State.FILTERED, "length_score", told)
        details = {
            "instruction_id": row.instruction_id,
            "length": demanded,
            "response_length": produced,
            "score_length": round(score, 2),
            "repetition": round(repetition(answer), 4),
        }
        return [Sample((("user", row.text), ("assistant", answer)), row.language, details=details)]

    def _answer(self, row: Instruction) -> str:
        field = self.config.answer_field
        if field not in row.metadata:
            told = f"no {field!r} in the row; the source's fields.metadata must name it"
            raise Reject(State.INVALID_OUTPUT, "no_answer", told)
        answer = row.metadata[field]
        if not isinstance(answer, str):
            raise Reject(State.INVALID_OUTPUT, "answer_not_a_string", f"{field!r} is {type(answer).__name__}")
        return answer

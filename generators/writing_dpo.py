"""Preference pairs for long writing (LongWriter, arXiv 2408.07055, section 4): several answers to one instruction, each
scored for quality (S_q, by a judge) and for its length (S_l); the best is chosen, a random other one rejected."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from filters.lengths import length_score, required_words, word_count
from generators.base import TEMPLATE_TOKENS, TOKENS_PER_WORD, Cost, Generator, Llm, RowSize
from generators.judges.quality import REPLY_TOKENS, QualityScore, judge_quality
from generators.replies import BAD_REPLY, check_text
from schemas.methods.writing_dpo import WritingDPO as Config
from schemas.rows import Instruction, Preference
from schemas.states import Reject, State

USUAL_WORDS = 2000  # of an answer whose instruction demands no length


@dataclass(frozen=True, slots=True)
class Candidate:
    """One good answer: the how-manieth that was sampled, and its scores. `s_l` is None where no length is demanded."""

    number: int
    text: str
    quality: QualityScore
    s_l: float | None

    @property
    def reward(self) -> float:
        return round(self.quality.reward, 2)

    @property
    def score(self) -> float:
        """S_q + S_l. Without a demanded length S_q alone: it is only compared with answers to the same instruction."""
        return round(self.reward + (self.s_l or 0.0), 2)

    def scores(self) -> dict[str, float | None]:
        return {"reward": self.reward, "s_l": self.s_l}


class WritingDPO(Generator[Instruction]):
    method: ClassVar[str] = "writing_dpo"

    def __init__(self, config: Config) -> None:
        self.config = config

    async def generate(self, row: Instruction, llm: Llm) -> list[Preference]:
        answers, dropped = await self._answers(row, llm)
        if len(answers) < 2:
            reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(dropped.items()))
            told = f"{len(answers)} of {self.config.answers} answers are good and different: {reasons}"
            raise Reject(State.FILTERED, "too_few_answers", told)
        demanded = required_words(row.text)
        candidates: list[Candidate] = []
        for number, text in answers.items():
            quality = await judge_quality(llm, "quality", row.text, text, self.config.judge_tries)
            s_l = None if demanded is None else round(length_score(demanded, word_count(text)), 2)
            candidates.append(Candidate(number, text, quality, s_l))

        chosen = max(candidates, key=lambda one: one.score)  # of equal ones the first sampled
        others = [one for one in candidates if one is not chosen and self._is_worse(one, chosen)]
        if not others:
            told = f"scores {', '.join(str(one.score) for one in candidates)}, a gap of {self.config.min_gap} wanted"
            raise Reject(State.FILTERED, "gap_too_small", told)
        rejected = llm.rng.choice(others)
        details: dict[str, Any] = {
            "instruction_id": row.instruction_id,
            "required_words": demanded,
            "chosen_score": chosen.scores(),
            "rejected_score": rejected.scores(),
            "chosen_number": chosen.number,
            "rejected_number": rejected.number,
            "candidates": [_candidate_details(one) for one in candidates],
            "dropped": dict(sorted(dropped.items())),
        }
        return [Preference((("user", row.text),), chosen.text, rejected.text, row.language, details=details)]

    async def _answers(self, row: Instruction, llm: Llm) -> tuple[dict[int, str], Counter[str]]:
        """The good answers by their number, each text once; how often which reason spoke against the others."""
        answers: dict[int, str] = {}
        dropped: Counter[str] = Counter()
        seen: set[tuple[str, ...]] = set()
        for number in range(self.config.answers):
            try:
                answer = (await llm.chat("answer", instruction=row.text)).strip()
                check_text(answer, row.text, self.config.max_repetition)
            except Reject as reject:
                if reject.state not in BAD_REPLY:
                    raise
                dropped[reject.reason] += 1
                continue
            if (text := tuple(answer.split())) in seen:
                dropped["same_answer"] += 1
            else:
                seen.add(text)
                answers[number] = answer
        return answers, dropped

    def _is_worse(self, one: Candidate, chosen: Candidate) -> bool:
        return round(chosen.score - one.score, 2) >= self.config.min_gap

    def cost(self, rows: Iterable[RowSize], window: int) -> Cost:
        cost, steps = Cost(), self.config.sampling
        for row in rows:
            prompt = int(TOKENS_PER_WORD * word_count(row.text))
            answer = min(int(TOKENS_PER_WORD * (required_words(row.text) or USUAL_WORDS)), steps.answer.max_tokens)
            for number in range(self.config.answers):
                cost.add(prompt, answer, steps.answer.max_tokens, prompt if number else 0)
                cost.add(prompt + answer + 2 * TEMPLATE_TOKENS, REPLY_TOKENS, steps.quality.max_tokens)
        return cost


def _candidate_details(one: Candidate) -> dict[str, Any]:
    return {
        "number": one.number,
        "words": word_count(one.text),
        "score": one.score,
        **one.scores(),
        "ratings": one.quality.ratings,
    }

"""The quality judge: six ratings of a text, whatever its length (LongWriter, arXiv 2408.07055, section 2: S_q).

A method that judges has a step `quality` in its sampling; the prompt is prompts/judges/quality.j2.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from filters.lengths import length_score, required_words, word_count
from filters.scorers.conversation import split_document
from generators.base import TEMPLATE_TOKENS, Cost, Generator, Llm, RowSize
from generators.replies import BAD_REPLY, parse_object
from schemas.rows import Judged, Scores
from schemas.scores import Quality as Config
from schemas.states import Reject, State

DIMENSIONS = ("relevance", "accuracy", "coherence", "clarity", "breadth_and_depth", "reading_experience")
REPLY_TOKENS = 250  # what a reply usually takes
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "analysis": {"type": "string", "minLength": 1, "maxLength": 1200},  # first: the ratings follow from it
        **{name: {"type": "integer", "minimum": 1, "maximum": 5} for name in DIMENSIONS},
    },
    "required": ["analysis", *DIMENSIONS],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class QualityScore:
    """One judge's ratings, 1 to 5 each."""

    ratings: dict[str, int]

    @property
    def reward(self) -> float:
        """S_q, 0..100: the mean of (rating - 1) * 25."""
        return sum((rating - 1) * 25 for rating in self.ratings.values()) / len(self.ratings)


async def judge_quality(llm: Llm, step: str, instruction: str, answer: str, tries: int) -> QualityScore:
    """Ask until a reply can be read, `tries` times at most. Raises Reject: invalid_output where none can, over_budget
    where the text does not fit the judge's window."""
    last = ""
    for _ in range(tries):
        try:
            return read_quality(await llm.chat(step, json_schema=SCHEMA, instruction=instruction, answer=answer))
        except Reject as reject:
            if reject.state not in BAD_REPLY:
                raise
            last = f"{reject.reason}: {reject.detail}"
    raise Reject(State.INVALID_OUTPUT, "not_judged", f"{tries} tries, the last one: {last}"[:400])


class Quality(Generator[Judged]):
    """The scorer: S_q of a sample's last answer, and S_l where the request demands a length."""

    method: ClassVar[str] = "quality"

    def __init__(self, config: Config) -> None:
        self.config = config

    async def generate(self, row: Judged, llm: Llm) -> list[Scores]:
        *before, (role, answer) = row.messages or (("", ""),)
        if role != "assistant" or not before or not answer.strip():
            raise Reject(State.FILTERED, "no_answer", "the last message is no answer to another")
        task = before[0][1] if len(before) == 1 else "\n\n".join(f"{role}: {text}" for role, text in before)
        quality = await judge_quality(llm, "quality", task, answer, self.config.judge_tries)
        demanded, words = demanded_words(row), word_count(answer)
        s_l = None if demanded is None else round(length_score(demanded, words), 2)
        counts = {"s_l": s_l, "required_words": demanded, "words": words}
        return [Scores({"s_q": round(quality.reward, 2), **quality.ratings, **counts})]

    def cost(self, rows: Iterable[RowSize], window: int) -> Cost:
        """As if every first reply could be read."""
        cost = Cost()
        for row in rows:
            cost.add(row.tokens + 2 * TEMPLATE_TOKENS, REPLY_TOKENS, self.config.sampling.quality.max_tokens)
        return cost


def demanded_words(row: Judged) -> int | None:
    """The length that the last request names; where it holds a document, only what stands behind that is read."""
    _, turn, end = split_document(row.as_dict())
    last = max((n for n, (role, _) in enumerate(row.messages) if role == "user"), default=-1)
    if last < 0:
        return None
    return required_words(row.messages[last][1][end if last == turn else 0 :])


def read_quality(reply: str) -> QualityScore:
    """The ratings of a reply. An engine that cannot hold to a schema may put a fence or words around the object. Raises
    Reject where anything is missing or no whole number from 1 to 5."""
    found = parse_object(reply[max(0, reply.find("{")) : reply.rfind("}") + 1], "quality_not_json")
    ratings = {name: found.get(name) for name in DIMENSIONS}
    wrong = [name for name, rating in ratings.items() if type(rating) is not int or not 1 <= rating <= 5]
    if not isinstance(found.get("analysis"), str):
        wrong.insert(0, "analysis")
    if wrong:
        raise Reject(State.INVALID_OUTPUT, "quality_incomplete", f"{', '.join(wrong)} in {reply[:200]}")
    return QualityScore({name: rating for name, rating in ratings.items() if rating is not None})

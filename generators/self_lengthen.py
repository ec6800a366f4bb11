"""Self-Lengthen: new instructions, answers, their extension, demands on length (arXiv 2410.23933 and its code).

One program for each kind of row; pipelines/self_lengthen.py says which rows there are and in which order.
"""

import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypeVar

from filters.answers import folded, is_refusal, script
from filters.length_demand import draw_demand, states
from filters.lengthening import form_fault, has_repeated_span, pieces
from filters.lengths import word_count
from generators.base import PROMPT_RESERVE, TEMPLATE_TOKENS, TOKENS_PER_WORD, Cost, Generator, Llm, RowSize
from generators.replies import BAD_REPLY, LANGUAGES, check_answer
from schemas.methods.self_lengthen import SelfLengthen as Config
from schemas.rows import Instruction, Sample
from schemas.states import Reject, State

T = TypeVar("T")
_STOPS = ("\n4.", "---", "\n\n\n")
_ENDS = ".!?:。！？：\"')”』」*"


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for one new instruction; `pool`: those to be shown as examples, by language."""

    pool: dict[str, list[Instruction]]
    iteration: int
    source: str


@dataclass(frozen=True, slots=True)
class Draft:
    """A sample to be extended. `dropped`: it was among the short ones and is left out."""

    sample_id: str
    instruction: str
    text: str
    source: str
    language: str
    details: dict[str, Any] = field(default_factory=dict)
    dropped: bool = False


@dataclass(frozen=True, slots=True)
class Finished(Draft):
    """A sample whose request shall demand its length."""


@dataclass(slots=True)
class Extension:
    text: str
    accepted: int  # micro-iterations


class SelfLengthen(Generator[Slot | Instruction | Draft | Finished]):
    method: ClassVar[str] = "self_lengthen"

    def __init__(self, config: Config) -> None:
        self.config = config

    async def generate(self, row: Slot | Instruction | Draft | Finished, llm: Llm) -> list[Sample]:
        if isinstance(row, Slot):
            return [await self._propose(row, llm)]
        if isinstance(row, Instruction):
            return [await self._answer(row, llm)]
        if isinstance(row, Finished):
            return [await self._demand_length(row, llm)]
        return [await self._extend(row, llm)]

    # ------------------------------------------------------------ new instructions

    async def _propose(self, row: Slot, llm: Llm) -> Sample:
        """A new instruction, as a sample that has no answer yet."""

        async def attempt() -> Sample:
            first, second = self._examples(row, llm)
            prefix = f"1. {first.text}\n2. {second.text}\n3."
            language = LANGUAGES.get(first.language, "the language of the first one")
            reply = await llm.chat("propose", prefix=prefix, stop=_STOPS, language=language)
            text = reply.removeprefix(prefix).strip()
            self._check_instruction(text, first, second)
            verdict = await llm.chat("judge", instruction=text, words=self.config.suits_words)
            if verdict.strip().rstrip(".!").casefold() != "yes":
                raise Reject(State.FILTERED, "judged_unsuited", f"{verdict[:60]!r}: {text[:200]}")
            parents = [first.instruction_id, second.instruction_id]
            details = {"iteration": row.iteration, "parents": parents}
            return Sample((("user", text),), first.language, details=details)

        sample, tries, faults = await retry(self.config.tries.instruction, attempt)
        sample.details.update(tries=tries, check_fail_reasons=faults)
        return sample

    @staticmethod
    def _examples(row: Slot, llm: Llm) -> tuple[Instruction, Instruction]:
        """Two of one language, each instruction as likely as any other to be the first."""
        everything = [one for group in row.pool.values() for one in group]
        first = llm.rng.choice(everything)
        others = [one for one in row.pool[first.language] if one is not first]
        return first, llm.rng.choice(others or [one for one in everything if one is not first])

    def _check_instruction(self, text: str, first: Instruction, second: Instruction) -> None:
        low, high = self.config.instruction_words
        if not low < (count := word_count(text)) < high:
            raise Reject(State.INVALID_OUTPUT, "instruction_words", f"{count} words: {text[:120]}")
        if is_refusal(text):
            raise Reject(State.REFUSED, "refused_instruction", text[:200])
        if script(text) != script(first.text):
            raise Reject(State.INVALID_OUTPUT, "wrong_language", f"instruction: {text[:120]}")
        if text.startswith(("{", "[", "<")) or has_repeated_span(text) or "\n4." in text:
            raise Reject(State.INVALID_OUTPUT, "no_instruction", text[:120])
        if folded(text) in (folded(first.text), folded(second.text)):
            raise Reject(State.INVALID_OUTPUT, "copied", text[:120])

    # ------------------------------------------------------------ answers

    async def _answer(self, row: Instruction, llm: Llm) -> Sample:
        async def attempt() -> str:
            text = (await llm.chat("answer", instruction=row.text)).strip()
            self._check(text, row.text)
            return text

        text, tries, faults = await retry(self.config.tries.answer, attempt)
        details = {
            "role": "initial",
            "iteration": row.metadata["iteration"],
            "instruction_id": row.instruction_id,
            "parents": row.metadata["parents"],
            "words": word_count(text),
            "tries": tries,
            "check_fail_reasons": faults,
        }
        return Sample((("user", row.text), ("assistant", text)), row.language, details=details)

    @staticmethod
    def _check(text: str, instruction: str) -> None:
        check_answer(text, instruction, max_repetition=1.0)  # repetition is the affair of form_fault
        if (fault := form_fault(text)) is not None:
            raise Reject(State.INVALID_OUTPUT, fault, text[-120:])
        if folded(text) == folded(instruction):
            raise Reject(State.INVALID_OUTPUT, "copied", text[:120])

    # ------------------------------------------------------------ extension

    async def _extend(self, row: Draft, llm: Llm) -> Sample:
        if row.dropped:
            raise Reject(State.FILTERED, "drop_short", f"{len(row.text)} characters")
        before = word_count(row.text)
        faults: Counter[str] = Counter()

        async def attempt() -> Extension:
            found = await self._micro_iterations(row, llm, faults)
            after = word_count(found.text)
            if after <= self.config.growth * before:
                told = f"{before} -> {after} words, faults of candidates: {dict(sorted(faults.items()))}"
                raise Reject(State.FILTERED, "not_extended", told)
            return found

        found, tries, _ = await retry(self.config.tries.extend, attempt)
        details = {
            **{name: row.details[name] for name in ("iteration", "instruction_id", "parents")},
            "role": "extended",
            "initial_id": row.sample_id,
            "words_initial": before,
            "words_extended": word_count(found.text),
            "micro_accepted": found.accepted,
            "tries": tries,
            "check_fail_reasons": dict(sorted(faults.items())),
        }
        return Sample((("user", row.instruction), ("assistant", found.text)), row.language, details=details)

    async def _micro_iterations(self, row: Draft, llm: Llm, faults: Counter[str]) -> Extension:
        found = Extension(row.text, 0)
        for _ in range(self.config.micro_iterations):
            try:
                candidate = await self._candidate(row.instruction, found.text, llm)
                self._check(candidate, row.instruction)
                if word_count(candidate) <= word_count(found.text):
                    raise Reject(State.FILTERED, "not_longer")
            except Reject as reject:
                if reject.state is State.OVER_BUDGET and found.accepted:
                    break  # the text has grown to what the window holds
                if reject.state not in BAD_REPLY:
                    raise
                faults[reject.reason] += 1
            else:
                found = Extension(candidate, found.accepted + 1)
        return found

    async def _candidate(self, instruction: str, text: str, llm: Llm) -> str:
        """The two stages: the first half is extended alone; two thirds of that are the start of an extension of the
        whole, so that what has been enriched stays and the rest is brought to the same breadth."""
        lines, joint = pieces(text)
        former = joint.join(lines[: len(lines) // 2])
        self._check_room(llm, instruction, former)
        paragraphs = _paragraphs(await llm.chat("extend", instruction=instruction, outline=former))
        self._check_part("\n\n".join(paragraphs), instruction)
        head = "\n\n".join(paragraphs[: 2 * len(paragraphs) // 3])
        if not head:
            raise Reject(State.INVALID_OUTPUT, "empty_head", f"{len(paragraphs)} paragraphs")
        self._check_room(llm, instruction, text, head)
        whole = await llm.chat("extend", prefix=head, instruction=instruction, outline=text)
        rest = whole.removeprefix(head)
        if not rest.strip() or folded(rest) == folded(instruction):
            raise Reject(State.INVALID_OUTPUT, "empty_rest", rest[:120])
        self._check_part(rest, instruction)
        return join(head, rest)

    @staticmethod
    def _check_part(text: str, instruction: str) -> None:
        """What the whole text would hide: a refusal or another language in one of its two parts."""
        if is_refusal(text):
            raise Reject(State.REFUSED, "refused_part", text[:200])
        if script(text) not in (script(instruction), "none"):
            raise Reject(State.INVALID_OUTPUT, "wrong_language", f"part: {text[:120]}")

    def _check_room(self, llm: Llm, *texts: str) -> None:
        """Told before the call, so that a text which fills the window keeps what it has reached."""
        needed = sum(map(llm.tokenizer.count, texts)) + self.config.sampling.extend.max_tokens + PROMPT_RESERVE // 2
        if needed > llm.window:
            raise Reject(State.OVER_BUDGET, "no_room_to_extend", f"{needed} tokens, window {llm.window}")

    # ------------------------------------------------------------ demands on the length

    async def _demand_length(self, row: Finished, llm: Llm) -> Sample:
        control = self.config.length_control
        assert control is not None
        words, (low, high) = word_count(row.text), control.words
        if not low <= words < high:
            raise Reject(State.FILTERED, "length_not_demanded", f"{words} words")
        chinese = row.language == "zh"
        if not chinese and row.language != "en":
            raise Reject(State.FILTERED, "language_without_demands", row.language)
        kinds, weights = zip(*control.kinds, strict=True)
        kind = llm.rng.choices(kinds, weights)[0]
        step = control.step * (2 if llm.rng.random() < control.coarse else 1)
        demand = draw_demand(words, kind, step, control.words)
        phrase = demand.phrase(chinese, numerals=llm.rng.random() < control.chinese_numerals)
        request = (await llm.chat("rewrite", instruction=row.instruction, demand=phrase)).strip()
        if not states(request, demand):
            raise Reject(State.INVALID_OUTPUT, "demand_not_stated", f"{phrase}: {request[:200]}")
        check_answer(request, row.instruction, max_repetition=0.5, what="request")
        if has_repeated_span(request) or word_count(request) > 2 * word_count(row.instruction) + 40:
            raise Reject(State.INVALID_OUTPUT, "more_than_rewritten", request[:200])
        details = {
            "role": "length_control",
            "of": row.sample_id,
            "iteration": row.details["iteration"],
            "length_constraint": {"type": demand.kind, "lo": demand.low, "hi": demand.high},
            "words": words,
        }
        return Sample((("user", request), ("assistant", row.text)), row.language, details=details)

    # ------------------------------------------------------------ cost

    def cost(self, rows: Iterable[RowSize], window: int) -> Cost:
        """All iterations with one try each, whatever the rows: the instructions are made by the method itself."""
        kinds = ("instructions", "answers", "extend")
        costs = [self.cost_of(kind, t)[1] for t in range(1, self.config.iterations + 1) for kind in kinds]
        return Cost(**{one.name: sum(getattr(cost, one.name) for cost in costs) for one in fields(Cost)})

    def cost_of(self, kind: str, iteration: int) -> tuple[int, Cost]:
        """Rows and cost of one stage, if every row succeeded at once. Lengths double with each iteration (Fig. 7)."""
        config, cost, steps = self.config, Cost(), self.config.sampling
        slots = config.instructions
        answer = min(int(1000 * TOKENS_PER_WORD * 2 ** (iteration - 1)), steps.answer.max_tokens)
        request = TEMPLATE_TOKENS // 2 + 60
        if kind == "instructions":
            cost.add(request + 60, 60, steps.propose.max_tokens, times=slots)
            cost.add(request, 2, steps.judge.max_tokens, times=slots)
            return slots, cost
        answers = slots * config.answers
        if kind == "answers":
            cost.add(60, answer, steps.answer.max_tokens, times=answers)
            return answers, cost
        kept = round(answers * (0.595 if config.drop_short else 1.0))
        jobs = kept * config.extensions
        if kind == "extend":
            calls = jobs * config.micro_iterations
            cost.add(request + answer // 2, answer, steps.extend.max_tokens, times=calls)
            cost.add(request + 2 * answer, answer, steps.extend.max_tokens, times=calls)
            return jobs + answers - kept, cost
        samples = config.iterations * (answers + jobs)
        cost.add(request, 80, steps.rewrite.max_tokens, times=samples)
        return samples, cost


async def retry(tries: int, attempt: Callable[[], Awaitable[T]]) -> tuple[T, int, dict[str, int]]:
    """The first attempt that succeeds, which one it was, and why those before failed. Raises the last Reject, with all
    reasons in its detail, when none does, and at once what no further try can mend."""
    reasons: Counter[str] = Counter()
    for number in range(1, tries + 1):
        try:
            return await attempt(), number, dict(sorted(reasons.items()))
        except Reject as reject:
            if reject.state not in BAD_REPLY:
                raise
            last = reject
            reasons[reject.reason] += 1
    counts = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
    raise Reject(last.state, last.reason, f"{tries} tries ({counts}); last: {last.detail}")


def _paragraphs(text: str) -> list[str]:
    return [part.strip("\n") for part in re.split(r"\n\s*\n", text) if part.strip()]


def join(head: str, rest: str) -> str:
    """A prefilled start and what came after it. Where the model opened a new paragraph without a line break, one is
    put in, so that two paragraphs are not glued together; an unfinished sentence goes on as it is."""
    if rest.startswith("\n") or (head.rstrip()[-1] not in _ENDS and rest[0].isspace()):
        return head + rest.rstrip()
    return f"{head}\n\n{rest.strip()}"

"""AgentWrite: plan a long text, then write it paragraph by paragraph (LongWriter, arXiv 2408.07055, section 3)."""

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from filters.answers import has_placeholder, is_refusal, is_unfinished, script, strip_labels
from filters.lengths import length_score, required_words, word_count
from filters.repetition import is_loop, repetition
from generators.base import TEMPLATE_TOKENS, TOKENS_PER_WORD, Cost, Generator, Llm, RowSize
from generators.replies import check_own_words, parse_object
from schemas.methods.agentwrite import AgentWrite as Config
from schemas.rows import Instruction, Sample
from schemas.states import Reject, State

_PLAN_LINE = re.compile(
    r"^[\s*#>-]*(?:Paragraph\s*(?P<en>\d+)|(?:段落\s*(?P<zh>\d+)|第\s*(?P<di>\d+)\s*段))\**"
    r"\s*[-–—:：.]*\s*\**(?:Main\s+point|主要内容|要点)\**\s*[:：]\s*\**(?P<point>.+?)\**"
    r"\s*[-–—;,，；]\s*\**(?:Word\s+count|字数)\**\s*[:：]\s*\**(?:about\s+|约)?(?P<words>\d{1,3}(?:,\d{3})+|\d{1,7})",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Step:
    """One paragraph of the plan; `target_words` is what the plan asks for."""

    index: int
    main_point: str
    target_words: int

    def line(self) -> str:
        return f"Paragraph {self.index} - Main point: {self.main_point} - Word count: {self.target_words} words"


def parse_plan(text: str) -> tuple[list[Step], list[str]]:
    """The steps of a plan, and the lines that are no plan lines (an introduction, a closing remark, a broken line):
    those are refused, never written as paragraphs. Steps are numbered anew from 1."""
    steps: list[Step] = []
    refused: list[str] = []
    for line in filter(None, (line.strip() for line in text.splitlines())):
        match = _PLAN_LINE.match(line)
        if match is None or int(match["words"].replace(",", "")) == 0:
            refused.append(line)
        else:
            steps.append(Step(len(steps) + 1, match["point"].strip(), int(match["words"].replace(",", ""))))
    return steps, refused


def plan_schema(config: Config) -> dict[str, Any]:
    low, high = config.paragraph_words
    paragraph = {
        "type": "object",
        "properties": {
            "main_point": {"type": "string", "minLength": 10, "maxLength": 300},
            "words": {"type": "integer", "minimum": low, "maximum": high},
        },
        "required": ["main_point", "words"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {
            "paragraphs": {"type": "array", "items": paragraph, "minItems": 1, "maxItems": config.max_steps}
        },
        "required": ["paragraphs"],
        "additionalProperties": False,
    }


def parse_json_plan(text: str) -> list[Step]:
    """Raises Reject when an engine that cannot hold to a schema returned something else."""
    found = parse_object(text, "plan_not_json").get("paragraphs")
    steps: list[Step] = []
    for paragraph in found if isinstance(found, list) else []:
        point, words = (paragraph.get("main_point"), paragraph.get("words")) if isinstance(paragraph, dict) else (0, 0)
        if not isinstance(point, str) or not point.strip() or type(words) is not int:
            raise Reject(State.INVALID_OUTPUT, "plan_not_json", f"paragraph {len(steps) + 1}: {paragraph}"[:200])
        steps.append(Step(len(steps) + 1, point.strip(), words))
    return steps


class AgentWrite(Generator[Instruction]):
    method: ClassVar[str] = "agentwrite"

    def __init__(self, config: Config) -> None:
        self.config = config

    async def generate(self, row: Instruction, llm: Llm) -> list[Sample]:
        if self.config.require_length and required_words(row.text) is None:
            raise Reject(State.FILTERED, "no_single_length", "the instruction does not demand exactly one length")
        steps, refused_lines = await self._plan(row, llm)
        plan = "\n".join(step.line() for step in steps)
        parts: list[str] = []
        for step in steps:
            answer = await llm.chat(
                "write", instruction=row.text, plan=plan, written="\n\n".join(parts), step=step.line()
            )
            part = strip_labels(answer)
            if not part:
                raise Reject(State.INVALID_OUTPUT, "empty_part", f"paragraph {step.index} of {len(steps)}")
            if is_unfinished(part):
                raise Reject(State.INVALID_OUTPUT, "unfinished_part", f"paragraph {step.index}: {part[-120:]}")
            if has_placeholder(part):
                raise Reject(State.INVALID_OUTPUT, "placeholder", f"paragraph {step.index}: {part[:120]}")
            if is_refusal(part):
                raise Reject(State.REFUSED, "refused_write", f"paragraph {step.index}: {part[:120]}")
            if is_loop(part):
                raise Reject(State.FILTERED, "repetition", f"paragraph {step.index}: {part[:120]}")
            for asked in (row.text, step.main_point):
                check_own_words(part, asked)
            parts.append(part)
        return [self._sample(row, steps, refused_lines, parts)]

    async def _plan(self, row: Instruction, llm: Llm) -> tuple[list[Step], list[str]]:
        low, high = self.config.paragraph_words
        form, middle = self.config.plan_format, (low + high) // 2
        schema = plan_schema(self.config) if form == "json" else None
        text = await llm.chat(
            "plan", json_schema=schema, instruction=row.text, low=low, high=high, example=middle, format=form
        )
        if is_refusal(text):
            raise Reject(State.REFUSED, "refused_plan", text[:200])
        steps, refused = (parse_json_plan(text), []) if schema else parse_plan(text)
        if not steps:
            raise Reject(State.INVALID_OUTPUT, "no_plan_lines", text[:200])
        if script(" ".join(step.main_point for step in steps)) not in (script(row.text), "none"):
            raise Reject(State.INVALID_OUTPUT, "wrong_language", f"plan: {steps[0].main_point[:120]}")
        if len(steps) > self.config.max_steps:
            raise Reject(State.INVALID_OUTPUT, "plan_too_long", f"{len(steps)} steps, {self.config.max_steps} allowed")
        for step in steps:
            if not low <= step.target_words <= high:
                target = f"paragraph {step.index} asks for {step.target_words} words, allowed are {low}-{high}"
                raise Reject(State.INVALID_OUTPUT, "plan_target_out_of_range", target)
        return steps, refused

    def _sample(self, row: Instruction, steps: list[Step], refused: list[str], parts: list[str]) -> Sample:
        text = "\n\n".join(parts)
        if script(text) != script(row.text):
            raise Reject(State.INVALID_OUTPUT, "wrong_language", f"{script(row.text)} asked, {script(text)} written")
        if len(set(parts)) < len(parts):
            raise Reject(State.FILTERED, "repetition", "two paragraphs are the same")
        repeated = repetition(text)
        if repeated > self.config.max_repetition:
            raise Reject(State.FILTERED, "repetition", f"{repeated:.3f} > {self.config.max_repetition}")
        demanded = required_words(row.text)
        target = demanded or sum(step.target_words for step in steps)
        score = length_score(target, word_count(text))
        if score < self.config.min_length_score:
            raise Reject(State.FILTERED, "length_score", f"S_l {score:.1f} < {self.config.min_length_score}")
        details = {
            "plan": [asdict(step) for step in steps],
            "refused_plan_lines": len(refused),
            "parts": [_part_details(step, part) for step, part in zip(steps, parts, strict=True)],
            "words": word_count(text),
            "required_words": demanded,
            "target_words": target,
            "s_l": round(score, 2),
            "repetition": round(repeated, 4),
        }
        return Sample(
            messages=(("user", row.text), ("assistant", text)),
            language=row.language,
            details={"instruction_id": row.instruction_id, **details},
        )

    def cost(self, rows: Iterable[RowSize], window: int) -> Cost:
        cost, steps = Cost(), self.config.sampling
        usual = sum(self.config.paragraph_words) // 2
        for row in rows:
            if self.config.require_length and required_words(row.text) is None:
                continue
            words = required_words(row.text) or 6 * usual
            count = min(self.config.max_steps, max(1, round(words / usual)))
            plan, part = 40 * count, int(TOKENS_PER_WORD * words / count)
            fixed = int(TOKENS_PER_WORD * len(row.text.split())) + plan + TEMPLATE_TOKENS
            cost.add(fixed, plan, steps.plan.max_tokens)
            for number in range(count):
                # Instruction, plan and the text so far are the prefix of the next call.
                cached = fixed - TEMPLATE_TOKENS + (number - 1) * part if number else 0
                cost.add(fixed + number * part, part, steps.write.max_tokens, cached)
        return cost


def _part_details(step: Step, part: str) -> dict[str, Any]:
    produced = word_count(part)
    return {
        "words": produced,
        "target_words": step.target_words,
        "s_l": round(length_score(step.target_words, produced), 2),
    }

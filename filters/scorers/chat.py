"""Token ids of a prompt with two answers, cut as TRL cuts them: what a scorer sums is then what a trainer sums."""

from dataclasses import dataclass
from typing import Any

from filters.foreign_models import blame_template
from filters.scorers.core import Tokens
from schemas.states import Reject, State

ChatMessages = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class PairTokens:
    chosen: Tokens
    rejected: Tokens


def encode_pair(tokenizer: Any, prompt: ChatMessages, chosen: ChatMessages, rejected: ChatMessages) -> PairTokens:
    """Prompt: the template with its generation prompt. Answer: what the rendering of the whole conversation adds to
    that, the end of the turn included. Where an answer's rendering leaves the prompt early (templates that treat the
    last turn specially), both answers start there, as in TRL's DPOTrainer.

    Raises Reject when the template refuses the messages.
    """
    asked = _render(tokenizer, prompt, True)
    whole = [_render(tokenizer, prompt + answer, False) for answer in (chosen, rejected)]
    start = min(_common_prefix(asked, ids) for ids in whole)
    if start == 0:
        raise Reject(State.INVALID_OUTPUT, "template_has_no_prompt", "prompt and conversation share no first token")
    return PairTokens(*(Tokens(ids[:start], ids[start:]) for ids in whole))


def _render(tokenizer: Any, messages: ChatMessages, generation_prompt: bool) -> list[int]:
    try:
        rendered = tokenizer.apply_chat_template(
            messages, add_generation_prompt=generation_prompt, tokenize=True, return_dict=True
        )
    except Exception as error:  # templates raise on roles and orders that they do not know
        blame_template(error, tokenizer.name_or_path)
        raise Reject(State.INVALID_OUTPUT, "template_refuses", str(error)) from error
    ids: list[int] = rendered["input_ids"]
    return ids


def _common_prefix(first: list[int], second: list[int]) -> int:
    for index, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return index
    return min(len(first), len(second))

"""Conversations as a model's chat template writes them, with what the loss counts, and nothing smuggled in.

A message may quote `<|im_end|>`; in the ids it must stay text (generators.control_tokens). The control tokens that the
template wrote become *aliases*, tokens of our own which no message holds. The tokenizer reads all other text as text.

The loss counts what the model must say: of each assistant turn what follows the prompt that the template makes of all
before it, up to and with the control token that ends the turn. Templates with `{% generation %}` say it themselves.
"""

import re
from datetime import date
from typing import Any

from generators.control_tokens import MARK, ControlTokens, unmarked

OPEN, CLOSE = "\ufdd0", "\ufdd1"  # Unicode keeps these free of characters too
_RESERVED = re.compile(f"[{OPEN}{CLOSE}{MARK}]")
_GENERATION = re.compile(r"{%[-+]?\s*generation\s*[-+]?%}")
_ROLES = ("system", "user", "assistant")
_TODAY = date(2024, 7, 26)  # of templates that write the date: what Llama 3's say without a clock

Message = dict[str, str]


class Unrenderable(Exception):
    """Why a conversation has no ids."""


def alias(number: int) -> str:
    """The text that stands for the control token with this id."""
    return f"{OPEN}{number}{CLOSE}"


class ChatRenderer:
    """`template`: Jinja source. `named`: `bos_token` and its like. `controls`: control token -> id."""

    def __init__(self, template: str, named: dict[str, str], controls: dict[str, int]) -> None:
        self._template = template
        self._named = named
        self._controls = ControlTokens(controls)
        self._marked = _GENERATION.search(template) is not None

    def parts(self, messages: list[Message], everything: bool) -> list[tuple[str, bool]]:
        """Texts that make up the conversation, with aliases, and whether the loss counts them; it counts all if
        `everything`. Raises Unrenderable."""
        clean = [self._clean(message) for message in messages]
        if everything:
            return [(self._aliased(self._render(clean)[0]), True)]
        text, spans = self._render(clean) if self._marked else self._by_prefixes(clean)
        parts: list[tuple[str, bool]] = []
        place = 0
        for start, end in spans:
            parts += [(text[place:start], False), (text[start:end], True)]
            place = end
        parts.append((text[place:], False))
        aliased = [(self._aliased(part), counts) for part, counts in parts]
        if "".join(part for part, _ in aliased) != self._aliased(text):
            raise Unrenderable("template_not_prefix_stable")  # a turn ends inside a control token
        return aliased

    def _clean(self, message: Message) -> Message:
        if message["role"] not in _ROLES:
            raise Unrenderable("unknown_role")
        content = message["content"]
        if _RESERVED.search(content):
            raise Unrenderable("reserved_character")
        marked = self._controls.mark(content)
        if self._controls.written.search(marked):  # of one character: nothing to put a mark into
            raise Unrenderable("control_character")
        return {"role": message["role"], "content": marked}

    def _aliased(self, text: str) -> str:
        return unmarked(self._controls.written.sub(lambda match: alias(self._controls.ids[match[0]]), text))

    def _by_prefixes(self, messages: list[Message]) -> tuple[str, list[tuple[int, int]]]:
        text, _ = self._render(messages)
        spans = []
        for place, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before, _ = self._render(messages[:place], prompt=True)
            after = text if place + 1 == len(messages) else self._render(messages[: place + 1])[0]
            if not (text.startswith(after) and after.startswith(before)):
                raise Unrenderable("template_not_prefix_stable")
            spans.append((len(before), len(before) + self._turn(after[len(before) :])))
        return text, spans

    def _turn(self, said: str) -> int:
        """Where a turn ends: after its last control token if only blanks follow, else with its text."""
        ends = [match.end() for match in self._controls.written.finditer(said)]
        return ends[-1] if ends and not said[ends[-1] :].strip() else len(said)

    def _render(self, messages: list[Message], prompt: bool = False) -> tuple[str, list[tuple[int, int]]]:
        """The text, and what its generation marks mark."""
        from transformers.utils.chat_template_utils import render_jinja_template

        values: dict[str, Any] = {**self._named, "strftime_now": _TODAY.strftime}
        try:
            texts, spans = render_jinja_template(
                [messages],
                chat_template=self._template,
                add_generation_prompt=prompt,
                return_assistant_tokens_mask=self._marked,
                **values,
            )
        except Exception as error:  # templates may raise anything, and overflow numbers, memory and stack
            raise Unrenderable(f"template_refused: {str(error)[:200]}") from error
        return texts[0], [(start, end) for start, end in spans[0]] if self._marked else []

"""From messages to token ids, inside an engine process, with the model's own Hugging Face tokenizer."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from filters.foreign_models import blame_template, load
from generators.control_tokens import ControlTokens, unmarked
from generators.engines.base import BadRequest, ChatRequest, Message

# Stands for the assistant's unfinished answer while a chat template is rendered. Templates may strip or cut what
# they are given; what they do to this word does no harm, and the real text is put in its place afterwards.
_UNFINISHED = "LongloomUnfinishedAnswer"


class ChatFormat:
    """Renders and encodes prompts. A message may quote `<|im_end|>`, as documents on models do: only the template
    writes control tokens, what a message quotes stays text. Not safe for threads: one call at a time."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        self.tokenizer: Any = load(AutoTokenizer, folder)
        self._folder = folder
        self._raw_start = self._start_of_raw_prompts()
        added = self.tokenizer.added_tokens_decoder.items()
        special = {token.content: number for number, token in added if token.special}
        self._controls = ControlTokens({token: number for token, number in special.items() if len(token) > 1})

    def encode(self, request: ChatRequest) -> Sequence[int]:
        """Token ids of the whole prompt. Raises BadRequest if the template refuses the messages."""
        if not request.raw:
            # A template writes its own start-of-text token.
            if not any(self._controls.written.search(message.content) for message in request.messages):
                return self._encode(self.render(request))
            messages = tuple(Message(one.role, self._controls.mark(one.content)) for one in request.messages)
            return self._encode_around(self.render(replace(request, messages=messages)))
        if len(request.messages) != 1 or request.messages[0].role != "user":
            raise BadRequest("a raw prompt is a single user message")
        text = request.messages[0].content
        ids = self._encode(text)
        return ids if ids[: len(self._raw_start)] == self._raw_start else [*self._raw_start, *ids]

    def render(self, request: ChatRequest) -> str:
        """The prompt as text. An unfinished assistant message comes last, exactly as given, whitespace too."""
        messages = [{"role": message.role, "content": message.content} for message in request.messages]
        if not messages:
            raise BadRequest("a chat request needs at least one message")
        if messages[-1]["role"] != "assistant":
            return self._apply_template(messages, add_generation_prompt=True)
        unfinished = messages[-1]["content"]
        messages[-1]["content"] = _UNFINISHED
        text = self._apply_template(messages, add_generation_prompt=False)
        before, found, _ = text.rpartition(_UNFINISHED)
        if not found:
            raise BadRequest("the model's chat template drops the assistant's last message, so it cannot be continued")
        return before + unfinished

    def _apply_template(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        if not self.tokenizer.chat_template:
            raise BadRequest(f"the model {self._folder.name} has no chat template; only raw prompts work")
        try:
            text: str = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except Exception as error:  # templates raise on roles and orders that they do not know
            blame_template(error, str(self._folder))
            raise BadRequest(f"the model's chat template refuses the messages: {error}") from error
        return text

    def _encode(self, text: str, **options: bool) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False, **options)
        return ids

    def _encode_around(self, text: str) -> list[int]:
        """Control tokens without a mark are what they are, all other text is text."""
        ids, place = [], 0
        for match in self._controls.written.finditer(text):
            ids += self._encode(unmarked(text[place : match.start()]), split_special_tokens=True)
            ids.append(self._controls.ids[match[0]])
            place = match.end()
        return ids + self._encode(unmarked(text[place:]), split_special_tokens=True)

    def _start_of_raw_prompts(self) -> list[int]:
        """The start-of-text token, for models that were trained with one."""
        ids: list[int] = self.tokenizer.encode("", add_special_tokens=True)
        return ids[:1] if ids[:1] == [self.tokenizer.bos_token_id] else []

    def stop_ids(self) -> list[int]:
        """Every token that ends an answer. Some models name them in one file only (Gemma ends a turn with a token
        that is not the tokenizer's eos)."""
        ids = {self.tokenizer.eos_token_id}
        for name in ("config.json", "generation_config.json"):
            file = self._folder / name
            eos = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id") if file.is_file() else None
            ids.update(eos if isinstance(eos, list) else [eos])
        return sorted(token for token in ids if token is not None)

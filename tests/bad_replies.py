"""Replies that no record may come from, whatever step asked. Each is a function of the request."""

from collections.abc import Callable
from typing import Any

from generators.engines.base import ChatRequest, Completion, Refused


def prompt(request: ChatRequest) -> str:
    return request.messages[0].content


BAD_REPLIES: dict[str, Callable[[ChatRequest], Any]] = {
    "empty": lambda _: "",
    "white_space": lambda _: " \n\t\u3000 ",
    "punctuation": lambda _: "...!?",
    "wrong_language": lambda _: "这是一段与问题无关的中文文字，没有别的内容。",
    "refusal": lambda _: "I'm sorry, but I can't help with that.",
    "server_refusal": lambda _: Refused("content filter"),
    "half_json": lambda _: '{"analysis": "It looks ri',
    "half_tag": lambda _: "<question>What is said in the first line of it?</question><answer>A thing",
    "repeated_words": lambda _: "and so it goes on " * 60,
    "repeated_digits": lambda _: "42 " * 200,
    "repeated_letter": lambda _: "a" * 500,
    "prompt_echo": lambda request: prompt(request)[-200:],
    "whole_prompt": prompt,
    "long": lambda _: "word" * 50_000,
    "cut": lambda _: Completion("It is a", "length", 9, 3, None, 0.0),
    "nested_json": lambda _: "[" * 5000,
    "open_code": lambda _: "```python\nprint(1)",
    "many_digits": lambda _: "9" * 5000 + ". What is it about?",
}

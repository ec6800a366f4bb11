"""The OpenAI client: what it sends, exactly, how it counts prompts, and what it reads from answers."""

import asyncio
from pathlib import Path

import pytest
from openai_server import Server, answer, ask, chat, running, serve

from generators.engines import openai_wire
from generators.engines.base import (
    BadRequest,
    EngineError,
    PromptTooLong,
)

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}}

# --------------------------------------------------------------- what is sent


VLLM_DEFAULTS = {
    "model": "m",
    "max_tokens": 10,
    "temperature": 0.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "seed": 0,
    "stop": [],
    "include_stop_str_in_output": False,
}
CHAT_FLAGS = {"add_generation_prompt": True, "continue_final_message": False, "add_special_tokens": False}
PREFIX_FLAGS = {"add_generation_prompt": False, "continue_final_message": True, "add_special_tokens": False}
HI = {"messages": [{"role": "user", "content": "hi"}]}


def test_chat_body():
    server = Server()
    ask(server)
    assert server.seen[-2:] == [
        ("/tokenize", {"model": "m", **HI, **CHAT_FLAGS}),
        ("/v1/chat/completions", {**VLLM_DEFAULTS, **HI, **CHAT_FLAGS}),
    ]


def test_sampling_body():
    server = Server()
    given = {"max_tokens": 3, "temperature": 0.7, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.1, "seed": 42}
    ask(server, chat(("system", "s"), ("user", "ü"), stop=("a", "\n\n"), **given))
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "ü"}]
    assert server.generated() == [{**VLLM_DEFAULTS, **given, "stop": ["a", "\n\n"], "messages": messages, **CHAT_FLAGS}]


def test_prefix_body():
    server = Server()
    ask(server, chat(("user", "hi"), ("assistant", "Well, ")))
    messages = [*HI["messages"], {"role": "assistant", "content": "Well, "}]
    assert server.seen[-2:] == [
        ("/tokenize", {"model": "m", "messages": messages, **PREFIX_FLAGS}),
        ("/v1/chat/completions", {**VLLM_DEFAULTS, "messages": messages, **PREFIX_FLAGS}),
    ]


def test_raw_body():
    server = Server()
    assert ask(server, chat(raw=True)).text == "hello"
    assert server.seen[-2:] == [
        ("/tokenize", {"model": "m", "prompt": "hi", "add_special_tokens": True}),
        ("/v1/completions", {**VLLM_DEFAULTS, "prompt": "hi", "add_special_tokens": True}),
    ]


@pytest.mark.parametrize("raw", [False, True])
def test_schema_body(raw):
    server = Server()
    ask(server, chat(raw=raw, json_schema=SCHEMA))
    assert server.generated()[0]["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
    }


def test_openai_body_has_standard_fields_only():
    server = Server()
    ask(server, chat(temperature=0.5, seed=3, stop=("x",), json_schema=SCHEMA), server="openai", max_model_len=100)
    body = {"model": "m", **HI, "max_tokens": 10, "temperature": 0.5, "top_p": 1.0, "seed": 3, "stop": ["x"]}
    (sent,) = server.generated()
    assert sent.pop("response_format")["type"] == "json_schema"
    assert sent == body
    assert [path for path, _ in server.seen] == ["/v1/models", "/v1/chat/completions"]


def test_openai_raw_body():
    server = Server()
    ask(server, chat(raw=True), server="openai")
    assert server.seen[-1] == (
        "/v1/completions",
        {"model": "m", "prompt": "hi", "max_tokens": 10, "temperature": 0.0, "top_p": 1.0, "seed": 0},
    )


@pytest.mark.parametrize(
    ("request_", "what"),
    [
        (chat(top_k=5), "top_k"),
        (chat(repetition_penalty=1.2), "repetition_penalty"),
        (chat(("user", "a"), ("assistant", "b")), "an assistant prefix"),
        (chat(raw=True, json_schema=SCHEMA), "a JSON schema for a raw prompt"),
    ],
)
def test_what_plain_openai_cannot_express_is_refused_and_not_sent(request_, what):
    server = Server()
    with pytest.raises(BadRequest, match=f"cannot express {what}; .*'server: vllm'"):
        ask(server, request_, server="openai")
    assert server.generated() == []


# --------------------------------------------------------------- counting


def test_prompt_too_long_carries_both_counts_and_sends_nothing():
    server = Server(window=100)
    with pytest.raises(PromptTooLong) as caught:
        ask(server, chat(("user", "x" * 91)))
    assert (caught.value.prompt_tokens, caught.value.max_tokens, caught.value.max_model_len) == (91, 10, 100)
    assert server.generated() == []


def test_a_prompt_that_just_fits():
    assert ask(Server(window=100), chat(("user", "x" * 90))).text == "hello"


def test_counting_with_a_tokenizer_of_our_own(monkeypatch):
    import sys
    import types

    class Words:
        def count(self, text: str) -> int:
            return len(text.split())

    asked = []
    models = types.ModuleType("generators.models")
    models.load_tokenizer = lambda ref, base_dir: asked.append((ref, base_dir)) or Words()
    monkeypatch.setitem(sys.modules, "generators.models", models)

    async def main():
        async with running(Server(), tokenizer="tok") as client:
            plain = await client.prepare(chat(("system", "a b"), ("user", "c d e")))
            raw = await client.prepare(chat(("user", "c d e"), raw=True))
            return plain.prompt_tokens, raw.prompt_tokens

    allowance = openai_wire.TOKENS_PER_CHAT + 2 * openai_wire.TOKENS_PER_MESSAGE
    assert asyncio.run(main()) == (5 + allowance, 3)
    assert asked == [("tok", Path())] * 3  # the first at the start, so that a wrong name is found there


@pytest.mark.parametrize("text", ["", "plain words", "日本語のテキスト", "lone \ud800 surrogate"])
def test_estimate_is_never_below_two_and_a_half_bytes_a_token(text):
    request = chat(("user", text), raw=True)
    assert openai_wire.estimate_tokens(request) >= len(text.encode("utf-8", "surrogatepass")) / 2.5


@pytest.mark.parametrize("body", [b'{"count":7,"tokens":[]}', b'{"tokens":[1], "count": 7}', b'{"count": 7}'])
def test_count_is_read_wherever_it_stands(body):
    assert openai_wire.parse_count(body) == 7


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"count":"x"}'])
def test_an_answer_without_a_count(body):
    with pytest.raises(EngineError):
        openai_wire.parse_count(body)


# --------------------------------------------------------------- answers


def test_usage_and_time():
    completion = ask(serve(body=answer("t", "length", prompt_tokens_details={"cached_tokens": 4})))
    assert (completion.text, completion.finish_reason) == ("t", "length")
    assert (completion.prompt_tokens, completion.completion_tokens, completion.cached_tokens) == (5, 2, 4)
    assert 0 < completion.seconds < 5


@pytest.mark.parametrize("details", [None, {}, {"cached_tokens": None}])
def test_cached_tokens_are_none_where_the_server_does_not_say(details):
    assert ask(serve(body=answer(prompt_tokens_details=details))).cached_tokens is None


def test_no_content_is_an_empty_answer():
    assert ask(serve(body=answer(None))).text == ""


@pytest.mark.parametrize("reason", ["abort", "error", None])
def test_a_broken_off_answer_is_worth_another_try(reason):
    with pytest.raises(EngineError, match="broke the answer off"):
        ask(serve(body=answer("par", reason)))


@pytest.mark.parametrize("reason", ["content_filter", "repetition", "tool_calls"])
def test_other_finish_reasons_are_final(reason):
    with pytest.raises(BadRequest, match=reason):
        ask(serve(body=answer("x", reason)))


def test_refusal():
    body = answer(None)
    body["choices"][0]["message"]["refusal"] = "I will not"
    with pytest.raises(BadRequest, match="I will not"):
        ask(serve(body=body))


@pytest.mark.parametrize(
    "body",
    ["", "<html>", '{"choices": [', "[]", "{}", '{"choices": []}', '{"choices": [{"message": 3}]}', "[" * 99_999],
)
def test_an_answer_that_is_none(body):
    with pytest.raises(EngineError, match="the server's answer is not"):
        ask(serve(body=body))


def test_an_answer_without_usage():
    body = answer()
    del body["usage"]
    with pytest.raises(EngineError, match="usage"):
        ask(serve(body=body))

"""The OpenAI client against servers that misbehave: at the start, by status, by what they send."""

import asyncio
import logging
import time
import traceback
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from aiohttp import web
from openai_server import Server, answer, ask, chat, running, serve

from generators.engines import openai_wire
from generators.engines.base import (
    BadRequest,
    EngineError,
    Prepared,
    PromptTooLong,
)
from generators.engines.openai import OpenAIClient
from generators.engines.replicas import parse_base_urls
from schemas.engines import OpenAIEngine
from schemas.errors import UserError

# --------------------------------------------------------------- start


def test_identity_needs_no_server():
    client = OpenAIClient(
        OpenAIEngine(type="openai", model="m", base_urls=("http://127.0.0.1:1",), revision="r1"), Path()
    )
    assert (client.identity.model, client.identity.revision, client.identity.template) == ("m", "r1", None)


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_base_urls_with_and_without_v1(suffix):
    server = Server()

    async def main():
        await server.up()
        async with running(base_urls=(server.url + suffix,)) as client:
            await client.generate(await client.prepare(chat()))
        await server.down()

    asyncio.run(main())
    assert [path for path, _ in server.seen] == [
        "/v1/models",
        "/tokenize",
        "/version",
        "/tokenize",
        "/v1/chat/completions",
    ]


def test_start_reports_what_the_servers_offer_and_happens_once():
    first, second = Server(window=2000), Server(window=1000)

    async def main():
        async with running(first, second, max_in_flight=7, kv_tokens=11) as client:
            again = await client.start()
            assert again is await client.start()
            return again

    info = asyncio.run(main())
    assert (info.max_model_len, info.max_batch, info.kv_tokens) == (1000, 14, 22)
    assert info.version == "vllm 0.32.0"
    assert info.prefix_cache
    assert len(first.seen) == 3


@pytest.mark.parametrize(("configured", "reported", "window"), [(500, 1000, 500), (5000, 1000, 1000), (500, None, 500)])
def test_the_shorter_of_configured_and_reported_window_wins(configured, reported, window):
    async def main():
        async with running(Server(window=reported), max_model_len=configured) as client:
            return (await client.start()).max_model_len

    assert asyncio.run(main()) == window


def test_no_window_anywhere_is_a_user_error():
    with pytest.raises(UserError, match="set max_model_len"):
        ask(Server(window=None))


def test_wrong_model_name_is_a_user_error_that_lists_what_is_served():
    server = Server(models=("other", "third"))
    with pytest.raises(UserError, match="does not serve the model 'm'; it serves: 'other', 'third'") as caught:
        ask(server)
    assert server.url in str(caught.value)


def test_no_server_at_all_is_one_engine_error():
    with pytest.raises(EngineError, match=r"none of the servers in base_urls answers: http://127\.0\.0\.1:1/v1/models"):
        ask(Server(), base_urls=("http://127.0.0.1:1", "http://127.0.0.1:2"))


@pytest.mark.parametrize("body", ["{}", '{"data": 5}', '{"data": [7, {}, {"id": ["m"]}]}'])
def test_a_list_of_models_that_is_none(body):
    with pytest.raises(UserError, match="does not serve the model 'm'"):
        openai_wire.parse_window(body.encode(), "http://a", "m", None)


def test_a_tokenizer_that_is_not_there_is_found_at_start():
    server = Server()
    with pytest.raises(UserError, match="there is no folder"):
        ask(server, tokenizer="./no-such-tokenizer")
    assert server.seen == []


def test_start_after_a_failed_start():
    server = Server()

    async def main():
        await server.up()
        await server.down()  # the port is known now, and nobody listens
        async with running(base_urls=(server.url,), start=False) as client:
            with pytest.raises(EngineError):
                await client.start()
            await server.up()
            await client.start()
            await client.close()
            await client.close()
            await client.start()
            return await client.generate(await client.prepare(chat()))

    assert asyncio.run(main()).text == "hello"
    asyncio.run(server.down())


def test_a_vllm_server_without_tokenize_is_found_at_start():
    async def main():
        app = web.Application()
        app.router.add_get(
            "/v1/models", lambda _: asyncio.sleep(0, web.json_response({"data": [{"id": "m", "max_model_len": 9}]}))
        )
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            async with running(base_urls=(f"http://127.0.0.1:{runner.addresses[0][1]}",)):
                pass
        finally:
            await runner.cleanup()

    with pytest.raises(UserError, match="does not count tokens: set 'server: openai' or 'tokenizer'"):
        asyncio.run(main())


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://host/v1", "file:///etc/passwd", "unix:///run/x", "http://", "http://[", "/v1"]
)
def test_what_is_no_http_url(url):
    with pytest.raises(UserError, match="base_urls"):
        parse_base_urls([url])


def test_one_server_given_twice_is_one_replica():
    assert len(parse_base_urls(["http://a:1", "http://a:1/v1/", "http://b:1"])) == 2


# --------------------------------------------------------------- HTTP errors


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_errors_worth_another_try(status):
    with pytest.raises(EngineError, match=f"HTTP {status}: busy") as caught:
        ask(serve(status, {"error": {"message": "busy"}}))
    assert caught.value.retry_after is None


def test_retry_after_in_seconds():
    with pytest.raises(EngineError) as caught:
        ask(serve(429, {}, {"Retry-After": "17"}))
    assert caught.value.retry_after == 17.0


def test_retry_after_as_a_date():
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    with pytest.raises(EngineError) as caught:
        ask(serve(503, {}, {"Retry-After": date}))
    assert 55 < caught.value.retry_after <= 60


@pytest.mark.parametrize(
    "value",
    [
        *("Wed, 01 Jan 2020 00:00:00 GMT", "0", "soon", "", "nan", "-5"),
        f"Fri, 31 Dec {'9' * 20} 23:59:59 GMT",
    ],
)
def test_retry_after_that_is_past_or_nonsense(value):
    """No advice: our own waits hold, or six tries would be over at once."""
    with pytest.raises(EngineError, match=r"HTTP 429: {}$") as caught:
        ask(serve(429, {}, {"Retry-After": value}))
    assert caught.value.retry_after is None


def test_a_long_wait_is_named():
    with pytest.raises(EngineError, match=r"HTTP 429: \{\} \(it asks for a wait of 3,600 s\)$") as caught:
        ask(serve(429, {}, {"Retry-After": "3600"}))
    assert caught.value.retry_after == 3600


@pytest.mark.parametrize("status", [400, 404, 413, 422, 307])
def test_errors_that_are_final(status):
    with pytest.raises(BadRequest, match=f"HTTP {status}: no such thing"):
        ask(serve(status, {"error": {"message": "no such\nthing"}}))


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"message": "flat"}, "flat"),
        ({"detail": "fastapi"}, "fastapi"),
        ({"error": "words"}, "words"),
        ("plain words", "plain words"),
        ({"error": {"message": "m", "code": "c"}}, r"m \(c\)"),
        ("x" * 10_000, "x{500}[.]{3}$"),
    ],
)
def test_the_servers_own_words(body, text):
    with pytest.raises(BadRequest, match=text):
        ask(serve(400, body))


@pytest.mark.parametrize(
    ("message", "counts"),
    [
        (
            "This model's maximum context length is 4096 tokens. However, your prompt contains at least 4087 input "
            "tokens, which exceeds this limit even without any output tokens.",
            (4087, 10, 4096),
        ),
        (
            "The decoder prompt (length 5000) is longer than the maximum model length of 4096. Make sure that ...",
            (5000, 10, 4096),
        ),
        ("Input length (5000) exceeds model's maximum context length (4096).", (5000, 10, 1000)),
        (
            "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
            (9000, 10, 8192),
        ),
        (
            "This model's maximum context length is 8192 tokens. However, you requested 9010 tokens (9000 in the "
            "messages, 10 in the completion).",
            (9000, 10, 8192),
        ),
        ("the request exceeds the available context size, try increasing it", (2, 10, 1000)),
    ],
)
def test_a_refusal_for_length_is_prompt_too_long(message, counts):
    with pytest.raises(PromptTooLong) as caught:
        ask(serve(400, {"error": {"message": message}}))
    error = caught.value
    assert (error.prompt_tokens, error.max_tokens, error.max_model_len) == counts
    assert message[:40] in str(error.__cause__)


def test_context_length_by_code():
    with pytest.raises(PromptTooLong):
        ask(serve(400, {"error": {"message": "no", "code": "context_length_exceeded"}}))


# --------------------------------------------------------------- the API key


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_named_by_its_variable_only(monkeypatch, caplog, status):
    monkeypatch.setenv("LOOM_TEST_KEY", "sk-secret-123")
    server = serve(status, {"error": {"message": "Incorrect API key provided: sk-secret-123"}})
    with caplog.at_level(logging.DEBUG), pytest.raises(UserError, match=r"\$LOOM_TEST_KEY") as caught:
        ask(server, api_key_env="LOOM_TEST_KEY")
    assert server.headers[-1]["Authorization"] == "Bearer sk-secret-123"
    assert "sk-secret" not in "".join(traceback.format_exception(caught.value)) + caplog.text


def test_the_key_is_taken_out_of_other_error_bodies(monkeypatch):
    monkeypatch.setenv("LOOM_TEST_KEY", "sk-secret-123")
    with pytest.raises(BadRequest, match=r"you sent \*\*\*") as caught:
        ask(serve(400, {"error": {"message": "you sent sk-secret-123"}}), api_key_env="LOOM_TEST_KEY")
    assert "sk-secret" not in repr(caught.value)


def test_broken_http_does_not_leak_the_key(monkeypatch):
    monkeypatch.setenv("LOOM_TEST_KEY", "sk-secret-123")

    async def main():
        async with running(Server(), api_key_env="LOOM_TEST_KEY") as client, raw_server(b"nonsense\r\n\r\n") as url:
            redirect(client, url)
            await client.generate(Prepared(chat(), 1))

    with pytest.raises(EngineError) as caught:
        asyncio.run(main())
    error: BaseException | None = caught.value
    while error is not None:
        assert "sk-secret" not in repr(error)
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("value", ["", "  ", "two\nlines", "schlüssel"])
def test_a_key_that_is_missing_or_cannot_be_one(monkeypatch, value):
    monkeypatch.setenv("LOOM_TEST_KEY", value)
    with pytest.raises(UserError, match="LOOM_TEST_KEY") as caught:
        ask(Server(), api_key_env="LOOM_TEST_KEY")
    assert not value.strip() or value not in str(caught.value)


def test_a_password_in_a_url_is_refused_and_not_repeated():
    with pytest.raises(UserError, match="no user name or password in a URL") as caught:
        parse_base_urls(["http://me:hunter2@127.0.0.1:1"])
    assert "hunter2" not in str(caught.value)


# --------------------------------------------------------------- the connection


@asynccontextmanager
async def raw_server(response: bytes, endless: bytes = b"", reset: bool = False):
    """Writes these bytes to whoever asks; then `endless` for ever, or closes (with `reset`: by RST)."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        try:
            writer.write(response)
            while endless:
                writer.write(endless)
                await writer.drain()
        except ConnectionError:
            pass
        if reset:
            writer.transport.abort()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def redirect(client: OpenAIClient, url: str) -> None:
    """From now on the client's only replica is at another URL."""
    (replica,) = client._replicas
    replica.chat = parse_base_urls([url])[0].chat


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("response", "options"),
    [
        (b"", {}),
        (b"", {"reset": True}),
        (HEAD + b"Content-Length: 100\r\n\r\n" + b'{"choices": [', {}),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n", {}),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n", {"reset": True}),
        (HEAD + b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nxxxxx", {}),
        (b"HTTP/1.1 banana\r\n\r\n", {}),
    ],
)
def test_a_connection_that_breaks(response, options):
    async def main():
        async with running(Server()) as client, raw_server(response, **options) as url:
            redirect(client, url)
            await client.generate(Prepared(chat(), 1))

    with pytest.raises(EngineError, match=r"http://127\.0\.0\.1"):
        asyncio.run(main())


def test_an_endless_answer_is_cut_off():
    """Long before the limit of all answers: there may be hundreds in flight."""

    async def main():
        head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
        async with running(Server()) as client, raw_server(head, endless=b"3e8\r\n" + b" " * 1000 + b"\r\n") as url:
            redirect(client, url)
            await client.generate(Prepared(chat(), 1))

    with pytest.raises(EngineError, match=r"more than 1,05[0-9],[0-9]{3} bytes"):
        asyncio.run(main())


def test_a_server_that_never_answers_times_out():
    server = Server()

    async def reply(request: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.Response()

    server.reply = reply
    started = time.monotonic()
    with pytest.raises(EngineError, match=r"no answer within 0\.3 s"):
        ask(server, timeout_seconds=0.3)
    assert time.monotonic() - started < 5


def test_cancelling_closes_the_connection():
    server = Server()
    asked, gone = asyncio.Event(), asyncio.Event()

    async def reply(request: web.Request) -> web.Response:
        asked.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            gone.set()
            raise
        return web.Response()

    server.reply = reply

    async def main():
        async with running(server) as client:
            task = asyncio.create_task(client.generate(Prepared(chat(), 1)))
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(gone.wait(), 5)
            assert [replica.in_flight for replica in client._replicas] == [0]
            server.reply = None
            return await client.generate(Prepared(chat(), 1))

    assert asyncio.run(main()).text == "hello"


def test_connections_are_kept_and_many_run_at_once():
    server = Server()
    together = 300
    arrived = 0
    all_here = asyncio.Event()
    ports = set()

    async def reply(request: web.Request) -> web.Response:
        nonlocal arrived
        arrived += 1
        ports.add(request.transport.get_extra_info("peername")[1])
        if arrived >= together:
            all_here.set()
        await all_here.wait()
        return web.json_response(answer())

    server.reply = reply

    async def main():
        async with running(server) as client:
            for _ in range(2):
                await asyncio.gather(*(client.generate(Prepared(chat(), 1)) for _ in range(together)))

    asyncio.run(main())
    assert len(ports) == together

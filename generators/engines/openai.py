"""A client for OpenAI-compatible servers: one or many `vllm serve` processes, or a hosted model.

It does not retry: the runner does. What it adds to a plain HTTP client: exact token counts before a request is sent, a
choice of server that keeps prefix caches warm, and errors that say whether trying again can help.
"""

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from yarl import URL

from generators.engines import openai_wire as wire
from generators.engines.base import (
    BadRequest,
    ChatRequest,
    Completion,
    Engine,
    EngineError,
    EngineInfo,
    Identity,
    Prepared,
    PromptTooLong,
)
from generators.engines.openai_http import MAX_BODY, SMALL_BODY, Http
from generators.engines.replicas import Replica, choose, parse_base_urls
from schemas.engines import OpenAIEngine
from schemas.errors import UserError

CHECK_SECONDS = 30.0  # for the small requests of `start`, which cost a server nothing
TOKEN_BYTES = 256  # of an answer for each of its tokens: longer ones than any model has, with every character escaped
LEFT_OUT_SECONDS = (1.0, 60.0)  # first and longest wait before a server that failed is looked at again

log = logging.getLogger(__name__)


class OpenAIClient(Engine):
    """Several base URLs are replicas of one model; `base_dir` is the recipe's folder (for a local tokenizer).

    Prompts are counted by the server's /tokenize (vLLM), or with the configured tokenizer plus an allowance for the
    chat template (`openai_wire.TOKENS_PER_MESSAGE`, `TOKENS_PER_CHAT`), or else estimated as UTF-8 bytes / 2.5.
    All methods that contact a server raise UserError when it rejects the API key.
    """

    def __init__(self, config: OpenAIEngine, base_dir: Path) -> None:
        self._config = config
        self._base_dir = base_dir
        self._vllm = config.server == "vllm"
        self._replicas = parse_base_urls(config.base_urls)
        self._http: Http | None = None
        self._info: EngineInfo | None = None
        self._starting = asyncio.Lock()
        self._watchers: dict[Replica, asyncio.Task[None]] = {}

    @property
    def identity(self) -> Identity:
        return Identity(model=self._config.model, revision=self._config.revision, template=None)

    @property
    def continues(self) -> bool:
        return self._vllm

    # ------------------------------------------------------------ requests

    async def prepare(self, request: ChatRequest) -> Prepared:
        """Count the prompt. Raises PromptTooLong, EngineError, BadRequest."""
        prompt_tokens = await self._count(request)
        window = self._window()
        if prompt_tokens + request.sampling.max_tokens > window:
            raise PromptTooLong(prompt_tokens, request.sampling.max_tokens, window)
        return Prepared(request, prompt_tokens)

    async def generate(self, prepared: Prepared) -> Completion:
        """Answer; `seconds` is the whole HTTP exchange. Cancelling closes the connection, and the server stops.

        Raises EngineError (trying again may help), BadRequest, PromptTooLong.
        """
        request = prepared.request
        body = wire.generate_body(self._config.model, request, self._vllm)
        replica = choose(self._replicas, request.group)
        started = time.perf_counter()
        url = replica.completions if request.raw else replica.chat
        try:
            answer = await self._post(replica, url, body, TOKEN_BYTES * request.sampling.max_tokens)
        except BadRequest as error:
            if (too_long := wire.too_long(error, prepared, self._window())) is not None:
                raise too_long from error
            raise
        with self._understood(replica, url):
            completion = wire.parse_completion(answer, request.raw, time.perf_counter() - started)
        replica.wait = None
        return completion

    async def _count(self, request: ChatRequest) -> int:
        if self._config.tokenizer is not None:
            # A long document takes a tokenizer a tenth of a second, in which other answers should not wait.
            return await asyncio.to_thread(self._count_here, self._config.tokenizer, request)
        if not self._vllm:
            return wire.estimate_tokens(request)
        replica = choose(self._replicas, request.group)
        body = wire.tokenize_body(self._config.model, request)
        answer = await self._post(replica, replica.tokenize, body)
        with self._understood(replica, replica.tokenize):
            return wire.parse_count(answer)

    def _count_here(self, tokenizer: str, request: ChatRequest) -> int:
        from generators.models import load_tokenizer

        counter = load_tokenizer(tokenizer, self._base_dir)  # loaded once per process
        return sum(counter.count(message.content) for message in request.messages) + wire.template_tokens(request)

    async def _post(self, replica: Replica, url: URL, body: dict[str, Any], answer_bytes: int = 0) -> bytes:
        """The answer's body: at most `answer_bytes` and what repeats the request, as text or as numbers of tokens."""
        assert self._http is not None, "start() comes first"
        replica.in_flight += 1
        data = json.dumps(body).encode()
        limit = min(MAX_BODY, SMALL_BODY + 16 * len(data) + answer_bytes)
        try:
            answer = await self._http.exchange("POST", url, data, limit=limit)
        except EngineError as error:
            self._leave_out(replica, error)
            raise
        finally:
            replica.in_flight -= 1
        if answer.status >= 500:
            wrong = self._http.error(url, answer)
            self._leave_out(replica, wrong)
            raise wrong
        replica.up = True
        if answer.status != 200:
            raise self._http.error(url, answer)
        return answer.body

    @contextmanager
    def _understood(self, replica: Replica, url: URL) -> Iterator[None]:
        """A server whose answers are none is named, and left out like one that does not answer."""
        try:
            yield
        except EngineError as error:
            self._leave_out(replica, error)
            raise EngineError(f"{url}: {error}") from error

    def _window(self) -> int:
        return min(replica.window for replica in self._replicas if replica.window is not None)

    # ------------------------------------------------------------ start and end

    async def start(self) -> EngineInfo:
        """Contact every server. Raises EngineError when none answers, UserError when one serves another model.

        Servers that do not answer while others do are looked at again in the background.
        """
        async with self._starting:
            if self._info is None:
                try:
                    self._http = Http(self._config.api_key_env, self._config.timeout_seconds)
                    self._info = await self._check_all(self._http)
                except BaseException:
                    await self.close()
                    raise
            return self._info

    async def close(self) -> None:
        watchers = list(self._watchers.values())
        self._watchers.clear()
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)
        http, self._http, self._info = self._http, None, None
        if http is not None:
            await http.close()

    async def _check_all(self, http: Http) -> EngineInfo:
        for replica in self._replicas:  # a second start begins anew
            replica.up, replica.window = False, None
        if self._config.tokenizer is not None:  # a wrong name is found before the first request
            await asyncio.to_thread(self._count_here, self._config.tokenizer, wire.PROBE)
        checks = [self._check(http, replica) for replica in self._replicas]
        results = await asyncio.gather(*checks, return_exceptions=True)
        failures: list[tuple[Replica, EngineError]] = []
        for replica, result in zip(self._replicas, results, strict=True):
            if isinstance(result, EngineError):
                failures.append((replica, result))
            elif result is not None:
                raise result
        if len(failures) == len(self._replicas):
            raise EngineError(f"none of the servers in base_urls answers: {failures[0][1]}")
        for replica, error in failures:
            self._leave_out(replica, error)
        up = [replica for replica in self._replicas if replica.up]
        return EngineInfo(
            version=await self._version(http, up[0]),
            device="server",
            max_model_len=self._window(),
            kv_tokens=self._config.kv_tokens * len(up),
            max_batch=self._config.max_in_flight * len(up),
            prefix_cache=self._vllm,
        )

    async def _check(self, http: Http, replica: Replica) -> None:
        """See that the server answers, serves the model and counts tokens; then it is up."""
        body = await self._ask(http, "GET", replica.models)
        try:
            replica.window = wire.parse_window(body, str(replica), self._config.model, self._config.max_model_len)
        except EngineError as error:
            raise EngineError(f"{replica.models}: {error}") from error
        if self._vllm and self._config.tokenizer is None:
            probe = wire.tokenize_body(self._config.model, wire.PROBE)
            try:
                wire.parse_count(await self._ask(http, "POST", replica.tokenize, probe))
            except UserError as error:
                hint = "set 'server: openai' or 'tokenizer' in the recipe's engine"
                raise UserError(f"{replica} does not count tokens: {hint} ({error})") from error
        replica.up = True

    async def _ask(self, http: Http, method: str, url: URL, body: dict[str, Any] | None = None) -> bytes:
        """A small request of `start`: a refusal there means that the recipe is wrong."""
        data = None if body is None else json.dumps(body).encode()
        answer = await http.exchange(method, url, data, min(CHECK_SECONDS, self._config.timeout_seconds))
        if answer.status == 200:
            return answer.body
        error = http.error(url, answer)
        raise UserError(str(error)) if isinstance(error, BadRequest) else error

    async def _version(self, http: Http, replica: Replica) -> str:
        if self._vllm:
            try:
                answer = wire.parse_object(await self._ask(http, "GET", replica.root / "version"))
                return f"vllm {answer['version']}"
            except (EngineError, UserError, KeyError):
                pass  # recorded only, never needed
        return self._config.server

    # ------------------------------------------------------------ servers that fail

    def _leave_out(self, replica: Replica, error: Exception) -> None:
        """Give it no more requests until it answers again. The only server is tried all the same."""
        replica.up = False
        if len(self._replicas) > 1 and replica not in self._watchers:
            log.warning("a server is left out until it answers again: %s", error)
            self._watchers[replica] = asyncio.create_task(self._watch(replica))

    async def _watch(self, replica: Replica) -> None:
        first, longest = LEFT_OUT_SECONDS
        try:
            while not replica.up:  # an answer to a request that was already under way counts too
                wait = replica.wait or first
                replica.wait = min(2 * wait, longest)
                await asyncio.sleep(wait)
                assert self._http is not None
                try:
                    await self._check(self._http, replica)
                except EngineError:
                    continue
                except UserError as error:
                    log.warning("a server is still left out: %s", error)
            log.info("%s answers again", replica)
        finally:
            self._watchers.pop(replica, None)

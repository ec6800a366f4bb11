"""One bounded HTTP exchange with a server, without retries, and its failures as engine errors."""

import os
from typing import NamedTuple

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

from generators.engines import openai_wire as wire
from generators.engines.base import EngineError
from schemas.errors import UserError

CONNECT_SECONDS = 10.0  # to open a connection; a host that is up answers in milliseconds
# A pooled connection must go before the server closes it, or a request is lost in between: uvicorn, and with it
# vLLM, closes after 5 s.
KEEP_ALIVE_SECONDS = 4.0
MAX_BODY = 64 * 2**20  # bytes of an answer
SMALL_BODY = 2**20  # of one that holds nothing long


class Answer(NamedTuple):
    status: int
    headers: CIMultiDictProxy[str]
    body: bytes


class Http:
    """A session with keep-alive. `key_env` names the environment variable that holds the API key, if one is needed;
    the key is read here, on creation, and is in no message, log line or repr. Raises UserError when it is not set.
    """

    def __init__(self, key_env: str | None, timeout_seconds: float) -> None:
        self.key_env = key_env
        self.timeout_seconds = timeout_seconds
        headers = {"Content-Type": "application/json"}
        self._key = b""
        if key_env is not None:
            key = os.environ.get(key_env, "").strip()
            if not key:
                raise UserError(f"api_key_env: the environment variable {key_env} is not set")
            if not (key.isascii() and key.isprintable()):
                raise UserError(f"api_key_env: the value of {key_env} cannot be a key: it holds more than ASCII text")
            self._key = key.encode()
            headers["Authorization"] = f"Bearer {key}"
        self._timeout = self._client_timeout(timeout_seconds)
        self._session = aiohttp.ClientSession(
            headers=headers,
            # No limit here: how many requests are in flight is the runner's business.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    @staticmethod
    def _client_timeout(seconds: float) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS)

    async def close(self) -> None:
        await self._session.close()

    async def exchange(
        self, method: str, url: URL, body: bytes | None = None, seconds: float | None = None, limit: int = MAX_BODY
    ) -> Answer:
        """The answer, whatever its status. `seconds` limits the whole exchange (default: the session's limit).

        Raises EngineError when the server cannot be reached, breaks off, takes too long or sends more than `limit`
        bytes. Cancelling closes the connection.
        """
        timeout = self._timeout if seconds is None else self._client_timeout(seconds)
        try:
            async with self._session.request(
                method, url, data=body, timeout=timeout, allow_redirects=False
            ) as response:
                return Answer(response.status, response.headers, await _read(response, limit))
        except TimeoutError as error:
            waited = self.timeout_seconds if seconds is None else seconds
            reason = str(error) or f"no answer within {waited:g} s"
        except (aiohttp.ClientError, OSError) as error:
            reason = f"{type(error).__name__}: {error}"
        # Raised out here so that aiohttp's exception, which may hold the request headers, is not chained to it.
        raise EngineError(f"{url}: {reason}")

    def error(self, url: URL, answer: Answer) -> Exception:
        """The exception for an answer whose status is not 200."""
        body = answer.body.replace(self._key, b"***") if self._key else answer.body
        return wire.status_error(str(url), answer.status, answer.headers, body, self.key_env)


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > limit:
            response.close()
            raise aiohttp.ClientPayloadError(f"more than {limit:,} bytes")
        chunks.append(chunk)
    return b"".join(chunks)

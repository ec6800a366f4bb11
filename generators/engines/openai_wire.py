"""What goes over the wire: request bodies and answers of OpenAI-compatible servers, without any I/O."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from generators.engines.base import (
    BadRequest,
    ChatRequest,
    Completion,
    EngineError,
    FinishReason,
    Message,
    Prepared,
    PromptTooLong,
    Refused,
    Sampling,
)
from schemas.errors import UserError

# Tokens a chat template puts around one message, and around the whole conversation (a default system prompt, the
# header of the answer). Used only where nobody can apply the real template.
TOKENS_PER_MESSAGE = 8
TOKENS_PER_CHAT = 32
# UTF-8 bytes per token, on the low side: English prose has more than 4, code about 3, most other scripts 3 and more
# with a vocabulary of 100k. Counting too many tokens refuses a prompt that would have fit; too few wastes a call.
BYTES_PER_TOKEN = 2.5
PROBE = ChatRequest((Message("user", "probe"),), Sampling(max_tokens=1), raw=True)  # to see that a server can count
_MESSAGE_CHARS = 500  # of a server's error message in ours

_TOO_LONG = re.compile(r"maximum (?:context|model) length|context[ _](?:length|window|size)", re.IGNORECASE)
_WINDOW = re.compile(r"maximum (?:context|model) length (?:is|of) (\d+)")
_LENGTH = re.compile(
    r"contains (?:at least )?(\d+) input tokens|length \((\d+)\)|\(length (\d+)\)"  # vLLM
    r"|resulted in (\d+) tokens|(\d+) in the (?:messages|prompt)"  # OpenAI
)
# vLLM puts the count before the list of token ids, which may hold 100,000 numbers that nobody needs here.
_COUNT = re.compile(rb'\{"count":\s*(\d+)\s*,')


# ---------------------------------------------------------------- requests


def is_prefixed(request: ChatRequest) -> bool:
    """The last message is the assistant's: the model continues it."""
    return not request.raw and request.messages[-1].role == "assistant"


def tokenize_body(model: str, request: ChatRequest) -> dict[str, Any]:
    """Body of vLLM's POST /tokenize: the same prompt that `generate_body` makes the server build."""
    return {"model": model, **_vllm_prompt(request)}


def generate_body(model: str, request: ChatRequest, vllm: bool) -> dict[str, Any]:
    """Body of POST /v1/chat/completions, or of /v1/completions where the request is raw.

    Raises BadRequest for what the plain OpenAI interface has no field for.
    """
    sampling = request.sampling
    body: dict[str, Any] = {"model": model}
    if vllm:
        body.update(_vllm_prompt(request))
    else:
        _refuse_what_openai_lacks(request)
        body.update(_prompt(request))
    body["max_tokens"] = sampling.max_tokens
    body["temperature"] = sampling.temperature
    body["top_p"] = sampling.top_p
    body["seed"] = sampling.seed
    if vllm:
        # Whatever is left out, vLLM takes from the model's generation_config.json: so nothing is left out.
        body["top_k"] = sampling.top_k
        body["min_p"] = 0.0
        body["repetition_penalty"] = sampling.repetition_penalty
        body["presence_penalty"] = 0.0
        body["frequency_penalty"] = 0.0
        body["include_stop_str_in_output"] = False
    if vllm or sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.json_schema is not None:
        body["response_format"] = _response_format(sampling)
    return body


def _prompt(request: ChatRequest) -> dict[str, Any]:
    if request.raw:
        return {"prompt": request.messages[0].content}
    return {"messages": [{"role": m.role, "content": m.content} for m in request.messages]}


def _vllm_prompt(request: ChatRequest) -> dict[str, Any]:
    body = _prompt(request)
    if request.raw:
        body["add_special_tokens"] = True
    else:
        prefixed = is_prefixed(request)
        body["add_generation_prompt"] = not prefixed
        body["continue_final_message"] = prefixed
        body["add_special_tokens"] = False  # the template writes them
    return body


def _response_format(sampling: Sampling) -> dict[str, Any]:
    return {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": sampling.json_schema, "strict": True},
    }


def _refuse_what_openai_lacks(request: ChatRequest) -> None:
    sampling = request.sampling
    lacking = {
        "an assistant prefix": is_prefixed(request),
        "top_k": sampling.top_k > 0,
        "repetition_penalty": sampling.repetition_penalty != 1.0,
        "a JSON schema for a raw prompt": request.raw and sampling.json_schema is not None,
    }
    asked = [what for what, is_asked in lacking.items() if is_asked]
    if asked:
        raise BadRequest(
            f"the OpenAI interface cannot express {' or '.join(asked)}; "
            "if the server is a vLLM server, set 'server: vllm' in the recipe's engine"
        )


def estimate_tokens(request: ChatRequest) -> int:
    """A prompt length on the high side where neither the server nor a tokenizer counts: UTF-8 bytes / 2.5."""
    text = sum(len(message.content.encode("utf-8", "surrogatepass")) for message in request.messages)
    return int(text / BYTES_PER_TOKEN) + 1 + template_tokens(request)


def template_tokens(request: ChatRequest) -> int:
    """An allowance for what the chat template adds, where it cannot be applied."""
    return 0 if request.raw else TOKENS_PER_CHAT + TOKENS_PER_MESSAGE * len(request.messages)


# ---------------------------------------------------------------- answers


def parse_window(body: bytes, server: str, model: str, configured: int | None) -> int:
    """The model's window in tokens from an answer of /v1/models; a shorter configured one wins.

    Raises UserError when the server does not serve the model, or nobody says how long the window is.
    """
    data = parse_object(body).get("data")
    listed = [card for card in data if isinstance(card, dict)] if isinstance(data, list) else []
    cards = {str(card.get("id")): card for card in listed}
    if model not in cards:
        served = ", ".join(map(repr, cards)) or "none"
        raise UserError(f"{server} does not serve the model {model!r}; it serves: {served}")
    reported = cards[model].get("max_model_len")
    windows = [window for window in (configured, reported) if isinstance(window, int)]
    if not windows:
        raise UserError(f"{server} does not say how long its window is: set max_model_len in the recipe's engine")
    return min(windows)


def parse_count(body: bytes) -> int:
    """The prompt length in an answer of /tokenize."""
    match = _COUNT.match(body)
    if match is not None:
        return int(match[1])
    count = parse_object(body).get("count")
    if not isinstance(count, int):
        raise EngineError(f"the server's answer has no token count: {_shorten(body)}")
    return count


def parse_completion(body: bytes, raw: bool, seconds: float) -> Completion:
    """An answer of /v1/chat/completions or /v1/completions.

    Raises EngineError where the answer is cut or malformed and where the server broke the request off;
    BadRequest where the server will always end this request like that (content filter, refusal).
    """
    answer = parse_object(body)
    try:
        choice, usage = answer["choices"][0], answer["usage"]
        text = choice["text"] if raw else choice["message"]["content"]
        refusal = None if raw else choice["message"].get("refusal")
        prompt_tokens, completion_tokens = int(usage["prompt_tokens"]), int(usage["completion_tokens"])
        cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        finish_reason = choice["finish_reason"]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise EngineError(f"the server's answer is not a completion ({error!r}): {_shorten(body)}") from error
    if refusal:
        raise Refused(f"the model refused: {refusal}")
    return Completion(
        text="" if text is None else str(text),
        finish_reason=_finish_reason(finish_reason),
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        cached_tokens=None if cached_tokens is None else int(cached_tokens),
        seconds=seconds,
    )


def _finish_reason(reason: Any) -> FinishReason:
    if reason == "stop":
        return "stop"
    if reason == "length":
        return "length"
    if reason in ("abort", "error", None):
        raise EngineError(f"the server broke the answer off (finish reason {reason!r})")
    raise Refused(f"the server ended the answer with finish reason {reason!r}")


def parse_object(body: bytes) -> dict[str, Any]:
    """A JSON object, or EngineError."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise EngineError(f"the server's answer is not JSON: {_shorten(body)}") from None
    if not isinstance(value, dict):
        raise EngineError(f"the server's answer is not a JSON object: {_shorten(body)}")
    return value


# ---------------------------------------------------------------- errors


def status_error(url: str, status: int, headers: Mapping[str, str], body: bytes, key_env: str | None) -> Exception:
    """The exception for an HTTP status other than 200."""
    if status in (401, 403):
        # The server's own words stay out: some servers repeat the key in them.
        key = f"the key in ${key_env}" if key_env else "requests without a key (see api_key_env)"
        return UserError(f"{url} does not accept {key} (HTTP {status})")
    message = f"{url} answers HTTP {status}: {_server_message(body)}"
    if status in (408, 409, 425, 429) or status >= 500:
        wait = _retry_after(headers)
        asked = f" (it asks for a wait of {wait:,.0f} s)" if wait else ""
        return EngineError(message + asked, retry_after=wait)
    return BadRequest(message)


def too_long(error: BadRequest, prepared: Prepared, window: int) -> PromptTooLong | None:
    """The refusal as PromptTooLong, if that is what it says; with the server's own counts where it gives them."""
    text = str(error)
    if not _TOO_LONG.search(text):
        return None
    limit, length = _WINDOW.search(text), _LENGTH.search(text)
    # vLLM stops counting at the window's end ("at least 4097"): our own count may be the better one.
    counted = int(length[length.lastindex or 0]) if length else 0
    return PromptTooLong(
        max(counted, prepared.prompt_tokens),
        prepared.request.sampling.max_tokens,
        int(limit[1]) if limit else window,
    )


def _server_message(body: bytes) -> str:
    try:
        value = parse_object(body)
    except EngineError:
        return _shorten(body)
    error = value.get("error", value)
    if not isinstance(error, dict):
        return _shorten(str(error))
    message = str(error.get("message") or error.get("detail") or json.dumps(error))
    code = error.get("code")
    return _shorten(f"{message} ({code})" if isinstance(code, str) else message)


def _shorten(text: bytes | str) -> str:
    if isinstance(text, bytes):
        text = text[: 4 * _MESSAGE_CHARS].decode("utf-8", "replace")
    text = " ".join(text.split())
    return text if len(text) <= _MESSAGE_CHARS else text[:_MESSAGE_CHARS] + "..."


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from now; None for nonsense and for no wait at all, such as a date that is past by our clock."""
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", value):
        return float(value) or None
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if when.tzinfo is None:  # "-0000", which the standard reads as UTC
        when = when.replace(tzinfo=UTC)
    seconds = (when - datetime.now(UTC)).total_seconds()
    return seconds if seconds > 0 else None

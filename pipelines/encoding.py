"""Texts and conversations to token ids, once: the ids that packs, counts and trainers see.

Documents get no special tokens, and those that a document quotes are the text they are (`encode_special_tokens` of
`tokenizers`, `encode_ordinary` of tiktoken). Conversations are written by the model's own chat template; control
tokens come from the template alone. Added tokens that are not special, e.g. `<think>`, stay tokens everywhere: models
are taught with them.

The reference is the `tokenizers` library, or tiktoken. `fast` encodes by pieces (encode_pieces.py) where that is proven
exact, and still compares a stretch of some texts with the reference: on a difference it says so and goes on without.
Faster libraries were tried (benchmarks/README.md, "Tokenising"): none was exact for every character.

An Encoder can be sent to a worker process, which loads it anew. The libraries use all cores for what is not yet
known, by threads; pieces are looked up on one core, so a stage that wants all cores takes several workers.
"""

import json
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from filters.foreign_models import blame_template
from generators.models import chat_template, named_tokens, read_tokenizer, tiktoken_encoding, tokenizer_folder
from pipelines.encode_chats import ChatRenderer, Message, Unrenderable, alias
from pipelines.encode_pieces import PieceTokenizer, splittable
from pipelines.packing.arrays import offsets
from schemas.errors import UserError
from schemas.ids import ID_HEX, digest

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Encoded:
    """Rows of ids, one after the other: row i is `ids[offsets[i]:offsets[i + 1]]`.

    `ids` int32 [tokens], `offsets` int64 [rows + 1], `reasons` [rows]: None, or why a row has no ids. `loss_mask`
    bool [tokens]: whether the loss counts a token as a target; of conversations only.
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    reasons: list[str | None]
    loss_mask: NDArray[np.bool_] | None = None


class Encoder(ABC):
    """`identity` changes with anything that decides ids. `bos_id`, `eos_id`: None where the model names none.
    `note`: what a user should know, if anything."""

    def __init__(self, source: tuple[str, Path, bool], identity: Any) -> None:
        self._source = source
        self.identity = digest(identity)[:ID_HEX]
        self.vocab_size = 0
        self.bos_id: int | None = None
        self.eos_id: int | None = None
        self.note: str | None = None

    def __reduce__(self) -> tuple[Callable[..., "Encoder"], tuple[str, Path, bool]]:
        return make_encoder, self._source

    def encode(self, texts: list[str]) -> Encoded:
        """Rows in the order of the texts. `invalid_text`: a lone surrogate, which is no text in UTF-8."""
        reasons = [None if _valid(text) else "invalid_text" for text in texts]
        rows = self._rows([text if reason is None else "" for text, reason in zip(texts, reasons, strict=True)])
        reasons = ["tokenizer_failed" if row is None else reason for row, reason in zip(rows, reasons, strict=True)]
        return _encoded([row or b"" for row in rows], reasons)

    @abstractmethod
    def control_id(self, token: str) -> int | None:
        """The id of a control token by its text, None where there is no such token."""

    @abstractmethod
    def _rows(self, texts: list[str]) -> list[bytes | None]:
        """The ids of each text, as the bytes of int32; None where the library gave up."""

    @abstractmethod
    def encode_chats(self, conversations: list[list[Message]], loss_on_prompt: list[bool]) -> Encoded:
        """Rows in the order of the conversations (lists of {role, content}), with `loss_mask`: on what the assistant
        says and the token that ends its turn, or on everything where `loss_on_prompt`. Raises UserError if the model
        has no chat template. Reasons: see encode_chats.py; `invalid_text` as in `encode`."""


def make_encoder(ref: str, base_dir: Path, fast: bool = True) -> Encoder:
    """The encoder behind a model reference (see generators/models.py) or `tiktoken:NAME`. Loaded once per process.
    `fast` False: the reference alone. Raises UserError, naming the reference."""
    return _load(ref, base_dir, fast)


@lru_cache(maxsize=8)
def _load(ref: str, base_dir: Path, fast: bool) -> Encoder:
    kind = TiktokenEncoder if ref.startswith("tiktoken:") else FileEncoder
    return kind(ref, base_dir, fast)


class FileEncoder(Encoder):
    """A tokenizer.json, read by the `tokenizers` library."""

    def __init__(self, ref: str, base_dir: Path, fast: bool) -> None:
        self._ref = ref
        self._folder = tokenizer_folder(ref, base_dir)
        self._named = named_tokens(self._folder)
        self._template = chat_template(self._folder)
        file = (self._folder / "tokenizer.json").read_bytes()
        super().__init__((ref, base_dir, fast), [sha256(file).hexdigest(), self._named, self._template])
        backend = self._backend()
        self.vocab_size = max(backend.get_vocab().values()) + 1
        self.bos_id, self.eos_id = (backend.token_to_id(self._named.get(f"{end}_token", "")) for end in ("bos", "eos"))
        added = backend.get_added_tokens_decoder()
        self._controls = {token.content: number for number, token in added.items() if token.special}
        self._tokens = [token.content for token in added.values() if not token.special]
        fast = fast and splittable(json.loads(file))
        self._documents = PieceTokenizer(backend, fast, self._tokens, {})
        if not fast and self._source[2]:
            self.note = f"tokenizer {ref!r} is of a kind that the fast path does not know: encoding takes longer"

    def _backend(self) -> Any:
        backend = read_tokenizer(self._ref, self._folder)
        # Some trainers save control tokens, such as a new end of turn, as ordinary ones.
        ends = [self._named.get(f"{end}_token", "") for end in ("bos", "eos")]
        backend.add_special_tokens([text for text in ends if backend.token_to_id(text) is not None])
        backend.post_processor = None  # it would shift offsets
        return backend

    @cached_property
    def _chats(self) -> PieceTokenizer:
        """The same tokenizer, which also knows the aliases of control tokens."""
        from tokenizers import AddedToken

        backend = self._backend()
        rename = {}
        for token in list(backend.get_added_tokens_decoder().values()):
            if token.content in self._controls:
                number = self._controls[token.content]
                flags = {"lstrip": token.lstrip, "rstrip": token.rstrip, "single_word": token.single_word}
                backend.add_tokens([AddedToken(alias(number), normalized=False, special=False, **flags)])
                rename[backend.token_to_id(alias(number))] = number
        aliases = [alias(number) for number in self._controls.values()]
        return PieceTokenizer(backend, self._documents.fast, [*self._tokens, *aliases], rename)

    @cached_property
    def _renderer(self) -> ChatRenderer:
        if self._template is None:
            raise UserError(f"tokenizer {self._ref!r}: the model has no chat template, so it cannot encode chats")
        return ChatRenderer(self._template, self._named, self._controls)

    def control_id(self, token: str) -> int | None:
        return self._controls.get(token)

    def _rows(self, texts: list[str]) -> list[bytes | None]:
        self._compare(self._documents, texts)
        return [b"".join(ids) for _, ids in self._documents.encode(texts)]

    def encode_chats(self, conversations: list[list[Message]], loss_on_prompt: list[bool]) -> Encoded:
        renderer, tokenizer = self._renderer, self._chats
        rendered: list[list[tuple[str, bool]]] = []
        reasons: list[str | None] = []
        for messages, everything in zip(conversations, loss_on_prompt, strict=True):
            parts: list[tuple[str, bool]] = []
            reason = None if all(_valid(message["content"]) for message in messages) else "invalid_text"
            try:
                parts = renderer.parts(messages, everything) if reason is None else []
            except Unrenderable as error:
                blame_template(error.__cause__, self._ref)
                reason = str(error)
            rendered.append(parts)
            reasons.append(reason)
        texts = ["".join(text for text, _ in parts) for parts in rendered]
        self._compare(tokenizer, texts)
        rows, masks = [], [np.zeros(0, bool)]
        for parts, (pieces, ids) in zip(rendered, tokenizer.encode(texts), strict=True):
            rows.append(b"".join(ids))
            masks.append(_mask(parts, pieces, ids, tokenizer))
        return _encoded(rows, reasons, np.concatenate(masks))

    def _compare(self, tokenizer: PieceTokenizer, texts: list[str]) -> None:
        """Some of the run's own texts, by the reference as well; a difference ends the fast path for good."""
        stretch = tokenizer.difference(texts)
        if stretch is not None:
            self.note = (
                f"tokenizer {self._ref!r}: the fast path and the library differ on {stretch[:80]!r}...; encoding goes "
                "on without it, but what this process encoded before should be encoded again without it"
            )
            log.warning(self.note)
            self._documents.fast = tokenizer.fast = False
            self.__dict__.pop("_chats", None)


class TiktokenEncoder(Encoder):
    """An encoding of tiktoken, which has no chat template. There is no fast path: tiktoken is fast."""

    def __init__(self, ref: str, base_dir: Path, fast: bool) -> None:
        self._ref = ref
        self._encoding = tiktoken_encoding(ref)
        ranks = sha256()
        for token, rank in sorted(self._encoding._mergeable_ranks.items()):
            ranks.update(b"%d %d " % (rank, len(token)) + token)
        super().__init__(
            (ref, base_dir, fast), [self._encoding._pat_str, ranks.hexdigest(), self._encoding._special_tokens]
        )
        self.vocab_size = self._encoding.n_vocab
        self.eos_id = self._encoding._special_tokens.get("<|endoftext|>")

    def control_id(self, token: str) -> int | None:
        found: int | None = self._encoding._special_tokens.get(token)
        return found

    def _rows(self, texts: list[str]) -> list[bytes | None]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(self._row, texts))

    def _row(self, text: str) -> bytes | None:
        try:
            ids = self._encoding.encode_to_numpy(text, allowed_special=set(), disallowed_special=())
        except ValueError:  # its regex overflows, e.g. on a million blanks
            return None
        return np.asarray(ids, np.int32).tobytes()

    def encode_chats(self, conversations: list[list[Message]], loss_on_prompt: list[bool]) -> Encoded:
        raise UserError(f"tokenizer {self._ref!r}: tiktoken has no chat template; name a model that has one")


def _valid(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _encoded(rows: list[bytes], reasons: list[str | None], mask: NDArray[np.bool_] | None = None) -> Encoded:
    ids = np.frombuffer(b"".join(rows), np.int32)
    return Encoded(ids, offsets(np.array([len(row) // ids.itemsize for row in rows], np.int64)), reasons, mask)


def _mask(
    parts: list[tuple[str, bool]], pieces: list[str], ids: list[bytes], tokenizer: PieceTokenizer
) -> NDArray[np.bool_]:
    """Whether the loss counts each token: as the part does in which the token starts."""
    ends = np.cumsum([len(text) for text, _ in parts])
    counted = np.array([counts for _, counts in parts], bool)
    lengths = np.array([len(piece) for piece in pieces], np.int64)
    stops = np.cumsum(lengths)
    first = np.searchsorted(ends, stops - lengths, "right")  # part in which each piece starts
    last = np.searchsorted(ends, stops - 1, "right")
    sizes = np.array([len(each) // 4 for each in ids], np.int64)
    mask = np.repeat(counted[first], sizes) if pieces else np.zeros(0, bool)
    begins = np.cumsum(sizes) - sizes
    for place in np.flatnonzero(first != last):  # pieces of several parts
        starts = np.array(tokenizer.starts(pieces[place])) + (stops - lengths)[place]
        mask[begins[place] : begins[place] + sizes[place]] = counted[np.searchsorted(ends, starts, "right")]
    return mask

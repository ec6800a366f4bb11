"""Untie-the-Knots (arXiv 2409.04774, section 3): the documents of a row are cut, their parts shuffled, and the model
learns to tie them together again.

Each cut is marked by two knot tokens that carry its number. Each part of a cut document has an id in front, and after
its last part comes the backtrace, the list of its parts' ids:

    <D> k3X9aa </D> text close1 | ... | <D> P0fq2Z </D> open2 text <S> k3X9aa <s> P0fq2Z </S>

Model and row must let attention cross documents. Differences from the published loader: nothing is cut off at the end
of the row (`overhead` says what the packer has to leave), the last document's backtrace names its parts like any other,
order inside a document is always kept, and its special mode of 1,024-token pieces for n = 4, which did worse, is left
out: four parts are four parts.
"""

import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from pipelines.augment.parts import MixedRow, Part, Tokens, cut, row_random
from schemas.augment import Utk
from schemas.errors import UserError

ID_CHARACTERS = 6
ID_TOKENS = 6  # of an id at most: what a byte-level tokenizer needs in the worst case
_ALPHANUMERIC = string.ascii_letters + string.digits

Encode = Callable[[str], Sequence[int]]
Name = tuple[str, tuple[int, ...]]  # the id of a part, as text and as tokens
Piece = NDArray[np.int32]  # [3, n]: tokens, off as inputs (what follows is not learnt), off as targets


@dataclass(frozen=True, slots=True)
class KnotTokens:
    """Token ids of knots (close 1, open 2, close 2, open 3, ...) and of the backtrace (none, or five)."""

    knots: tuple[int, ...]
    backtrace: tuple[int, ...]


def knot_tokens(config: Utk, token_id: Callable[[str], int | None]) -> KnotTokens:
    """The recipe's tokens as ids. `token_id`: a token's text -> its id, None where the tokenizer has no such token."""

    def ids(key: str, names: Sequence[str | int]) -> tuple[int, ...]:
        found: list[int] = []
        for name in names:
            number = token_id(name) if isinstance(name, str) else name
            if number is None:
                raise UserError(f"{key}: the tokenizer has no token {name!r}")
            found.append(number)
        return tuple(found)

    tokens = KnotTokens(ids("knots", config.knots), ids("backtrace", config.backtrace or ()))
    if len({*tokens.knots, *tokens.backtrace}) < len(tokens.knots) + len(tokens.backtrace):
        raise UserError("knots and backtrace: two of their tokens have one id")
    return tokens


def reserved_token(document: Tokens, tokens: KnotTokens) -> int | None:
    """The first knot or backtrace token that a document holds. Such a document has to be refused: in it, the token
    would mean something else."""
    found = document[np.isin(document, [*tokens.knots, *tokens.backtrace])]
    return int(found[0]) if len(found) else None


def overhead(config: Utk) -> int:
    """The most tokens that one document gains. A packer adds it to each document's length, and cuts longer ones to
    `row_length - overhead`; then no row can overflow."""
    most = max(n for n, chance in enumerate(config.parts, 1) if chance)
    if most == 1 or not config.p:
        return 0
    ids = most * (2 + ID_TOKENS) + most * (1 + ID_TOKENS) + 1
    return 2 * most - 2 + (ids if config.backtrace else 0)


def untie(
    documents: Sequence[Tokens],
    config: Utk,
    tokens: KnotTokens,
    encode: Encode,
    *,
    row_length: int,
    seed: int,
    row: int,
) -> MixedRow:
    """Row number `row` of `seed`, made of these documents. ValueError where a document holds a reserved token or the
    room was not left. `encode`: the tokens of an id."""
    for doc, document in enumerate(documents):
        if (found := reserved_token(document, tokens)) is not None:
            raise ValueError(f"row {row}: document {doc} holds token {found}, a knot or part of the backtrace")
    random = row_random("utk", seed, row)
    knotted = random.random() < config.p
    chances = config.parts if knotted else (1.0,)
    counts = random.choices(range(1, len(chances) + 1), chances, k=len(documents))
    cuts = [cut(len(document), n, random) for document, n in zip(documents, counts, strict=True)]
    draw = _names(encode, {*tokens.knots, *tokens.backtrace}, random)
    names = [[next(draw) for _ in spans] if tokens.backtrace and len(spans) > 1 else [] for spans in cuts]
    pieces: list[Piece] = []
    parts: list[Part] = []
    length = 0
    order = _shuffled([len(spans) for spans in cuts], random) if knotted else [(doc, 0) for doc in range(len(cuts))]
    for doc, part in order:
        start, end = cuts[doc][part]
        before = _before(part, names[doc], tokens)
        after = _after(part, len(cuts[doc]), names[doc], tokens)
        begin = length + sum(piece.shape[1] for piece in before)
        parts.append(Part(doc, part, begin, begin + end - start, names[doc][part][0] if names[doc] else ""))
        pieces += [*before, _piece(documents[doc][start:end]), *after]
        length = begin + end - start + sum(piece.shape[1] for piece in after)
    if length > row_length:
        raise ValueError(f"row {row}: {length} tokens of {row_length}: the packer must leave overhead() a document")
    input_ids, as_input, as_target = np.concatenate(pieces, axis=1)
    loss_mask = as_target == 0
    loss_mask[0] = False
    loss_mask[1:] &= as_input[:-1] == 0
    return MixedRow(input_ids, loss_mask, parts)


def _shuffled(counts: list[int], random: Random) -> list[tuple[int, int]]:
    """(document, part) for all parts: any order that keeps the parts of each document in theirs and ends with the last
    part of the last document, all orders equally likely."""
    slots = [doc for doc, count in enumerate(counts) for _ in range(count)]
    last = slots.pop()
    random.shuffle(slots)
    numbers = [iter(range(count)) for count in counts]
    return [(doc, next(numbers[doc])) for doc in [*slots, last]]


def _names(encode: Encode, reserved: set[int], random: Random) -> Iterator[Name]:
    """Ids for one row: no two alike, none with more tokens than were left for it."""
    seen: set[tuple[int, ...]] = set()
    misses = 0
    while misses < 1000:
        name = "".join(random.choices(_ALPHANUMERIC, k=ID_CHARACTERS))
        ids = tuple(encode(name))
        if 0 < len(ids) <= ID_TOKENS and ids not in seen and reserved.isdisjoint(ids):
            seen.add(ids)
            misses = 0
            yield name, ids
        else:
            misses += 1
    raise UserError(f"backtrace: the tokenizer has no ids of {ID_CHARACTERS} letters and digits in {ID_TOKENS} tokens")


def _before(part: int, names: list[Name], tokens: KnotTokens) -> list[Piece]:
    """What stands in front of a part's text: its id, and the knot that opens it."""
    pieces: list[Piece] = []
    if names:
        opens, closes, *_ = tokens.backtrace
        # The id needs no `as_target`: each of its tokens follows one that is off as input.
        pieces += [_piece([opens], as_input=True, as_target=True), _piece([*names[part][1], closes], as_input=True)]
    if part:
        pieces.append(_piece([tokens.knots[2 * part - 1]], as_input=True, as_target=True))
    return pieces


def _after(part: int, count: int, names: list[Name], tokens: KnotTokens) -> list[Piece]:
    """What stands behind it: the knot that closes it, or the backtrace. Order is kept, so a document's last part is
    also the one placed last. All of a backtrace is learnt but <S>, which would say that the document is complete."""
    if part + 1 < count:
        return [_piece([tokens.knots[2 * part]], as_input=True, as_target=True)]
    if not names:
        return []
    *_, opens, between, closes = tokens.backtrace
    listed = [token for _, ids in names for token in (between, *ids)]
    return [_piece([opens], as_target=True), _piece(listed[1:]), _piece([closes], as_input=True)]


def _piece(ids: Tokens | Sequence[int], as_input: bool = False, as_target: bool = False) -> Piece:
    piece = np.empty((3, len(ids)), np.int32)
    piece[0], piece[1], piece[2] = ids, as_input, as_target
    return piece

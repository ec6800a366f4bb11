"""Reading the table `tokens`: what is known of all rows at once, and the tokens of chosen rows in a flat file."""

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.packing.arrays import offsets
from pipelines.shards import Part, open_part
from pipelines.stages import Context
from schemas.errors import UserError
from schemas.states import State
from schemas.tables import TABLES

Ints = npt.NDArray[np.int64]
_FACTS = ["row_id", "kind", "source", "method", "length", "loss_tokens"]
_SCAN = 10_000_000  # tokens looked at together


@dataclass(frozen=True, slots=True)
class TokenRows:
    """Rows of the table `tokens`, all but their tokens. `table`: row_id, kind, source, method, length, loss_tokens, in
    the order of the parts. `again`: row numbers whose row_id an earlier row has, ascending."""

    table: pa.Table
    parts: list[Part]
    again: Ints

    @property
    def lengths(self) -> Ints:
        lengths: Ints = self.table["length"].to_numpy()
        return lengths


def read_token_rows(context: Context, entries: tuple[str, ...]) -> TokenRows:
    """The rows of some `tokenise` entries. UserError where their tokenizers differ."""
    manifests = {entry: context.upstream(f"tokenise.{entry}") for entry in entries}
    ids = {entry: manifest.settings["ids"] for entry, manifest in manifests.items()}
    for entry in entries:
        if ids[entry] != ids[entries[0]]:
            raise UserError(
                f"tokenise {entries[0]!r} and {entry!r} have different tokenizers: they cannot be packed together"
            )
    parts = [part for manifest in manifests.values() for part in manifest.parts("tokens")]
    tables = [open_part(context.workspace.root / part.file).read(_FACTS) for part in parts]
    if not tables:
        raise UserError(
            f"tokenise {', '.join(map(repr, entries))}: no row has become tokens, so there is nothing to pack"
        )
    table = pa.concat_tables(tables).combine_chunks()
    codes = table["row_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    _, first = np.unique(codes, return_index=True)
    again = np.setdiff1d(np.arange(len(codes)), first)
    return TokenRows(table, parts, again)


class TokenStore:
    """Tokens of rows in flat scratch files: 5 bytes a token, mapped, not read. Pieces are copied in any order."""

    def __init__(self, folder: Path, root: Path, rows: TokenRows, wanted: npt.NDArray[np.bool_]) -> None:
        """`wanted`: which rows of `rows` will be asked for, bool (rows,)."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._folder = folder
        lengths = np.where(wanted, rows.lengths, 0)
        self._starts = offsets(lengths)
        place = 0
        with (folder / "ids").open("wb") as ids, (folder / "mask").open("wb") as masks:
            for part in rows.parts:
                file = open_part(root / part.file)
                for group in range(file.num_row_groups):  # small ones, however long the rows are
                    batch = file.read_row_group(group, ["input_ids", "loss_mask"])
                    here = batch.filter(pa.array(wanted[place : place + batch.num_rows])).combine_chunks()
                    place += batch.num_rows
                    for row_ids, mask in zip(here["input_ids"].chunks, here["loss_mask"].chunks, strict=True):
                        ids.write(row_ids.flatten().to_numpy(zero_copy_only=False).data)
                        masks.write(learnt_tokens(row_ids, mask).data)
        self._ids, self._mask = _mapped(folder / "ids", np.int32), _mapped(folder / "mask", np.bool_)

    def gather(self, rows: Ints, starts: Ints, lengths: Ints) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """Pieces one after the other: token ids and which of them are learnt. `starts`: in the row, tokens."""
        begin = self._starts[rows] + starts
        spans = [slice(a, b) for a, b in zip(begin.tolist(), (begin + lengths).tolist(), strict=True)]
        return np.concatenate([self._ids[span] for span in spans]), np.concatenate([self._mask[span] for span in spans])

    def learnt(self, rows: Ints, starts: Ints, lengths: Ints) -> Ints:
        """How many tokens of each piece are learnt."""
        begin = self._starts[rows] + starts
        spans = zip(begin.tolist(), (begin + lengths).tolist(), strict=True)
        return np.fromiter((np.count_nonzero(self._mask[a:b]) for a, b in spans), np.int64, len(rows))

    def rows_with(self, ids: list[int]) -> Ints:
        """The rows that hold one of some tokens."""
        hits = [np.flatnonzero(np.isin(self._ids[n : n + _SCAN], ids)) + n for n in range(0, len(self._ids), _SCAN)]
        return np.unique(np.searchsorted(self._starts, np.concatenate([np.empty(0, np.int64), *hits]), "right") - 1)

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _mapped(path: Path, kind: Any) -> Any:
    return np.memmap(path, kind, "r") if path.stat().st_size else np.empty(0, kind)


def learnt_tokens(ids: pa.ListArray, mask: pa.ListArray) -> npt.NDArray[np.bool_]:
    """The columns input_ids and loss_mask -> one value for each token; rows without a mask are learnt whole."""
    learnt: npt.NDArray[np.bool_]
    if mask.null_count == len(mask):
        return np.ones(len(ids.flatten()), np.bool_)
    if mask.null_count == 0:
        learnt = mask.flatten().to_numpy(zero_copy_only=False)
        return learnt
    lengths = ids.value_lengths().to_numpy()
    learnt = np.ones(int(lengths.sum()), np.bool_)
    learnt[np.repeat(mask.is_valid().to_numpy(zero_copy_only=False), lengths)] = mask.flatten().to_numpy(
        zero_copy_only=False
    )
    return learnt


_LINES = 100_000  # of row_states, written together


def state_lines(rows: TokenRows, lost: dict[str, Ints], stage: str, states: Counter[str]) -> Iterator[pa.Table]:
    """A line of row_states for each row. `lost`: row numbers by the reason why they do not go on; the others are ok.
    Counts into `states`."""
    reason = np.full(len(rows.table), "", object)
    for why, places in lost.items():
        reason[places] = why
    for first in range(0, len(reason), _LINES):
        here = reason[first : first + _LINES]
        state = np.where(here == "", State.OK.value, State.FILTERED.value)
        states.update(state.tolist())
        yield pa.table(
            {
                "row_id": rows.table["row_id"].slice(first, len(here)), "stage": pa.array([stage] * len(here)),
                "state": pa.array(state), "reason": pa.array(here), "detail": pa.array([""] * len(here)),
            },
            schema=TABLES["row_states"],
        )  # fmt: skip

"""Packed rows of a plan, in the schema of the table `packs`."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.augment.cip import interleave
from pipelines.augment.parts import MixedRow
from pipelines.augment.positions import PlacedRow, place
from pipelines.augment.utk import Encode, KnotTokens, untie
from pipelines.pack_plan import Items, PackPlan
from pipelines.packing.arrays import sums
from pipelines.packing.rows import Rows, columns, make_rows, pad_rows
from pipelines.packing.weights import piece_weights, weighted
from pipelines.tokens import Ints, TokenRows, TokenStore
from schemas.augment import Cip, Utk
from schemas.ids import ID_HEX, canonical_json
from schemas.pack import Pack
from schemas.tables import TABLES


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """What packing asks of a tokenizer. `knots`: of Untie-the-Knots, where it is asked for."""

    pad_id: int
    encode: Encode
    knots: KnotTokens | None = None


class RowMaker:
    def __init__(
        self, config: Pack, stage: str, seed: int, rows: TokenRows, items: Items, packed: PackPlan, store: TokenStore,
        tokenizer: Tokenizer,
    ) -> None:  # fmt: skip
        self.config, self._stage, self._seed = config, stage, seed
        self._rows, self._items, self._packed, self._store = rows, items, packed, store
        self._tokenizer = tokenizer
        self._weights = None if config.loss_weights == "none" else self._piece_weights()

    def table(self, first: int, last: int) -> pa.Table:
        """Rows first to before last."""
        plan = self._packed.plan
        pieces = slice(int(plan.row_offsets[first]), int(plan.row_offsets[last]))
        of = self._items.row[plan.piece_sample[pieces]]
        ids = self._rows.table["row_id"].take(of).to_pylist()
        row_offsets = plan.row_offsets[first : last + 1] - plan.row_offsets[first]
        augmented: list[str | None] = [None] * (last - first)
        if self.config.augment is None:
            rows = self._plain(of, pieces, row_offsets)
        else:
            rows, augmented = self._augmented(of, pieces, row_offsets, first, ids)
        domain = self._packed.domain[first:last]
        domains = pa.array(self._items.domains, pa.string()).take(pa.array(domain, mask=domain < 0))
        squares = sums(rows.seq_lengths.astype(np.int64) ** 2, rows.row_segments)
        no_weights = pa.nulls(last - first, pa.list_(pa.float32()))
        table = {
            "loss_weights": no_weights, "stage": pa.array([self._stage] * (last - first)), "domain": domains,
            "length": np.diff(rows.row_tokens), "sq_cost": squares, "pack_id": list(_pack_ids(rows)), **columns(rows),
            "sample_ids": pa.ListArray.from_arrays(pa.array(row_offsets.astype(np.int32)), pa.array(ids, pa.string())),
            "augment": pa.array(augmented, pa.string()),
        }  # fmt: skip
        return pa.table(table, schema=TABLES["packs"])

    def _plain(self, of: Ints, pieces: slice, row_offsets: Ints) -> Rows:
        plan, config = self._packed.plan, self.config
        lengths = plan.piece_length[pieces]
        ids, mask = self._store.gather(of, plan.piece_start[pieces], lengths)
        rows = make_rows(ids, mask, lengths, row_offsets, borders=config.strategy != "wrapped")
        if self._weights is not None:
            rows = weighted(rows, self._weights[pieces], lengths)
        if config.multiple_of > 1:
            rows = pad_rows(rows, config.multiple_of, self._tokenizer.pad_id, config.pad == "piece")
        return rows

    def _piece_weights(self) -> Any:
        """Of all pieces of the plan. The first token of a segment is no target."""
        plan = self._packed.plan
        targets = self._store.learnt(self._items.row[plan.piece_sample], plan.piece_start, plan.piece_length)
        opens = np.ones(len(targets), bool)
        if self.config.strategy == "wrapped":
            opens[:] = False
            opens[plan.row_offsets[:-1]] = True
        rows = self._items.row[plan.piece_sample[opens]]
        targets[opens] -= self._store.learnt(rows, plan.piece_start[opens], np.ones(len(rows), np.int64))
        mode, size = self.config.loss_weights, self.config.global_batch
        assert mode != "none" and size is not None
        return piece_weights(targets, plan.piece_sample, plan.row_offsets, mode, size)

    def _augmented(
        self, of: Ints, pieces: slice, row_offsets: Ints, first: int, ids: list[str]
    ) -> tuple[Rows, list[str | None]]:
        """Each row is one segment: its documents see each other."""
        plan, mixes = self._packed.plan, isinstance(self.config.augment, Utk | Cip)
        starts, lengths = plan.piece_start[pieces], plan.piece_length[pieces]
        if not mixes:  # positions choose from the whole document
            lengths = self._rows.lengths[of]
        made: list[tuple[Any, Any, Any]] = []
        notes: list[str | None] = []
        for number, (begin, end) in enumerate(pairwise(row_offsets.tolist())):
            tokens, mask = self._store.gather(of[begin:end], starts[begin:end], lengths[begin:end])
            if mixes:
                row = self._mixed(np.split(tokens, np.cumsum(lengths[begin:end])[:-1]), first + number)
                parts = [[ids[begin + one.doc], one.part, one.start, one.end, one.id] for one in row.parts]
                made.append((row.input_ids, row.loss_mask, np.arange(len(row.input_ids))))
                notes.append(self._note(parts=parts))
            else:
                placed, note = self._placed(len(tokens), int(plan.piece_length[pieces][begin]), first + number)
                made.append((tokens[placed.take], mask[placed.take], placed.position_ids))
                notes.append(note)
        sizes = np.array([len(one[0]) for one in made])
        flat, mask, positions = (np.concatenate(part) for part in zip(*made, strict=True))
        return make_rows(flat, mask, sizes, np.arange(len(made) + 1), position_ids=positions), notes

    def _mixed(self, documents: list[Any], row: int) -> MixedRow:
        config = self.config.augment
        if isinstance(config, Cip):
            return interleave(documents, config, seed=self._seed, row=row)
        assert isinstance(config, Utk) and self._tokenizer.knots is not None
        return untie(
            documents, config, self._tokenizer.knots, self._tokenizer.encode,
            row_length=self._packed.longest, seed=self._seed, row=row,
        )  # fmt: skip

    def _placed(self, length: int, row_length: int, row: int) -> tuple[PlacedRow, str]:
        config = self.config.augment
        assert config is not None and not isinstance(config, Utk | Cip)
        placed = place(length, config, row_length=row_length, seed=self._seed, row=row)
        return placed, self._note(target_length=config.target_length)

    def _note(self, **more: Any) -> str:
        assert self.config.augment is not None
        return canonical_json({"augment": self.config.augment.augment, "seed": self._seed, **more})


def _pack_ids(rows: Rows) -> Iterator[str]:
    """Hashes of what a row holds."""
    tokens, segments = rows.row_tokens.tolist(), rows.row_segments.tolist()
    for row in range(len(tokens) - 1):
        here = slice(tokens[row], tokens[row + 1])
        content = hashlib.sha256(rows.input_ids[here].tobytes())
        for column in (rows.labels[here], rows.position_ids[here], rows.seq_lengths[segments[row] : segments[row + 1]]):
            content.update(np.ascontiguousarray(column).tobytes())
        yield f"pack-{content.hexdigest()[:ID_HEX]}"

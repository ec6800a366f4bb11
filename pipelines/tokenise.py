"""The stage tokenise: documents and samples as token ids, in the table `tokens`. A shard of rows is a unit."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.code_version import code_version
from pipelines.curated import curated_documents
from pipelines.encoding import Encoded, Encoder, make_encoder
from pipelines.manifest import UnitRecord
from pipelines.packing.arrays import offsets, sums
from pipelines.processes import Processes, cores
from pipelines.seen import SeenIds
from pipelines.select import selected_ids
from pipelines.shards import Part, Shard, TableWriter, open_part, shards
from pipelines.stages import Context, Stage, Unit
from schemas.errors import UserError
from schemas.ids import digest
from schemas.recipe import Recipe
from schemas.states import State
from schemas.tables import TABLES
from schemas.tokenise import Tokenise

SHARD_BYTES = 16_000_000  # of text, before compression
_WORTH_PROCESSES = 6_000_000  # bytes of Parquet; less is done before processes have started
_BATCH_CHARS = 2_000_000  # texts that are encoded together
# What decides ids and masks.
CODE = ("pipelines/tokenise.py", "pipelines/encod*.py", "generators/models.py", "generators/control_tokens.py")
_ID = {"documents": "document_id", "samples": "sample_id"}
_COLUMNS = {
    "documents": ["document_id", "source", "text"],
    "samples": ["sample_id", "source", "method", "messages", "loss_on_prompt"],
}


Places = npt.NDArray[np.int64]
Ended = tuple[State, str, str]  # state, reason, detail


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker needs beside the shard; picklable. `config`: as JSON, with the tokenizer filled in."""

    root: Path
    base_dir: Path
    stage: str
    config: str


class TokeniseStage(Stage):
    """One entry of the recipe's `tokenise` list. `makers`: the stages that made samples."""

    def __init__(self, config: Tokenise, recipe: Recipe, makers: list[str]) -> None:
        self.config = config.model_copy(update={"tokenizer": config.tokenizer or recipe.tokenizer})
        self.name, self._makers = f"tokenise.{config.name}", makers
        self._processes: Processes | None = None
        self._told: str | None = None

    def settings(self, context: Context) -> dict[str, Any]:
        assert self.config.tokenizer is not None
        encoder = make_encoder(self.config.tokenizer, context.base_dir, fast=False)
        if self.config.rows == "documents":
            for key, wanted in (("bos", self.config.bos), ("eos", self.config.eos)):
                if wanted is not False and _end_id(encoder, key, wanted) is None:
                    what = f"no {key} token: set {key}: false" if wanted is True else f"no control token {wanted!r}"
                    raise UserError(f"tokenise {self.config.name!r}: tokenizer {self.config.tokenizer!r} has {what}")
        code = code_version(*CODE)
        return {**self.config.model_dump(mode="json", exclude={"fast"}), "ids": encoder.identity, "code": code}

    def units(self, context: Context) -> list[Unit]:
        kept: SeenIds | None = None
        selected: pa.Array | None = None
        if self.config.rows == "documents":
            parts, kept = curated_documents(context)
        else:
            parts = [part for stage in self._makers for part in context.upstream(stage).parts("samples")]
        if self.config.select is not None:
            selected = pa.array(selected_ids(context, self.config.select), pa.string())
        settings = self.settings(context)
        small = sum((context.workspace.root / part.file).stat().st_size for part in parts) < _WORTH_PROCESSES
        self.concurrency = 1 if small else cores()
        units = []
        for part in parts:
            for shard in shards(context.workspace.root / part.file, part, SHARD_BYTES):
                table = self._rows(shard, context.workspace.root, kept, selected)
                # Ids are hashes of contents: rows that are the same as before are not tokenised again.
                facts = [settings, part.file, list(shard.groups), table.drop_columns("place").to_pylist()]
                meant = table["place"].to_numpy()
                units.append(Unit(shard.name, digest(facts), len(meant), (shard, meant)))
        return units

    def _rows(self, shard: Shard, root: Path, kept: SeenIds | None, selected: pa.Array | None) -> pa.Table:
        """The rows of the shard that are to be tokenised: id, source or method, and `place` in the shard."""
        by, names = "source", self.config.sources
        if self.config.rows == "samples":
            by, names = "method", self.config.methods
        table = open_part(root / shard.file).read_row_groups(list(shard.groups), [_ID[self.config.rows], by])
        meant = np.ones(table.num_rows, bool)
        if names is not None:
            meant &= np.asarray(pc.is_in(table[by], pa.array(names)))
        if kept is not None:
            meant &= np.fromiter((one in kept for one in table.column(0).to_pylist()), bool, table.num_rows)
        if selected is not None:
            meant &= np.asarray(pc.is_in(table.column(0), selected))
        place = np.flatnonzero(meant)
        return table.take(place).append_column("place", pa.array(place))

    async def run(self, number: int, unit: Unit, context: Context) -> UnitRecord:
        if self._processes is None:
            self._processes = Processes(self.concurrency)
        job = Job(context.workspace.root, context.base_dir, self.name, self.config.model_dump_json())
        done = await self._processes.call(tokenise_shard, job, *unit.work)
        if done["note"] not in (None, self._told):
            self._told = done["note"]
            context.progress.note(f"{self.name}: {self._told}")
        context.progress.advance(unit.rows or 0)
        return UnitRecord(unit.fingerprint, [Part(**part) for part in done["parts"]], unit.rows or 0, done["states"])

    def close(self) -> None:
        if self._processes is not None:
            self._processes.close()
            self._processes = None


def tokenise_stages(recipe: Recipe, makers: list[str]) -> list[Stage]:
    return [TokeniseStage(config, recipe, makers) for config in recipe.tokenise]


def tokenise_shard(job: Job, shard: Shard, meant: Places) -> dict[str, Any]:
    """Writes the shard's parts of `tokens` and `row_states`. Returns them as JSON (`parts`), how many rows ended in
    which state (`states`), and what the encoder has to say (`note`)."""
    config = Tokenise.model_validate_json(job.config)
    assert config.tokenizer is not None
    encoder = make_encoder(config.tokenizer, job.base_dir, config.fast)
    states: Counter[str] = Counter()
    name = f"{job.stage}-{shard.name}"
    with TableWriter(job.root, "tokens", name) as tokens, TableWriter(job.root, "row_states", name) as lines:
        for rows in _batches(job.root, shard, config, meant):
            table, ended = _tokenised(rows, config, encoder, job.stage)
            tokens.write_table(table)
            for row_id, (state, reason, detail) in zip(rows["id"], ended, strict=True):
                lines.write(
                    {"row_id": row_id, "stage": job.stage, "state": state.value, "reason": reason, "detail": detail}
                )
                states[state.value] += 1
    parts = [asdict(part) for part in (*tokens.parts, *lines.parts)]
    return {"parts": parts, "states": dict(sorted(states.items())), "note": encoder.note}


def _batches(root: Path, shard: Shard, config: Tokenise, meant: Places) -> Iterator[dict[str, list[Any]]]:
    """Columns of the rows that are meant, some megabytes at a time. Documents are long: a few rows are read at once."""
    place, held = 0, 0
    rows: dict[str, list[Any]] = {}
    file = open_part(root / shard.file)
    columns = _COLUMNS[config.rows]
    for batch in (one for group in shard.groups for one in file.iter_batches(64, [group], columns)):
        first, last = np.searchsorted(meant, [place, place + batch.num_rows])
        here = batch.take(pa.array(meant[first:last] - place))
        place += batch.num_rows
        for key, column in zip(("id", *columns[1:]), here.columns, strict=True):
            rows.setdefault(key, []).extend(column.to_pylist())
        held += here.nbytes
        if held >= _BATCH_CHARS:
            yield rows
            rows, held = {}, 0
    if rows.get("id"):
        yield rows


def _tokenised(
    rows: dict[str, list[Any]], config: Tokenise, encoder: Encoder, stage: str
) -> tuple[pa.Table, list[Ended]]:
    """The rows that went well in the schema of `tokens`, and how each row ended."""
    count = len(rows["id"])
    if config.rows == "documents":
        encoded = encoder.encode(rows["text"])
        ids, begins = _with_ends(encoded, _end_id(encoder, "bos", config.bos), _end_id(encoder, "eos", config.eos))
        learnt = np.diff(begins)
    else:
        encoded = encoder.encode_chats(rows["messages"], [bool(one) for one in rows["loss_on_prompt"]])
        ids, begins = encoded.ids, encoded.offsets
        assert encoded.loss_mask is not None
        learnt = sums(encoded.loss_mask, begins)
    mask, lengths = encoded.loss_mask, np.diff(begins)
    ended = []
    for reason, length, targets in zip(encoded.reasons, lengths.tolist(), learnt.tolist(), strict=True):
        if reason is not None:  # of the text, so another run changes nothing
            ended.append((State.FILTERED, reason.partition(": ")[0], reason.partition(": ")[2]))
        elif config.max_tokens is not None and length > config.max_tokens:
            ended.append((State.OVER_BUDGET, "longer_than_max_tokens", f"{length} tokens"))
        elif not targets:
            ended.append((State.FILTERED, "nothing_to_learn", f"{length} tokens"))
        else:
            ended.append((State.OK, "", ""))
    ok = pa.array([state is State.OK for state, *_ in ended])
    borders = pa.array(begins.astype(np.int32))
    columns = {
        "row_id": rows["id"], "stage": [stage] * count, "kind": [config.rows.removesuffix("s")] * count,
        "source": rows["source"], "method": rows.get("method", [None] * count), "length": lengths,
        "loss_tokens": learnt,
        "input_ids": pa.ListArray.from_arrays(borders, pa.array(ids, pa.int32())),
        "loss_mask": pa.nulls(count, pa.list_(pa.bool_()))
        if mask is None
        else pa.ListArray.from_arrays(borders, pa.array(mask, pa.bool_())),
    }  # fmt: skip
    return pa.table(columns, schema=TABLES["tokens"]).filter(ok), ended


def _end_id(encoder: Encoder, key: str, wanted: bool | str) -> int | None:
    if isinstance(wanted, str):
        return encoder.control_id(wanted)
    return (encoder.bos_id if key == "bos" else encoder.eos_id) if wanted else None


def _with_ends(encoded: Encoded, bos: int | None, eos: int | None) -> tuple[npt.NDArray[np.int32], Places]:
    """Ids and offsets of documents with the tokens that begin and end them."""
    before, after = int(bos is not None), int(eos is not None)
    lengths = np.diff(encoded.offsets)
    begins = offsets(lengths + before + after)
    ids = np.empty(int(begins[-1]), np.int32)
    text = np.ones(len(ids), bool)
    if bos is not None:
        ids[begins[:-1]], text[begins[:-1]] = bos, False
    if eos is not None:
        ids[begins[1:] - 1], text[begins[1:] - 1] = eos, False
    ids[text] = encoded.ids
    return ids, begins

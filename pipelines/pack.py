"""The stage pack: tokenised rows into rows of a trainer's length, in the table `packs`.

The plan is made over all lengths at once. The first unit accounts for every row; each of the others writes a run of
packed rows. Tokens lie in a scratch file meanwhile, as packed rows take them from everywhere.
"""

import asyncio
import threading
from collections import Counter
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.augment.utk import knot_tokens
from pipelines.code_version import code_version
from pipelines.encoding import make_encoder
from pipelines.manifest import UnitRecord
from pipelines.pack_plan import Items, PackPlan, all_rows, mixed_rows, pack_plan, row_runs
from pipelines.pack_rows import RowMaker, Tokenizer
from pipelines.processes import cores
from pipelines.shards import Part, TableWriter, open_part, write_rows
from pipelines.stages import Context, Stage, Unit
from pipelines.tokens import TokenRows, TokenStore, read_token_rows, state_lines
from schemas.augment import Utk
from schemas.errors import UserError
from schemas.ids import digest
from schemas.pack import Pack
from schemas.recipe import Recipe

UNIT_TOKENS = 8_000_000  # of packed rows in one unit
_GROUP_TOKENS = 1_000_000  # ... that are made and written together
ACCOUNT = "plan"


class PackStage(Stage):
    """One entry of the recipe's `pack` list."""

    def __init__(self, config: Pack, recipe: Recipe) -> None:
        self.config = config
        self._mix = next((one for one in recipe.mix if one.name == config.mix), None)
        self._entries = recipe.token_entries(config.of if self._mix is None else self._mix.of)
        self.name = f"pack.{config.name}"
        self.concurrency = cores()
        self._planned: tuple[TokenRows, Items, PackPlan] | None = None
        self._maker: RowMaker | None = None
        self._store: TokenStore | None = None
        self._opening = threading.Lock()

    def settings(self, context: Context) -> dict[str, Any]:
        code = code_version(
            "pipelines/pack*.py",
            "pipelines/packing/*.py",
            "pipelines/augment/*.py",
            "pipelines/tokens.py",
            "pipelines/mixing/order.py",
        )
        return {**self.config.model_dump(mode="json"), "seed": context.recipe.seed, "code": code}

    def units(self, context: Context) -> list[Unit]:
        stages = [f"tokenise.{entry}" for entry in self._entries]
        stages += [] if self._mix is None else [f"mix.{self._mix.name}"]
        before = {name: [unit.fingerprint for unit in context.upstream(name).units.values()] for name in stages}
        facts = digest([self.settings(context), before])
        rows = read_token_rows(context, self._entries)
        self._check_kinds(rows)
        if self._mix is None:
            items = all_rows(rows, self.config)
        else:
            parts = context.upstream(f"mix.{self._mix.name}").parts("mixture")
            lines = [
                open_part(context.workspace.root / part.file).read(["row_id", "source", "epoch"]) for part in parts
            ]
            if not lines:
                raise UserError(f"pack {self.config.name!r}: the mix {self._mix.name!r} has drawn no row")
            items = mixed_rows(rows, pa.concat_tables(lines), self._mix, self.config)
        packed = pack_plan(rows, items, self.config, self._mix, context.recipe.seed)
        self._planned = rows, items, packed
        units = [Unit(ACCOUNT, digest([facts, ACCOUNT]), len(rows.table))]
        for number, run in enumerate(row_runs(packed.plan, UNIT_TOKENS)):
            units.append(Unit(f"{number:05d}", digest([facts, number]), 0, run))
        return units

    def _check_kinds(self, rows: TokenRows) -> None:
        """Rows that are augmented are learnt whole, and so are documents."""
        if self.config.augment is None:
            return
        kind, samples = self.config.augment.augment, np.count_nonzero(np.asarray(rows.table["kind"]) == "sample")
        if samples:
            raise UserError(
                f"pack {self.config.name!r}: 'augment: {kind}' is for documents, and {samples} rows are samples"
            )

    async def run(self, number: int, unit: Unit, context: Context) -> UnitRecord:
        if unit.key == ACCOUNT:
            return self._account(unit, context)
        parts = await asyncio.to_thread(self._write, unit, context)
        return UnitRecord(unit.fingerprint, parts, 0, {})

    def _account(self, unit: Unit, context: Context) -> UnitRecord:
        assert self._planned is not None
        rows, _, packed = self._planned
        root, name = context.workspace.root, f"{self.name}-{unit.key}"
        states: Counter[str] = Counter()
        with TableWriter(root, "row_states", name) as lines:
            for table in state_lines(rows, packed.lost, self.name, states):
                lines.write_table(table)
        reports = [
            {"stage": self.name, "strategy": self.config.strategy, "row_length": row_length, **asdict(one)}
            for row_length, one in packed.reports
        ]
        context.progress.advance(len(rows.table))
        parts = [*lines.parts, *write_rows(root, "packings", name, reports)]
        return UnitRecord(unit.fingerprint, parts, len(rows.table), dict(sorted(states.items())))

    def _write(self, unit: Unit, context: Context) -> list[Part]:
        assert self._planned is not None
        with self._opening:
            if self._maker is None:
                self._maker = self._open(context)
        first, last = unit.work
        step = max(1, _GROUP_TOKENS // self._planned[2].longest)
        with TableWriter(context.workspace.root, "packs", f"{self.name}-{unit.key}") as writer:
            for begin in range(first, last, step):
                writer.write_table(self._maker.table(begin, min(begin + step, last)))
        return writer.parts

    def _open(self, context: Context) -> RowMaker:
        """Copies the tokens that are packed to where any of them is at hand."""
        assert self._planned is not None
        rows, items, packed = self._planned
        wanted = np.zeros(len(rows.table), bool)
        wanted[items.row[packed.plan.piece_sample]] = True
        self._store = TokenStore(context.workspace.scratch / self.name, context.workspace.root, rows, wanted)
        settings = context.upstream(f"tokenise.{self._entries[0]}").settings
        encoder = make_encoder(settings["tokenizer"], context.base_dir)
        augment = self.config.augment
        knots = knot_tokens(augment, encoder.control_id) if isinstance(augment, Utk) else None
        if knots is not None:
            self._check_reserved(encoder.vocab_size, [*knots.knots, *knots.backtrace])
        tokenizer = Tokenizer(encoder.eos_id or 0, lambda text: encoder.encode([text]).ids.tolist(), knots)
        return RowMaker(self.config, self.name, context.recipe.seed, rows, items, packed, self._store, tokenizer)

    def _check_reserved(self, vocab_size: int, reserved: list[int]) -> None:
        """A document that holds a knot token would be tied to others. Text never becomes a control token, so this
        happens only where an ordinary token was made a knot."""
        assert self._planned is not None and self._store is not None
        if max(reserved) >= vocab_size:
            raise UserError(
                f"pack {self.config.name!r}: the tokenizer has {vocab_size} tokens, and 'augment' names {max(reserved)}"
            )
        hit = self._store.rows_with(reserved)
        if len(hit):
            row_id = self._planned[0].table["row_id"][int(hit[0])].as_py()
            raise UserError(
                f"pack {self.config.name!r}: {row_id} and {len(hit) - 1} other rows hold a token that 'augment' "
                "reserves: name reserved tokens of the tokenizer"
            )

    def close(self) -> None:
        self._maker = None
        if self._store is not None:
            self._store.close()
            self._store = None


def pack_stages(recipe: Recipe) -> list[Stage]:
    return [PackStage(config, recipe) for config in recipe.pack]

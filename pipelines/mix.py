"""The stage mix: which tokenised rows are trained on how often, and in which order. The table `mixture`."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.code_version import code_version
from pipelines.manifest import UnitRecord
from pipelines.mixing.draw import Mixture, draw
from pipelines.mixing.report import histogram, sources
from pipelines.shards import TableWriter, write_rows
from pipelines.stages import Context, Stage, Unit
from pipelines.tokens import Ints, TokenRows, read_token_rows, state_lines
from schemas.errors import UserError
from schemas.ids import digest
from schemas.mix import Mix
from schemas.recipe import Recipe
from schemas.tables import TABLES

_LINES = 100_000  # of a table, written together


class MixStage(Stage):
    """One entry of the recipe's `mix` list: one unit, as every row depends on all others. `entries`: what it reads."""

    def __init__(self, config: Mix, entries: tuple[str, ...]) -> None:
        self.config, self._entries = config, entries
        self.name = f"mix.{config.name}"

    def settings(self, context: Context) -> dict[str, Any]:
        code = code_version("pipelines/mix.py", "pipelines/mixing/*.py", "pipelines/tokens.py", "schemas/mix.py")
        return {**self.config.model_dump(mode="json"), "seed": context.recipe.seed, "code": code}

    def units(self, context: Context) -> list[Unit]:
        before = {
            entry: [unit.fingerprint for unit in context.upstream(f"tokenise.{entry}").units.values()]
            for entry in self._entries
        }
        return [Unit("all", digest([self.settings(context), before]))]

    async def run(self, number: int, unit: Unit, context: Context) -> UnitRecord:
        rows = read_token_rows(context, self._entries)
        members = _members(rows, self.config)
        available = {name: rows.lengths[places] for name, places in members.items()}
        try:
            mixture = draw(available, self.config, context.recipe.seed)
        except UserError as error:
            raise UserError(f"mix {self.config.name!r}: {error}") from error
        root, name = context.workspace.root, f"{self.name}-{unit.key}"
        states: Counter[str] = Counter()
        with TableWriter(root, "mixture", name) as lines, TableWriter(root, "row_states", name) as ended:
            used = _places(members, mixture)
            for table in self._lines(rows, used, mixture):
                lines.write_table(table)
            for table in state_lines(rows, self._lost(rows, members, used), self.name, states):
                ended.write_table(table)
        reports = [{"stage": self.name, **line} for line in sources(mixture, available)]
        lengths = [{"stage": self.name, **line} for line in histogram(mixture, available)]
        parts = [*lines.parts, *ended.parts]
        parts += [*write_rows(root, "mixtures", name, reports), *write_rows(root, "mixture_lengths", name, lengths)]
        context.progress.advance(len(rows.table))
        return UnitRecord(unit.fingerprint, parts, len(rows.table), dict(sorted(states.items())))

    def _lines(self, rows: TokenRows, used: Ints, mixture: Mixture) -> Iterator[pa.Table]:
        names = pa.array([one.source.name for one in mixture.budgets])
        for first in range(0, len(used), _LINES):
            last = min(first + _LINES, len(used))
            taken = rows.table.take(used[first:last])
            columns = {
                "row_id": taken["row_id"], "stage": pa.array([self.name] * len(taken)),
                "place": np.arange(first, last), "source": names.take(pa.array(mixture.source[first:last])),
                "epoch": mixture.epoch[first:last].astype(np.int64), "length": taken["length"],
            }  # fmt: skip
            yield pa.table(columns).cast(TABLES["mixture"])

    def _lost(self, rows: TokenRows, members: dict[str, Ints], used: Ints) -> dict[str, Ints]:
        """The rows that the mixture does not use, by reason."""
        reason = np.full(len(rows.table), "not_in_mix", object)
        for one in self.config.plan:
            places = members[one.name]
            lengths = rows.lengths[places]
            fits = (lengths >= one.min_length) & (lengths <= (one.max_length or lengths.max(initial=0)))
            # A row may be too long for one source and right for another of the same rows.
            misfit = places[~fits & (reason[places] == "not_in_mix")]
            reason[misfit] = np.where(rows.lengths[misfit] < one.min_length, "too_short", "too_long")
            reason[places[fits]] = "not_drawn"
        reason[used] = ""
        reason[rows.again] = "made_twice"
        return {str(why): np.flatnonzero(reason == why) for why in np.unique(reason.astype(str)) if why}


def _places(members: dict[str, Ints], mixture: Mixture) -> Ints:
    """Of each use in the mixture the row, by its place among all rows."""
    places = np.empty(len(mixture.row), np.int64)
    for number, one in enumerate(mixture.budgets):
        here = mixture.source == number
        places[here] = members[one.source.name][mixture.row[here]]
    return places


def _members(rows: TokenRows, mix: Mix) -> dict[str, Ints]:
    """Of each source of the mix the rows that belong to it, by their place; a row that was made twice counts once."""
    source, method = (rows.table[name].combine_chunks().dictionary_encode("encode") for name in ("source", "method"))
    pairs = [(one, other) for one in source.dictionary.to_pylist() for other in method.dictionary.to_pylist()]
    codes = source.indices.to_numpy() * len(method.dictionary) + method.indices.to_numpy()
    again = np.zeros(len(rows.table), bool)
    again[rows.again] = True
    found = {}
    for one in mix.plan:
        takes = np.array([one.takes(*pair) for pair in pairs], bool)
        found[one.name] = np.flatnonzero(takes[codes] & ~again)
    return found


def mix_stages(recipe: Recipe) -> list[Stage]:
    return [MixStage(config, recipe.token_entries(config.of)) for config in recipe.mix]

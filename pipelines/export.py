"""The stage export: a folder that trainers read offline (Hugging Face datasets, JSONL, MosaicML streaming, Megatron),
with a dataset card."""

import shutil
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipelines.card import is_export, write_card
from pipelines.catalog import query
from pipelines.code_version import code_version
from pipelines.curated import curation
from pipelines.export_configs import CONFIGS, Reading, schema_of
from pipelines.files import discard, named, replace_folder
from pipelines.manifest import UnitRecord
from pipelines.pairs import score_units
from pipelines.shards import write_rows
from pipelines.stages import Context, Stage, Unit
from pipelines.styles import LeftOut
from pipelines.workspace import Workspace
from pipelines.writers import complete, writer_for
from schemas.errors import RunError, UserError
from schemas.export import Export
from schemas.ids import digest
from schemas.states import State

_CODE = (
    "export*",
    "packing/*",
    "tokens",
    "loading",
    "pairs",
    "card",
    "indicator",
    "styles",
    "writers",
    "mds",
    "megatron",
)


class ExportStage(Stage):
    """One entry of the recipe's `export` list: one unit, done anew when anything upstream has changed. `makers`: the
    stages that made records, or scores of records."""

    def __init__(self, config: Export, makers: list[str]) -> None:
        self.config, self._makers = config, makers
        self.name = f"export.{config.name}"

    def settings(self, context: Context) -> dict[str, Any]:
        code = code_version(*(f"pipelines/{name}.py" for name in _CODE))
        return {**self.config.model_dump(mode="json"), "code": code}

    def units(self, context: Context) -> list[Unit]:
        # Whole records: rows that failed and now went well change what a unit wrote, not its fingerprint.
        upstream = {
            stage: [asdict(unit) for unit in context.upstream(stage).units.values()]
            for stage in ("ingest", *curation(context.recipe), *self._makers)
        }
        for stage, units in score_units(context.workspace).items():
            upstream.setdefault(stage, [asdict(unit) for unit in units])
        # The card prints the whole recipe.
        fingerprint = digest([self.settings(context), context.recipe_hash, upstream])
        return [Unit("all", fingerprint)]

    async def run(self, number: int, unit: Unit, context: Context) -> UnitRecord:
        with named(self.folder(context)):
            return self._write(unit, context)

    def _write(self, unit: Unit, context: Context) -> UnitRecord:
        final = self.folder(context)
        if final.is_symlink():  # an export replaces its folder as a whole
            raise UserError(
                f"{final}: is a symbolic link, and an export replaces its folder; link {final.parent} instead"
            )
        temporary = final.with_name(f".{final.name}.tmp")
        discard(temporary)
        states: list[dict[str, Any]] = []
        counts: dict[str, int] = dict.fromkeys(self.config.configs, 0)
        left_out: list[LeftOut] = []
        reading = Reading(self.config, self._makers, context)
        for config in self.config.configs:
            writer = writer_for(self.config, temporary / config, schema_of(config, self.config))
            for table, others in CONFIGS[config].tables(reading):
                writer.write(table)
                states += [self._state(row_id, config) for row_id in table.column("id").to_pylist()]
                left_out += others
                counts[config] += table.num_rows
                context.progress.advance(table.num_rows + len(others))
            writer.close()
        states += [self._left_out(one) for one in left_out]
        stages = ["ingest", *curation(context.recipe), *self._makers]
        write_card(temporary, self.config, stages, counts, left_out, context)
        replace_folder(temporary, final)
        parts = write_rows(context.workspace.root, "row_states", f"{self.name}-{unit.key}", states)
        ended = Counter(state["state"] for state in states)
        return UnitRecord(unit.fingerprint, parts, len(states), dict(sorted(ended.items())))

    def folder(self, context: Context) -> Path:
        return context.workspace.exports / self.config.name

    def intact(self, record: UnitRecord, context: Context) -> bool:
        folder = self.folder(context)
        configs = [complete(folder / config, self.config) for config in self.config.configs]
        return super().intact(record, context) and (folder / "README.md").exists() and all(configs)

    def _state(self, row_id: str, config: str) -> dict[str, Any]:
        return {"row_id": row_id, "stage": self.name, "state": State.OK.value, "reason": "", "detail": config}

    def _left_out(self, one: LeftOut) -> dict[str, Any]:
        return {**self._state(one.row_id, one.detail), "state": State.FILTERED.value, "reason": one.reason}


def exported_rows(workspace: Workspace, name: str) -> dict[str, int]:
    """Config -> how many rows a finished export holds of it, where it holds any."""
    states = f"SELECT detail, count(*) FROM row_states WHERE stage = 'export.{name}' AND state = 'ok' GROUP BY ALL"
    return dict(query(workspace, states)[1])


def copy_export(folder: Path, to: Path) -> None:
    """Copy a finished export. UserError when `to` holds anything that is no part of an export of Longloom's."""
    names = {path.name for path in to.iterdir()} if to.is_dir() else set()
    if to.exists() and (not to.is_dir() or (names and not is_export(to))):
        raise UserError(f"{to}: exists and is no export; name a new or empty folder with --to")
    foreign = sorted(names - {"README.md", *CONFIGS})
    if foreign:  # a .git, say: the folder is replaced as a whole
        raise UserError(f"{to}: holds {foreign[0]!r} beside an export; name a new or empty folder with --to")
    final = to.resolve()
    temporary = final.with_name(f".{final.name}.tmp")
    discard(temporary)
    try:
        shutil.copytree(folder, temporary)
    except shutil.Error as error:  # all that went wrong
        discard(temporary)
        why = str(error.args[0][0][2]).partition(": '")[0]
        raise RunError(f"{to}: the export could not be copied: {why}") from error
    replace_folder(temporary, final)

"""The stage ingest: sources in the order of the recipe, one unit a source, or several where it has many files.

A source of plain files is read in groups of consecutive files, so that a corpus that grows is not read anew every
night: a group is done again where one of its files has changed, or anything before it (which decides what a duplicate
is). Files that sort last, such as those named by date, cost the reading of the last group.
"""

import asyncio
import threading
from pathlib import Path
from typing import Any, cast

from generators.models import load_tokenizer
from pipelines.code_version import code_version
from pipelines.ingest import Kind, ingest_source, unit_name
from pipelines.manifest import UnitRecord, load_manifest
from pipelines.seen import SeenIds
from pipelines.shards import Part
from pipelines.sources import Input, inputs
from pipelines.stages import Context, Stage, Unit
from schemas.ids import digest
from schemas.sources import AnySource

_KINDS: tuple[Kind, ...] = ("documents", "instructions")
GROUP_BYTES = 128_000_000  # of files: what is read again because one file more has come
_ID = {"documents": "document_id", "instructions": "instruction_id"}


class IngestStage(Stage):
    name = "ingest"

    def __init__(self) -> None:
        self._order: dict[Kind, list[str]] = {}  # all units, as planned
        self._seen: dict[str, SeenIds] = {}
        self._loaded: set[str] = set()
        self._written: dict[str, list[Path]] = {}  # by this run; the manifest may not name them yet

    def settings(self, context: Context) -> dict[str, Any]:
        recipe = context.recipe
        return {
            "documents": {source.name: source.model_dump(mode="json") for source in recipe.documents},
            "instructions": {source.name: source.model_dump(mode="json") for source in recipe.instructions},
            "tokenizer": recipe.tokenizer,
            "limit": context.limit,
            "code": code_version(
                "pipelines/ingest.py", "pipelines/seen.py", "pipelines/sources/*.py", "filters/language.py"
            ),
        }

    def units(self, context: Context) -> list[Unit]:
        settings = self.settings(context)
        units = []
        for kind in _KINDS:
            # Duplicates are judged against earlier sources, so each unit's fingerprint covers those before it.
            chain = digest([settings["tokenizer"], settings["limit"], settings["code"]])
            self._order[kind] = []
            for source in getattr(context.recipe, kind):
                limited = source.limit is not None or context.limit is not None  # over all files together
                for number, group in enumerate(groups(inputs(source, context.base_dir), limited)):
                    files = [[file.name, file.size, file.mtime_ns] for file in group]
                    chain = digest([chain, source.model_dump(mode="json"), files])
                    name = unit_name(kind, source.name, number)
                    paths = [] if limited else [file.path for file in group if file.path is not None]
                    units.append(Unit(name, chain, work=(kind, source, number, paths)))
                    self._order[kind].append(name)
        return units

    async def run(self, number: int, unit: Unit, context: Context) -> UnitRecord:
        kind = cast(Kind, unit.work[0])
        stop = threading.Event()
        try:
            return await asyncio.to_thread(self._ingest, kind, unit, context, stop)
        finally:
            stop.set()  # a thread cannot be cancelled: it is told, and ends after the batch it is at

    def _ingest(self, kind: Kind, unit: Unit, context: Context, stop: threading.Event) -> UnitRecord:
        _, source, group, files = cast(tuple[Kind, AnySource, int, list[Path]], unit.work)

        def progress(rows: int) -> None:
            if stop.is_set():
                raise asyncio.CancelledError
            context.progress.advance(rows)

        count = None
        if context.recipe.tokenizer is not None and kind == "documents":
            count = load_tokenizer(context.recipe.tokenizer, context.base_dir).count_many
        result = ingest_source(
            source, kind, context.workspace.root, context.base_dir, self._earlier(kind, unit.key, context),
            count, context.limit, progress, files, group,
        )  # fmt: skip
        self._written[unit.key] = _files(context, kind, result.parts)
        return UnitRecord(unit.fingerprint, result.parts, result.rows_in, result.states)

    def _earlier(self, kind: Kind, unit: str, context: Context) -> SeenIds:
        """The ids of all earlier units: of those ingested in this run, and of those that stood."""
        order = self._order[kind]
        if unit in self._loaded:  # a retry: its rows are no duplicates of the first attempt's
            del self._seen[kind]
            self._loaded -= set(order)
        seen = self._seen.setdefault(kind, SeenIds())
        missing = [earlier for earlier in order[: order.index(unit)] if earlier not in self._loaded]
        manifest = load_manifest(context.workspace.manifest("ingest")) if missing else None
        for earlier in missing:
            record = manifest.units.get(earlier) if manifest is not None else None
            standing = _files(context, kind, record.parts if record is not None else [])
            seen.load(self._written.get(earlier) or standing, _ID[kind])
        self._loaded.update(missing, [unit])  # ingest_source adds this unit's own ids
        return seen


def groups(files: list[Input], limited: bool) -> list[list[Input]]:
    """Files in runs of at least GROUP_BYTES. One group where a source is a whole, or a limit goes over all of it."""
    if limited or any(file.path is None for file in files):
        return [files]
    found: list[list[Input]] = [[]]
    size = 0
    for file in files:
        if size >= GROUP_BYTES:
            found.append([])
            size = 0
        found[-1].append(file)
        size += file.size
    return found


def _files(context: Context, kind: str, parts: list[Part]) -> list[Path]:
    return [context.workspace.root / part.file for part in parts if part.table == kind]

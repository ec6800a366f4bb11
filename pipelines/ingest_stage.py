"""The stage ingest: one unit a source, in the order of the recipe."""

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
from pipelines.sources import inputs
from pipelines.stages import Context, Stage, Unit
from schemas.ids import digest
from schemas.sources import AnySource

_KINDS: tuple[Kind, ...] = ("documents", "instructions")
_ID = {"documents": "document_id", "instructions": "instruction_id"}


class IngestStage(Stage):
    name = "ingest"

    def __init__(self) -> None:
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
            for source in getattr(context.recipe, kind):
                files = [[file.name, file.size, file.mtime_ns] for file in inputs(source, context.base_dir)]
                chain = digest([chain, source.model_dump(mode="json"), files])
                units.append(Unit(unit_name(kind, source.name), chain, work=(kind, source)))
        return units

    async def run(self, number: int, unit: Unit, context: Context) -> UnitRecord:
        kind, source = cast(tuple[Kind, AnySource], unit.work)
        stop = threading.Event()
        try:
            return await asyncio.to_thread(self._ingest, kind, source, unit, context, stop)
        finally:
            stop.set()  # a thread cannot be cancelled: it is told, and ends after the batch it is at

    def _ingest(self, kind: Kind, source: AnySource, unit: Unit, context: Context, stop: threading.Event) -> UnitRecord:
        def progress(rows: int) -> None:
            if stop.is_set():
                raise asyncio.CancelledError
            context.progress.advance(rows)

        count = None
        if context.recipe.tokenizer is not None and kind == "documents":
            count = load_tokenizer(context.recipe.tokenizer, context.base_dir).count_many
        result = ingest_source(
            source, kind, context.workspace.root, context.base_dir, self._earlier(kind, source, context),
            count, context.limit, progress,
        )  # fmt: skip
        self._written[unit.key] = _files(context, kind, result.parts)
        return UnitRecord(unit.fingerprint, result.parts, result.rows_in, result.states)

    def _earlier(self, kind: Kind, source: AnySource, context: Context) -> SeenIds:
        """The ids of all earlier sources: of those ingested in this run, and of those that stood."""
        if unit_name(kind, source.name) in self._loaded:  # a retry: its rows are no duplicates of the first attempt's
            del self._seen[kind]
            self._loaded -= {unit_name(kind, one.name) for one in getattr(context.recipe, kind)}
        seen = self._seen.setdefault(kind, SeenIds())
        for earlier in getattr(context.recipe, kind):
            if earlier.name == source.name:
                break
            unit = unit_name(kind, earlier.name)
            if unit not in self._loaded:
                seen.load(self._written.get(unit) or _standing(context, kind, unit), _ID[kind])
                self._loaded.add(unit)
        self._loaded.add(unit_name(kind, source.name))  # ingest_source adds this source's own ids
        return seen


def _standing(context: Context, kind: str, unit: str) -> list[Path]:
    manifest = load_manifest(context.workspace.manifest("ingest"))
    record = manifest.units.get(unit) if manifest is not None else None
    return _files(context, kind, record.parts if record is not None else [])


def _files(context: Context, kind: str, parts: list[Part]) -> list[Path]:
    return [context.workspace.root / part.file for part in parts if part.table == kind]

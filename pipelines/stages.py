"""Stages and how they are run: plan units, skip those whose fingerprint stands, do the rest, check, record.

A stage splits its work into units (a source, a shard of rows, an export). A unit is the grain of retry and resume. How
units are executed is the caller's choice (`Execute`): directly, or as Prefect tasks in flows/.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pipelines.manifest import Manifest, UnitRecord, changed_settings, check_conservation, load_manifest
from pipelines.workspace import Workspace
from schemas.errors import UserError
from schemas.recipe import Recipe

SAVE_SECONDS = 2.0  # a unit finished within that time of the last save is done again after a crash, from the ledger


@dataclass(frozen=True, slots=True)
class Unit:
    """`rows`: how many rows it will account for, where that is known before. `work` is the stage's own."""

    key: str
    fingerprint: str
    rows: int | None = None
    work: Any = field(default=None, compare=False, repr=False)


class Progress(Protocol):
    """What a run tells while it goes. Implementations: terminal, plain lines, silence (flows/progress.py)."""

    def stage(self, name: str, rows: int | None, skipped_rows: int) -> None: ...

    def advance(self, rows: int) -> None: ...

    def note(self, text: str) -> None: ...

    def watch(self, stats: Any) -> None: ...


class Silence:
    def stage(self, name: str, rows: int | None, skipped_rows: int) -> None:
        pass

    def advance(self, rows: int) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def watch(self, stats: Any) -> None:
        pass


@dataclass(slots=True)
class Context:
    """What every stage of a run shares."""

    recipe: Recipe
    recipe_hash: str
    base_dir: Path
    workspace: Workspace
    run_id: str
    limit: int | None = None
    progress: Progress = field(default_factory=Silence)

    def upstream(self, stage: str) -> Manifest:
        """The manifest of a finished stage; UserError when it has not run."""
        manifest = load_manifest(self.workspace.manifest(stage))
        if manifest is None or not manifest.done:
            raise UserError(f"stage {stage} has not finished in {self.workspace.root}: run it first")
        return manifest


class Stage(ABC):
    """`name` is unique in a recipe and names the manifest. `concurrency`: units at once."""

    concurrency: int = 1
    name: str

    @abstractmethod
    def settings(self, context: Context) -> dict[str, Any]:
        """The stage's part of the recipe with all defaults, plus what else changes its result (code, model)."""

    @abstractmethod
    def units(self, context: Context) -> list[Unit]:
        """The units, in a stable order. Checks the inputs: raises UserError before anything is spent."""

    @abstractmethod
    async def run(self, number: int, unit: Unit, context: Context) -> UnitRecord:
        """Do one unit: write its parts, account for its rows."""

    def removed(self, record: UnitRecord, context: Context) -> None:
        """A unit of an earlier plan is gone or will be done anew: take its parts away."""
        for part in record.parts:
            (context.workspace.root / part.file).unlink(missing_ok=True)

    def intact(self, record: UnitRecord, context: Context) -> bool:
        """Is everything still there that the unit wrote?"""
        return all((context.workspace.root / part.file).exists() for part in record.parts)

    def stands(self, record: UnitRecord | None, unit: Unit, context: Context) -> bool:
        """Need this unit not be done again?"""
        if record is None or record.retry or record.fingerprint != unit.fingerprint:
            return False
        return self.intact(record, context)

    def check(self, manifest: Manifest, context: Context) -> None:  # noqa: B027
        """All units have been done: RunError where what they made is nothing to go on with."""

    def close(self) -> None:  # noqa: B027
        """The stage has ended, well or not: let go of what it holds beside its files."""


RunUnit = Callable[[Stage, int, Unit, Context], Awaitable[UnitRecord]]


async def run_directly(stage: Stage, number: int, unit: Unit, context: Context) -> UnitRecord:
    return await stage.run(number, unit, context)


async def execute(stage: Stage, context: Context, run_unit: RunUnit = run_directly) -> Manifest:
    """Bring one stage up to date; returns its manifest. Units that stand are skipped."""
    path = context.workspace.manifest(stage.name)
    old = load_manifest(path)
    if old is not None and old.recipe != context.recipe.name:
        raise UserError(
            f"{context.workspace.root}: holds recipe {old.recipe!r}, not {context.recipe.name!r}; "
            "name another --workspace"
        )
    settings = stage.settings(context)
    units = stage.units(context)
    manifest = Manifest(stage.name, context.recipe.name, settings, context.limit, run_id=context.run_id)
    todo = _carry_over(stage, context, old, manifest, units)
    standing = manifest.rows_in
    known = None if any(unit.rows is None for _, unit in todo) else sum(unit.rows or 0 for _, unit in todo)
    context.progress.stage(stage.name, known, standing)
    if old is not None and todo:
        for line in changed_settings(old.settings, settings):
            context.progress.note(f"{stage.name}: {line}")
    if not todo and old is not None and old.done and old.settings == settings and len(old.units) == len(units):
        return old
    manifest.save(path)
    try:
        await _run_units(stage, context, manifest, todo, run_unit)
    finally:
        stage.close()
        manifest.save(path)
    stage.check(manifest, context)
    manifest.done = True
    manifest.units = {unit.key: manifest.units[unit.key] for unit in units}  # plan order, not order of finishing
    manifest.save(path)
    return manifest


def _carry_over(
    stage: Stage, context: Context, old: Manifest | None, manifest: Manifest, units: list[Unit]
) -> list[tuple[int, Unit]]:
    """Take over the units that stand, take away what no longer does, return what is to do."""
    stale = dict(old.units) if old is not None else {}
    todo: list[tuple[int, Unit]] = []
    for number, unit in enumerate(units):
        record = stale.get(unit.key)
        if stage.stands(record, unit, context):
            manifest.units[unit.key] = stale.pop(unit.key)
            continue
        todo.append((number, unit))
        if record is not None and record.retry and record.fingerprint == unit.fingerprint:
            # Only failed rows are tried again: the good ones stay until the new attempt takes their place.
            manifest.units[unit.key] = stale.pop(unit.key)
    for record in stale.values():
        stage.removed(record, context)
    return todo


async def _run_units(
    stage: Stage, context: Context, manifest: Manifest, todo: list[tuple[int, Unit]], run_unit: RunUnit
) -> None:
    limit = asyncio.Semaphore(stage.concurrency)
    saved = time.monotonic()

    async def one(number: int, unit: Unit) -> None:
        nonlocal saved
        async with limit:
            record = await run_unit(stage, number, unit, context)
        check_conservation(stage.name, unit.key, record, unit.rows)
        before = manifest.units.get(unit.key)
        manifest.units[unit.key] = record
        if before is not None:
            gone = {part.file for part in before.parts} - {part.file for part in record.parts}
            for file in gone:
                (context.workspace.root / file).unlink(missing_ok=True)
        if time.monotonic() - saved > SAVE_SECONDS:
            manifest.save(context.workspace.manifest(stage.name))
            saved = time.monotonic()

    tasks = [asyncio.create_task(one(number, unit)) for number, unit in todo]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

"""The stage train: a command of the user's makes adapters or models from the table `training`, one for each role.

A model appears whole or not at all at `models/<name>/<iteration>/<role>`; what the command says goes to `logs/`.
"""

import asyncio
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from generators.models import fingerprint, resolve_adapter, resolve_model
from pipelines.code_version import code_version
from pipelines.engine_pool import EnginePool
from pipelines.files import atomic_path, replace_folder, sync
from pipelines.manifest import UnitRecord
from pipelines.shards import read_part, write_rows
from pipelines.stages import Context, Stage, Unit
from pipelines.workspace import Workspace
from schemas.engines import EngineConfig, LocalEngine
from schemas.errors import RunError, UserError
from schemas.ids import digest
from schemas.methods.self_lengthen import SelfLengthen as Config
from schemas.states import State

ROLES = ("generator", "extender")
_SCRIPT_BYTES = 1_000_000
_LOG_LINES = 12  # of the log's end, quoted when a command fails
# The command's own process group lives as long as the pipe at its standard input: a killed run leaves no training
# behind that would go on beside the next one. The arguments pass through untouched.
_GUARD = 'exec 3<&0; (read -r _ <&3; kill -KILL 0) & exec "$@" 3<&- </dev/null'


def model_folder(workspace: Workspace, name: str, iteration: int, role: str) -> Path:
    return workspace.root / "models" / name / str(iteration) / role


def trained_engine(base: EngineConfig, folder: Path) -> EngineConfig:
    """The engine of a recipe with what was trained from it: an adapter for its model, or a model in its place."""
    if is_adapter(folder):
        return base.model_copy(update={"adapter": str(folder)})
    if is_model(folder):
        return base.model_copy(update={"model": str(folder), "revision": None, "adapter": None})
    raise UserError(f"{folder}: holds no trained model; run the stages before this one")


def is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file()


def is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file()


class TrainStage(Stage):
    """One iteration's training: a unit for the generator, one for the extender."""

    def __init__(self, config: Config, engines: EnginePool, iteration: int) -> None:
        assert config.train is not None
        self.config, self.engines, self.iteration = config, engines, iteration
        self._command = config.train.command
        self.name = f"train.{config.name}.{iteration}"

    def settings(self, context: Context) -> dict[str, Any]:
        facts = self.engines.facts(self.config.engine)
        base = {name: facts[name] for name in ("model", "revision")}
        return {"command": self._told(context.base_dir), "base": base, "code": code_version("pipelines/train_stage.py")}

    def _told(self, folder: Path) -> list[str]:
        """The command, with a hash of each small file that it names: a changed script is another training."""
        told = []
        for argument in self._command:
            path = folder / argument
            named = "{" not in argument and path.is_file() and path.stat().st_size < _SCRIPT_BYTES
            told.append(f"{argument} ({digest(path.read_bytes())[:16]})" if named else argument)
        return told

    def units(self, context: Context) -> list[Unit]:
        ids: dict[str, list[str]] = {role: [] for role in ROLES}
        for row in self._rows(context, ["training_id", "role"]):
            ids[row["role"]].append(row["training_id"])
        units = []
        for role in ROLES:
            if not ids[role]:
                raise RunError(
                    f"stage {self.name}: iteration {self.iteration} has left nothing to train on; look at "
                    "row_states for why its rows ended, and give it more instructions or easier conditions"
                )
            before = None if (folder := self._previous(context, role)) is None else fingerprint(folder)
            units.append(Unit(role, digest([self.settings(context), before, ids[role]]), 1, role))
        return units

    def _rows(self, context: Context, columns: list[str]) -> list[dict[str, Any]]:
        upstream = context.upstream(f"generate.{self.config.name}.{self.iteration}.data")
        files = [context.workspace.root / part.file for part in upstream.parts("training")]
        return [row for file in files for row in read_part(file, columns=columns).to_pylist()]

    def _previous(self, context: Context, role: str) -> Path | None:
        if self.iteration == 1:
            return None
        return model_folder(context.workspace, self.config.name, self.iteration - 1, role)

    async def run(self, number: int, unit: Unit, context: Context) -> UnitRecord:
        role: str = unit.work
        final = model_folder(context.workspace, self.config.name, self.iteration, role)
        for left in final.parent.glob(f".{role}.*.tmp"):  # of a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        out = final.with_name(f".{role}.{os.getpid()}.tmp")
        out.mkdir(parents=True)
        data = final.with_name(f"{role}.jsonl")
        with atomic_path(data) as temporary, temporary.open("w", encoding="utf-8") as file:
            for row in self._rows(context, ["role", "messages"]):
                if row["role"] == role:
                    file.write(json.dumps({"messages": row["messages"]}, ensure_ascii=False) + "\n")
        log = context.workspace.logs / f"{self.name}-{role}.log"
        await self.engines.release()
        try:
            await _execute(self._filled(role, data, out, context), context.base_dir, log)
            if not (is_adapter(out) or is_model(out)):
                raise RunError(f"{log}: the command has left neither adapter_config.json nor config.json in {{out}}")
            for path in out.rglob("*"):
                sync(path)
            sync(out)
            replace_folder(out, final)
        finally:
            shutil.rmtree(out, ignore_errors=True)
        context.progress.advance(1)
        state = {"row_id": f"{self.config.name}.{self.iteration}.{role}", "stage": self.name, "state": State.OK.value}
        state |= {"reason": "", "detail": f"{fingerprint(final)}"}
        parts = write_rows(context.workspace.root, "row_states", f"{self.name}-{unit.key}", [state])
        return UnitRecord(unit.fingerprint, parts, 1, {State.OK.value: 1})

    def _filled(self, role: str, data: Path, out: Path, context: Context) -> list[str]:
        engine = self.engines.configs[self.config.engine]
        assert isinstance(engine, LocalEngine), "the recipe is checked for that"
        model = resolve_model(engine.model, context.base_dir, engine.revision).path
        previous = resolve_adapter(engine.adapter, context.base_dir) if engine.adapter else None
        before = self._previous(context, role)
        if before is not None and is_adapter(before):
            previous = before
        elif before is not None:
            model, previous = before, None
        values = {
            "python": sys.executable, "role": role, "iteration": str(self.iteration), "model": str(model),
            "data": str(data), "previous": str(previous or ""), "out": str(out),
        }  # fmt: skip
        return [re.sub(r"\{(\w+)\}", lambda found: values[found[1]], argument) for argument in self._command]

    def intact(self, record: UnitRecord, context: Context) -> bool:
        (part,) = record.parts
        role = part.file.rpartition(f"{self.name}-")[2].partition("-")[0]
        folder = model_folder(context.workspace, self.config.name, self.iteration, role)
        return super().intact(record, context) and (is_adapter(folder) or is_model(folder))


async def _execute(command: list[str], folder: Path, log: Path) -> None:
    """Run to the end, output into the log. RunError with its last lines when the command fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    reading, writing = os.pipe()  # our end closes when we die
    try:
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                "/bin/sh", "-c", _GUARD, "sh", *command, cwd=folder, start_new_session=True,
                stdin=reading, stdout=output, stderr=output,
                env={name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"},  # see flows.cli
            )  # fmt: skip
        code = await process.wait()
    finally:
        os.close(reading)
        os.close(writing)  # ends whatever of the group is left
    if code:
        lines = log.read_text("utf-8", "replace").splitlines()[-_LOG_LINES:]
        raise RunError(f"{log}: the training command ended with code {code}\n" + "\n".join(lines))

"""The stage score: numbers beside rows. So far `ref_logps` for preferences, into `scores_ref_logps`."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from generators.models import ResolvedModel, fingerprint, model_window, resolve_model
from pipelines.code_version import code_version
from pipelines.engine_pool import EnginePool
from pipelines.manifest import Manifest, UnitRecord
from pipelines.scorer_process import ScorerConfig
from pipelines.shards import Part, Row, write_rows
from pipelines.stages import Context, Stage, Unit
from schemas.engines import OpenAIEngine
from schemas.errors import UserError
from schemas.ids import digest
from schemas.scores import ScoreConfig
from schemas.states import State

# Settings that decide which rows, or when and where they are computed, not what comes out.
_NO_RESULT = ("limit", "name", "engine", "methods", "batch_tokens", "shard_rows")


@dataclass(frozen=True, slots=True)
class Shard:
    """Some preferences of one part."""

    file: str
    ids: list[str]


class ScoreStage(Stage):
    """One entry of the recipe's `score` list. `makers`: the stages that made preferences. Units follow their parts, so
    that a part which is made anew costs only its own scores. A preference that was made twice is scored once."""

    def __init__(self, config: ScoreConfig, makers: list[str], engines: EnginePool) -> None:
        self.config, self.engines, self._makers = config, engines, makers
        self.name = f"score.{config.name}"

    @cached_property  # it reads the whole folder
    def _model(self) -> ResolvedModel:
        return scored_model(self.config, self.engines)

    @cached_property
    def _scorer(self) -> ScorerConfig:
        engine = self.engines.configs[self.config.engine]
        adapter = getattr(engine, "adapter", None)
        return ScorerConfig(
            name=self._model.name,
            folder=str(self._model.path),
            adapter=None if adapter is None else str((self.engines.base_dir / adapter).resolve()),
            dtype=self.config.dtype or str(getattr(engine, "dtype", "auto")),
            window=model_window(self._model.path),
            batch_tokens=self.config.batch_tokens,
        )

    def settings(self, context: Context) -> dict[str, Any]:
        adapter = self._scorer.adapter
        return {
            **self.config.model_dump(mode="json"),
            "limit": context.limit,
            "dtype": self._scorer.dtype,
            "model": self._model.name,
            "revision": self._model.revision,
            "adapter": None if adapter is None else fingerprint(Path(adapter)),
            "code": code_version("filters/scorers/*.py", "pipelines/score.py", "pipelines/score_worker.py"),
        }

    def units(self, context: Context) -> list[Unit]:
        settings = {key: value for key, value in self.settings(context).items() if key not in _NO_RESULT}
        units = []
        for key, shard in self._shards(context):
            units.append(Unit(key, digest([settings, shard.ids]), len(shard.ids), shard))
        return units

    def _check_same_model(self, maker: Manifest) -> None:
        """The reference is the model that wrote the answers, as the maker's manifest tells."""
        wrote = maker.settings.get("engine") or {}
        reads = self.engines.facts(self.config.engine)
        if (wrote.get("model"), wrote.get("revision")) != (reads["model"], reads["revision"]):
            one, other = (f"{facts.get('model')} ({facts.get('revision')})" for facts in (wrote, reads))
            raise UserError(
                f"score {self.config.name!r}: the reference must be the model that wrote the answers: stage "
                f"{maker.stage} used {one}, engine {self.config.engine!r} is {other}"
            )

    def _shards(self, context: Context) -> Iterator[tuple[str, Shard]]:
        left = context.limit
        seen: set[str] = set()
        for maker in self._makers:
            manifest, checked = context.upstream(maker), False
            for part in manifest.parts("preferences"):
                found = dict.fromkeys(self._wanted(context.workspace.root / part.file))
                if found and not checked:
                    self._check_same_model(manifest)
                    checked = True
                ids = [row_id for row_id in found if row_id not in seen][:left]
                seen.update(ids)
                left = None if left is None else left - len(ids)
                stem = Path(part.file).stem.removeprefix("part-")
                for number, start in enumerate(range(0, len(ids), self.config.shard_rows)):
                    yield f"{stem}-{number:03d}", Shard(part.file, ids[start : start + self.config.shard_rows])

    def _wanted(self, file: Path) -> Iterator[str]:
        """Ids of the preferences with a short prompt. Of the prompts only the roles are read."""
        table = pq.ParquetFile(file).read(["preference_id", "method", "short_prompt.list.element.role"])
        for row_id, method, roles in zip(*(column.to_pylist() for column in table.columns), strict=True):
            if roles and (self.config.methods is None or method in self.config.methods):
                yield row_id

    async def run(self, number: int, unit: Unit, context: Context) -> UnitRecord:
        shard: Shard = unit.work
        scorer = await self.engines.scorer(self._scorer)
        answers: dict[str, dict[str, Any]] = {}
        async for answer in scorer.score(context.workspace.root / shard.file, shard.ids):
            answers[answer["row"]] = answer
            context.progress.advance(1)
        root, name = context.workspace.root, f"{self.name}-{unit.key}"
        done = [answers[row_id] for row_id in shard.ids if row_id in answers]  # one that is missing fails the check
        parts: list[Part] = [
            *write_rows(root, "scores_ref_logps", name, (self._score_row(one) for one in done if one["values"])),
            *write_rows(root, "row_states", name, (self._state_row(one) for one in done)),
        ]
        states = Counter(one["state"] for one in done)
        return UnitRecord(
            unit.fingerprint, parts, len(done), dict(sorted(states.items())), retry=State.FAILED.value in states
        )

    def _score_row(self, answer: dict[str, Any]) -> Row:
        chosen, rejected = answer["values"]
        return {
            "row_id": answer["row"], "stage": self.name, "ref_chosen_logps": chosen, "ref_rejected_logps": rejected,
        }  # fmt: skip

    def _state_row(self, answer: dict[str, Any]) -> Row:
        columns = {column: answer[column] for column in ("state", "reason", "detail")}
        return {"row_id": answer["row"], "stage": self.name, **columns}


def scored_model(config: ScoreConfig, engines: EnginePool) -> ResolvedModel:
    """The weights that a score entry reads: those of its engine, or those it names for a server."""
    engine = engines.configs[config.engine]
    if isinstance(engine, OpenAIEngine):
        assert config.model is not None, "the recipe was checked"
        return resolve_model(config.model, engines.base_dir)
    return resolve_model(engine.model, engines.base_dir, engine.revision)

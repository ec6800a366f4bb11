"""The stage score: a model reads rows in a process of its own, and numbers come to stand beside them.

Each pass of a recipe's score entries is a stage. What is made of all rows together (score_pool.py) comes after it.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from generators.models import ResolvedModel, fingerprint, model_window, resolve_model
from pipelines.code_version import code_version
from pipelines.curated import curated_documents, curation
from pipelines.engine_pool import EnginePool
from pipelines.evidence import EvidenceStage
from pipelines.ingest_stage import IngestStage
from pipelines.manifest import Manifest, UnitRecord
from pipelines.score_pool import GateauStage, pool_stages
from pipelines.scorer_process import ScorerConfig
from pipelines.shards import Part, Row, open_part, write_rows
from pipelines.stages import Context, Stage, Unit
from schemas.engines import OpenAIEngine
from schemas.errors import UserError
from schemas.ids import digest
from schemas.scores import DocumentScorer, Evidence, Gateau, Judge, ModelScorer, OneModel, Pass, RefLogps, ScoreConfig
from schemas.states import OUT_OF_MEMORY, State
from schemas.tables import TABLES

# Settings that decide which rows, or when and where they are computed, not what comes out.
_NO_RESULT = ("limit", "methods", "sources", "batch_tokens", "shard_rows")
_ID = {"samples": "sample_id", "preferences": "preference_id", "documents": "document_id"}
# The files of filters/scorers beside a scorer's own that decide what it finds.
_CODE = ("core.py", "attention.py", "conversation.py")
_MORE_CODE = {
    "ref_logps": ("chat.py",),
    "cam": ("context_dependency.py", "response_nll.py", "pool.py"),
    "long_range": ("documents.py", "pool.py"),
    "far_attention": ("documents.py",),
    "coherence_gain": ("documents.py",),
}


@dataclass(frozen=True, slots=True)
class Shard:
    """Some rows of one part."""

    file: str
    ids: list[str]


class ScoreStage(Stage):
    """One pass of an entry of the recipe's `score` list. `makers`: the stages that made rows. Units follow their parts,
    so that a part which is made anew costs only its own scores. A row that was made twice is scored once."""

    def __init__(self, config: ModelScorer, reading: Pass, makers: list[str], engines: EnginePool) -> None:
        if reading.seeded:
            reading = replace(reading, options={**reading.options, "seed": engines.recipe.seed})
        self.config, self.reading, self.engines, self._makers = config, reading, engines, makers
        self.name = ".".join(filter(None, ["score", config.name, reading.suffix]))

    @property
    def _of(self) -> tuple[str, tuple[str, ...] | None]:
        """Which rows: those with one of these in this column."""
        if isinstance(self.config, DocumentScorer):
            return "source", self.config.sources
        return "method", self.config.methods

    @cached_property  # it reads the whole folder
    def _model(self) -> ResolvedModel:
        return scored_model(self.config, self.engines, self.reading.engine)

    @cached_property
    def _tokenizer(self) -> ResolvedModel:
        engine = self.reading.tokenizer or self.reading.engine
        return self._model if engine == self.reading.engine else scored_model(self.config, self.engines, engine)

    @cached_property
    def _scorer(self) -> ScorerConfig:
        engine = self.engines.configs[self.reading.engine]
        adapter = getattr(engine, "adapter", None)
        return ScorerConfig(
            scorer=self.reading.scorer,
            options=self.reading.options,
            tokenizer=str(self._tokenizer.path),
            name=self._model.name,
            folder=str(self._model.path),
            adapter=None if adapter is None else str((self.engines.base_dir / adapter).resolve()),
            dtype=self.config.dtype or str(getattr(engine, "dtype", "auto")),
            window=model_window(self._model.path),
            batch_tokens=self.config.batch_tokens,
        )

    @cached_property
    def _code(self) -> str:
        scorer = self.reading.scorer
        names = (*_CODE, f"{scorer}.py", *_MORE_CODE.get(scorer, ()))
        return code_version(
            *(f"filters/scorers/{name}" for name in names), "pipelines/score.py", "pipelines/score_worker.py"
        )

    def settings(self, context: Context) -> dict[str, Any]:
        adapter = self._scorer.adapter
        column, only = self._of
        return {
            "scorer": self.reading.scorer,
            "options": self.reading.options,
            f"{column}s": None if only is None else list(only),
            "batch_tokens": self.config.batch_tokens,
            "shard_rows": self.config.shard_rows,
            "limit": context.limit,
            "dtype": self._scorer.dtype,
            "model": self._model.name,
            "revision": self._model.revision,
            "tokenizer": self._tokenizer.revision,
            "adapter": None if adapter is None else fingerprint(Path(adapter)),
            "code": self._code,
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
        reads = self.engines.facts(self.reading.engine)
        if (wrote.get("model"), wrote.get("revision")) != (reads["model"], reads["revision"]):
            one, other = (f"{facts.get('model')} ({facts.get('revision')})" for facts in (wrote, reads))
            raise UserError(
                f"score {self.config.name!r}: the reference must be the model that wrote the answers: stage "
                f"{maker.stage} used {one}, engine {self.reading.engine!r} is {other}"
            )

    def _shards(self, context: Context) -> Iterator[tuple[str, Shard]]:
        left = context.limit
        seen: set[str] = set()
        curated = curated_documents(context)[1] if isinstance(self.config, DocumentScorer) else None
        for maker in self._makers:
            manifest, checked = context.upstream(maker), False
            for part in manifest.parts(self.reading.rows):
                found = dict.fromkeys(self._wanted(context.workspace.root / part.file))
                if found and not checked and isinstance(self.config, RefLogps):
                    self._check_same_model(manifest)
                    checked = True
                wanted = (row_id for row_id in found if curated is None or row_id in curated)
                ids = [row_id for row_id in wanted if row_id not in seen][:left]
                seen.update(ids)
                left = None if left is None else left - len(ids)
                stem = Path(part.file).stem.removeprefix("part-")
                for number, start in enumerate(range(0, len(ids), self.config.shard_rows)):
                    yield f"{stem}-{number:03d}", Shard(part.file, ids[start : start + self.config.shard_rows])

    def _wanted(self, file: Path) -> Iterator[str]:
        """Ids of the rows to score; of preferences, those with a short prompt. Of the prompts only roles are read."""
        column, only = self._of
        columns = [_ID[self.reading.rows], column]
        if self.reading.rows == "preferences":
            columns.append("short_prompt.list.element.role")
        table = open_part(file).read(columns)
        for row_id, kind, *roles in zip(*(column.to_pylist() for column in table.columns), strict=True):
            if all(roles) and (only is None or kind in only):
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
            *write_rows(root, self.reading.table, name, (line for one in done for line in self._score_rows(one))),
            *write_rows(root, "row_states", name, (self._state_row(one) for one in done)),
        ]
        states = Counter(one["state"] for one in done)
        # A larger machine, or one with fewer other tenants, may hold what this one could not.
        retry = State.FAILED.value in states or any(one["reason"] == OUT_OF_MEMORY for one in done)
        return UnitRecord(unit.fingerprint, parts, len(done), dict(sorted(states.items())), retry=retry)

    def _score_rows(self, answer: dict[str, Any]) -> Iterator[Row]:
        for values in answer["values"]:
            line = {"row_id": answer["row"], "stage": self.name, **values, "scorer_version": self._code}
            yield {column: line[column] for column in TABLES[self.reading.table].names}

    def _state_row(self, answer: dict[str, Any]) -> Row:
        columns = {column: answer[column] for column in ("state", "reason", "detail")}
        return {"row_id": answer["row"], "stage": self.name, **columns}


def scored_model(config: ModelScorer, engines: EnginePool, engine: str) -> ResolvedModel:
    """The weights that a score entry reads as this engine: the engine's, or those it names for a server."""
    found = engines.configs[engine]
    if isinstance(found, OpenAIEngine):
        assert isinstance(config, OneModel) and config.model is not None, "the recipe was checked"
        return resolve_model(config.model, engines.base_dir)
    return resolve_model(found.model, engines.base_dir, found.revision)


def score_stages(configs: tuple[ScoreConfig, ...], makers: list[str], engines: EnginePool) -> list[Stage]:
    """All stages of the recipe's `score` list, in the order they run."""
    from pipelines.judge_stage import JudgeStage  # it stands on ScoreStage

    stages: list[Stage] = []
    for config in configs:
        if isinstance(config, Gateau):
            stages.append(GateauStage(config))
            continue
        if isinstance(config, Evidence):
            stages.append(EvidenceStage(config, makers))
            continue
        if isinstance(config, Judge):
            stages.append(JudgeStage(config, makers, engines))
            continue
        read_from = [IngestStage.name, *curation(engines.recipe)[:1]] if isinstance(config, DocumentScorer) else makers
        stages += [ScoreStage(config, reading, read_from, engines) for reading in config.passes()]
        stages += pool_stages(config)
    return stages

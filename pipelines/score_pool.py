"""Scores of a whole pool, made from the numbers of score stages: HMG from two readings, GATEAU from HMG and CAM, far
attention from its readings.

Each is a stage of one unit that is done anew when anything before it has changed. The pool is all rows that have the
numbers; `pool_id` names it by its rows.
"""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow.parquet as pq

from filters.scorers.pool import hmg, mixture, perplexity, ranks, standardised
from pipelines.code_version import code_version
from pipelines.manifest import UnitRecord
from pipelines.shards import Row, write_rows
from pipelines.stages import Context, Stage, Unit
from schemas.ids import content_id, digest
from schemas.scores import FarAttention, Gateau, Hmg
from schemas.states import State

_DU_WEIGHT = 0.5  # LongAttn's; with 1 its models lost 1.3 points of NIAH-32K
Numbers = dict[str, dict[str, Any]]  # row id -> columns


class PoolStage(Stage):
    """`inputs`: stages and the tables of theirs that are joined; `table`: what is written."""

    inputs: tuple[tuple[str, str], ...]
    table: str

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """What of the recipe changes the numbers."""

    @abstractmethod
    def lines(self, found: Sequence[Numbers], rows: list[str]) -> Iterable[Row]:
        """The table's columns beside row_id, stage, pool_id and scorer_version, for each of `rows`: those in all."""

    def _code(self) -> str:
        return code_version("filters/scorers/pool.py", "pipelines/score_pool.py")

    def settings(self, context: Context) -> dict[str, Any]:
        return {**self.options(), "inputs": [stage for stage, _ in self.inputs], "code": self._code()}

    def units(self, context: Context) -> list[Unit]:
        before = [asdict(unit) for stage, _ in self.inputs for unit in context.upstream(stage).units.values()]
        return [Unit("all", digest([self.settings(context), before]))]

    async def run(self, number: int, unit: Unit, context: Context) -> UnitRecord:
        root, name = context.workspace.root, f"{self.name}-{unit.key}"
        found = [self._read(stage, table, context) for stage, table in self.inputs]
        rows = sorted(set.intersection(*map(set, found)))
        common = {"stage": self.name, "pool_id": content_id("pool", rows), "scorer_version": self._code()}
        lines = ({**line, **common, "row_id": one} for one, line in zip(rows, self.lines(found, rows), strict=True))
        alone = sorted(set.union(*map(set, found)).difference(rows))
        states = [{"row_id": one, "state": State.OK.value, "reason": "", "detail": ""} for one in rows]
        for one in alone:  # why the other number is missing says the other stage
            missing = next(stage for (stage, _), has in zip(self.inputs, found, strict=True) if one not in has)
            states.append(
                {"row_id": one, "state": State.FILTERED.value, "reason": "half_missing", "detail": f"not in {missing}"}
            )
        parts = [
            *write_rows(root, self.table, name, lines),
            *write_rows(root, "row_states", name, ({**state, "stage": self.name} for state in states)),
        ]
        counts = {State.OK.value: len(rows), State.FILTERED.value: len(alone)}
        context.progress.advance(len(states))
        return UnitRecord(unit.fingerprint, parts, len(states), {s: n for s, n in sorted(counts.items()) if n})

    def _read(self, stage: str, table: str, context: Context) -> Numbers:
        found: Numbers = {}
        for part in context.upstream(stage).parts(table):
            for line in pq.read_table(context.workspace.root / part.file).to_pylist():
                found[line["row_id"]] = line
        return found


class HmgStage(PoolStage):
    table = "scores_hmg"

    def __init__(self, config: Hmg) -> None:
        self.config = config
        self.name = f"score.{config.name}"
        self.inputs = (f"{self.name}.short", "readings_nll"), (f"{self.name}.long", "readings_nll")

    def options(self) -> dict[str, Any]:
        return {"norm": self.config.norm, "clip": self.config.clip, "window": self.config.window}

    def lines(self, found: Sequence[Numbers], rows: list[str]) -> Iterable[Row]:
        first, second = found
        pairs = [(first[one], second[one]) for one in rows]
        of_short, of_long = ([pair[side]["nll"] for pair in pairs] for side in (0, 1))
        scores = hmg(of_short, of_long, self.config.norm, self.config.clip)
        window = self.config.window
        for score, (short, long) in zip(scores, pairs, strict=True):
            yield {
                "hmg": score, "hmg_raw": short["nll"] - long["nll"], "nll_short": short["nll"], "nll_long": long["nll"],
                "ppl_short": perplexity(short["nll"]), "ppl_long": perplexity(long["nll"]), "n_ctx": long["n_ctx"],
                "n_ctx_short": short["n_read"], "n_resp": long["n_resp"], "norm": self.config.norm,
                "model_short": short["model"] + ("" if window is None else f", last {window} tokens of the document"),
                "model_long": long["model"], "surrogate": window is not None, "truncated": long["truncated"],
            }  # fmt: skip


class GateauStage(PoolStage):
    table = "scores_gateau"

    def __init__(self, config: Gateau) -> None:
        self.config = config
        self.name = f"score.{config.name}"
        self.inputs = (f"score.{config.hmg}", "scores_hmg"), (f"score.{config.cam}", "scores_cam")

    def options(self) -> dict[str, Any]:
        return {"alpha": self.config.alpha}

    def lines(self, found: Sequence[Numbers], rows: list[str]) -> Iterable[Row]:
        first, second = found
        guidance, awareness = [first[one]["hmg"] for one in rows], [second[one]["cam"] for one in rows]
        parts = ranks(guidance), ranks(awareness)
        scores = mixture(*parts, self.config.alpha)
        order = sorted(range(len(rows)), key=lambda place: (-scores[place], rows[place]))
        rank = {place: number for number, place in enumerate(order, 1)}
        for place, score in enumerate(scores):
            yield {
                "score": score, "rank": rank[place], "hmg": guidance[place], "cam": awareness[place],
                "hmg_rank": parts[0][place], "cam_rank": parts[1][place], "alpha": self.config.alpha,
            }  # fmt: skip


class FarAttentionStage(PoolStage):
    """LDS of LongAttn: z-score of DS plus half the z-score of DU, as in the paper (its code scales by min and max)."""

    table = "scores_far_attention"

    def __init__(self, config: FarAttention) -> None:
        self.name = f"score.{config.name}"
        self.inputs = ((f"{self.name}.windows", "readings_far_attention"),)

    def options(self) -> dict[str, Any]:
        return {}

    def lines(self, found: Sequence[Numbers], rows: list[str]) -> Iterable[Row]:
        (readings,) = found
        strengths, evenness = (standardised([readings[one][column] for one in rows]) for column in ("ds", "du"))
        for one, ds, du in zip(rows, strengths, evenness, strict=True):
            yield {**readings[one], "score": ds + _DU_WEIGHT * du}

"""Scores made from what several score stages read: HMG and loss drop from two readings, likelihood from one of each
model, GATEAU from HMG and CAM, far attention from its readings.

Each is a stage of one unit that is done anew when anything before it has changed. The pool is all rows that have the
numbers; `pool_id` names it by its rows.
"""

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from filters.scorers.pool import hmg, mixture, perplexity, ranks, standardised
from pipelines.code_version import code_version
from pipelines.manifest import UnitRecord
from pipelines.shards import Row, read_part, write_rows
from pipelines.stages import Context, Stage, Unit
from schemas.ids import content_id, digest
from schemas.scores import FarAttention, Gateau, Hmg, Likelihood, LossDrop, ModelScorer
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
    def lines(self, read: Sequence[Numbers], rows: list[str]) -> Iterable[Row]:
        """The table's columns beside row_id, stage, pool_id and scorer_version, for each of `rows`: those that all
        inputs have."""

    def _code(self) -> str:
        return code_version("filters/scorers/pool.py", "pipelines/score_pool.py")

    def settings(self, context: Context) -> dict[str, Any]:
        return {**self.options(), "inputs": [stage for stage, _ in self.inputs], "code": self._code()}

    def units(self, context: Context) -> list[Unit]:
        before = [asdict(unit) for stage, _ in self.inputs for unit in context.upstream(stage).units.values()]
        return [Unit("all", digest([self.settings(context), before]))]

    async def run(self, number: int, unit: Unit, context: Context) -> UnitRecord:
        root, name = context.workspace.root, f"{self.name}-{unit.key}"
        read = [self._read(stage, table, context) for stage, table in self.inputs]
        held = [numbers.keys() for numbers in read]
        rows = sorted(set.intersection(*map(set, held)))
        common = {"stage": self.name, "pool_id": content_id("pool", rows), "scorer_version": self._code()}
        lines = ({**line, **common, "row_id": one} for one, line in zip(rows, self.lines(read, rows), strict=True))
        alone = sorted(set().union(*held).difference(rows))
        states = [{"row_id": one, "state": State.OK.value, "reason": "", "detail": ""} for one in rows]
        for one in alone:  # why a number is missing says its stage
            missing = ", ".join(stage for (stage, _), known in zip(self.inputs, held, strict=True) if one not in known)
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
            for line in read_part(context.workspace.root / part.file).to_pylist():
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

    def lines(self, read: Sequence[Numbers], rows: list[str]) -> Iterable[Row]:
        pairs = [(read[0][one], read[1][one]) for one in rows]
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


class LossDropStage(PoolStage):
    table = "scores_loss_drop"

    def __init__(self, config: LossDrop) -> None:
        self.name = f"score.{config.name}"
        self.inputs = (f"{self.name}.without", "readings_nll"), (f"{self.name}.with", "readings_nll")

    def options(self) -> dict[str, Any]:
        return {}

    def lines(self, read: Sequence[Numbers], rows: list[str]) -> Iterable[Row]:
        for one in rows:
            without, whole = (numbers[one] for numbers in read)
            yield {
                "loss_drop": without["nll"] - whole["nll"], "nll_with": whole["nll"], "nll_without": without["nll"],
                "n_ctx": whole["n_ctx"], "n_read": whole["n_read"], "n_resp": whole["n_resp"],
                "model": whole["model"], "truncated": whole["truncated"],
            }  # fmt: skip


class LikelihoodStage(PoolStage):
    table = "scores_likelihood"

    def __init__(self, config: Likelihood) -> None:
        self.name = f"score.{config.name}"
        self.inputs = tuple((f"{self.name}.{one.suffix}", one.table) for one in config.passes())

    def options(self) -> dict[str, Any]:
        return {}

    def lines(self, read: Sequence[Numbers], rows: list[str]) -> Iterable[Row]:
        for one in rows:
            readings = [numbers[one] for numbers in read]
            logps = [-reading["nll"] for reading in readings]
            yield {
                "mean_logp": math.fsum(logps) / len(logps), "logps": logps,
                "models": [reading["model"] for reading in readings],
                "n_resp": [reading["n_resp"] for reading in readings],
                "truncated": any(reading["truncated"] for reading in readings),
            }  # fmt: skip


class GateauStage(PoolStage):
    table = "scores_gateau"

    def __init__(self, config: Gateau) -> None:
        self.config = config
        self.name = f"score.{config.name}"
        self.inputs = (f"score.{config.hmg}", "scores_hmg"), (f"score.{config.cam}", "scores_cam")

    def options(self) -> dict[str, Any]:
        return {"alpha": self.config.alpha}

    def lines(self, read: Sequence[Numbers], rows: list[str]) -> Iterable[Row]:
        guidance, awareness = [read[0][one]["hmg"] for one in rows], [read[1][one]["cam"] for one in rows]
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

    def lines(self, read: Sequence[Numbers], rows: list[str]) -> Iterable[Row]:
        (readings,) = read
        strengths, evenness = (standardised([readings[one][column] for one in rows]) for column in ("ds", "du"))
        for one, ds, du in zip(rows, strengths, evenness, strict=True):
            yield {**readings[one], "score": ds + _DU_WEIGHT * du}


def pool_stages(config: ModelScorer) -> list[PoolStage]:
    """The stage that makes a score of what the passes of an entry read, where they do not write it themselves."""
    if isinstance(config, Hmg):
        return [HmgStage(config)]
    if isinstance(config, LossDrop):
        return [LossDropStage(config)]
    if isinstance(config, FarAttention):
        return [FarAttentionStage(config)]
    return [LikelihoodStage(config)] if isinstance(config, Likelihood) else []

"""The stage select: the best rows by their scores, or those that a query returns, in a table of their own.

Nothing is taken away: the table `selected` names rows, and an export may ask for one selection.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.catalog import check_query, query
from pipelines.code_version import code_version
from pipelines.manifest import UnitRecord
from pipelines.shards import open_part, write_rows
from pipelines.stages import Context, Stage, Unit
from schemas.errors import UserError
from schemas.ids import digest
from schemas.recipe import Recipe
from schemas.select import AtMost, Select, place_of
from schemas.states import State

ID = {"samples": "sample_id", "preferences": "preference_id"}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row that may be picked. `score`: high is good. `caps`: what a cap counts, its documents or its source."""

    row_id: str
    score: float
    group: Any = None
    caps: tuple[str, ...] = ()


def pick(
    candidates: Iterable[Candidate], quota: Callable[[int], int], at_most: int | None
) -> tuple[list[Candidate], dict[str, str]]:
    """Who is picked, best first, and for every other one the reason: `below_cut` or `cap`. `quota`: size of a group ->
    picks of it. Equal scores go by id, so the order of the candidates changes nothing."""
    ranked = sorted(candidates, key=lambda one: (-one.score, one.row_id))
    left = {group: quota(size) for group, size in Counter(one.group for one in ranked).items()}
    used: Counter[str] = Counter()
    picked: list[Candidate] = []
    lost: dict[str, str] = {}
    for one in ranked:
        if not left[one.group]:
            lost[one.row_id] = "below_cut"
        elif at_most is not None and any(used[cap] >= at_most for cap in one.caps):
            lost[one.row_id] = "cap"
        else:
            picked.append(one)
            left[one.group] -= 1
            used.update(one.caps)
    return picked, lost


def share_of(share: float, rows: int) -> int:
    """A share of some rows, rounded up, so that a small group is not lost; 0.3 of 10 is 3, whatever floats say."""
    return math.ceil(round(share * rows, 9))


class SelectStage(Stage):
    """One entry of the recipe's `select` list: one unit, done anew when anything before it has changed. `makers`: the
    stages that made rows; `before`: all stages that a query may read, by name."""

    def __init__(self, config: Select, recipe: Recipe, makers: list[str], before: list[str]) -> None:
        self.config, self._makers, self._before = config, makers, before
        self._scorers = {score.name: str(score.scorer) for score in recipe.score}
        self.name = f"select.{config.name}"
        if config.sql is not None:  # its faults show before anything is spent
            with named(config.name):
                _check_columns(check_query(config.sql))

    def settings(self, context: Context) -> dict[str, Any]:
        return {**self.config.model_dump(mode="json"), "code": code_version("pipelines/select.py", "schemas/select.py")}

    def units(self, context: Context) -> list[Unit]:
        before = {
            stage: [asdict(unit) for unit in context.upstream(stage).units.values()]
            for stage in (self._before if self.config.sql is not None else self._sources())
        }
        return [Unit("all", digest([self.settings(context), before]))]

    def _sources(self) -> list[str]:
        """The stages that a preset reads."""
        entry = self._place()[0]
        return self._makers if entry is None else [*self._makers, f"score.{entry}"]

    def _place(self) -> tuple[str | None, str]:
        assert self.config.ranking is not None
        return place_of(self.config.ranking.by, self.config.rows, self._scorers)

    async def run(self, number: int, unit: Unit, context: Context) -> UnitRecord:
        rows = self._rows(context)
        ranking = self.config.ranking
        scores = self._scores(context) if ranking is not None else self._answer(context, rows)
        sign = -1 if ranking is not None and ranking.ascending else 1
        reasons: dict[str, str] = {}
        candidates = []
        for row_id, row in rows.items():
            if row_id not in scores and ranking is None:
                reasons[row_id] = "not_in_query"
            elif (score := scores.get(row_id)) is None or math.isnan(score):
                reasons[row_id] = "no_score"
            else:
                group = None if ranking is None else _group(row, ranking.per)
                candidates.append(Candidate(row_id, sign * score, group, _caps(row, self.config.at_most)))
        picked, lost = pick(candidates, self._quota, self.config.at_most.count if self.config.at_most else None)
        reasons |= lost
        context.progress.advance(len(rows))
        lines = [
            {"row_id": one.row_id, "rank": rank, "score": sign * one.score, "stage": self.name}
            for rank, one in enumerate(picked, 1)
        ]
        root, name = context.workspace.root, f"{self.name}-{unit.key}"
        parts = [
            *write_rows(root, "selected", name, lines),
            *write_rows(root, "row_states", name, (self._state(one, reasons.get(one, "")) for one in rows)),
        ]
        states = {State.FILTERED.value: len(reasons), State.OK.value: len(lines)}
        return UnitRecord(unit.fingerprint, parts, len(rows), {s: n for s, n in states.items() if n})

    def _state(self, row_id: str, reason: str) -> dict[str, Any]:
        state = State.FILTERED if reason else State.OK
        return {"row_id": row_id, "stage": self.name, "state": state.value, "reason": reason, "detail": ""}

    def _quota(self, size: int) -> int:
        ranking = self.config.ranking
        if ranking is None:
            return size
        return ranking.count if ranking.count is not None else share_of(ranking.share or 1.0, size)

    def _rows(self, context: Context) -> dict[str, dict[str, Any]]:
        """All rows by id. One that was made twice is one candidate."""
        columns = [ID[self.config.rows], "source", "method", "language", "document_ids"]
        columns += ["prompt_tokens"] if self.config.rows == "samples" else []
        found: dict[str, dict[str, Any]] = {}
        for row in _read(context, self._makers, self.config.rows, columns):
            found.setdefault(row[columns[0]], row)
        return found

    def _scores(self, context: Context) -> dict[str, float | None]:
        """The number to rank by. Of a row with several lines (one for each answer), their mean."""
        entry, column = self._place()
        table, stages, row_id = f"scores_{self._scorers.get(entry or '')}", [f"score.{entry}"], "row_id"
        if entry is None:
            table, stages, row_id = self.config.rows, self._makers, ID[self.config.rows]
        lines: dict[str, list[float]] = defaultdict(list)
        for line in _read(context, stages, table, [row_id, column]):
            if line[column] is not None:
                lines[line[row_id]].append(line[column])
        return {one: math.fsum(numbers) / len(numbers) for one, numbers in lines.items()}

    def _answer(self, context: Context, rows: dict[str, Any]) -> dict[str, float | None]:
        """What the query returns: row id -> score."""
        with named(self.config.name):
            names, lines = query(context.workspace, self.config.sql or "")
        scores: dict[str, float | None] = {}
        for line in lines:
            row = dict(zip(names, line, strict=True))
            row_id, value = row["row_id"], row["score"]
            if row_id not in rows:
                kind = self.config.rows.removesuffix("s")
                raise UserError(f"select {self.config.name!r}: the query returns row_id {row_id!r}, which is no {kind}")
            try:
                score = None if value is None else float(value)
            except (TypeError, ValueError) as error:
                raise UserError(f"select {self.config.name!r}: the score {value!r} of {row_id} is no number") from error
            if row_id in scores and scores[row_id] != score:
                raise UserError(f"select {self.config.name!r}: the query returns {row_id} with two different scores")
            scores[row_id] = score
        return scores


def selected_ids(context: Context, name: str) -> list[str]:
    """The rows of a selection, best first."""
    return [row["row_id"] for row in _read(context, [f"select.{name}"], "selected", ["row_id"])]


def select_stages(recipe: Recipe, makers: list[str], score: list[str]) -> list[Stage]:
    stages: list[Stage] = []
    for config in recipe.select:
        before = ["ingest", *makers, *score, *(stage.name for stage in stages)]
        stages.append(SelectStage(config, recipe, makers, before))
    return stages


@contextmanager
def named(name: str) -> Iterator[None]:
    """What is wrong with an entry's query names the entry."""
    try:
        yield
    except UserError as error:
        raise UserError(f"select {name!r}: {error}") from error


def _check_columns(names: list[str]) -> None:
    for name in ("row_id", "score"):
        if names.count(name) != 1:
            raise UserError(f"the query must return the columns row_id and score, not {', '.join(names)}")


def _read(context: Context, stages: list[str], table: str, columns: list[str]) -> Iterator[dict[str, Any]]:
    for stage in stages:
        for part in context.upstream(stage).parts(table):
            yield from open_part(context.workspace.root / part.file).read(columns).to_pylist()


def _group(row: dict[str, Any], per: str | None) -> Any:
    if per == "length":
        return round(math.log2(max(1, row["prompt_tokens"] or 0)))  # 1020 and 1030 tokens are of one length
    return None if per is None else row[per]


def _caps(row: dict[str, Any], at_most: AtMost | None) -> tuple[str, ...]:
    """A row without documents counts for no document."""
    if at_most is None:
        return ()
    return tuple(dict.fromkeys(row["document_ids"] or ())) if at_most.per == "document" else (row["source"] or "",)

"""The stage of the scorer `evidence`: finds a sample's evidence in its prompt; filters/evidence.py measures it."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from filters.evidence import evidence_columns
from filters.scorers.conversation import split_document
from pipelines.code_version import code_version
from pipelines.manifest import UnitRecord
from pipelines.rows import Candidate, Draw, candidates, load
from pipelines.shards import Part, Row, open_part, write_rows
from pipelines.stages import Context, Stage, Unit
from schemas.ids import digest
from schemas.scores import Evidence
from schemas.states import Reject, State

_BEFORE = 100  # characters before a span that tell it from others of the same text
Span = tuple[int, int]


def locate(prompt: str, document: str, start: int, end: int) -> Span | None:
    """Where document[start:end] stands in the prompt: with the text before it if that is there too, else its first
    place. None where the prompt does not hold it."""
    lead = document[max(0, start - _BEFORE) : start]
    for before in (lead, ""):
        place = prompt.find(before + document[start:end])
        if place >= 0:
            return place + len(before), place + len(before) + end - start
    return None


def measure(row: dict[str, Any], documents: dict[str, str]) -> dict[str, Any]:
    """The numbers of a row of the table samples. Evidence are the spans of `details.evidence` (characters of the first
    user message) or of the column `evidence` (characters of documents). Raises Reject where there is none."""
    prompt = next((one["content"] for one in row["messages"] if one["role"] == "user"), "")
    details = json.loads(row["details"] or "{}")
    holders: int | None
    given = details.get("evidence") if isinstance(details, dict) else None
    if given:
        spans = [(int(start), int(end)) for start, end in given]
        holders = None  # it is not told of which documents
    elif row["evidence"]:
        spans, held = [], set()
        for one in row["evidence"]:
            span = locate(prompt, documents.get(one["document_id"], ""), one["start"], one["end"])
            if span is None:
                detail = f"{one['document_id']} {one['start']}:{one['end']}"
                raise Reject(State.FILTERED, "evidence_not_in_prompt", detail)
            spans.append(span)
            held.add(one["document_id"])
        holders = len(held)
    else:
        raise Reject(State.FILTERED, "no_evidence")
    # What has evidence has a context, whether or not it was made from documents.
    _, _, end = split_document({**row, "document_ids": row["document_ids"] or ["context"]})
    asked_after = end > 0 and all(span[1] <= end for span in spans)
    context, question = (prompt[:end], prompt[end:]) if asked_after else (prompt, None)
    try:
        return evidence_columns(context, spans, question, holders)
    except ValueError as error:
        raise Reject(State.INVALID_OUTPUT, "evidence_outside", str(error)) from error


class EvidenceStage(Stage):
    """A unit for each part of the table samples. A row that was made twice is measured once."""

    def __init__(self, config: Evidence, makers: list[str]) -> None:
        self.name, self._makers = f"score.{config.name}", makers

    def _code(self) -> str:
        files = ("filters/evidence.py", "filters/bm25.py", "filters/matching.py", "filters/scorers/conversation.py")
        return code_version(*files, "pipelines/evidence.py")

    def settings(self, context: Context) -> dict[str, Any]:
        return {"scorer": "evidence", "code": self._code()}

    def units(self, context: Context) -> list[Unit]:
        units, seen = [], set[str]()
        for maker in self._makers:
            for record in context.upstream(maker).units.values():
                for part in (part for part in record.parts if part.table == "samples"):
                    held = open_part(context.workspace.root / part.file).read(["sample_id"]).column(0).to_pylist()
                    ids = [one for one in dict.fromkeys(held) if one not in seen]
                    seen.update(ids)
                    key = part.file.rpartition("/part-")[2].removesuffix(".parquet")
                    units.append(Unit(key, digest([self._code(), asdict(record), ids]), len(ids), (part, ids)))
        return units

    async def run(self, number: int, unit: Unit, context: Context) -> UnitRecord:
        part, ids = unit.work
        lines: list[Row] = []
        states: list[Row] = []
        held = candidates(context.workspace.root, context.upstream("ingest").parts("documents"), "document_id", None)
        index = {one.row_id: one for one in held}
        for row in self._rows(part, ids, context):
            state = {"row_id": row["sample_id"], "stage": self.name, "state": "ok", "reason": "", "detail": ""}
            documents = self._documents(index, {one["document_id"] for one in row["evidence"] or ()}, context)
            try:
                numbers = measure(row, documents)
                lines.append(
                    {"row_id": row["sample_id"], "stage": self.name, **numbers, "scorer_version": self._code()}
                )
            except Reject as reject:
                state |= {"state": reject.state.value, "reason": reject.reason, "detail": reject.detail}
            states.append(state)
            context.progress.advance(1)
        root, name = context.workspace.root, f"{self.name}-{unit.key}"
        parts = [*write_rows(root, "scores_evidence", name, lines), *write_rows(root, "row_states", name, states)]
        counts = Counter(str(state["state"]) for state in states)
        return UnitRecord(unit.fingerprint, parts, len(states), dict(sorted(counts.items())))

    def _rows(self, part: Part, ids: list[str], context: Context) -> Iterator[dict[str, Any]]:
        wanted = set(ids)
        columns = ["sample_id", "messages", "document_ids", "evidence", "details"]
        for batch in open_part(context.workspace.root / part.file).iter_batches(16, columns=columns):
            for row in batch.to_pylist():
                if row["sample_id"] in wanted:
                    wanted.remove(row["sample_id"])
                    yield row

    def _documents(self, index: dict[str, Candidate], ids: set[str], context: Context) -> dict[str, str]:
        """Texts by id; of the documents that evidence names, those of one sample are in memory."""
        draws = [Draw(index[one], 0) for one in sorted(ids & index.keys())]
        return {draw.candidate.row_id: row["text"] for draw, row in load(context.workspace.root, draws, "document_id")}

"""Preference pairs as exports: a row for each pair (`preference`) or for all pairs of a document (`longpo`), with the
reference log-probabilities that a score stage has added."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import pyarrow as pa

from pipelines.manifest import Manifest, UnitRecord, load_manifest
from pipelines.shards import Part, open_part, read_part
from pipelines.workspace import Workspace
from schemas.errors import UserError
from schemas.ids import content_id
from schemas.tables import MESSAGES, STRINGS

SCORES = "scores_ref_logps"
Logps = dict[str, tuple[float | None, float | None]]  # preference id -> of the chosen answer, of the rejected one
_LOGPS = ("ref_chosen_logps", "ref_rejected_logps")
_COMMON = [
    ("source", pa.string()), ("language", pa.string()), ("document_ids", STRINGS), ("model", pa.string()),
]  # fmt: skip
PREFERENCE = pa.schema(
    [
        ("id", pa.string()), ("prompt", MESSAGES), ("chosen", MESSAGES), ("rejected", MESSAGES),
        ("short_prompt", MESSAGES), *((name, pa.float64()) for name in _LOGPS), ("method", pa.string()), *_COMMON,
        ("details", pa.string()),
    ]
)  # fmt: skip
# Lists have one item for each turn. The document stands once in `messages_chosen` and once in `messages_rejected`: in
# the first user message; each of the two holds its own answers in all turns.
LONGPO = pa.schema(
    [
        ("id", pa.string()), ("messages_chosen", MESSAGES), ("messages_rejected", MESSAGES),
        ("short_prompts", pa.list_(MESSAGES)), ("chosen", STRINGS), ("rejected", STRINGS),
        *((name, pa.list_(pa.float64())) for name in _LOGPS), ("preference_ids", STRINGS), *_COMMON,
        ("details", STRINGS),
    ]
)  # fmt: skip


def score_units(workspace: Workspace) -> dict[str, list[UnitRecord]]:
    """Stage -> its finished units that hold reference log-probabilities."""
    manifests = [load_manifest(path) for path in sorted(workspace.manifests.glob("*.json"))]
    found = {m.stage: [unit for unit in m.units.values() if _score_parts([unit])] for m in manifests if m is not None}
    return {stage: units for stage, units in found.items() if units}


def _score_parts(units: Iterable[UnitRecord]) -> list[Part]:
    return [part for unit in units for part in unit.parts if part.table == SCORES]


def reference_logps(workspace: Workspace) -> Logps:
    """What the score stages of a workspace have found. UserError where two have scored one pair."""
    found: Logps = {}
    scored_by: dict[str, str] = {}
    for stage, units in score_units(workspace).items():
        for part in _score_parts(units):
            columns = read_part(workspace.root / part.file, columns=["row_id", *_LOGPS])
            for row_id, *pair in zip(*(columns.column(name).to_pylist() for name in columns.column_names), strict=True):
                if scored_by.setdefault(row_id, stage) != stage:
                    raise UserError(
                        f"pair {row_id} has reference log-probabilities of two stages, {scored_by[row_id]} and "
                        f"{stage}; an export holds one"
                    )
                found[row_id] = (pair[0], pair[1])
    return found


def with_logps(batch: pa.RecordBatch, logps: Logps) -> pa.Table:
    """Rows of the table `preferences` in the schema PREFERENCE."""
    scores = [logps.get(row_id, (None, None)) for row_id in batch.column("preference_id").to_pylist()]
    added = {name: pa.array([score[i] for score in scores], pa.float64()) for i, name in enumerate(_LOGPS)}
    columns = [
        added[name] if name in added else batch.column("preference_id" if name == "id" else name)
        for name in PREFERENCE.names
    ]
    return pa.table(columns, schema=PREFERENCE)


def conversations(manifest: Manifest, workspace: Workspace, logps: Logps, rows: int) -> Iterator[pa.Table]:
    """The LongPO pairs of a stage in the schema LONGPO, up to `rows` documents at a time. The pairs of one row of the
    stage stand together in its parts, in the order of their turns."""

    def pairs() -> Iterator[dict[str, Any]]:
        for part in manifest.parts("preferences"):
            for batch in open_part(workspace.root / part.file).iter_batches(rows):
                yield from (pair for pair in batch.to_pylist() if pair["method"] == "longpo")

    held: list[dict[str, Any]] = []
    for _, turns in groupby(pairs(), key=lambda pair: pair["row_id"]):
        held.append(_conversation(list(turns), logps))
        if len(held) == rows:
            yield pa.Table.from_pylist(held, schema=LONGPO)
            held = []
    if held:
        yield pa.Table.from_pylist(held, schema=LONGPO)


def _conversation(turns: list[dict[str, Any]], logps: Logps) -> dict[str, Any]:
    """One row of LONGPO. The last turn's prompt holds all instructions with the chosen answers between them."""
    ids = [turn["preference_id"] for turn in turns]
    chosen, rejected = ([turn[side][0]["content"] for turn in turns] for side in ("chosen", "rejected"))
    asked = [message for message in turns[-1]["prompt"] if message["role"] == "user"]
    scores = [logps.get(preference_id, (None, None)) for preference_id in ids]
    return {
        "id": content_id("lpo", ids),
        "messages_chosen": _messages(asked, chosen),
        "messages_rejected": _messages(asked, rejected),
        "short_prompts": [turn["short_prompt"] for turn in turns],
        "chosen": chosen,
        "rejected": rejected,
        **{name: [score[i] for score in scores] for i, name in enumerate(_LOGPS)},
        "preference_ids": ids,
        "details": [turn["details"] for turn in turns],
        **{name: turns[0][name] for name, _ in _COMMON},
    }


def _messages(asked: list[dict[str, str]], answers: list[str]) -> list[dict[str, str]]:
    pairs = zip(asked, answers, strict=True)
    return [message for user, text in pairs for message in (user, {"role": "assistant", "content": text})]

"""Manifests: what a stage has done, with the fingerprints that tell whether it must be done again.

`manifests/<stage>.json` lists the finished units of a stage (a source, a shard of rows, an export), the parts each
one wrote and the states of its rows. A part that no manifest names does not exist for the catalog.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipelines.files import write_json
from pipelines.shards import Part
from schemas.errors import ConservationError, UserError

LAYOUT = 1


@dataclass(slots=True)
class UnitRecord:
    """One finished unit. `retry`: it holds rows that the next run should try again: failed, or out of memory."""

    fingerprint: str
    parts: list[Part]
    rows_in: int
    states: dict[str, int]
    retry: bool = False


@dataclass(slots=True)
class Manifest:
    """`settings`: the stage's part of the recipe with all defaults, kept to name what has changed. `done`: all
    units of the last plan are finished. `limit`: rows the run was limited to (None: not limited)."""

    stage: str
    recipe: str
    settings: dict[str, Any] = field(default_factory=dict)
    limit: int | None = None
    done: bool = False
    run_id: str = ""
    units: dict[str, UnitRecord] = field(default_factory=dict)

    @property
    def rows_in(self) -> int:
        return sum(unit.rows_in for unit in self.units.values())

    @property
    def states(self) -> dict[str, int]:
        total: dict[str, int] = {}
        for unit in self.units.values():
            for state, rows in unit.states.items():
                total[state] = total.get(state, 0) + rows
        return dict(sorted(total.items()))

    def parts(self, table: str) -> list[Part]:
        return [part for unit in self.units.values() for part in unit.parts if part.table == table]

    def save(self, path: Path) -> None:
        write_json(path, {"layout": LAYOUT, "rows_in": self.rows_in, "states": self.states, **asdict(self)})


def load_manifest(path: Path) -> Manifest | None:
    """The manifest in a file, None if there is none. Raises UserError when the file is damaged."""
    try:
        value = json.loads(path.read_text("utf-8"))
        units = {
            key: UnitRecord(**{**unit, "parts": [Part(**part) for part in unit["parts"]]})
            for key, unit in value["units"].items()
        }
        names = ("stage", "recipe", "settings", "limit", "done", "run_id")
        return Manifest(units=units, **{name: value[name] for name in names})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: damaged manifest ({error}); delete it and run again, the ledger keeps all calls"
        ) from error


def changed_settings(old: Any, new: Any, path: str = "") -> list[str]:
    """What differs between two settings, one line each: `sampling.answer.temperature: 0.0 -> 1.0`."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for key in sorted(old.keys() | new.keys()):
            where = f"{path}.{key}" if path else str(key)
            lines += changed_settings(old.get(key), new.get(key), where)
        return lines
    return [] if old == new else [f"{path}: {_short(old)} -> {_short(new)}"]


def check_conservation(stage: str, unit: str, record: UnitRecord, planned: int | None) -> None:
    """Rows in == rows planned == sum over states == lines in row_states, or ConservationError."""
    total = sum(record.states.values())
    lines = sum(part.rows for part in record.parts if part.table == "row_states")
    expected = record.rows_in if planned is None else planned
    if not expected == record.rows_in == total == lines:
        raise ConservationError(
            f"stage {stage}, unit {unit}: {expected} rows planned, {record.rows_in} went in, {total} have a state and "
            f"{lines} a line in row_states"
        )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."

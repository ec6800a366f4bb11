"""The stage table that runs, `status` and Prefect's artifact show."""

from collections.abc import Sequence
from typing import Any

from pipelines.manifest import Manifest
from schemas.states import State


def stage_table(manifests: Sequence[Manifest]) -> list[dict[str, Any]]:
    """One line a stage: units, rows in, and a column for each state that occurs."""
    states = [state.value for state in State if any(state.value in manifest.states for manifest in manifests)]
    return [
        {
            "stage": manifest.stage,
            "units": len(manifest.units),
            "rows": manifest.rows_in,
            **{state: manifest.states.get(state, 0) for state in states},
        }
        for manifest in manifests
    ]


def print_table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Rows as plain aligned columns; long and multi-line values are shortened."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(name), *(len(row[i]) for row in cells)) if cells else len(name) for i, name in enumerate(names)]
    numeric = [
        bool(rows) and all(isinstance(row[i], int | float) or row[i] is None for row in rows) for i in range(len(names))
    ]

    def line(values: Sequence[str]) -> str:
        aligned = (v.rjust(w) if n else v.ljust(w) for v, w, n in zip(values, widths, numeric, strict=True))
        return "  ".join(aligned).rstrip()

    print(line(names))
    print("  ".join("-" * width for width in widths))
    for row in cells:
        print(line(row))


def _cell(value: Any) -> str:
    text = "" if value is None else " ".join(str(value).split())
    return text if len(text) <= 100 else text[:97] + "..."

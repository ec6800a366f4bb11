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

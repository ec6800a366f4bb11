"""The report that every run ends with, a failed one too."""

import asyncio

from pipelines.workspace import Workspace


class Report:
    """Awaited when a run has ended (`pipelines.build.build`). A run is what it is, whatever becomes of its picture: an
    error is kept in `fault`, not raised. `written`: this run has written its report."""

    def __init__(self, workspace: Workspace) -> None:
        self.path = workspace.root / "report.html"
        self.written, self.fault = False, ""
        self._workspace = workspace

    async def __call__(self) -> None:
        from pipelines.report.page import write_report

        try:
            await asyncio.to_thread(write_report, self._workspace)
            self.written = True
        except Exception as error:
            self.fault = f"no report was written: {' '.join(str(error).split())}"

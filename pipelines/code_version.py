"""The code version of a stage: a hash of the source files that decide its result.

Nobody has to remember to raise a number, and a needless re-do is cheap: the ledger answers the model calls.
"""

from functools import cache
from pathlib import Path

from schemas.ids import digest

_ROOT = Path(__file__).parent.parent


@cache
def code_version(*patterns: str) -> str:
    """Hash of the files that match the glob patterns, relative to the project's root."""
    files = sorted({path for pattern in patterns for path in _ROOT.glob(pattern) if path.is_file()})
    assert files, f"no source file matches {patterns}"
    return digest([[path.relative_to(_ROOT).as_posix(), digest(path.read_bytes())] for path in files])[:16]

"""The two ways a command ends badly: the input was wrong (exit 2) or the run failed (exit 1)."""


class UserError(ValueError):
    """The input was wrong. The message is one sentence that names the file, key or row. Exit code 2."""


class RunError(RuntimeError):
    """The input was right and the run still failed (an engine that stays dead, a full disk). Exit code 1."""


class ConservationError(RunError):
    """Rows went in and did not come out in exactly one state each: a bug of ours, never ignored."""

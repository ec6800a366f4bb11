"""How a row leaves a stage. Every row ends each stage in exactly one state, with a reason."""

from enum import StrEnum

OUT_OF_MEMORY = "out_of_memory"  # the reason of a row that this machine cannot hold: tried again by the next run


class State(StrEnum):
    OK = "ok"
    FILTERED = "filtered"  # judged and not wanted
    TRUNCATED = "truncated"  # an answer stopped at its token limit
    OVER_BUDGET = "over_budget"  # does not fit the model's window or the row's budget
    REFUSED = "refused"  # the model declined
    INVALID_OUTPUT = "invalid_output"  # the text is not what its format asks for
    FAILED = "failed"  # an error; tried again by the next run


class Reject(Exception):
    """Ends a row honestly.

    `reason` is a short fixed word (it is counted and queried), `detail` says what was seen in this row.
    """

    def __init__(self, state: State, reason: str, detail: str = "") -> None:
        super().__init__(f"{state}: {reason}: {detail}" if detail else f"{state}: {reason}")
        self.state = State(state)
        self.reason = reason
        self.detail = detail

"""The recipe section `select`: which rows are worth keeping, by their scores or by a query."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.model import Model, Positive, Slug
from schemas.tables import TABLES

# What `by: ENTRY` means where no column is named.
_COLUMN = {"gateau": "score", "hmg": "hmg", "cam": "cam", "context_dependency": "cd_doc_lift"}
_NUMBERS = ("int64", "double")


class Top(Model):
    """The rows with the highest numbers. `share` is of the rows of a group that have a number, rounded up."""

    by: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")]  # a score entry, ENTRY.COLUMN, or a column of the rows
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    count: Positive | None = None
    per: Literal["source", "method", "language", "length"] | None = None  # length: nearest power of two
    ascending: bool = False

    @model_validator(mode="after")
    def _one_size(self) -> "Top":
        if (self.share is None) == (self.count is None):
            raise ValueError("needs either 'share' or 'count', not both")
        return self


class ContextDependent(Model):
    """Rows whose answers attend to their document more than most of their length: cd_doc_lift is among the highest
    `share` of its length bucket."""

    score: Slug = "context_dependency"  # the name of the score entry
    share: Annotated[float, Field(gt=0, le=1)] = 0.5


class AtMost(Model):
    """A cap on picks, in rank order: what it turns away makes room for the next."""

    per: Literal["document", "source"]
    count: Positive


class Select(Model):
    """One selection: `top`, `context_dependent` or `sql` (a SELECT of row_id and score; highest first)."""

    name: Slug
    rows: Literal["samples", "preferences"] = "samples"
    top: Top | None = None
    context_dependent: ContextDependent | None = None
    sql: str | None = None
    at_most: AtMost | None = None

    @model_validator(mode="after")
    def _one_rule(self) -> "Select":
        if sum(rule is not None for rule in (self.top, self.context_dependent, self.sql)) != 1:
            raise ValueError("needs one of 'top', 'context_dependent' and 'sql'")
        if self.rows == "preferences" and self.ranking is not None and self.ranking.per == "length":
            raise ValueError("'per: length' is for samples: preferences have no prompt_tokens")
        return self

    @property
    def ranking(self) -> Top | None:
        """The preset as what it ranks by; None for a query."""
        if self.context_dependent is None:
            return self.top
        by = f"{self.context_dependent.score}.cd_doc_lift"
        return Top(by=by, share=self.context_dependent.share, per="length")


def number_columns(table: str) -> list[str]:
    return [field.name for field in TABLES[table] if str(field.type) in _NUMBERS]


def place_of(by: str, rows: str, scorers: dict[str, str]) -> tuple[str | None, str]:
    """What `by` names: (score entry or None for a column of the rows, column). `scorers`: score entry -> its scorer.
    Where the name is wrong, ValueError with (what is wrong, the wrong word, known words)."""
    entry, dot, column = by.partition(".")
    if not dot and entry in number_columns(rows):
        return None, entry
    if entry not in scorers:
        raise ValueError(f"no score entry and no number of {rows} has the name {entry!r}", entry,
                         [*scorers, *number_columns(rows)])  # fmt: skip
    scorer = scorers[entry]
    known = number_columns(f"scores_{scorer}")
    column = column or _COLUMN.get(scorer, "")
    if column not in known:
        what = f"has no number {column!r}" if column else f"has many numbers: name one ({entry}.COLUMN)"
        raise ValueError(f"score {entry!r} {what}", column, known)
    return entry, column

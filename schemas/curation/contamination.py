"""Benchmarks that must not be in the training data, and what happens to documents that hold parts of them."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.curation.base import CurationRule
from schemas.model import Model, Positive, Share, Slug


class Benchmark(Model):
    """A benchmark's file or files (JSON lines or Parquet, as in sources). `fields`: keys of the row whose texts are
    looked for, the question first; of a list or an object (options, turns) all texts in it. For long benchmarks name
    the context too. `titles`: names of the benchmark and of what it was made from (a data set, a book, part of a URL);
    a document whose metadata have one goes: its answers leak without an n-gram of the question."""

    name: Slug
    path: str = Field(min_length=1)
    fields: Annotated[tuple[str, ...], Field(min_length=1)]
    titles: tuple[Annotated[str, Field(pattern=r"[\p{L}\p{N}]")], ...] = ()


class MatchConfig(CurationRule):
    """`ngram`: 13 words for documents (GPT-3), 8 for prompts (Tulu 3). A text of an item contaminates a document where
    `min_run` words follow one another in both, where at least `min_covered` of its words are in shared n-grams
    (Tulu 3: half), or where the document holds a whole question of fewer words than `ngram`, but not fewer than
    `short_words` (our choice: shorter questions are everyday phrases). n-grams that are in more than `boilerplate`
    different texts of the benchmarks are no evidence (GPT-3: 10)."""

    benchmarks: Annotated[tuple[Benchmark, ...], Field(min_length=1)]
    index: str = ""  # folder of the index, which the stage builds before any worker starts
    ngram: Annotated[int, Field(ge=5, le=50)] = 13
    min_run: Positive = 13
    min_covered: Share = 0.5
    short_words: Annotated[int, Field(ge=2)] = 5
    boilerplate: Positive = 10


class ContaminationConfig(MatchConfig):
    """A contaminated document goes."""

    rule: Literal["contamination"]


class ExcisionConfig(MatchConfig):
    """The shared words go (GPT-3), with `margin` characters on both sides; so do pieces shorter than `min_piece`, and
    the whole document where more than `max_pieces` would be cut out."""

    rule: Literal["contamination_excise"]
    margin: Annotated[int, Field(ge=0)] = 200
    min_piece: Annotated[int, Field(ge=0)] = 200
    max_pieces: Positive = 10

"""Where documents and instructions come from: the recipe's source sections."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.model import Model, Positive, Slug


class Fields(Model):
    """Which column (JSON key) holds what. Only `text` must exist in every row."""

    text: str = "text"
    title: str | None = None
    language: str | None = None
    licence: str | None = None
    metadata: tuple[str, ...] = ()


class Source(Model):
    """`limit`: at most that many rows of this source. `language`: set where it is known, else detected."""

    name: Slug
    licence: str | None = None
    language: str | None = None
    limit: Positive | None = None


class ParquetSource(Source):
    type: Literal["parquet"]
    path: str = Field(min_length=1)  # a file, a folder (all *.parquet below it) or a glob
    fields: Fields = Fields()


class JsonlSource(Source):
    type: Literal["jsonl"]
    path: str = Field(min_length=1)  # a file, a folder or a glob; .jsonl, .jsonl.gz, .jsonl.zst (also .json, .ndjson)
    fields: Fields = Fields()


class TextSource(Source):
    type: Literal["text"]
    path: str = Field(min_length=1)  # a file, or a folder that is read with all its subfolders
    include: tuple[str, ...] = ("*.txt", "*.md", "*.markdown", "*.rst")
    follow_links: bool = False  # read symbolic links below the folder too, which may lead anywhere


class HuggingFaceSource(Source):
    type: Literal["huggingface"]
    path: str = Field(min_length=1)  # a local folder or a hub name
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    fields: Fields = Fields()


class RepositorySource(Source):
    """One folder = one document: all text files joined in path order, each after a header line."""

    type: Literal["repository"]
    path: str = Field(min_length=1)
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = (".git/*", "*/.git/*", "*.lock", "*/node_modules/*", "*/__pycache__/*")
    max_file_bytes: Positive = 1_000_000


class PythonSource(Source):
    """The running Python's own texts: long real documents on every machine."""

    type: Literal["python"]
    topics: bool = True  # the language reference topics of pydoc, one document each
    packages: tuple[str, ...] = ()  # standard-library packages or modules, one document each
    licence: str | None = "PSF-2.0"
    language: str | None = "en"


class InlineSource(Source):
    type: Literal["inline"]
    items: Annotated[tuple[str, ...], Field(min_length=1)]


AnySource = Annotated[
    ParquetSource | JsonlSource | TextSource | HuggingFaceSource | RepositorySource | PythonSource | InlineSource,
    Field(discriminator="type"),
]

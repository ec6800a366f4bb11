"""Hugging Face datasets, streamed: a local folder or a name on the hub."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.sources.files import describe, resolve, shown, walk
from pipelines.sources.rows import (
    BadRow,
    Input,
    SourceRow,
    bad_row,
    columns_of,
    require_columns,
    row_from_columns,
    wrong,
)
from schemas.sources import HuggingFaceSource
from schemas.states import State


def inputs(source: HuggingFaceSource, base_dir: Path) -> list[Input]:
    """The files below a local folder; for the hub, the name with the commit that would be read."""
    folder = resolve(base_dir, source.path)
    dataset = _open(source, base_dir)
    _check_columns(source, dataset)
    if folder.is_dir():
        return [describe(path, base_dir) for path in sorted(walk(folder), key=Path.as_posix)]
    return [Input(f"hub:{source.path}@{_commit(source)}", 0, 0)]


def read(source: HuggingFaceSource, base_dir: Path) -> Iterator[SourceRow | BadRow]:
    dataset = _open(source, base_dir)
    present = dataset.column_names
    if present is not None:  # unread columns may hold images or audio, which are slow to decode
        dataset = dataset.select_columns([name for name in columns_of(source.fields) if name in present])
    folder = resolve(base_dir, source.path)
    name = shown(folder, base_dir) if folder.is_dir() else source.path
    examples = iter(dataset)
    number = 0
    while True:
        number += 1
        location = f"{name}/{source.split}:{number}"
        try:
            example = next(examples, None)
        except Exception as error:  # of every reader and file system behind `datasets`; the rows before it stay
            yield bad_row(location, State.FAILED, "broken_stream", _cause(error))
            return
        if example is None:
            return
        yield row_from_columns(example, source.fields, location)


def _open(source: HuggingFaceSource, base_dir: Path) -> Any:
    """The split as a stream. Raises UserError in the words of `datasets`, which names configs and splits."""
    try:
        import datasets
    except ImportError as error:
        raise wrong(source, "needs the package 'datasets' (pip install datasets)") from error
    folder = resolve(base_dir, source.path)
    if not folder.is_dir() and _is_path(source.path):
        raise wrong(source, f"there is no folder {source.path!r} (looked for {str(folder)!r})")
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        return _saved(source, folder)
    path = str(folder) if folder.is_dir() else source.path
    try:
        builder = datasets.load_dataset_builder(path, source.config, revision=source.revision)
        foreign = _foreign(builder.config.data_files or {}, folder if folder.is_dir() else None)
        if not foreign:
            return builder.as_streaming_dataset(split=source.split)
    except Exception as error:
        where = "" if folder.is_dir() else "is no folder here and "
        raise wrong(source, f"{source.path!r} {where}cannot be loaded: {_cause(error)}") from error
    raise wrong(source, f"{source.path!r} names a file that is no part of it: {foreign!r}")


def _foreign(files: Mapping[str, Sequence[str]], folder: Path | None) -> str | None:
    """A data file that is not below the folder, or for a dataset of the hub (no folder) not there: the README of a
    dataset may name any file of this machine, and any address."""
    for file in (file for split in files.values() for file in split):
        if folder is None and not file.startswith("hf://"):
            return file
        if folder is not None and not Path(os.path.normpath(file)).is_relative_to(os.path.normpath(folder)):
            return file
    return None


def _saved(source: HuggingFaceSource, folder: Path) -> Any:
    """What `save_to_disk` wrote: memory-mapped Arrow files, with the splits as folders where there are several."""
    import datasets

    try:
        saved = datasets.load_from_disk(str(folder))
    except Exception as error:
        raise wrong(source, f"{source.path!r} cannot be loaded: {_cause(error)}") from error
    if isinstance(saved, datasets.DatasetDict):
        if source.split not in saved:
            raise wrong(source, f"{source.path!r} has no split {source.split!r} (splits: {', '.join(saved)})")
        saved = saved[source.split]
    return saved.to_iterable_dataset()


def _check_columns(source: HuggingFaceSource, dataset: Any) -> None:
    present = dataset.column_names
    wanted = columns_of(source.fields)
    if present is None:  # JSON files: the columns are known from the first row on, and not all rows have all
        try:
            first = next(iter(dataset), None)
        except Exception:
            return  # `read` meets the same error and makes a bad row of it
        if first is None:
            return
        present, wanted = list(first), wanted[:1]
    require_columns(source, wanted, present, f"{source.path!r}, split {source.split!r}")


def _commit(source: HuggingFaceSource) -> str:
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(source.path, revision=source.revision).sha)
    except Exception as error:
        raise wrong(source, f"the hub does not answer for {source.path!r}: {_cause(error)}") from error


def _is_path(path: str) -> bool:
    """What cannot be a hub name, which is `name` or `owner/name`."""
    return path.startswith((".", "/", "~")) or path.count("/") > 1


def _cause(error: BaseException) -> str:
    """The first line of the error that began it: `datasets` wraps its readers' errors in general ones."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).split("\n")[0].rstrip(".")

"""Megatron's indexed datasets: `train.bin` with the tokens of all rows, `train.idx` with where each row lies."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.errors import UserError


class MegatronWriter:
    """One document for each row of a table with `input_ids`, written by megatron-core's own builder as int32.

    Megatron's files know no loss mask. Where a table has `labels` (-100: no loss), these are a second dataset,
    `train_labels`, as GPT-NeoX reads it (`train_label_data_paths`): not shifted, token beside token.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder
        except ImportError as error:
            raise UserError("the format 'megatron' needs megatron-core: pip install 'longloom[megatron]'") from error
        self._folder = folder
        self._new = IndexedDatasetBuilder
        self._builders: dict[str, Any] = {"input_ids": self._new(str(folder / "train.bin"), np.int32)}

    def write(self, table: pa.Table) -> None:
        if "labels" in table.column_names and "labels" not in self._builders:
            self._builders["labels"] = self._new(str(self._folder / "train_labels.bin"), np.int32)
        for name, builder in self._builders.items():
            for row in table.column(name):
                tokens = row.values.to_numpy(zero_copy_only=False)
                builder.add_document(tokens, [len(tokens)])

    def close(self) -> None:
        for name, builder in self._builders.items():
            builder.finalize(str(self._folder / f"train{'_labels' if name == 'labels' else ''}.idx"))

    @staticmethod
    def complete(folder: Path) -> bool:
        indices = list(folder.glob("*.idx"))
        return (folder / "train.idx").is_file() and all(path.with_suffix(".bin").is_file() for path in indices)

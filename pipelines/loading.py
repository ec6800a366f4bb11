"""How the files of an export are read: what its card tells."""

from pipelines.export_configs import schema_of
from pipelines.writers import suffix
from schemas.export import Export


def loading(export: Export) -> str:
    """Code for each config, as a block of Markdown; DIR is the export's folder."""
    lines = [line for config in export.configs for line in _lines(config, export)]
    return "\n".join(f"    {line}" for line in dict.fromkeys(lines))


def _lines(config: str, export: Export) -> list[str]:
    if export.format == "mds":
        return ["from streaming import StreamingDataset", f'StreamingDataset(local="DIR/{config}", batch_size=1)']
    if export.format == "megatron":
        return [
            "from megatron.core.datasets.indexed_dataset import IndexedDataset",
            f'IndexedDataset("DIR/{config}/train")',
        ]
    files = f"'DIR/{config}/train-*.{suffix(export)}'"
    if export.format == "jsonl":
        # DuckDB takes types from the first rows, and a column that is empty there stays empty.
        import duckdb

        empty = duckdb.from_arrow(schema_of(config, export).empty_table())
        columns = ", ".join(f"{name}: '{kind}'" for name, kind in zip(empty.columns, empty.types, strict=True))
        files = f"read_json({files}, columns = {{{columns}}})"
    return [
        "import datasets",
        f'datasets.load_dataset("DIR", "{config}", split="train")',
        f'duckdb.sql("""SELECT * FROM {files}""")',
    ]

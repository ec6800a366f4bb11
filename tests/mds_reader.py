"""An independent reading of MosaicML streaming datasets, by the format's description alone."""

import json
import struct
from itertools import pairwise

import numpy as np


def read_mds(folder):
    """All rows of a dataset. The shards' own headers and the index must agree."""
    rows = []
    for number, shard in enumerate(json.loads((folder / "index.json").read_text())["shards"]):
        assert shard["raw_data"]["basename"] == f"shard.{number:05d}.mds" and shard["column_names"] == sorted(
            shard["column_names"]
        )
        data = (folder / shard["raw_data"]["basename"]).read_bytes()
        count = struct.unpack_from("<I", data)[0]
        assert (count, len(data)) == (shard["samples"], shard["raw_data"]["bytes"])
        begins = struct.unpack_from(f"<{count + 1}I", data, 4)
        own = json.loads(data[4 * (count + 2) : begins[0]])
        assert own == {name: shard[name] for name in own} and begins[-1] == len(data)
        rows += [_row(data[a:b], shard) for a, b in pairwise(begins)]
    return rows


def _row(data, shard):
    names, kinds = shard["column_names"], shard["column_encodings"]
    sizes = struct.unpack_from(f"<{len(names)}I", data)
    row, at = {}, 4 * len(names)
    for name, kind, size in zip(names, kinds, sizes, strict=True):
        row[name], at = _value(kind, data[at : at + size]), at + size
    assert at == len(data)
    return row


def _value(kind, data):
    if kind == "str":
        return data.decode()
    if kind == "json":
        return json.loads(data)
    dimensions, width = data[0] >> 2, 1 << (data[0] & 3)
    shape = [int.from_bytes(data[1 + width * n :][:width], "little") for n in range(dimensions)]
    return np.frombuffer(data[1 + width * dimensions :], kind.partition(":")[2]).reshape(shape)

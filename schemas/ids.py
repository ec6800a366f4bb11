"""Content-hash ids: the same content has the same id on every machine and in every run."""

import hashlib
import json
from typing import Any

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
ID_HEX = 32  # 128 bits: no collision to be expected below 10**18 rows


def canonical_json(value: Any) -> str:
    """One text per value: sorted keys, no spaces, UTF-8 kept. NaN is refused (ValueError)."""
    return _ENCODER.encode(value)


def digest(value: Any) -> str:
    """SHA-256 (64 hex digits) of a text, of bytes, or of any JSON value in canonical form."""
    if isinstance(value, bytes):
        data = value
    else:
        data = (value if isinstance(value, str) else canonical_json(value)).encode("utf-8", "surrogatepass")
    return hashlib.sha256(data).hexdigest()


def content_id(prefix: str, value: Any) -> str:
    """`prefix-<32 hex digits>`, the form of every id in the tables."""
    return f"{prefix}-{digest(value)[:ID_HEX]}"


def derive_seed(*parts: Any) -> int:
    """A 31-bit seed from any JSON values, e.g. (run seed, row id, step path). Every engine accepts 31 bits."""
    return int(digest(list(parts))[:8], 16) & 0x7FFFFFFF

"""Digests of plain data."""

from __future__ import annotations

import json
from typing import Any

import xxhash


def digest(*parts: Any) -> str:
    """A digest of text, numbers, bytes, and lists and mappings of these."""
    state = xxhash.xxh3_128()
    for part in parts:
        state.update(part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode())
        state.update(b"\0")
    return state.hexdigest()

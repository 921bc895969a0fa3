"""Where the files that come with soupkitchen lie, in a checkout and in an installed wheel alike.

In a checkout `conf/` and `scripts/` stand beside the package; a wheel carries
them inside it.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def folder(name: str) -> Path:
    """The folder called `name`: "conf" or "scripts"."""
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name

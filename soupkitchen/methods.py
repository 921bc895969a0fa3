"""Merge methods by name, as Python calls them: ``methods.ties(density=0.3)``.

One function for each file of `conf/method/`, which is where their options, defaults and meaning stand.
`methods.pyi` tells them to editors and type checkers; `scripts/write_stubs.py` writes it.
"""

from __future__ import annotations

from typing import Any

from soupkitchen.options import presets


def __getattr__(name: str) -> Any:
    return presets.attribute("method", name)


def __dir__() -> list[str]:
    return presets.names("method")

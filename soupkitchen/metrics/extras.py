"""Packages that come with one of soupkitchen's extras: imported when they are needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from soupkitchen.errors import MetricError


def installed(package: str, extra: str) -> Any:
    """The package, which comes with one of soupkitchen's extras.

    Raises:
        MetricError: where it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise MetricError(
            f"{package.split('.')[0]} is needed here and not installed: pip install 'soupkitchen[{extra}]'"
        ) from error

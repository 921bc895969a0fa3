"""Importing large libraries in less time."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """For the imports of a process, once and before its work: they are not looked through for garbage.

    Modules are many thousands of objects that stay. Python's garbage collector would walk
    through all of them time and again while they are imported, then while the process works,
    and when it ends.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()

"""Where `Several` was before `kinds/`: for imports of before, and gone when there are none.

As a module of this name takes the place of the preset `tasks.several`, it can be called like it.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from soupkitchen import presets
from soupkitchen.tasks.kinds.several import Several

__all__ = ["Several"]


class _Called(ModuleType):
    def __call__(self, *positional: Any, **options: Any) -> Any:
        return presets.function("task", "several")(*positional, **options)


sys.modules[__name__].__class__ = _Called

"""soupkitchen turns a whole fine-tuning sweep into one better model.

The command line is `python -m soupkitchen`. The same in Python:

    from soupkitchen import cook, methods, tasks

    result = cook("runs/*", tasks.text_classification("reviews"), methods.ties(density=0.3))

Names in `__all__` are imported on first use, so `import soupkitchen` is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from soupkitchen import methods, tasks
    from soupkitchen.experiment import Experiment, Result
    from soupkitchen.experiment.api import cook

__version__ = "0.1.0"
__all__ = ["Experiment", "Result", "cook", "methods", "tasks"]

_MODULES = {
    "Experiment": "experiment",
    "Result": "experiment",
    "cook": "experiment.api",
    "methods": "methods",
    "tasks": "tasks",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_MODULES[name]}")
    return module if name == _MODULES[name] else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

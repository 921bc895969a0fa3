"""Options of the evaluation itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from soupkitchen.options import check_fields
from soupkitchen.store.evaluations import EvaluationCache


@dataclass(frozen=True)
class EvaluationOptions:
    """How models are scored; results are the same whatever is chosen here.

    Attributes:
        early_stopping: stop scoring a candidate as soon as no outcome of the remaining
            examples could change the decision.
        cache: the folder of evaluations that are kept for later runs; None to keep none.

    Raises:
        ConfigError: for options of the wrong type.
    """

    early_stopping: bool = True
    cache: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, "evaluation")

    def open_cache(self) -> EvaluationCache | None:
        return EvaluationCache(Path(self.cache).expanduser()) if self.cache else None

"""Options of the evaluation itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from soupkitchen.evaluation.confidence import ConfidentStopping
from soupkitchen.evaluation.scoring import EarlyStopping
from soupkitchen.options import check_fields
from soupkitchen.options.kinds import Stopping
from soupkitchen.store.evaluations import EvaluationCache


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of scoring; results are the same whatever is chosen here, but for a confidence.

    Attributes:
        early_stopping: true or "exact": stop scoring a candidate as soon as no outcome of the remaining
            examples could change the decision. ``{"confidence": p}``: as soon as it is so sure, too, that
            they will not; kept candidates are scored in full all the same. False: score everything.
        cache: the folder of evaluations that are kept for later runs; None to keep none.

    Raises:
        ConfigError: for options of the wrong type.
    """

    early_stopping: Stopping = True
    cache: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, "evaluation")

    @property
    def stopping(self) -> EarlyStopping | None:
        """When scoring of a candidate stops; None for never before all examples are scored."""
        if self.early_stopping is False:
            return None
        if isinstance(self.early_stopping, Mapping):
            return ConfidentStopping(self.early_stopping["confidence"])
        return EarlyStopping()

    def open_cache(self) -> EvaluationCache | None:
        return EvaluationCache(Path(self.cache).expanduser()) if self.cache else None

"""Shows a run, while it goes on, in what people watch their training with: TensorBoard, MLflow, …

The observer of a run's ledger is in `observer`; a file for each tracker says what is particular to it, and
accelerate's tracker classes do the rest.
"""

from soupkitchen.trackers.observer import Trackers

__all__ = ["Trackers"]

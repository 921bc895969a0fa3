"""One run, from pool to soup; `algorithm` is the page to read first."""

from soupkitchen.experiment.experiment import Experiment

__all__ = ["Experiment"]

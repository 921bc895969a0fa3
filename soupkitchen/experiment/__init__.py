"""One run, from pool to soup; `algorithm` is the page to read first."""

from soupkitchen.experiment.experiment import Experiment
from soupkitchen.experiment.reporting import Report
from soupkitchen.experiment.result import Result

__all__ = ["Experiment", "Report", "Result"]

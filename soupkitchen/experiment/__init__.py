"""One run, from pool to soup; read `algorithm` first."""

from soupkitchen.experiment.experiment import Experiment
from soupkitchen.experiment.finishing import Report
from soupkitchen.experiment.session import Result

__all__ = ["Experiment", "Report", "Result"]

"""What "good" means: a dataset, its preprocessing, a forward step, a metric."""

from soupkitchen.tasks.base import Task
from soupkitchen.tasks.data import Data
from soupkitchen.tasks.image_classification import ImageClassification
from soupkitchen.tasks.several import Several
from soupkitchen.tasks.text_classification import TextClassification

__all__ = ["Data", "ImageClassification", "Several", "Task", "TextClassification"]

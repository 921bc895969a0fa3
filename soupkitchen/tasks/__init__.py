"""What "good" means: a dataset, its preprocessing, a forward step, a metric."""

from soupkitchen.tasks.base import Task
from soupkitchen.tasks.data import Data
from soupkitchen.tasks.embedding_similarity import EmbeddingSimilarity
from soupkitchen.tasks.function import Function
from soupkitchen.tasks.image_classification import ImageClassification
from soupkitchen.tasks.language_modeling import LanguageModeling
from soupkitchen.tasks.multilabel_classification import MultilabelClassification
from soupkitchen.tasks.multiple_choice import MultipleChoice
from soupkitchen.tasks.several import Several
from soupkitchen.tasks.text_classification import TextClassification
from soupkitchen.tasks.text_generation import TextGeneration
from soupkitchen.tasks.text_regression import TextRegression
from soupkitchen.tasks.token_classification import TokenClassification

__all__ = [
    "Data",
    "EmbeddingSimilarity",
    "Function",
    "ImageClassification",
    "LanguageModeling",
    "MultilabelClassification",
    "MultipleChoice",
    "Several",
    "Task",
    "TextClassification",
    "TextGeneration",
    "TextRegression",
    "TokenClassification",
]

"""What "good" means: a dataset, its preprocessing, a forward step, a metric.

Tasks by name, as Python calls them, are functions of this module, one for each file of `conf/task/`:
``tasks.text_classification("reviews", metric="f1_macro")``. The classes that they make are here too. Both
are imported when they are asked for. `__init__.pyi` tells them to editors and type checkers;
`scripts/write_stubs.py` writes it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from soupkitchen.options import presets

CLASSES = {
    "Data": "data",
    "EmbeddingSimilarity": "kinds.embeddings",
    "Function": "kinds.function",
    "ImageClassification": "kinds.image_classification",
    "ImageTextRetrieval": "kinds.image_text_retrieval",
    "LanguageModeling": "kinds.language_modeling",
    "MaskedLanguageModeling": "kinds.masked_language_modeling",
    "MultilabelClassification": "kinds.multilabel_classification",
    "MultipleChoice": "kinds.multiple_choice",
    "PairClassification": "kinds.embeddings",
    "QuestionAnswering": "kinds.question_answering",
    "Reranking": "kinds.reranking",
    "Retrieval": "kinds.retrieval",
    "Several": "kinds.several",
    "SpeechRecognition": "kinds.speech_recognition",
    "Task": "base",
    "TextClassification": "kinds.text_classification",
    "TextGeneration": "kinds.text_generation",
    "TextRegression": "kinds.text_classification",
    "TokenClassification": "kinds.token_classification",
    "Triplets": "kinds.embeddings",
}
"""Where each class is."""


def __getattr__(name: str) -> Any:
    if name in CLASSES:
        return getattr(import_module(f"soupkitchen.tasks.{CLASSES[name]}"), name)
    return presets.attribute("task", name)


def __dir__() -> list[str]:
    return sorted([*CLASSES, *presets.names("task")])

"""Tasks define "good": a dataset, its preprocessing, a forward step, a metric.

Each kind of task is a class, and a function that makes one by its data and by names of options:
``tasks.text_classification("reviews", metric="f1_macro")`` is `task=text_classification` on the command line.
"""

from __future__ import annotations

from typing import Any

from soupkitchen.options.files import compose
from soupkitchen.tasks import harness
from soupkitchen.tasks.base import Task as Task
from soupkitchen.tasks.by_name import by_name
from soupkitchen.tasks.data import Data as Data
from soupkitchen.tasks.kinds.embeddings import EmbeddingSimilarity as EmbeddingSimilarity
from soupkitchen.tasks.kinds.embeddings import PairClassification as PairClassification
from soupkitchen.tasks.kinds.embeddings import Triplets as Triplets
from soupkitchen.tasks.kinds.function import Function as Function
from soupkitchen.tasks.kinds.image_classification import ImageClassification as ImageClassification
from soupkitchen.tasks.kinds.image_text_retrieval import ImageTextRetrieval as ImageTextRetrieval
from soupkitchen.tasks.kinds.language_modeling import LanguageModeling as LanguageModeling
from soupkitchen.tasks.kinds.masked_language_modeling import MaskedLanguageModeling as MaskedLanguageModeling
from soupkitchen.tasks.kinds.multilabel_classification import (
    MultilabelClassification as MultilabelClassification,
)
from soupkitchen.tasks.kinds.multiple_choice import MultipleChoice as MultipleChoice
from soupkitchen.tasks.kinds.question_answering import QuestionAnswering as QuestionAnswering
from soupkitchen.tasks.kinds.reranking import Reranking as Reranking
from soupkitchen.tasks.kinds.retrieval import Retrieval as Retrieval
from soupkitchen.tasks.kinds.several import Several as Several
from soupkitchen.tasks.kinds.speech_recognition import SpeechRecognition as SpeechRecognition
from soupkitchen.tasks.kinds.text_classification import TextClassification as TextClassification
from soupkitchen.tasks.kinds.text_classification import TextRegression as TextRegression
from soupkitchen.tasks.kinds.text_generation import TextGeneration as TextGeneration
from soupkitchen.tasks.kinds.token_classification import TokenClassification as TokenClassification

embedding_similarity = by_name(EmbeddingSimilarity, metric="spearman")
image_classification = by_name(ImageClassification, metric="accuracy")
image_text_retrieval = by_name(ImageTextRetrieval, metric="retrieval_recall")
language_modeling = by_name(LanguageModeling, metric="perplexity")
masked_language_modeling = by_name(MaskedLanguageModeling, metric="perplexity")
multilabel_classification = by_name(MultilabelClassification, metric="f1_micro")
multiple_choice = by_name(MultipleChoice, metric="accuracy")
pair_classification = by_name(PairClassification, metric="average_precision")
question_answering = by_name(QuestionAnswering, metric="answer_f1")
reranking = by_name(Reranking, metric="ndcg_at_10")
retrieval = by_name(Retrieval, metric="ndcg_at_10")
speech_recognition = by_name(SpeechRecognition, metric="word_error_rate")
text_classification = by_name(TextClassification, metric="accuracy")
text_generation = by_name(TextGeneration, metric="exact_match")
text_regression = by_name(TextRegression, metric="pearson")
token_classification = by_name(TokenClassification, metric="entity_f1")
triplets = by_name(Triplets, metric="accuracy")
function = by_name(Function)
several = Several
lm_eval = harness.harness_tasks


def demo(**options: Any) -> TextClassification:
    """Makes the demo's task: the topic, one of 20, of a newsgroup posting by its first 16 tokens."""
    return text_classification(
        **{"path": compose("task", "demo")["data"]["path"], "max_length": 16, **options}
    )

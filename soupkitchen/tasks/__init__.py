"""Tasks define "good": a dataset, its preprocessing, a forward step, a metric.

``tasks.text_classification("reviews", metric="f1_macro")`` is `task=text_classification` on the command line.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from soupkitchen.errors import ConfigError, did_you_mean
from soupkitchen.metrics import TaskMetric, load
from soupkitchen.options.building import TARGET, build, check_tree, describe, target_of
from soupkitchen.options.files import compose
from soupkitchen.tasks import harness
from soupkitchen.tasks.base import Task as Task
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
from soupkitchen.tasks.kinds.preference import Preference as Preference
from soupkitchen.tasks.kinds.question_answering import QuestionAnswering as QuestionAnswering
from soupkitchen.tasks.kinds.reranking import Reranking as Reranking
from soupkitchen.tasks.kinds.retrieval import Retrieval as Retrieval
from soupkitchen.tasks.kinds.several import Several as Several
from soupkitchen.tasks.kinds.speech_recognition import SpeechRecognition as SpeechRecognition
from soupkitchen.tasks.kinds.text_classification import TextClassification as TextClassification
from soupkitchen.tasks.kinds.text_classification import TextRegression as TextRegression
from soupkitchen.tasks.kinds.text_generation import TextGeneration as TextGeneration
from soupkitchen.tasks.kinds.token_classification import TokenClassification as TokenClassification

TaskT = TypeVar("TaskT", covariant=True)
_KEYWORD, _POSITIONAL = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD


class ByName(Protocol[TaskT]):
    """A function that makes a task."""

    def __call__(
        self,
        path: str | Path | Mapping[str, str | Path] | None = None,
        *required: Any,
        data: Data | Mapping[str, Any] | None = None,
        metric: str | TaskMetric | Mapping[str, Any] = ...,
        heldout: str = ...,
        test: str | None = ...,
        **options: Any,
    ) -> TaskT:
        """Makes the task; options of the task, the data and the metric are arguments.

        Args:
            path: the data; see `Data`.
            required: options of the task without a default.
            data: all options of the data, or a `Data`, instead of `path`.
            metric: its name, its options, or a `TaskMetric`.
            heldout, test: names of splits.
            options: all others; a name in the task and elsewhere is the task's.

        Raises:
            ConfigError: if an option is unknown, wrong or missing.
        """


def by_name(made: Callable[..., TaskT], metric: str | None = None) -> ByName[TaskT]:
    """Makes the function for the class `made`; `metric` is the default, None for no metric."""
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", made.__name__).lower()
    parts: dict[str, Callable[..., Any]] = (
        {"data": Data} if metric is None else {"data": Data, "metric": load}
    )
    defaults = {"data": {}, "metric": {"name": metric}}
    places, signature = _signature(made, parts, metric)

    def task(*positional: Any, **options: Any) -> Any:
        if unknown := sorted(options.keys() - places.keys()):
            hint = did_you_mean(unknown[0], places)
            raise ConfigError(f"tasks.{name} has no option {unknown[0]!r}{hint}")
        try:
            given = signature.bind_partial(*positional, **options).arguments
        except TypeError as error:
            raise ConfigError(f"tasks.{name}: {error}") from None
        tree = {TARGET: target_of(made), **{option: given[option] for option in given if not places[option]}}
        for part, of in parts.items():
            whole = given.get(part, {})
            beside = {option: describe(given[option]) for option in given if places[option] == part}
            if part == "metric" and isinstance(whole, str):
                whole = {"name": whole}
            if isinstance(whole, Mapping) and TARGET not in whole:
                whole = {TARGET: target_of(of), **defaults[part], **describe(whole), **beside}
            elif beside:
                named = ", ".join(beside)
                raise ConfigError(
                    f"tasks.{name}: {named} has no place beside an object {part}=; say it there"
                )
            tree[part] = whole
        check_tree(tree, "task")
        return build(tree)

    task.__name__ = task.__qualname__ = name
    task.__doc__ = made.__doc__
    task.__signature__ = signature  # type: ignore[attr-defined]
    return task


def _signature(
    made: Callable[..., Any], parts: Mapping[str, Callable[..., Any]], metric: str | None
) -> tuple[Mapping[str, str], inspect.Signature]:
    """The part that takes each option ("" is the task), and the joint signature."""
    places: dict[str, str] = {}
    parameters = []
    for part, of in {"": made, **parts}.items():
        for option, parameter in inspect.signature(of).parameters.items():
            if option not in places:
                default = {"data": None, "metric": metric}.get(option, parameter.default)
                kind = _POSITIONAL if default is parameter.empty else _KEYWORD
                parameters.append(parameter.replace(kind=kind, default=default))
                places[option] = part
    return places, inspect.Signature(sorted(parameters, key=lambda p: (p.kind, p.name != "path")))


embedding_similarity = by_name(EmbeddingSimilarity, metric="spearman")
image_classification = by_name(ImageClassification, metric="accuracy")
image_text_retrieval = by_name(ImageTextRetrieval, metric="retrieval_recall")
language_modeling = by_name(LanguageModeling, metric="perplexity")
masked_language_modeling = by_name(MaskedLanguageModeling, metric="perplexity")
multilabel_classification = by_name(MultilabelClassification, metric="f1_micro")
multiple_choice = by_name(MultipleChoice, metric="accuracy")
pair_classification = by_name(PairClassification, metric="average_precision")
preference = by_name(Preference, metric="accuracy")
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
    """Makes the demo's task: one of 20 topics of a newsgroup posting, from 16 tokens."""
    return text_classification(
        **{"path": compose("task", "demo")["data"]["path"], "max_length": 16, **options}
    )


def lm(**options: Any) -> LanguageModeling:
    """Makes the task of the pool `lm`: how texts of technical newsgroups go on."""
    path = compose("task", "lm")["data"]["path"]
    return language_modeling(**{"path": path, "text": "completion", "prompt": "prompt", **options})

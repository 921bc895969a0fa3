# Written by scripts/write_stubs.py from conf/task/; change it there.

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from soupkitchen.metrics.base import TaskMetric
from soupkitchen.tasks.base import Task
from soupkitchen.tasks.data import Data
from soupkitchen.tasks.harness import HarnessTask
from soupkitchen.tasks.kinds.embeddings import EmbeddingSimilarity, PairClassification, Triplets
from soupkitchen.tasks.kinds.function import Function
from soupkitchen.tasks.kinds.image_classification import ImageClassification
from soupkitchen.tasks.kinds.image_text_retrieval import ImageTextRetrieval
from soupkitchen.tasks.kinds.language_modeling import LanguageModeling
from soupkitchen.tasks.kinds.masked_language_modeling import MaskedLanguageModeling
from soupkitchen.tasks.kinds.multilabel_classification import MultilabelClassification
from soupkitchen.tasks.kinds.multiple_choice import MultipleChoice
from soupkitchen.tasks.kinds.question_answering import QuestionAnswering
from soupkitchen.tasks.kinds.reranking import Reranking
from soupkitchen.tasks.kinds.retrieval import Retrieval
from soupkitchen.tasks.kinds.several import Several
from soupkitchen.tasks.kinds.speech_recognition import SpeechRecognition
from soupkitchen.tasks.kinds.text_classification import TextClassification, TextRegression
from soupkitchen.tasks.kinds.text_generation import TextGeneration
from soupkitchen.tasks.kinds.token_classification import TokenClassification

__all__ = [
    "Data",
    "EmbeddingSimilarity",
    "Function",
    "ImageClassification",
    "ImageTextRetrieval",
    "LanguageModeling",
    "MaskedLanguageModeling",
    "MultilabelClassification",
    "MultipleChoice",
    "PairClassification",
    "QuestionAnswering",
    "Reranking",
    "Retrieval",
    "Several",
    "SpeechRecognition",
    "Task",
    "TextClassification",
    "TextGeneration",
    "TextRegression",
    "TokenClassification",
    "Triplets",
    "demo",
    "embedding_similarity",
    "function",
    "image_classification",
    "image_text_retrieval",
    "language_modeling",
    "lm_eval",
    "masked_language_modeling",
    "multilabel_classification",
    "multiple_choice",
    "pair_classification",
    "question_answering",
    "reranking",
    "retrieval",
    "several",
    "speech_recognition",
    "text_classification",
    "text_generation",
    "text_regression",
    "token_classification",
    "triplets",
]

def demo(
    *,
    data: Data | str | Mapping[str, Any] | Path = ...,
    path: str | Mapping[str, str] | Path = ...,
    heldout: str = "auto",
    test: str | None = "auto",
    train: str = "auto",
    heldout_share: float = 0.2,
    seed: int = 0,
    revision: str | None = None,
    metric: TaskMetric | str | Mapping[str, Any] = "accuracy",
    key: str | None = None,
    greater_is_better: bool | None = None,
    inputs: Literal["labels", "logits", "texts", "values", "likelihoods"] | None = None,
    options: Mapping[str, Any] | None = None,
    text: str = "text",
    text_pair: str | None = None,
    label: str = "label",
    labels: str | Mapping[Any, Any] | Sequence[str] | None = None,
    max_length: int | None = 16,
) -> TextClassification:
    """The demo's task: the topic, one of 20, of a newsgroup posting by its first 16 tokens.

    Args:
        path: a folder of csv, json, parquet or image files by split, one file, a saved dataset, or a hub name
        heldout: the split that decides; auto for validation, or a share of train
        test: the split that is scored at the end and decides nothing; auto for test if it is there, None for
            none
        train: training data, for what is computed on it (method.recalibrate_batchnorm)
        heldout_share: how much of train decides where there is no validation split
        seed: of that draw
        revision: the dataset's revision, on the hub
        metric: accuracy, or f1_macro, cross_entropy, exact_match, or any metric of `evaluate`
        key: which entry of the metric's result is the score; None for the obvious one
        greater_is_better: False for a loss; None for what the metric says
        inputs: labels, logits, texts, values or likelihoods; None for what the metric says
        options: further arguments of the metric's compute, or of its class
        text: the column of the text
        text_pair: the column of a second text
        label: the column of the label
        labels: names, indices, or the model's label by the data's, as {neg: NEGATIVE}; None: names, and
            numbers if there are none
        max_length: tokens after which a text is cut; None for the model's limit
    """

def embedding_similarity(
    path: str | Mapping[str, str] | Path = ...,
    *,
    data: Data | str | Mapping[str, Any] | Path = ...,
    heldout: str = "auto",
    test: str | None = "auto",
    train: str = "auto",
    heldout_share: float = 0.2,
    seed: int = 0,
    revision: str | None = None,
    metric: TaskMetric | str | Mapping[str, Any] = "spearman",
    key: str | None = None,
    greater_is_better: bool | None = None,
    inputs: Literal["labels", "logits", "texts", "values", "likelihoods"] | None = None,
    options: Mapping[str, Any] | None = None,
    text: str = "text",
    text_pair: str = "text_pair",
    label: str = "label",
    pooling: str | Sequence[str] | None = None,
    prompt: str | None = None,
    lower: bool = False,
    max_length: int | None = None,
) -> EmbeddingSimilarity:
    """How alike two texts are, by the cosine of their embeddings. Models: encoders (AutoModel).
    Reimers and Gurevych 2019, arXiv 1908.10084

    Args:
        path: a folder of csv, json, parquet or image files by split, one file, a saved dataset, or a hub name
        heldout: the split that decides; auto for validation, or a share of train
        test: the split that is scored at the end and decides nothing; auto for test if it is there, None for
            none
        train: training data, for what is computed on it (method.recalibrate_batchnorm)
        heldout_share: how much of train decides where there is no validation split
        seed: of that draw
        revision: the dataset's revision, on the hub
        metric: spearman, or pearson, mse
        key: which entry of the metric's result is the score; None for the obvious one
        greater_is_better: False for a loss; None for what the metric says
        inputs: labels, logits, texts, values or likelihoods; None for what the metric says
        options: further arguments of the metric's compute, or of its class
        text: the column of the one text
        text_pair: the column of the other
        label: the column of how alike they are, a number
        pooling: mean of the tokens' last hidden states, cls, lasttoken, max, mean_sqrt_len_tokens,
            weightedmean, or a list; None for what runs of sentence-transformers say, else mean
        prompt: what comes before each text; None for what the runs say
        lower: put texts in lower case first
        max_length: tokens after which a text is cut; None for what the runs say, else the model's limit
    """

def function(
    path: str | Mapping[str, str] | Path = ...,
    function: str = ...,
    *,
    data: Data | str | Mapping[str, Any] | Path = ...,
    heldout: str = "auto",
    test: str | None = "auto",
    train: str = "auto",
    heldout_share: float = 0.2,
    seed: int = 0,
    revision: str | None = None,
    model: str = "AutoModelForCausalLM",
    greater_is_better: bool = True,
    best: float | None = None,
    name: str = "score",
) -> Function:
    """A function of your own: function(model, tokenizer, examples) gives one number an example.

    Args:
        path: a folder of csv, json, parquet or image files by split, one file, a saved dataset, or a hub name
        function: module.function; Python looks in PYTHONPATH and in what is installed
        heldout: the split that decides; auto for validation, or a share of train
        test: the split that is scored at the end and decides nothing; auto for test if it is there, None for
            none
        train: training data, for what is computed on it (method.recalibrate_batchnorm)
        heldout_share: how much of train decides where there is no validation split
        seed: of that draw
        revision: the dataset's revision, on the hub
        model: the transformers class that loads the model
        greater_is_better: False where the numbers are losses
        best: the best number that an example can get, if there is one: then candidates can be stopped early
        name: what tables call the mean
    """

def image_classification(
    path: str | Mapping[str, str] | Path = ...,
    *,
    data: Data | str | Mapping[str, Any] | Path = ...,
    heldout: str = "auto",
    test: str | None = "auto",
    train: str = "auto",
    heldout_share: float = 0.2,
    seed: int = 0,
    revision: str | None = None,
    metric: TaskMetric | str | Mapping[str, Any] = "accuracy",
    key: str | None = None,
    greater_is_better: bool | None = None,
    inputs: Literal["labels", "logits", "texts", "values", "likelihoods"] | None = None,
    options: Mapping[str, Any] | None = None,
    image: str = "image",
    label: str = "label",
    labels: str | Mapping[Any, Any] | Sequence[str] | None = None,
) -> ImageClassification:
    """One label for an image. Models: AutoModelForImageClassification.

    Args:
        path: a folder of csv, json, parquet or image files by split, one file, a saved dataset, or a hub name
        heldout: the split that decides; auto for validation, or a share of train
        test: the split that is scored at the end and decides nothing; auto for test if it is there, None for
            none
        train: training data, for what is computed on it (method.recalibrate_batchnorm)
        heldout_share: how much of train decides where there is no validation split
        seed: of that draw
        revision: the dataset's revision, on the hub
        metric: accuracy, or f1_macro, cross_entropy, exact_match, or any metric of `evaluate`
        key: which entry of the metric's result is the score; None for the obvious one
        greater_is_better: False for a loss; None for what the metric says
        inputs: labels, logits, texts, values or likelihoods; None for what the metric says
        options: further arguments of the metric's compute, or of its class
        image: the column of the image
        label: the column of the label
        labels: names, indices, or the model's label by the data's, as {neg: NEGATIVE}; None: names, and
            numbers if there are none
    """

def image_text_retrieval(
    path: str | Mapping[str, str] | Path = ...,
    *,
    data: Data | str | Mapping[str, Any] | Path = ...,
    heldout: str = "auto",
    test: str | None = "auto",
    train: str = "auto",
    heldout_share: float = 0.2,
    seed: int = 0,
    revision: str | None = None,
    metric: TaskMetric | str | Mapping[str, Any] = "retrieval_recall",
    key: str | None = None,
    greater_is_better: bool | None = None,
    inputs: Literal["labels", "logits", "texts", "values", "likelihoods"] | None = None,
    options: Mapping[str, Any] | None = None,
    image: str = "image",
    text: str = "text",
    prompt: str | None = None,
    max_length: int | None = None,
) -> ImageTextRetrieval:
    """Whether the text of an image is the nearest of all texts, and the image of a text that of all images.
    Models: CLIP, SigLIP (AutoModel).
    Radford et al. 2021, arXiv 2103.00020

    Args:
        path: a folder of csv, json, parquet or image files by split, one file, a saved dataset, or a hub name
        heldout: the split that decides; auto for validation, or a share of train
        test: the split that is scored at the end and decides nothing; auto for test if it is there, None for
            none
        train: training data, for what is computed on it (method.recalibrate_batchnorm)
        heldout_share: how much of train decides where there is no validation split
        seed: of that draw
        revision: the dataset's revision, on the hub
        metric: options={k: 5} for the nearest five, options={direction: text_to_image} for one direction
        key: which entry of the metric's result is the score; None for the obvious one
        greater_is_better: False for a loss; None for what the metric says
        inputs: labels, logits, texts, values or likelihoods; None for what the metric says
        options: further arguments of the metric's compute, or of its class
        image: the column of the image
        text: the column of a text that belongs to it; an image may be in several rows
        prompt: what comes before each text, as 'a photo of '
        max_length: tokens after which a text is cut; None for the model's limit
    """

def language_modeling(
    path: str | Mapping[str, str] | Path = ...,
    *,
    data: Data | str | Mapping[str, Any] | Path = ...,
    heldout: str = "auto",
    test: str | None = "auto",
    train: str = "auto",
    heldout_share: float = 0.2,
    seed: int = 0,
    revision: str | None = None,
    metric: TaskMetric | str | Mapping[str, Any] = "perplexity",
    key: str | None = None,
    greater_is_better: bool | None = None,
    inputs: Literal["labels", "logits", "texts", "values", "likelihoods"] | None = None,
    options: Mapping[str, Any] | None = None,
    text: str = "text",
    max_length: int | None = None,
) -> LanguageModeling:
    """How well a causal model predicts texts, every token of them. Models: AutoModelForCausalLM.

    Args:
        path: a folder of csv, json, parquet or image files by split, one file, a saved dataset, or a hub name
        heldout: the split that decides; auto for validation, or a share of train
        test: the split that is scored at the end and decides nothing; auto for test if it is there, None for
            none
        train: training data, for what is computed on it (method.recalibrate_batchnorm)
        heldout_share: how much of train decides where there is no validation split
        seed: of that draw
        revision: the dataset's revision, on the hub
        metric: perplexity, or bits_per_byte
        key: which entry of the metric's result is the score; None for the obvious one
        greater_is_better: False for a loss; None for what the metric says
        inputs: labels, logits, texts, values or likelihoods; None for what the metric says
        options: further arguments of the metric's compute, or of its class
        text: the column of the text
        max_length: tokens of a window, into which long texts are cut; None for the model's limit
    """

def lm_eval(
    tasks: Sequence[str],
    *,
    num_fewshot: int | None = None,
    limit: int | None = None,
    test_limit: int | None = None,
    metric: str | None = None,
    filter: str | None = None,
    architecture: Literal["causal", "seq2seq"] = "causal",
    aggregate: Literal["mean", "min", "normalized"] = "mean",
    weights: Mapping[str, float] | None = None,
) -> HarnessTask | Several:
    """Tasks of EleutherAI's lm-evaluation-harness, run on the live model. Extra: soupkitchen[lm-eval].

    Args:
        tasks: names of tasks or groups, or paths of task YAMLs, as [arc_easy,my_task.yaml]
        num_fewshot: examples in the prompt; None for what the task says
        limit: how many documents of each task decide, the first ones; None for all
        test_limit: how many documents after these are scored at the end and decide nothing; None for no test
        metric: which of the task's metrics is the score, as acc_norm; None for its first
        filter: which of the task's filters makes answers of texts, as flexible-extract; None for its first
        architecture: causal or seq2seq models
        aggregate: one score of several tasks: mean, min, or normalized (each divided by the best single
            run's)
        weights: weight by name of task in the mean; None for equal ones
    """

def masked_language_modeling(
    path: str | Mapping[str, str] | Path = ...,
    *,
    data: Data | str | Mapping[str, Any] | Path = ...,
    heldout: str = "auto",
    test: str | None = "auto",
    train: str = "auto",
    heldout_share: float = 0.2,
    revision: str | None = None,
    metric: TaskMetric | str | Mapping[str, Any] = "perplexity",
    key: str | None = None,
    greater_is_better: bool | None = None,
    inputs: Literal["labels", "logits", "texts", "values", "likelihoods"] | None = None,
    options: Mapping[str, Any] | None = None,
    text: str = "text",
    masked: float = 0.15,
    seed: int = 0,
    max_length: int | None = None,
) -> MaskedLanguageModeling:
    """How well an encoder predicts tokens that are hidden from it, the same for every model. Models:
    AutoModelForMaskedLM.
    Devlin et al. 2019, arXiv 1810.04805

    Args:
        path: a folder of csv, json, parquet or image files by split, one file, a saved dataset, or a hub name
        heldout: the split that decides; auto for validation, or a share of train
        test: the split that is scored at the end and decides nothing; auto for test if it is there, None for
            none
        train: training data, for what is computed on it (method.recalibrate_batchnorm)
        heldout_share: how much of train decides where there is no validation split
        revision: the dataset's revision, on the hub
        metric: shipped; or a class, as my_module.Recall; or a path or hub name of `evaluate`'s
        key: which entry of the metric's result is the score; None for the obvious one
        greater_is_better: False for a loss; None for what the metric says
        inputs: labels, logits, texts, values or likelihoods; None for what the metric says
        options: further arguments of the metric's compute, or of its class
        text: the column of the text
        masked: the share of tokens that are to be predicted; of ten, eight are hidden, one is another, one
            stays
        seed: of which these are
        max_length: tokens of a window, into which long texts are cut; None for the model's limit
    """

def multilabel_classification(
    path: str | Mapping[str, str] | Path = ...,
    *,
    data: Data | str | Mapping[str, Any] | Path = ...,
    heldout: str = "auto",
    test: str | None = "auto",
    train: str = "auto",
    heldout_share: float = 0.2,
    seed: int = 0,
    revision: str | None = None,
    metric: TaskMetric | str | Mapping[str, Any] = "f1_micro",
    key: str | None = None,
    greater_is_better: bool | None = None,
    inputs: Literal["labels", "logits", "texts", "values", "likelihoods"] | None = None,
    options: Mapping[str, Any] | None = None,
    text: str = "text",
    text_pair: str | None = None,
    label: str = "labels",
    labels: str | Mapping[Any, Any] | Sequence[str] | None = None,
    max_length: int | None = None,
    threshold: float = 0.5,
) -> MultilabelClassification:
    """Any number of labels for a text, or for a pair of texts. Models: AutoModelForSequenceClassification.

    Args:
        path: a folder of csv, json, parquet or image files by split, one file, a saved dataset, or a hub name
        heldout: the split that decides; auto for validation, or a share of train
        test: the split that is scored at the end and decides nothing; auto for test if it is there, None for
            none
        train: training data, for what is computed on it (method.recalibrate_batchnorm)
        heldout_share: how much of train decides where there is no validation split
        seed: of that draw
        revision: the dataset's revision, on the hub
        metric: f1_micro, or f1_macro, accuracy (all labels of a text right)
        key: which entry of the metric's result is the score; None for the obvious one
        greater_is_better: False for a loss; None for what the metric says
        inputs: labels, logits, texts, values or likelihoods; None for what the metric says
        options: further arguments of the metric's compute, or of its class
        text: the column of the text
        text_pair: the column of a second text
        label: the column of the labels: a list of some, or of a 0 or 1 for each
        labels: names, indices, vectors (lists of a 0 or 1 for each label), the model's label by the data's,
            or columns of 0 and 1, as [toxic, obscene]; None: what fits all rows
        max_length: tokens after which a text is cut; None for the model's limit
        threshold: the probability from which a label is taken to be there
    """

def multiple_choice(
    path: str | Mapping[str, str] | Path = ...,
    *,
    data: Data | str | Mapping[str, Any] | Path = ...,
    heldout: str = "auto",
    test: str | None = "auto",
    train: str = "auto",
    heldout_share: float = 0.2,
    seed: int = 0,
    revision: str | None = None,
    metric: TaskMetric | str | Mapping[str, Any] = "accuracy",
    key: str | None = None,
    greater_is_better: bool | None = None,
    inputs: Literal["labels", "logits", "texts", "values", "likelihoods"] | None = None,
    options: Mapping[str, Any] | None = None,
    prompt: str = "{question}",
    choices: str = "choices",
    answer: str = "answer",
    labels: str | Mapping[Any, Any] | Sequence[str] | None = None,
    before_choice: str = " ",
    normalize: Literal["tokens", "bytes"] | None = None,
    max_length: int | None = None,
) -> MultipleChoice:
    r"""Which of several continuations of a prompt a causal model finds likeliest. Models:
    AutoModelForCausalLM.

    Args:
        path: a folder of csv, json, parquet or image files by split, one file, a saved dataset, or a hub name
        heldout: the split that decides; auto for validation, or a share of train
        test: the split that is scored at the end and decides nothing; auto for test if it is there, None for
            none
        train: training data, for what is computed on it (method.recalibrate_batchnorm)
        heldout_share: how much of train decides where there is no validation split
        seed: of that draw
        revision: the dataset's revision, on the hub
        metric: shipped; or a class, as my_module.Recall; or a path or hub name of `evaluate`'s
        key: which entry of the metric's result is the score; None for the obvious one
        greater_is_better: False for a loss; None for what the metric says
        inputs: labels, logits, texts, values or likelihoods; None for what the metric says
        options: further arguments of the metric's compute, or of its class
        prompt: a template over the columns; \n for a new line
        choices: the column of the choices, a list of texts
        answer: the column of the right one: its number from 0, a letter, or its text
        labels: names (texts of choices), indices (numbers from 0, or letters), or the number by the data's
            answer, as {1: 0, 2: 1}; None: what fits all rows
        before_choice: what stands between prompt and choice
        normalize: None: compare log-likelihoods; tokens or bytes: divide them by the choice's length
        max_length: tokens of prompt and choice together; None for the model's limit
    """

def pair_classification(
    path: str | Mapping[str, str] | Path = ...,
    *,
    data: Data | str | Mapping[str, Any] | Path = ...,
    heldout: str = "auto",
    test: str | None = "auto",
    train: str = "auto",
    heldout_share: float = 0.2,
    seed: int = 0,
    revision: str | None = None,
    metric: TaskMetric | str | Mapping[str, Any] = "average_precision",
    key: str | None = None,
    greater_is_better: bool | None = None,
    inputs: Literal["labels", "logits", "texts", "values", "likelihoods"] | None = None,
    options: Mapping[str, Any] | None = None,
    text: str = "text",
    text_pair: str = "text_pair",
    label: str = "label",
    labels: str | Mapping[Any, Any] | Sequence[str] | None = None,
    pooling: str | Sequence[str] | None = None,
    prompt: str | None = None,
    lower: bool = False,
    max_length: int | None = None,
) -> PairClassification:
    """Whether two texts belong together, by the cosine of their embeddings and the best threshold. Models:
    encoders (AutoModel).
    Reimers and Gurevych 2019, arXiv 1908.10084

    Args:
        path: a folder of csv, json, parquet or image files by split, one file, a saved dataset, or a hub name
        heldout: the split that decides; auto for validation, or a share of train
        test: the split that is scored at the end and decides nothing; auto for test if it is there, None for
            none
        train: training data, for what is computed on it (method.recalibrate_batchnorm)
        heldout_share: how much of train decides where there is no validation split
        seed: of that draw
        revision: the dataset's revision, on the hub
        metric: average_precision, or best_accuracy, best_f1
        key: which entry of the metric's result is the score; None for the obvious one
        greater_is_better: False for a loss; None for what the metric says
        inputs: labels, logits, texts, values or likelihoods; None for what the metric says
        options: further arguments of the metric's compute, or of its class
        text: the column of the one text
        text_pair: the column of the other
        label: the column of whether they belong together, 0 or 1
        labels: indices, or 0 or 1 by the data's label, as {same: 1, other: 0}; None: numbers, or the one of
            two words that says no
        pooling: mean of the tokens' last hidden states, cls, lasttoken, max, mean_sqrt_len_tokens,
            weightedmean, or a list; None for what runs of sentence-transformers say, else mean
        prompt: what comes before each text; None for what the runs say
        lower: put texts in lower case first
        max_length: tokens after which a text is cut; None for what the runs say, else the model's limit
    """

def question_answering(
    path: str | Mapping[str, str] | Path = ...,
    *,
    data: Data | str | Mapping[str, Any] | Path = ...,
    heldout: str = "auto",
    test: str | None = "auto",
    train: str = "auto",
    heldout_share: float = 0.2,
    seed: int = 0,
    revision: str | None = None,
    metric: TaskMetric | str | Mapping[str, Any] = "answer_f1",
    key: str | None = None,
    greater_is_better: bool | None = None,
    inputs: Literal["labels", "logits", "texts", "values", "likelihoods"] | None = None,
    options: Mapping[str, Any] | None = None,
    question: str = "question",
    context: str = "context",
    answers: str = "answers",
    unanswerable: bool = False,
    longest_answer: int = 30,
    stride: int = 128,
    max_length: int | None = None,
) -> QuestionAnswering:
    """Where in a text the answer to a question is. Models: AutoModelForQuestionAnswering, with a fast
    tokenizer.
    Rajpurkar et al. 2016, arXiv 1606.05250

    Args:
        path: a folder of csv, json, parquet or image files by split, one file, a saved dataset, or a hub name
        heldout: the split that decides; auto for validation, or a share of train
        test: the split that is scored at the end and decides nothing; auto for test if it is there, None for
            none
        train: training data, for what is computed on it (method.recalibrate_batchnorm)
        heldout_share: how much of train decides where there is no validation split
        seed: of that draw
        revision: the dataset's revision, on the hub
        metric: answer_f1, or answer_exact
        key: which entry of the metric's result is the score; None for the obvious one
        greater_is_better: False for a loss; None for what the metric says
        inputs: labels, logits, texts, values or likelihoods; None for what the metric says
        options: further arguments of the metric's compute, or of its class
        question: the column of questions
        context: the column of texts that answers are cut out of
        answers: the column of right answers: a text, a list of texts, or SQuAD's {text: [...]}
        unanswerable: whether a question may have no answer
        longest_answer: tokens that an answer may have
        stride: tokens that the windows of a long context overlap by
        max_length: tokens of question and window together; None for the model's limit
    """

def reranking(
    path: str | Mapping[str, str] | Path = ...,
    *,
    data: Data | str | Mapping[str, Any] | Path = ...,
    heldout: str = "auto",
    test: str | None = "auto",
    train: str = "auto",
    heldout_share: float = 0.2,
    seed: int = 0,
    revision: str | None = None,
    metric: TaskMetric | str | Mapping[str, Any] = "ndcg_at_10",
    key: str | None = None,
    greater_is_better: bool | None = None,
    inputs: Literal["labels", "logits", "texts", "values", "likelihoods"] | None = None,
    options: Mapping[str, Any] | None = None,
    query: str = "query",
    positive: str = "positive",
    negative: str = "negative",
    architecture: Literal["bi", "cross"] = "bi",
    similarity: Literal["cosine", "dot"] | None = None,
    query_prompt: str | None = None,
    passage_prompt: str | None = None,
    pooling: str | Sequence[str] | None = None,
    prompt: str | None = None,
    lower: bool = False,
    max_length: int | None = None,
) -> Reranking:
    """How far up the right ones of a query's passages are put. Models: encoders (AutoModel), or
    cross-encoders (AutoModelForSequenceClassification).
    Nogueira and Cho 2019, arXiv 1901.04085

    Args:
        path: a folder of csv, json, parquet or image files by split, one file, a saved dataset, or a hub name
        heldout: the split that decides; auto for validation, or a share of train
        test: the split that is scored at the end and decides nothing; auto for test if it is there, None for
            none
        train: training data, for what is computed on it (method.recalibrate_batchnorm)
        heldout_share: how much of train decides where there is no validation split
        seed: of that draw
        revision: the dataset's revision, on the hub
        metric: ndcg_at_10, or mrr_at_10, recall_at_10, map_at_100; metric.options.k is another number than 10
        key: which entry of the metric's result is the score; None for the obvious one
        greater_is_better: False for a loss; None for what the metric says
        inputs: labels, logits, texts, values or likelihoods; None for what the metric says
        options: further arguments of the metric's compute, or of its class
        query: the column of queries
        positive: the column of the passages that are right, one or a list
        negative: the column of those that are not
        architecture: encoders, which embed each text for itself; cross for sequence classification with one
            output
        similarity: cosine or dot; None for what runs of sentence-transformers say, else cosine
        query_prompt: what comes before each query; None for what the runs say, else prompt
        passage_prompt: what comes before each passage; None for what the runs say, else prompt
        pooling: mean of the tokens' last hidden states, cls, lasttoken, max, mean_sqrt_len_tokens,
            weightedmean, or a list; None for what runs of sentence-transformers say, else mean
        prompt: what comes before each text; None for what the runs say
        lower: put texts in lower case first
        max_length: tokens after which a text (cross: query and passage together) is cut; None for what the
            runs say, else the model's limit
    """

def retrieval(
    path: str | Mapping[str, str] | Path = ...,
    *,
    data: Data | str | Mapping[str, Any] | Path = ...,
    heldout: str = "auto",
    test: str | None = "auto",
    train: str = "auto",
    heldout_share: float = 0.2,
    seed: int = 0,
    revision: str | None = None,
    metric: TaskMetric | str | Mapping[str, Any] = "ndcg_at_10",
    key: str | None = None,
    greater_is_better: bool | None = None,
    inputs: Literal["labels", "logits", "texts", "values", "likelihoods"] | None = None,
    options: Mapping[str, Any] | None = None,
    query: str = "query",
    relevant: str = "relevant",
    corpus: str = "corpus.jsonl",
    id: str = "id",
    passage: str = "{text}",
    queries: str = "queries.jsonl",
    similarity: Literal["cosine", "dot"] | None = None,
    query_prompt: str | None = None,
    passage_prompt: str | None = None,
    pooling: str | Sequence[str] | None = None,
    prompt: str | None = None,
    lower: bool = False,
    max_length: int | None = None,
) -> Retrieval:
    """How far up the passages that are relevant to a query are among all of a corpus. Models: encoders
    (AutoModel).
    Thakur et al. 2021, arXiv 2104.08663

    Args:
        path: a folder of csv, json, parquet or image files by split, one file, a saved dataset, or a hub name
        heldout: the split that decides; auto for validation, or a share of train
        test: the split that is scored at the end and decides nothing; auto for test if it is there, None for
            none
        train: training data, for what is computed on it (method.recalibrate_batchnorm)
        heldout_share: how much of train decides where there is no validation split
        seed: of that draw
        revision: the dataset's revision, on the hub
        metric: ndcg_at_10, or mrr_at_10, recall_at_10, map_at_100; metric.options.k is another number than 10
        key: which entry of the metric's result is the score; None for the obvious one
        greater_is_better: False for a loss; None for what the metric says
        inputs: labels, logits, texts, values or likelihoods; None for what the metric says
        options: further arguments of the metric's compute, or of its class
        query: the column of queries
        relevant: the column of the ids of the passages that are relevant, one or a list
        corpus: the file of all passages, beside the data or anywhere
        id: the column of ids in it, and in queries; _id is found, too
        passage: a template over the corpus's columns, as "{title} {text}"
        queries: the file of the queries' texts, where the data is judgements (query-id, corpus-id, score), as
            BEIR's
        similarity: cosine or dot; None for what runs of sentence-transformers say, else cosine
        query_prompt: what comes before each query; None for what the runs say, else prompt
        passage_prompt: what comes before each passage; None for what the runs say, else prompt
        pooling: mean of the tokens' last hidden states, cls, lasttoken, max, mean_sqrt_len_tokens,
            weightedmean, or a list; None for what runs of sentence-transformers say, else mean
        prompt: what comes before each text; None for what the runs say
        lower: put texts in lower case first
        max_length: tokens after which a text is cut; None for what the runs say, else the model's limit
    """

def several(
    tasks: Mapping[str, Task],
    *,
    aggregate: Literal["mean", "min", "normalized"] = "mean",
    weights: Mapping[str, float] | None = None,
) -> Several:
    """Several tasks at once, by name, all of which one model has to be good at.
    On the command line each is added as +task@task.tasks.NAME=text_classification.

    Args:
        tasks: by name
        aggregate: one score out of theirs: mean, min, or normalized (each divided by the best single run's)
        weights: weight by name of task in the mean; None for equal ones
    """

def speech_recognition(
    path: str | Mapping[str, str] | Path = ...,
    *,
    data: Data | str | Mapping[str, Any] | Path = ...,
    heldout: str = "auto",
    test: str | None = "auto",
    train: str = "auto",
    heldout_share: float = 0.2,
    seed: int = 0,
    revision: str | None = None,
    metric: TaskMetric | str | Mapping[str, Any] = "word_error_rate",
    key: str | None = None,
    greater_is_better: bool | None = None,
    inputs: Literal["labels", "logits", "texts", "values", "likelihoods"] | None = None,
    options: Mapping[str, Any] | None = None,
    architecture: Literal["seq2seq", "ctc"] = "seq2seq",
    audio: str = "audio",
    text: str = "text",
    normalize: Literal["none", "basic"] = "none",
    sampling_rate: int | None = None,
    language: str | None = None,
    max_new_tokens: int | None = None,
    num_beams: int = 1,
) -> SpeechRecognition:
    """What a model writes down of a recording. Models: AutoModelForSpeechSeq2Seq (Whisper) or AutoModelForCTC
    (wav2vec 2.0, HuBERT).

    Args:
        path: a folder of csv, json, parquet or image files by split, one file, a saved dataset, or a hub name
        heldout: the split that decides; auto for validation, or a share of train
        test: the split that is scored at the end and decides nothing; auto for test if it is there, None for
            none
        train: training data, for what is computed on it (method.recalibrate_batchnorm)
        heldout_share: how much of train decides where there is no validation split
        seed: of that draw
        revision: the dataset's revision, on the hub
        metric: word_error_rate, or character_error_rate, exact_match
        key: which entry of the metric's result is the score; None for the obvious one
        greater_is_better: False for a loss; None for what the metric says
        inputs: labels, logits, texts, values or likelihoods; None for what the metric says
        options: further arguments of the metric's compute, or of its class
        architecture: seq2seq: generates (Whisper); ctc: a character for each frame (wav2vec 2.0, HuBERT)
        audio: the column of recordings: of datasets.Audio, paths, bytes, numbers, or {array, sampling_rate}
        text: the column of what is said
        normalize: what is done to both texts first; basic: lower case, no punctuation, nothing in brackets
        sampling_rate: of columns of numbers, samples in a second; None for the feature extractor's
        language: that a multilingual Whisper is told; None for what its generation_config.json says, else
            what it hears
        max_new_tokens: how much is generated at most; None for the model's limit
        num_beams: 1 for the likeliest token each time, more for beam search
    """

def text_classification(
    path: str | Mapping[str, str] | Path = ...,
    *,
    data: Data | str | Mapping[str, Any] | Path = ...,
    heldout: str = "auto",
    test: str | None = "auto",
    train: str = "auto",
    heldout_share: float = 0.2,
    seed: int = 0,
    revision: str | None = None,
    metric: TaskMetric | str | Mapping[str, Any] = "accuracy",
    key: str | None = None,
    greater_is_better: bool | None = None,
    inputs: Literal["labels", "logits", "texts", "values", "likelihoods"] | None = None,
    options: Mapping[str, Any] | None = None,
    text: str = "text",
    text_pair: str | None = None,
    label: str = "label",
    labels: str | Mapping[Any, Any] | Sequence[str] | None = None,
    max_length: int | None = None,
) -> TextClassification:
    """One label for a text, or for a pair of texts. Models: AutoModelForSequenceClassification.

    Args:
        path: a folder of csv, json, parquet or image files by split, one file, a saved dataset, or a hub name
        heldout: the split that decides; auto for validation, or a share of train
        test: the split that is scored at the end and decides nothing; auto for test if it is there, None for
            none
        train: training data, for what is computed on it (method.recalibrate_batchnorm)
        heldout_share: how much of train decides where there is no validation split
        seed: of that draw
        revision: the dataset's revision, on the hub
        metric: accuracy, or f1_macro, cross_entropy, exact_match, or any metric of `evaluate`
        key: which entry of the metric's result is the score; None for the obvious one
        greater_is_better: False for a loss; None for what the metric says
        inputs: labels, logits, texts, values or likelihoods; None for what the metric says
        options: further arguments of the metric's compute, or of its class
        text: the column of the text
        text_pair: the column of a second text
        label: the column of the label
        labels: names, indices, or the model's label by the data's, as {neg: NEGATIVE}; None: names, and
            numbers if there are none
        max_length: tokens after which a text is cut; None for the model's limit
    """

def text_generation(
    path: str | Mapping[str, str] | Path = ...,
    *,
    data: Data | str | Mapping[str, Any] | Path = ...,
    heldout: str = "auto",
    test: str | None = "auto",
    train: str = "auto",
    heldout_share: float = 0.2,
    seed: int = 0,
    revision: str | None = None,
    metric: TaskMetric | str | Mapping[str, Any] = "exact_match",
    key: str | None = None,
    greater_is_better: bool | None = None,
    inputs: Literal["labels", "logits", "texts", "values", "likelihoods"] | None = None,
    options: Mapping[str, Any] | None = None,
    architecture: Literal["causal", "seq2seq"] = "causal",
    prompt: str = "{prompt}",
    answer: str = "answer",
    extract: str | None = None,
    stop: tuple[str, ...] | list[str] = [],
    max_new_tokens: int = 64,
    num_beams: int = 1,
    max_length: int | None = None,
) -> TextGeneration:
    r"""What a model writes after a prompt: summaries, sums, translations. Models: AutoModelForCausalLM or
    AutoModelForSeq2SeqLM.

    Args:
        path: a folder of csv, json, parquet or image files by split, one file, a saved dataset, or a hub name
        heldout: the split that decides; auto for validation, or a share of train
        test: the split that is scored at the end and decides nothing; auto for test if it is there, None for
            none
        train: training data, for what is computed on it (method.recalibrate_batchnorm)
        heldout_share: how much of train decides where there is no validation split
        seed: of that draw
        revision: the dataset's revision, on the hub
        metric: exact_match, or rouge1, rouge2, rouge_l, bleu
        key: which entry of the metric's result is the score; None for the obvious one
        greater_is_better: False for a loss; None for what the metric says
        inputs: labels, logits, texts, values or likelihoods; None for what the metric says
        options: further arguments of the metric's compute, or of its class
        architecture: causal: continues the prompt; seq2seq: answers it (T5, BART)
        prompt: a template over the columns; \n for a new line
        answer: the column of the text that should come out
        extract: a regular expression for what to compare, as '(-?\d+)', where it matches last; None for
            everything
        stop: texts at which what was generated is cut
        max_new_tokens: how much is generated at most
        num_beams: 1 for the likeliest token each time, more for beam search
        max_length: tokens of the prompt, of which the beginning is cut; None for what there is room for
    """

def text_regression(
    path: str | Mapping[str, str] | Path = ...,
    *,
    data: Data | str | Mapping[str, Any] | Path = ...,
    heldout: str = "auto",
    test: str | None = "auto",
    train: str = "auto",
    heldout_share: float = 0.2,
    seed: int = 0,
    revision: str | None = None,
    metric: TaskMetric | str | Mapping[str, Any] = "pearson",
    key: str | None = None,
    greater_is_better: bool | None = None,
    inputs: Literal["labels", "logits", "texts", "values", "likelihoods"] | None = None,
    options: Mapping[str, Any] | None = None,
    text: str = "text",
    text_pair: str | None = None,
    label: str = "label",
    max_length: int | None = None,
) -> TextRegression:
    """A number for a text, or for a pair of texts. Models: AutoModelForSequenceClassification with one
    output.

    Args:
        path: a folder of csv, json, parquet or image files by split, one file, a saved dataset, or a hub name
        heldout: the split that decides; auto for validation, or a share of train
        test: the split that is scored at the end and decides nothing; auto for test if it is there, None for
            none
        train: training data, for what is computed on it (method.recalibrate_batchnorm)
        heldout_share: how much of train decides where there is no validation split
        seed: of that draw
        revision: the dataset's revision, on the hub
        metric: pearson, or spearman, mse
        key: which entry of the metric's result is the score; None for the obvious one
        greater_is_better: False for a loss; None for what the metric says
        inputs: labels, logits, texts, values or likelihoods; None for what the metric says
        options: further arguments of the metric's compute, or of its class
        text: the column of the text
        text_pair: the column of a second text
        label: the column of the number
        max_length: tokens after which a text is cut; None for the model's limit
    """

def token_classification(
    path: str | Mapping[str, str] | Path = ...,
    *,
    data: Data | str | Mapping[str, Any] | Path = ...,
    heldout: str = "auto",
    test: str | None = "auto",
    train: str = "auto",
    heldout_share: float = 0.2,
    seed: int = 0,
    revision: str | None = None,
    metric: TaskMetric | str | Mapping[str, Any] = "entity_f1",
    key: str | None = None,
    greater_is_better: bool | None = None,
    inputs: Literal["labels", "logits", "texts", "values", "likelihoods"] | None = None,
    options: Mapping[str, Any] | None = None,
    words: str = "tokens",
    label: str = "tags",
    labels: str | Mapping[Any, Any] | Sequence[str] | None = None,
    max_length: int | None = None,
) -> TokenClassification:
    """A tag for each word, as in named-entity recognition. Models: AutoModelForTokenClassification.

    Args:
        path: a folder of csv, json, parquet or image files by split, one file, a saved dataset, or a hub name
        heldout: the split that decides; auto for validation, or a share of train
        test: the split that is scored at the end and decides nothing; auto for test if it is there, None for
            none
        train: training data, for what is computed on it (method.recalibrate_batchnorm)
        heldout_share: how much of train decides where there is no validation split
        seed: of that draw
        revision: the dataset's revision, on the hub
        metric: entity_f1, or token_accuracy
        key: which entry of the metric's result is the score; None for the obvious one
        greater_is_better: False for a loss; None for what the metric says
        inputs: labels, logits, texts, values or likelihoods; None for what the metric says
        options: further arguments of the metric's compute, or of its class
        words: the column of the words, a list
        label: the column of their tags, a list
        labels: names, indices, or the model's tag by the data's, as {PERSON: B-PER}; None: names, and numbers
            if there are none
        max_length: tokens after which a text is cut; None for the model's limit
    """

def triplets(
    path: str | Mapping[str, str] | Path = ...,
    *,
    data: Data | str | Mapping[str, Any] | Path = ...,
    heldout: str = "auto",
    test: str | None = "auto",
    train: str = "auto",
    heldout_share: float = 0.2,
    seed: int = 0,
    revision: str | None = None,
    metric: TaskMetric | str | Mapping[str, Any] = "accuracy",
    key: str | None = None,
    greater_is_better: bool | None = None,
    inputs: Literal["labels", "logits", "texts", "values", "likelihoods"] | None = None,
    options: Mapping[str, Any] | None = None,
    anchor: str = "anchor",
    positive: str = "positive",
    negative: str = "negative",
    pooling: str | Sequence[str] | None = None,
    prompt: str | None = None,
    lower: bool = False,
    max_length: int | None = None,
) -> Triplets:
    """Whether an embedding is nearer to that of a text that belongs to it than to another's. Models: encoders
    (AutoModel).
    Schroff et al. 2015, arXiv 1503.03832

    Args:
        path: a folder of csv, json, parquet or image files by split, one file, a saved dataset, or a hub name
        heldout: the split that decides; auto for validation, or a share of train
        test: the split that is scored at the end and decides nothing; auto for test if it is there, None for
            none
        train: training data, for what is computed on it (method.recalibrate_batchnorm)
        heldout_share: how much of train decides where there is no validation split
        seed: of that draw
        revision: the dataset's revision, on the hub
        metric: shipped; or a class, as my_module.Recall; or a path or hub name of `evaluate`'s
        key: which entry of the metric's result is the score; None for the obvious one
        greater_is_better: False for a loss; None for what the metric says
        inputs: labels, logits, texts, values or likelihoods; None for what the metric says
        options: further arguments of the metric's compute, or of its class
        anchor: the column of a text
        positive: the column of one that belongs to it
        negative: the column of another
        pooling: mean of the tokens' last hidden states, cls, lasttoken, max, mean_sqrt_len_tokens,
            weightedmean, or a list; None for what runs of sentence-transformers say, else mean
        prompt: what comes before each text; None for what the runs say
        lower: put texts in lower case first
        max_length: tokens after which a text is cut; None for what the runs say, else the model's limit
    """

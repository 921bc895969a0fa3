"""Tasks of EleutherAI's lm-evaluation-harness, run on the live model. Extra: lm-eval.

The harness makes the requests, once, and judges the answers; the model in memory gives
them. Nothing is written to disk for it, and the harness's own cache, which does not know
which weights answered, is not used.

Source: https://github.com/EleutherAI/lm-evaluation-harness
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
import torch
import xxhash
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel

from soupkitchen.errors import ConfigError, DataError
from soupkitchen.metrics import TaskMetric
from soupkitchen.metrics.extras import installed
from soupkitchen.options.building import TARGET, describe, target_of
from soupkitchen.store.provenance import source_of
from soupkitchen.tasks.base import Batch, Processor
from soupkitchen.tasks.kinds.several import Several
from soupkitchen.tasks.texts import TextTask, check_causal, unwrapped

SEED = 1234
"""Of few-shot examples: the harness's own default."""

_RIGHT_OR_WRONG = ("acc", "acc_norm", "acc_bytes", "exact_match")


def harness_tasks(
    tasks: Sequence[str],
    num_fewshot: int | None = None,
    limit: int | None = None,
    test_limit: int | None = None,
    metric: str | None = None,
    architecture: Literal["causal", "seq2seq"] = "causal",
    aggregate: Literal["mean", "min", "normalized"] = "mean",
    weights: Mapping[str, float] | None = None,
) -> HarnessTask | Several:
    """One task of the harness, or several aggregated.

    Args:
        tasks: names of tasks or groups, or paths of task YAMLs.
        num_fewshot: examples in the prompt; None for what the task says.
        limit: how many documents of each task decide, the first ones; None for all.
        test_limit: how many documents after these are scored at the end and decide
            nothing; None for no test.
        metric: which of the task's metrics is the score; None for its first.
        architecture: "causal" or "seq2seq" models.
        aggregate, weights: as in `Several`.

    Raises:
        ConfigError: for a task that there is not, or options out of range.
        MetricError: where the harness is not installed.
    """
    if isinstance(tasks, str) or not tasks:
        raise ConfigError(f"task.tasks={tasks} should be a list of names or paths, as [arc_easy,hellaswag]")
    if test_limit is not None and limit is None:
        raise ConfigError("task.test_limit needs task.limit: the documents after those that decide")
    options = {
        "tasks": list(tasks),
        "num_fewshot": num_fewshot,
        "limit": limit,
        "test_limit": test_limit,
        "metric": metric,
        "architecture": architecture,
        "aggregate": aggregate,
        "weights": weights,
    }
    ours = {
        name: HarnessTask(
            name, num_fewshot, limit, test_limit, metric, architecture, task, {**options, "tasks": [asked]}
        )
        for asked in tasks
        for name, task in _load(asked).items()
    }
    if len(ours) == 1:
        return replace(next(iter(ours.values())), _made_of=options)
    return HarnessTasks(ours, aggregate, weights, options)


def _load(name: str) -> dict[str, Any]:
    """The harness's task objects of a name, by name."""
    manager = installed("lm_eval.tasks", "lm-eval").TaskManager
    path = Path(name).expanduser()
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ConfigError(f"task.tasks: there is no file {name}")
        match = re.search(r"^task:\s*['\"]?([^\s'\"#]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        if match is None:
            raise ConfigError(f"task.tasks: {name} has no line 'task: NAME'")
        found, name = manager(include_path=str(path.parent)), match[1]
    else:
        found = manager()
    try:
        return found.load([name])["tasks"]
    except (KeyError, ValueError) as error:
        raise ConfigError(f"task.tasks: the harness has no task {name!r} ({error})") from error
    except (OSError, ConnectionError) as error:
        raise DataError(f"task.tasks: the data of {name!r} cannot be loaded ({error})") from error


def _described(options: Mapping[str, Any]) -> dict[str, Any]:
    return {TARGET: target_of(harness_tasks), **describe(options)}


@dataclass(frozen=True)
class HarnessTasks(Several):
    """Several tasks of the harness, which know the options that they were made of."""

    _made_of: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def describe(self) -> dict[str, Any]:
        """The options of `harness_tasks`."""
        return _described(self._made_of)


@dataclass(frozen=True)
class _Documents:
    """Which documents of a harness task serve for what."""

    count: int
    limit: int | None
    test_limit: int | None

    def load_splits(self, stratify: str | None = None) -> dict[str, datasets.Dataset]:
        limit = self.count if self.limit is None else min(self.limit, self.count)
        splits = {"heldout": datasets.Dataset.from_dict({"document": list(range(limit))})}
        if self.test_limit is not None:
            test = list(range(limit, min(limit + self.test_limit, self.count)))
            if not test:
                raise DataError(
                    f"task.limit={self.limit} leaves no documents for a test: there are {self.count}"
                )
            splits["test"] = datasets.Dataset.from_dict({"document": test})
        return splits

    def load_training(self, stratify: str | None = None) -> datasets.Dataset:
        raise DataError(
            "tasks of the harness have no training data here; leave method.recalibrate_batchnorm at 0"
        )

    def training_beside(self) -> None:
        return None


class _Judged:
    """What the harness makes of its documents' results, as `TaskMetric` wants to know it."""

    def __init__(self, name: str, aggregate: Callable[[Sequence[Any]], float], is_mean: bool) -> None:
        self.binary = name in _RIGHT_OR_WRONG
        self.best = 1.0 if self.binary else None
        if is_mean:
            self.per_example = lambda predictions, references: np.asarray(predictions, float)
        else:
            self.of = lambda predictions, references: float(aggregate(list(predictions)))


@dataclass(frozen=True)
class HarnessTask(TextTask):
    """One task of the harness. Made by `harness_tasks`, which describes the options."""

    name: str
    num_fewshot: int | None
    limit: int | None
    test_limit: int | None
    metric_name: str | None
    architecture: Literal["causal", "seq2seq"]
    _task: Any = field(repr=False, compare=False)
    _made_of: Mapping[str, Any] = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.architecture not in ("causal", "seq2seq"):
            raise ConfigError(f"task.architecture={self.architecture}: choose causal or seq2seq")
        if self.metric.name not in self._task.aggregation():
            raise ConfigError(
                f"task.metric={self.metric_name}: {self.name} has {', '.join(self._task.aggregation())}"
            )

    @property
    def data(self) -> _Documents:
        return _Documents(len(self._documents), self.limit, self.test_limit)

    @cached_property
    def metric(self) -> TaskMetric:
        aggregations = self._task.aggregation()
        name = self.metric_name or next(iter(aggregations))
        aggregate = aggregations.get(name)
        mean = installed("lm_eval.api.metrics", "lm-eval").mean
        module: Any = _Judged(name, aggregate, aggregate is mean)
        return TaskMetric(name, module, name, bool(self._task.higher_is_better().get(name, True)), "values")

    @property
    def model_class(self) -> type:
        return AutoModelForCausalLM if self.architecture == "causal" else AutoModelForSeq2SeqLM

    @property
    def content_columns(self) -> tuple[str, ...]:
        return ("document",)

    def describe(self) -> dict[str, Any]:
        """The options of `harness_tasks`."""
        return _described(self._made_of)

    def identity(self) -> list[str]:
        """What results depend on beside options and requests: the harness, the task, its right answers."""
        config = self._task.config
        values = [*vars(config).values(), *vars(config.fewshot_config).values()]
        functions = [value for value in values if callable(value)]
        told = json.dumps(config.to_dict(), sort_keys=True, default=str)
        state = xxhash.xxh3_128()
        for document in self._documents:
            state.update(_without_addresses(repr(document)).encode(errors="surrogatepass"))
        return [
            f"lm_eval {version('lm_eval')}",
            _without_addresses(told),
            *(source for thing in (type(self._task), *functions) for source in source_of(thing)),
            f"documents {state.hexdigest()}",
            f"metric {self.metric.name}, {self.num_fewshot} examples",
        ]

    def prepare(
        self, split: datasets.Dataset, processor: Processor, model: PreTrainedModel
    ) -> datasets.Dataset:
        if self.architecture == "causal":
            check_causal(model)
        documents = split["document"][:]
        asked = [[request.args for request in self._requests[number]] for number in documents]
        texts = [json.dumps(requests, default=str) for requests in asked]
        lengths = [len(text) for text in texts]
        return datasets.Dataset.from_dict({"document": documents, "requests": texts, "length": lengths})

    def references(self, prepared: datasets.Dataset) -> np.ndarray:
        return np.asarray(prepared["document"][:])

    def collator(self, processor: Processor) -> Callable[[list[dict[str, Any]]], Batch]:
        return lambda examples: {"document": torch.tensor([example["document"] for example in examples])}

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> list[Any]:
        """For each document, what the metric aggregates."""
        answerer = self._answerer(unwrapped(model), processor)
        numbers = batch["document"].tolist()
        answerer.batch_size_per_gpu = len(numbers)
        requests = [request for number in numbers for request in self._requests[number]]
        by_kind: dict[str, list[Any]] = defaultdict(list)
        for request in requests:
            request.resps, request.filtered_resps = [], {}
            by_kind[request.request_type] += [request] * request.repeats
        for kind, asked in by_kind.items():
            for request, answer in zip(asked, getattr(answerer, kind)(asked, disable_tqdm=True), strict=True):
                request.resps.append(answer)
        self._task._instances = requests
        self._task.apply_filters()
        first_filter = next(iter(requests[0].filtered_resps))
        results = []
        for number in numbers:
            answers = [request.filtered_resps[first_filter] for request in self._requests[number]]
            results.append(self._task.process_results(self._documents[number], answers)[self.metric.name])
        return results

    @cached_property
    def _documents(self) -> Any:
        return self._task.eval_docs

    @cached_property
    def _requests(self) -> dict[int, list[Any]]:
        """The requests of each document that is scored, in the harness's own way and order."""
        if self.num_fewshot is not None and self._task.get_config("num_fewshot") != 0:
            self._task.set_config(key="num_fewshot", value=self.num_fewshot)
        elif self._task.get_config("num_fewshot") is None:
            self._task.set_config(key="num_fewshot", value=0)
        self._task.set_fewshot_seed(seed=SEED)
        needed = None if self.limit is None else self.limit + (self.test_limit or 0)
        self._task.build_all_requests(limit=needed, rank=0, world_size=1, fewshot_as_multiturn=True)
        by_document: dict[int, list[Any]] = defaultdict(list)
        for request in self._task.instances:
            by_document[request.doc_id].append(request)
        for requests in by_document.values():
            requests.sort(key=lambda request: request.idx)
        return dict(by_document)

    def _answerer(self, model: PreTrainedModel, tokenizer: Processor) -> Any:
        known = self.__dict__.setdefault("_answerers", {})
        if id(model) not in known:
            hflm = installed("lm_eval.models.huggingface", "lm-eval").HFLM
            known[id(model)] = hflm(pretrained=model, tokenizer=tokenizer, backend=self.architecture)
        return known[id(model)]


def _without_addresses(text: str) -> str:
    """`text` without where in memory functions and images lie, which is another place each time."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)

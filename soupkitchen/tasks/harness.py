"""Tasks of EleutherAI's lm-evaluation-harness, run on the live model. Extra: lm-eval.

The harness makes the requests once, and judges the answers. Its cache is not used, because it does not know
the weights.

Source: https://github.com/EleutherAI/lm-evaluation-harness
"""

from __future__ import annotations

import json
import logging
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xxhash
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel

from soupkitchen.errors import ConfigError, DataError, SoupkitchenError
from soupkitchen.metrics import TaskMetric, installed
from soupkitchen.options.building import TARGET, describe, target_of
from soupkitchen.options.kinds import AtLeast0, AtLeast1, SomeTexts, TaskWeights
from soupkitchen.store.digests import source_of
from soupkitchen.tasks.base import Batch, Examples, Processor, Task
from soupkitchen.tasks.data import DataSource
from soupkitchen.tasks.kinds.several import Several
from soupkitchen.tasks.templates import Bounded
from soupkitchen.tasks.texts import check_causal, unwrapped

log = logging.getLogger(__name__)

SEED = 1234
"""The harness's default for few-shot examples."""

_RIGHT_OR_WRONG = ("acc", "acc_norm", "acc_bytes", "exact_match")
"""Metrics that are 0 or 1 for each example."""


def harness_tasks(
    tasks: SomeTexts,
    num_fewshot: AtLeast0 | None = None,
    limit: AtLeast1 | None = None,
    test_limit: AtLeast1 | None = None,
    metric: str | None = None,
    filter: str | None = None,
    architecture: Literal["causal", "seq2seq"] = "causal",
    aggregate: Literal["mean", "min", "normalized"] = "mean",
    weights: TaskWeights | None = None,
) -> HarnessTask | Several:
    """One task of the harness, or several aggregated.

    Args:
        tasks: names of tasks or groups, or paths of task YAMLs.
        num_fewshot: examples in the prompt; None for the task's number.
        limit: number of documents that decide, from the first of each task; None for all.
        test_limit: number of documents after these, for the test at the end; None for no test.
        metric: the task's metric; None for its first. ``exact_match,flexible-extract`` also names a filter.
        filter: the task's filter of answers, if it has several; None for the group's, else the first.
        architecture: "causal" or "seq2seq" models.
        aggregate, weights: as in `Several`.

    Raises:
        ConfigError: if a task is unknown, or an option out of range.
        MetricError: if the harness is not installed.
    """
    options = {**locals(), "tasks": list(tasks or ())}
    if isinstance(tasks, str) or not tasks:
        raise ConfigError(f"task.tasks={tasks} should be a list of names or paths, as [arc_easy,hellaswag]")
    if test_limit is not None and limit is None:
        raise ConfigError("task.test_limit needs task.limit: the documents after those that decide")
    metric, comma, named = (metric or "").partition(",")
    if comma and filter not in (None, named):
        raise ConfigError(f"task.metric={metric},{named} and task.filter={filter} name two filters; drop one")
    filter = named if comma else filter
    loaded = {name: _load(name) for name in tasks}
    groups = [group for _, group in loaded.values() if group is not None and group.aggregate_metric_list]
    rule = None
    if len(groups) == len(tasks) == 1:
        rules = groups[0].aggregate_metric_list
        rule = next((rule for rule in rules if metric in ("", rule.metric)), None)
    elif groups:
        names = ", ".join(group.name for group in groups)
        log.info(
            "aggregate_metric_list of %s has no part in the score: task.aggregate and task.weights", names
        )
    if rule is not None:
        metric, filter = rule.metric, filter or next(iter(rule.filter_list or ()), None)
    limits = (num_fewshot, limit, test_limit)
    made = {
        name: HarnessTask(
            name, *limits, metric or None, filter, architecture, task, {**options, "tasks": [asked]}
        )
        for asked, (members, _) in loaded.items()
        for name, task in members.items()
    }
    if filter is not None and all(filter not in task.filters for task in made.values()):
        known = dict.fromkeys(name for task in made.values() for name in task.filters)
        raise ConfigError(f"task.filter={filter}: {', '.join(made)} has {', '.join(known)}")
    for name, task in made.items():
        if filter is None and len(task.filters) > 1:
            first, *others = task.filters
            log.info(
                "%s: the filter %s decides; task.filter names another: %s", name, first, ", ".join(others)
            )
    if len(made) == 1:
        return replace(next(iter(made.values())), _made_of=options)
    if rule is not None and rule.weight_by_size and weights is None and aggregate == "mean":
        weights = {name: len(task.data.load_splits()["heldout"]) for name, task in made.items()}
        log.info("tasks of %s count by their size, as its aggregate_metric_list says", groups[0].name)
    return HarnessTasks(made, aggregate, weights, options)


def _load(name: str) -> tuple[dict[str, Any], Any]:
    """The harness's tasks by name, and their group, if any."""
    manager = installed("lm_eval.tasks", "lm-eval").TaskManager
    templates = installed("lm_eval.utils", "lm-eval")
    if not isinstance(templates.env, Bounded):
        templates.env = Bounded.like(templates.env)
    path = Path(name).expanduser()
    try:
        if path.suffix in (".yaml", ".yml"):
            asked, index = _name_in(path), manager(include_path=str(path.parent))
            other = getattr(index.task_index.get(asked), "yaml_path", None) or path
            if Path(other).resolve() != path.resolve():
                raise ConfigError(f"task.tasks: {path} and {other} are both called {asked}; rename one")
        else:
            asked, index = name, manager()
        loaded = index.load([asked])
    except SoupkitchenError:
        raise
    except (OSError, ConnectionError) as error:
        raise DataError(f"task.tasks: the data of {name!r} cannot be loaded ({error})") from error
    except Exception as error:  # a YAML and the code that it names lead to errors of any kind
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"task.tasks: the harness cannot load {name!r} ({reason})") from error
    if not loaded["tasks"]:
        raise ConfigError(f"task.tasks: {name!r} is a group without tasks")
    return loaded["tasks"], next(iter(loaded.get("groups", {}).values()), None)


def _name_in(path: Path) -> str:
    if not path.is_file():
        raise ConfigError(f"task.tasks: there is no file {path}")
    tree = installed("lm_eval.tasks._yaml_loader", "lm-eval").load_yaml(path, resolve_func=False)
    name = tree.get("group", tree.get("task"))
    if not isinstance(name, str):
        raise ConfigError(f"task.tasks: {path} has no line 'task: NAME' or 'group: NAME' with one name")
    return name


def _described(options: Mapping[str, Any]) -> dict[str, Any]:
    return {TARGET: target_of(harness_tasks), **describe(options)}


@dataclass(frozen=True)
class HarnessTasks(Several):
    """Several tasks of the harness."""

    _made_of: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def describe(self) -> dict[str, Any]:
        """The options of `harness_tasks`."""
        return _described(self._made_of)


@dataclass(frozen=True)
class _Documents(DataSource):
    """Numbers of a task's documents, by split."""

    count: int
    limit: int | None
    test_limit: int | None

    def load_splits(self, stratify: str | None = None) -> dict[str, Dataset]:
        limit = self.count if self.limit is None else min(self.limit, self.count)
        splits = {"heldout": range(limit)}
        if self.test_limit is not None:
            splits["test"] = range(limit, min(limit + self.test_limit, self.count))
            if not splits["test"]:
                raise DataError(
                    f"task.limit={self.limit} leaves no documents for a test: there are {self.count}"
                )
        return {role: Dataset.from_dict({"document": list(some)}) for role, some in splits.items()}


class _Judged:
    """The harness's metric for `TaskMetric.module`; predictions are results of documents."""

    def __init__(self, name: str, aggregate: Callable[[Sequence[Any]], float], is_mean: bool) -> None:
        self.binary = name in _RIGHT_OR_WRONG
        self.best = 1.0 if self.binary else None
        if is_mean:
            self.per_example = lambda predictions, references: predictions
        else:
            self.of = lambda predictions, references: float(aggregate(list(predictions)))


@dataclass(frozen=True)
class HarnessTask(Task):
    """One task of the harness, made by `harness_tasks`."""

    name: str
    num_fewshot: int | None
    limit: int | None
    test_limit: int | None
    metric_name: str | None
    filter_name: str | None
    architecture: Literal["causal", "seq2seq"]
    _task: Any = field(repr=False, compare=False)
    _made_of: Mapping[str, Any] = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.metric.name not in self._task.aggregation():
            raise ConfigError(
                f"task.metric={self.metric_name}: {self.name} has {', '.join(self._task.aggregation())}"
            )
        if self.filter_name not in (None, *self.filters) and len(self.filters) > 1:
            raise ConfigError(f"task.filter={self.filter_name}: {self.name} has {', '.join(self.filters)}")

    @property
    def filters(self) -> list[str]:
        return [ensemble.name for ensemble in self._task._filters]

    @property
    def filter(self) -> str:
        return self.filter_name if self.filter_name in self.filters else self.filters[0]

    @property
    def data(self) -> _Documents:  # type: ignore[override]
        return _Documents(len(self._documents), self.limit, self.test_limit)

    @cached_property
    def metric(self) -> TaskMetric:  # type: ignore[override]
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
        """Versions of the harness, the task and its documents."""
        config = self._task.config
        values = [*vars(config).values(), *vars(config.fewshot_config).values()]
        functions = [value for value in values if callable(value)]
        options = json.dumps(config.to_dict(), sort_keys=True, default=str)
        state = xxhash.xxh3_128()
        for document in self._documents:
            state.update(_without_addresses(repr(document)).encode(errors="surrogatepass"))
        return [
            f"lm_eval {version('lm_eval')}",
            _without_addresses(options),
            *(source for thing in (type(self._task), *functions) for source in source_of(thing)),
            f"documents {state.hexdigest()}",
            f"metric {self.metric.name}, {self.num_fewshot} examples",
            *([f"filter {self.filter}"] if len(self.filters) > 1 else []),
        ]

    def prepare(self, split: Dataset, processor: Processor, model: PreTrainedModel) -> Dataset:
        if self.architecture == "causal":
            check_causal(model)
        documents = split["document"][:]
        asked = [[request.args for request in self._requests[number]] for number in documents]
        texts = [json.dumps(requests, default=str) for requests in asked]
        lengths = [len(text) for text in texts]
        return Dataset.from_dict({"document": documents, "requests": texts, "length": lengths})

    def references(self, prepared: Dataset) -> np.ndarray:
        return np.asarray(prepared["document"][:])

    def collate(self, examples: Examples, processor: Processor) -> Batch:
        return {"document": torch.tensor([example["document"] for example in examples])}

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> list[Any]:
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
        results = []
        for number in numbers:
            answers = [request.filtered_resps[self.filter] for request in self._requests[number]]
            results.append(self._task.process_results(self._documents[number], answers)[self.metric.name])
        return results

    @cached_property
    def _documents(self) -> Any:
        return self._task.eval_docs

    @cached_property
    def _requests(self) -> dict[int, list[Any]]:
        if self.num_fewshot is not None and self._task.get_config("num_fewshot") != 0:
            self._task.set_config(key="num_fewshot", value=self.num_fewshot)
        elif self._task.get_config("num_fewshot") is None:
            self._task.set_config(key="num_fewshot", value=0)
        self._task.set_fewshot_seed(seed=SEED)
        limit = None if self.limit is None else self.limit + (self.test_limit or 0)
        self._task.build_all_requests(limit=limit, rank=0, world_size=1, fewshot_as_multiturn=True)
        by_document: dict[int, list[Any]] = defaultdict(list)
        for request in self._task.instances:
            by_document[request.doc_id].append(request)
        for requests in by_document.values():
            requests.sort(key=lambda request: request.idx)
        return dict(by_document)

    def _answerer(self, model: PreTrainedModel, tokenizer: Processor) -> Any:
        answerers = self.__dict__.setdefault("_answerers", {})
        if id(model) not in answerers:
            hflm = installed("lm_eval.models.huggingface", "lm-eval").HFLM
            answerers[id(model)] = hflm(pretrained=model, tokenizer=tokenizer, backend=self.architecture)
        return answerers[id(model)]


def _without_addresses(text: str) -> str:
    """Cuts memory addresses, which differ each time."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)

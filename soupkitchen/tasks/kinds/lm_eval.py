"""A task of the lm-evaluation-harness on the live model.

`soupkitchen.tasks.harness` makes it. The harness makes the requests once, and judges the answers. Its cache
is not used, because it does not know the weights.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from typing import Any, Literal

import jinja2
import numpy as np
import torch
import xxhash
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel

from soupkitchen.checkpoints import Checkpoint
from soupkitchen.errors import CheckpointError, ConfigError, DataError, first_line
from soupkitchen.metrics import TaskMetric, installed
from soupkitchen.options.building import describe
from soupkitchen.store.digests import source_of
from soupkitchen.tasks.base import Batch, Examples, Processor, Task
from soupkitchen.tasks.data import DataSource
from soupkitchen.tasks.texts import check_causal, unwrapped

SEED = 1234
"""The harness's default for few-shot examples."""

_RIGHT_OR_WRONG = ("acc", "acc_norm", "acc_bytes", "exact_match")
"""Metrics that are 0 or 1 for each example."""


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
    """One task of the harness, made by `harness_tasks`.

    Attributes:
        apply_chat_template: True if the tokenizer's chat template makes the prompts, or the template's name.
        fewshot_as_multiturn: False for few-shot examples in one message of the user's; else each is a turn.
        system_instruction: the system's message; without a chat template, the beginning of the prompt.
    """

    name: str
    num_fewshot: int | None
    limit: int | None
    test_limit: int | None
    metric_name: str | None
    filter_name: str | None
    architecture: Literal["causal", "seq2seq"]
    apply_chat_template: bool | str
    fewshot_as_multiturn: bool | None
    system_instruction: str | None
    _task: Any = field(repr=False, compare=False)
    _tree: Mapping[str, Any] = field(repr=False, compare=False)

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
        tree: dict[str, Any] = describe(self._tree)
        return tree

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

    def fitted_to(self, runs: Sequence[Checkpoint]) -> HarnessTask:
        """The task itself; a first run without the chat template is refused before a model is loaded."""
        if self.apply_chat_template:
            with suppress(CheckpointError):  # the tokenizer may be another run's, or the base's
                self.load_processor(str(runs[0].path))
        return self

    def load_processor(self, folder: str, trust_remote_code: bool = False) -> Processor:
        tokenizer = super().load_processor(folder, trust_remote_code)
        if self.apply_chat_template:
            templates = tokenizer.chat_template or {}
            names = ["default"] if isinstance(templates, str) else sorted(templates)
            wanted = {"default", self.apply_chat_template} - {True}
            if missing := sorted(wanted - set(names)):
                but = f" {missing[0]}, only {', '.join(names)}" if names else ""
                raise ConfigError(
                    f"task.apply_chat_template: the tokenizer in {folder} has no chat template{but}"
                )
        return tokenizer

    def prepare(self, split: Dataset, processor: Processor, model: PreTrainedModel) -> Dataset:
        answerer = self._answerer(model, processor)
        if self.architecture == "causal":
            check_causal(model)
            if self._task.OUTPUT_TYPE == "generate_until":
                room, most = answerer.max_length, generation_of(self._task)["max_gen_toks"]
                if most >= room:
                    raise ConfigError(
                        f"task.gen_kwargs: {self.name} generates max_gen_toks={most}, and the model takes "
                        f"{room} tokens with the prompt; set a smaller one"
                    )
        documents, made = split["document"][:], self._requests(answerer)
        asked = [[request.args for request in made[number]] for number in documents]
        texts = [json.dumps(requests, default=str) for requests in asked]
        lengths = [len(text) for text in texts]
        return Dataset.from_dict({"document": documents, "requests": texts, "length": lengths})

    def references(self, prepared: Dataset) -> np.ndarray:
        return np.asarray(prepared["document"][:])

    def collate(self, examples: Examples, processor: Processor) -> Batch:
        return {"document": torch.tensor([example["document"] for example in examples])}

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> list[Any]:
        answerer = self._answerer(unwrapped(model), processor)
        numbers, made = batch["document"].tolist(), self._requests(answerer)
        answerer.batch_size_per_gpu = len(numbers)
        requests = [request for number in numbers for request in made[number]]
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
            answers = [request.filtered_resps[self.filter] for request in made[number]]
            result = self._task.process_results(self._documents[number], answers)[self.metric.name]
            results.append(_plain(result))
        return results

    @cached_property
    def _documents(self) -> Any:
        return self._task.eval_docs

    def _requests(self, answerer: Any) -> dict[int, list[Any]]:
        """The requests by document; those of the last chat template are kept."""
        template = answerer.tokenizer if self.apply_chat_template else None
        last, made = self.__dict__.get("_made", (None, {}))
        if not made or last is not template:
            made = self._build(answerer)
            self.__dict__["_made"] = template, made
        return made

    def _build(self, answerer: Any) -> dict[int, list[Any]]:
        def templated(messages: list[dict[str, str]], **options: Any) -> str:
            try:
                return str(answerer.apply_chat_template(messages, **options))
            except (jinja2.TemplateError, ValueError) as error:
                raise ConfigError(
                    f"task.apply_chat_template: the template refuses prompts of {self.name}: "
                    f"{first_line(error)}"
                ) from error

        self._task.set_fewshot_seed(seed=SEED)
        self._task.build_all_requests(
            limit=None if self.limit is None else self.limit + (self.test_limit or 0),
            system_instruction=self.system_instruction,
            apply_chat_template=bool(self.apply_chat_template),
            fewshot_as_multiturn=self.fewshot_as_multiturn is not False,
            chat_template=templated if self.apply_chat_template else None,
        )
        by_document: dict[int, list[Any]] = defaultdict(list)
        for request in self._task.instances:
            by_document[request.doc_id].append(request)
        for requests in by_document.values():
            requests.sort(key=lambda request: request.idx)
        return dict(by_document)

    def _answerer(self, model: PreTrainedModel, tokenizer: Processor) -> Any:
        """The harness's wrapper of the model; the last one is kept."""
        last = self.__dict__.get("_last")
        if last is None or last.model is not model or last.tokenizer is not tokenizer:
            hflm = installed("lm_eval.models.huggingface", "lm-eval").HFLM
            last = hflm(pretrained=model, tokenizer=tokenizer, backend=self.architecture)
            self.__dict__["_last"] = last
        return last


def _plain(result: Any) -> Any:
    """A document's result without arrays, as evaluations are kept."""
    if isinstance(result, (np.ndarray, np.generic)):
        return result.tolist()
    return [_plain(part) for part in result] if isinstance(result, (list, tuple)) else result


def _without_addresses(text: str) -> str:
    """Cuts memory addresses, which differ each time."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def generation_of(task: Any) -> dict[str, Any]:
    """A task's generation_kwargs as models take them."""
    utils = installed("lm_eval.models.utils", "lm-eval")
    normal: dict[str, Any] = utils.normalize_gen_kwargs(task.config.generation_kwargs)
    return normal

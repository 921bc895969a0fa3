"""Digests of all that a prediction depends on.

That is: recipe, fingerprints of ingredients, prepared examples, the model's configuration, the task's
options, the user's own code, package versions, and soupkitchen's code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import xxhash

from soupkitchen.checkpoints import Pool
from soupkitchen.evaluation.evaluator import Evaluator
from soupkitchen.soup import Recipe, check_unchanged
from soupkitchen.store.digests import digest, source_of
from soupkitchen.tasks.base import Task


class Identity:
    """The cache keys of a pool's evaluations."""

    def __init__(self, evaluator: Evaluator, pool: Pool) -> None:
        self._evaluator, self._pool = evaluator, pool
        self._examples: dict[str, str] = {}

    def asked(self, recipe: Recipe, split: str) -> str:
        """A digest of recipe, data, model and tasks; devices and batch sizes do not count."""
        tasks = self._evaluator.tasks.tasks
        return digest(
            weights(recipe, self._pool),
            self.examples(TRAIN) if recipe.recalibrate else "",
            self.examples(split),
            split in self._evaluator.examples.arranged,
            self.model(),
            {name: task(one) for name, one in tasks.items()},
        )

    def predictions(self, recipe: Recipe, split: str) -> str:
        """A digest of all that predictions depend on; the order of batches does not count."""
        evaluator, accelerator = self._evaluator, self._evaluator.accelerator
        corpus = evaluator.examples.corpus(split)
        batches = {
            name: sorted(digest(batch.tobytes()) for batch in [*batches, *corpus[name]])
            for name, batches in evaluator.examples.batches(split).items()
        }
        computing = [accelerator.device.type, accelerator.mixed_precision, evaluator.compiled]
        return digest(self.asked(recipe, split), batches, computing, versions(), own_code())

    def check(self, recipe: Recipe) -> None:
        """Raises:
        CheckpointError: if files that the recipe merges have changed.
        """
        check_unchanged(recipe, self._pool)

    def model(self) -> str:
        live = self._evaluator.live
        own = live.maker.identity()
        return digest(model(live.model), own) if own else model(live.model)

    def examples(self, split: str) -> str:
        if split not in self._examples:
            self._examples[split] = examples(list(self._evaluator.prepared(split).values()))
        return self._examples[split]


def weights(recipe: Recipe, pool: Pool) -> list[Any]:
    """All that a recipe's tensors depend on; names of runs do not count."""
    fingerprints = [pool[name].fingerprint for name in recipe.ingredients]
    if recipe.method is None:
        return [fingerprints, recipe.dtype]
    method = recipe.merge_method()
    base = pool.base.fingerprint if method.needs_base and pool.base else None
    told = [fingerprints, list(recipe.coefficients), base, recipe.method, recipe.dtype, recipe.recalibrate]
    return [*told, *foreign_code(method)]


TRAIN = "train"

PACKAGES = ("soupkitchen", "torch", "transformers", "accelerate", "numpy")


_source_of = cache(source_of)


@cache
def versions() -> Mapping[str, str]:
    return {package: version(package) for package in PACKAGES}


PREDICTING = (
    "checkpoints evaluation executors merging metrics models options soup tasks store/evaluations.py".split()
)


@cache
def own_code(package: Path = Path(__file__).parents[1]) -> str:
    """A digest of the code in `PREDICTING`: checkouts may share a version number.

    Comments count: parsing the modules would take longer than a small candidate.
    """
    parts = [package / part for part in PREDICTING]
    files = [file for part in parts for file in (sorted(part.rglob("*.py")) if part.is_dir() else [part])]
    return digest(*(part for file in files for part in (file.name, file.read_bytes())))


def foreign_code(*things: Any) -> list[str]:
    """The source of classes of `things` and their fields that are not soupkitchen's."""
    kinds: set[type] = set()
    waiting = list(things)
    while waiting:
        thing = waiting.pop()
        kinds.add(type(thing))
        if is_dataclass(thing):
            waiting += [getattr(thing, option.name) for option in fields(thing)]
    strange = [kind for kind in kinds if not kind.__module__.startswith(("soupkitchen.", "builtins"))]
    return sorted(line for kind in strange for line in _source_of(kind))


def examples(prepared: Sequence[datasets.Dataset]) -> str:
    return digest(*map(_content, prepared))


def model(live: Any) -> str:
    parts = [getattr(live, name, None) for name in ("config", "generation_config")]
    ignored = {"_name_or_path", "transformers_version"}
    trees = [part.to_dict().items() for part in parts if part is not None]
    plain = [{key: value for key, value in tree if key not in ignored} for tree in trees]
    return digest([json.dumps(tree, sort_keys=True, default=str) for tree in plain])


def task(of: Task) -> list[str]:
    known: tuple[Any, ...] = fields(of) if is_dataclass(of) else ()
    options = [
        f"{option.name}={getattr(of, option.name)!r}"
        for option in known
        if option.repr and option.name not in ("data", "metric")
    ]
    code = foreign_code(of) + foreign_code(of.metric.module)
    return [type(of).__qualname__, of.metric.inputs, *options, *of.identity(), *code]


def _content(split: datasets.Dataset) -> str:
    state = xxhash.xxh3_128()
    for table in split.with_format("arrow").iter(batch_size=1000):
        sink = pyarrow.BufferOutputStream()
        with pyarrow.ipc.new_stream(sink, table.schema.remove_metadata()) as writer:
            writer.write_table(table.combine_chunks().replace_schema_metadata())
        state.update(sink.getvalue())
    return state.hexdigest()

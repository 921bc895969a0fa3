"""What a prediction depends on, told by digests: the one place that says so.

Beside the weights: the prepared examples, the model's configuration, the task's options, the user's own
code where a task, metric or method is of such, the packages that compute, and soupkitchen's own source.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import xxhash

from soupkitchen.cache import digest
from soupkitchen.provenance import source_of
from soupkitchen.tasks.base import Task

PACKAGES = ("soupkitchen", "torch", "transformers", "accelerate", "numpy")


def versions() -> dict[str, str]:
    """The versions of the packages that compute."""
    return {package: version(package) for package in PACKAGES}


@cache
def own_code() -> str:
    """A digest of soupkitchen's source: a version number does not tell one checkout from the next."""
    package = Path(__file__).parents[1]
    files = sorted(package.rglob("*.py"))
    return digest(*(part for file in files for part in (file.name, file.read_bytes())))


def foreign_code(*things: Any) -> list[str]:
    """The source of the classes of `things`, and of what they are made of, where it is not soupkitchen's."""
    kinds: set[type] = set()
    waiting = list(things)
    while waiting:
        thing = waiting.pop()
        kinds.add(type(thing))
        if is_dataclass(thing):
            waiting += [getattr(thing, option.name) for option in fields(thing)]
    own = ("soupkitchen.", "builtins")
    strange = [kind for kind in kinds if not kind.__module__.startswith(own)]
    return sorted(line for kind in strange for line in _source(kind))


@cache
def _source(kind: type) -> tuple[str, ...]:
    return tuple(source_of(kind))


def examples(prepared: Sequence[datasets.Dataset]) -> str:
    """A digest of prepared examples, as the model takes them."""
    return digest(*map(_content, prepared))


def model(live: Any) -> str:
    """A digest of a model's configuration: what it is, but for its weights."""
    parts = [getattr(live, name, None) for name in ("config", "generation_config")]
    told = [part.to_dict() for part in parts if part is not None]
    ignored = ("_name_or_path", "transformers_version")
    return digest(
        [
            json.dumps({k: v for k, v in one.items() if k not in ignored}, sort_keys=True, default=str)
            for one in told
        ]
    )


def task(one: Task) -> list[str]:
    """The options of a task that its predictions may depend on, and its code."""
    known: tuple[Any, ...] = fields(one) if is_dataclass(one) else ()
    options = [
        f"{option.name}={getattr(one, option.name)!r}"
        for option in known
        if option.repr and option.name not in ("data", "metric")
    ]
    told: list[str] = one.identity() if hasattr(one, "identity") else []
    code = foreign_code(one) + foreign_code(one.metric.module)
    return [type(one).__qualname__, one.metric.inputs, *options, *told, *code]


def _content(split: datasets.Dataset) -> str:
    state = xxhash.xxh3_128()
    for table in split.with_format("arrow").iter(batch_size=1000):
        sink = pyarrow.BufferOutputStream()
        with pyarrow.ipc.new_stream(sink, table.schema.remove_metadata()) as writer:
            writer.write_table(table.combine_chunks().replace_schema_metadata())
        state.update(sink.getvalue())
    return state.hexdigest()

"""Reads a YAML as mergekit 0.1.5 does: models, method, settings and base.

Slices are refused. A setting that differs between layers or tensors is refused when it is read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BeforeValidator

from soupkitchen.errors import CheckpointError
from soupkitchen.store.files import checked, read_yaml

SUFFIXES = (".yaml", ".yml")
AVERAGING = ("linear", "karcher", "slerp", "passthrough")
"""Methods that merge the base like other models."""
_LONGEST = 1 << 20

Scalar = bool | int | float | str
T = TypeVar("T", bound=Scalar)
D = TypeVar("D")


def _split(at: str, key: str, other: str) -> BeforeValidator:
    def split(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        first, *rest = value.split(at)
        if len(rest) > 1:
            raise ValueError(f"{value} has more than one '{at}'; write {{{key}: …, {other}: …}}")
        return {key: first, other: rest[0] if rest else None}

    return BeforeValidator(split)


class _Strict:
    """A part of the file that has no other keys."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}


@dataclass(frozen=True)
class _Condition(_Strict):
    value: Scalar | list[Scalar]
    filter: str | None = None


Setting = Scalar | list[Scalar] | _Condition | list[_Condition]
Settings = dict[str, Setting]


@dataclass(frozen=True)
class Named(_Strict):
    path: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.path}@{self.revision}" if self.revision else self.path


_NamedText = Annotated[Named, _split("@", "path", "revision")]


@dataclass(frozen=True)
class Reference(_Strict):
    model: _NamedText
    lora: _NamedText | None = None

    def __str__(self) -> str:
        return f"{self.model}+{self.lora}" if self.lora else str(self.model)


_ReferenceText = Annotated[Reference, _split("+", "model", "lora")]


@dataclass(frozen=True)
class Input(_Strict):
    model: _ReferenceText
    parameters: Settings | None = None


@dataclass(frozen=True)
class Tokenizer(_Strict):
    """The key `tokenizer`; `source` is "union", "base" or a model."""

    source: _ReferenceText = Reference(Named("union"))
    tokens: dict[str, Any] | None = None
    pad_to_multiple_of: int | None = None


@dataclass(frozen=True)
class Config:
    """The supported keys of the file; `keys` are all that have a value."""

    file: Path
    keys: list[str]
    merge_method: str
    models: list[Input]
    base_model: _ReferenceText | None = None
    parameters: Settings | None = None
    dtype: str | None = None
    out_dtype: str | None = None
    tokenizer_source: _ReferenceText | None = None
    tokenizer: Tokenizer | None = None
    chat_template: str | None = None

    @property
    def unknown(self) -> list[str]:
        return [key for key in self.keys if key not in _KEYS]

    @cached_property
    def inputs(self) -> list[Input]:
        """The models in order; an unlisted base comes last, as in mergekit."""
        inputs = self.models
        if self.base_model and all(given.model != self.base_model for given in inputs):
            inputs = [*inputs, Input(self.base_model)]
        return inputs

    @property
    def ingredients(self) -> list[int]:
        """Indices of the merged models, without the base if the method merges task vectors."""
        averages = self.merge_method in AVERAGING
        return [n for n, each in enumerate(self.inputs) if averages or each.model != self.base_model]

    def value(self, name: str, kind: type[T], default: D, model: int | None = None) -> T | D:
        """A setting as a `kind`: the model's, else that of all models.

        Raises:
            CheckpointError: if the type is wrong, or the value differs between layers or tensors.
        """
        own = None if model is None else self.inputs[model].parameters
        for settings in (own or {}, self.parameters or {}):
            if name in settings:
                plain = {name: _constant(self.file, name, settings[name])}
                value = checked(plain, dict[str, kind], self.file, CheckpointError)[name]  # type: ignore[valid-type]
                if isinstance(value, float) and not math.isfinite(value):
                    raise CheckpointError(f"{self.file}: {name} is {value}, which is no finite number")
                return value
        return default


_KEYS = {field.name for field in fields(Config)} - {"file", "keys"}


def read(file: Path) -> Config:
    """Reads the YAML in `file`.

    Raises:
        CheckpointError: if it cannot be read, or is not supported.
    """
    tree = read_yaml(file, dict[str, Any], _LONGEST, CheckpointError)
    if "merge_method" not in tree:
        raise CheckpointError(f"{file} has no merge_method: it is no YAML of mergekit's")
    filled = {key: value for key, value in tree.items() if value not in (None, "", [], {})}
    for part in ("slices", "modules"):
        if part in filled:
            raise CheckpointError(f"{file}: {part} cannot be taken, only whole models ('models:')")
    options = {key: filled[key] for key in filled.keys() & _KEYS} | {"file": file, "keys": list(filled)}
    config = checked(options, Config, file, CheckpointError)
    if config.tokenizer and config.tokenizer_source:
        raise CheckpointError(f"{file}: tokenizer_source and tokenizer say the same: remove one of them")
    models = [each.model for each in config.inputs]
    if twice := [str(model) for model in models if models.count(model) > 1]:
        raise CheckpointError(f"{file}: {twice[0]} is there twice, which mergekit does not take either")
    return config


def _constant(file: Path, name: str, setting: Setting) -> Scalar:
    values: list[Scalar] = []
    whole = False
    for part in setting if isinstance(setting, list) else [setting]:
        if isinstance(part, _Condition):
            values.append(_constant(file, name, part.value))
            whole = part.filter in (None, "*")
            if whole:  # mergekit looks no further
                break
        else:
            values.append(part)
            whole = True
    if not whole or any(value != values[0] for value in values):
        raise CheckpointError(
            f"{file}: {name} is not one number; settings by layer or by tensor cannot be taken"
        )
    return values[0]

"""Reads a YAML of mergekit as mergekit 0.1.5 does: models, method, settings and base.

Slices of layers and modules are refused. A setting that differs between layers or tensors is refused when it
is asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

from soupkitchen.errors import CheckpointError
from soupkitchen.store.documents import checked, read_yaml

SUFFIXES = (".yaml", ".yml")
AVERAGING = ("linear", "karcher", "slerp", "passthrough")
"""Methods that merge the base like any other model."""
_LONGEST = 1 << 20
_STRICT: Any = {"extra": "forbid"}

Scalar = bool | int | float | str
T = TypeVar("T", bound=Scalar)
D = TypeVar("D")


@dataclass(frozen=True)
class _Condition:
    value: Scalar | list[Scalar]
    filter: str | None = None
    __pydantic_config__: ClassVar[Any] = _STRICT


Setting = Scalar | list[Scalar] | _Condition | list[_Condition]
Settings = dict[str, Setting]


@dataclass(frozen=True)
class Named:
    """A folder, or a name on the hub with a revision."""

    path: str
    revision: str | None = None
    __pydantic_config__: ClassVar[Any] = _STRICT

    def __str__(self) -> str:
        return f"{self.path}@{self.revision}" if self.revision else self.path


@dataclass(frozen=True)
class _Model:
    model: str | Named
    lora: str | Named | None = None
    __pydantic_config__: ClassVar[Any] = _STRICT


@dataclass(frozen=True)
class _Input:
    model: str | _Model
    parameters: Settings | None = None
    __pydantic_config__: ClassVar[Any] = _STRICT


@dataclass(frozen=True)
class Tokenizer:
    """The key `tokenizer`; `source` may name a model."""

    source: str | _Model = "union"
    tokens: dict[str, Any] | None = None
    pad_to_multiple_of: int | None = None
    __pydantic_config__: ClassVar[Any] = _STRICT


@dataclass(frozen=True)
class Document:
    """The keys of the file that we may take."""

    merge_method: str
    models: list[_Input]
    base_model: str | _Model | None = None
    parameters: Settings | None = None
    dtype: str | None = None
    out_dtype: str | None = None
    tokenizer_source: str | _Model | None = None
    tokenizer: Tokenizer | None = None
    chat_template: str | None = None


class Reference(NamedTuple):
    """A model, and the adapter that is put into it."""

    model: Named
    lora: Named | None

    def __str__(self) -> str:
        return f"{self.model}+{self.lora}" if self.lora else str(self.model)


@dataclass(frozen=True)
class Config:
    """The content of the file.

    Attributes:
        written: the keys, as they are written.
        models: in order; a base that is not among `models` in the file comes last, as in mergekit.
        parameters: for each model, its own settings.
        tokenizer: from `tokenizer` or `tokenizer_source`.
        keys: all keys of the file that have a value.
        unknown: keys that mergekit does not read.
    """

    file: Path
    written: Document
    models: tuple[Reference, ...]
    parameters: tuple[Settings, ...]
    base: Reference | None
    tokenizer: Tokenizer | None
    keys: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def method(self) -> str:
        return self.written.merge_method

    @property
    def shared(self) -> Settings:
        """Settings for all models."""
        return self.written.parameters or {}

    @property
    def ingredients(self) -> list[int]:
        """The numbers of the models that are merged: without the base if the method merges task vectors."""
        return [n for n, model in enumerate(self.models) if model != self.base or self.method in AVERAGING]

    def value(self, name: str, kind: type[T], default: D, model: int | None = None) -> T | D:
        """A setting as a `kind`: that of one model or else that of all; with no `model`, that of all.

        Raises:
            CheckpointError: if it is something else, or differs between layers or tensors.
        """
        for settings in (*([] if model is None else [self.parameters[model]]), self.shared):
            if name in settings:
                plain = {name: _constant(self.file, name, settings[name])}
                value = checked(plain, dict[str, kind], self.file, CheckpointError)[name]  # type: ignore[valid-type]
                if isinstance(value, float) and not math.isfinite(value):
                    raise CheckpointError(f"{self.file}: {name} is {value}, which is no finite number")
                return value
        return default


def read(file: Path) -> Config:
    """Reads the YAML in `file`.

    Raises:
        CheckpointError: if it cannot be read, or holds something that mergekit or we cannot take.
    """
    tree = read_yaml(file, dict[str, Any], _LONGEST, CheckpointError)
    if "merge_method" not in tree:
        raise CheckpointError(f"{file} has no merge_method: it is no YAML of mergekit's")
    filled = {key: value for key, value in tree.items() if value not in (None, "", [], {})}
    for part in ("slices", "modules"):
        if part in filled:
            raise CheckpointError(f"{file}: {part} cannot be taken, only whole models ('models:')")
    names = {field.name for field in fields(Document)}
    written = checked({key: filled[key] for key in filled if key in names}, Document, file, CheckpointError)
    if written.tokenizer and written.tokenizer_source:
        raise CheckpointError(f"{file}: tokenizer_source and tokenizer say the same: remove one of them")
    tokenizer = written.tokenizer or (
        Tokenizer(written.tokenizer_source) if written.tokenizer_source else None
    )
    models = [reference(file, each.model) for each in written.models]
    parameters = [each.parameters or {} for each in written.models]
    base = reference(file, written.base_model) if written.base_model else None
    if base and base not in models:
        models, parameters = [*models, base], [*parameters, {}]
    if twice := [str(model) for model in models if models.count(model) > 1]:
        raise CheckpointError(f"{file}: {twice[0]} is there twice, which mergekit does not take either")
    unknown = tuple(key for key in filled if key not in names)
    return Config(file, written, tuple(models), tuple(parameters), base, tokenizer, tuple(filled), unknown)


def _constant(file: Path, name: str, setting: Setting) -> Scalar:
    """The one value that a setting has in all layers and tensors."""
    values: list[Scalar] = []
    whole = False
    for part in setting if isinstance(setting, list) else [setting]:
        if isinstance(part, _Condition):
            values.append(_constant(file, name, part.value))
            whole = part.filter in (None, "*")
        else:
            values.append(part)
            whole = True
        if isinstance(part, _Condition) and whole:  # mergekit looks no further
            break
    if not whole or any(value != values[0] for value in values):
        raise CheckpointError(
            f"{file}: {name} is not one number; settings by layer or by tensor cannot be taken"
        )
    return values[0]


def reference(file: Path, model: str | _Model) -> Reference:
    """The model of ``model``, ``model@revision``, ``model+adapter`` or a mapping of these."""
    if isinstance(model, str):
        name, *lora = model.split("+")
        if len(lora) > 1:
            raise CheckpointError(f"{file}: {model} has more than one '+'; write {{model: …, lora: …}}")
        model = _Model(name, lora[0] if lora else None)
    return Reference(_named(file, model.model), _named(file, model.lora) if model.lora else None)


def _named(file: Path, name: str | Named) -> Named:
    if isinstance(name, str):
        path, *revision = name.split("@")
        if len(revision) > 1:
            raise CheckpointError(f"{file}: {name} has more than one '@'; write {{path: …, revision: …}}")
        name = Named(path, revision[0] if revision else None)
    return name

"""Reads a YAML of mergekit, each key as mergekit 0.1.5 reads it: which models, by what, from which base.

Slices of layers and modules are refused, and so is a setting that differs between layers or tensors when
it is asked for.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

from soupkitchen.errors import CheckpointError
from soupkitchen.store.documents import checked, read_bytes, read_yaml

SUFFIXES = (".yaml", ".yml")
AVERAGING = ("linear", "karcher", "slerp", "passthrough")
"""Methods to which the base is a model like the others."""
_LONGEST = 1 << 20
_STRICT: Any = {"extra": "forbid"}
_IS_MERGEKITS = re.compile(rb"""(?m)^[\s{"'-]*merge_method["']?\s*:""")

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
    """A folder or a name on the hub, and its revision there."""

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
    """What `tokenizer` says; `source` may name a model."""

    source: str | _Model = "union"
    tokens: dict[str, Any] | None = None
    pad_to_multiple_of: int | None = None
    __pydantic_config__: ClassVar[Any] = _STRICT


@dataclass(frozen=True)
class Document:
    """The keys that mergekit reads and that we may take."""

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
    """What the file says.

    Attributes:
        said: the keys, as they are written.
        models: what is merged, in order; a base that is not among `models` there comes last, as in mergekit.
        parameters: for each model, its own settings.
        tokenizer: what `tokenizer` or `tokenizer_source` says.
        keys: all keys of the file that say something.
        unknown: keys that mergekit does not read.
    """

    file: Path
    said: Document
    models: tuple[Reference, ...]
    parameters: tuple[Settings, ...]
    base: Reference | None
    tokenizer: Tokenizer | None
    keys: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def method(self) -> str:
        return self.said.merge_method

    @property
    def shared(self) -> Settings:
        """Settings for all models."""
        return self.said.parameters or {}

    @property
    def ingredients(self) -> list[int]:
        """The numbers of the models that are merged: without the base if the method merges task vectors."""
        return [
            number
            for number, model in enumerate(self.models)
            if model != self.base or self.method in AVERAGING
        ]

    def value(self, name: str, kind: type[T], default: D, model: int | None = None) -> T | D:
        """A setting as a `kind`: that of one model or else that of all; with no `model`, that of all.

        Raises:
            CheckpointError: if it is something else, or differs between layers or tensors.
        """
        own = [] if model is None else [self.parameters[model]]
        for settings in (*own, self.shared):
            if name in settings:
                plain = {name: _constant(self.file, name, settings[name])}
                value = checked(plain, dict[str, kind], self.file, CheckpointError)[name]  # type: ignore[valid-type]
                if isinstance(value, float) and not math.isfinite(value):
                    raise CheckpointError(f"{self.file}: {name} is {value}, which is no finite number")
                return value
        return default


def is_mergekits(file: Path) -> bool:
    """Whether `file` is a YAML that says how mergekit is to merge."""
    try:
        return file.suffix in SUFFIXES and bool(_IS_MERGEKITS.search(read_bytes(file, _LONGEST)))
    except CheckpointError:
        return False


def read(file: Path) -> Config:
    """Raises:
    CheckpointError: if the file cannot be read, or says what mergekit or we cannot take.
    """
    tree = read_yaml(file, dict[str, Any], _LONGEST, CheckpointError)
    if "merge_method" not in tree:
        raise CheckpointError(f"{file} has no merge_method: it is no YAML of mergekit's")
    said = {key: value for key, value in tree.items() if value not in (None, "", [], {})}
    for part in ("slices", "modules"):
        if part in said:
            raise CheckpointError(f"{file}: {part} cannot be taken, only whole models ('models:')")
    known = {field.name for field in fields(Document)}
    told = checked({key: said[key] for key in said if key in known}, Document, file, CheckpointError)
    if told.tokenizer and told.tokenizer_source:
        raise CheckpointError(f"{file}: tokenizer_source and tokenizer say the same: remove one of them")
    tokenizer = told.tokenizer or (Tokenizer(told.tokenizer_source) if told.tokenizer_source else None)
    models = [reference(file, each.model) for each in told.models]
    parameters = [each.parameters or {} for each in told.models]
    base = reference(file, told.base_model) if told.base_model else None
    if base and base not in models:
        models, parameters = [*models, base], [*parameters, {}]
    if twice := [str(model) for model in models if models.count(model) > 1]:
        raise CheckpointError(f"{file}: {twice[0]} is there twice, which mergekit does not take either")
    unknown = tuple(key for key in said if key not in known)
    return Config(file, told, tuple(models), tuple(parameters), base, tokenizer, tuple(said), unknown)


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
    """What mergekit understands by ``model``, ``model@revision``, ``model+adapter`` or a mapping of these."""
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

"""A YAML of mergekit's, as far as it merges whole models: which, by what, from which base.

What it says of slices of layers, of modules and of tensors by their names cannot be taken, and is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from soupkitchen.errors import CheckpointError

SUFFIXES = (".yaml", ".yml")
_LONGEST = 1 << 20


@dataclass(frozen=True)
class Config:
    """What the file says.

    Attributes:
        models: names of folders, or of the hub, in order; of adapters, those of the adapters.
        parameters: for each model, its own settings.
        base: the model that the others were fine-tuned from, or the first of two for slerp.
        shared: settings for all models.
        dtype: that in which mergekit saves; None for that of the models.
    """

    method: str
    models: tuple[str, ...]
    parameters: tuple[Mapping[str, Any], ...]
    base: str | None
    shared: Mapping[str, Any] = field(default_factory=dict)
    dtype: str | None = None

    def number(self, name: str, default: float | None, model: int | None = None) -> float | None:
        """A setting that is a number, for one model or for all."""
        own = {} if model is None else self.parameters[model]
        value = own.get(name, self.shared.get(name, default))
        return value if value is None else float(value)

    def flag(self, name: str, default: bool) -> bool:
        """A setting that is true or false."""
        return bool(self.shared.get(name, default))


def is_mergekits(file: Path) -> bool:
    """Whether `file` is a YAML that says how mergekit is to merge."""
    try:
        return file.suffix in SUFFIXES and file.is_file() and "merge_method" in _mapping(file)
    except CheckpointError:
        return False


def read(file: Path) -> Config:
    """Raises:
    CheckpointError: where the file cannot be read, or says what cannot be taken.
    """
    told = _mapping(file)
    if "merge_method" not in told:
        raise CheckpointError(f"{file} has no merge_method: it is no YAML of mergekit's")
    for part in ("slices", "modules"):
        if told.get(part):
            raise CheckpointError(f"{file}: {part} cannot be taken, only whole models ('models:')")
    models = told.get("models")
    if not isinstance(models, list) or not all(isinstance(one, dict) and "model" in one for one in models):
        raise CheckpointError(f"{file}: 'models' should be a list of {{model: …, parameters: …}}")
    own = [_settings(file, one.get("parameters")) for one in models]
    base = told.get("base_model")
    dtype = told.get("out_dtype") or told.get("dtype")
    return Config(
        str(told["merge_method"]),
        tuple(_name(file, one["model"]) for one in models),
        tuple(own),
        None if base is None else _name(file, base),
        _settings(file, told.get("parameters")),
        None if dtype is None else str(dtype),
    )


def _mapping(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > _LONGEST:
            raise CheckpointError(f"{file} is too large for a YAML of mergekit's")
        told = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{file} cannot be read as YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(told, dict):
        raise CheckpointError(f"{file} is no mapping, as YAMLs of mergekit are")
    return told


def _settings(file: Path, told: Any) -> Mapping[str, Any]:
    if not isinstance(told or {}, dict):
        raise CheckpointError(f"{file}: 'parameters' should be a mapping")
    for name, value in (told or {}).items():
        if not isinstance(value, (bool, int, float)):
            raise CheckpointError(
                f"{file}: {name}={value!r} is not one number; settings by layer or by tensor cannot be taken"
            )
    return told or {}


def _name(file: Path, model: Any) -> str:
    """The folder that a reference of mergekit's names: text, ``base+adapter``, or a mapping."""
    if isinstance(model, str):
        return model.rsplit("+", 1)[-1] if "+" in model and not Path(model).exists() else model
    try:
        part = model.get("lora") or model["model"]
        path, revision = (part, None) if isinstance(part, str) else (part["path"], part.get("revision"))
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file}: {model!r} names no model") from error
    return f"{path}@{revision}" if revision else str(path)

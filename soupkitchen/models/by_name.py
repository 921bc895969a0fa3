"""What makes models, found again by what a run noted of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import transformers
from transformers import PreTrainedModel

from soupkitchen.errors import ConfigError
from soupkitchen.models.auto import Auto, Transformers
from soupkitchen.models.base import Maker
from soupkitchen.models.function import Built, Function
from soupkitchen.models.sentence import NAMES, SentenceTransformers
from soupkitchen.options.building import TARGET, build, check_names, targets

_OF_AUTO_CLASSES = "_model_mapping"
"""What transformers' Auto classes of models have."""
_SHOWN = 100


_AUTO, _FUNCTION = (f"soupkitchen.models.{made.__name__}" for made in (Auto, Function))


def maker_named(name: str, options: Mapping[str, Any] | None, trust: Collection[str] = ()) -> Maker:
    """What has the `name`, made of the tree of `options` of the group `model` unless that is `Auto`'s.

    Args:
        trust: names of the user's own that may be imported.

    Raises:
        ConfigError: if it names what is neither ours, nor of `trust`, nor a model of transformers.
    """
    if options is not None and options.get(TARGET) != _AUTO:
        functions = [options[key] for key in ("build", "processor") if options.get(key) is not None]
        check_names([*targets(options), *functions], [_FUNCTION], trust)
        if not isinstance(made := build(options), Function):
            raise ConfigError(f"model is nothing that makes models: {str(options)[:_SHOWN]}")
        return Built(made)
    if name in NAMES:
        return SentenceTransformers(name)
    found = getattr(transformers, name, None)
    if not isinstance(found, type) or not (
        issubclass(found, PreTrainedModel) or hasattr(found, _OF_AUTO_CLASSES)
    ):
        raise ConfigError(f"model_class={name[:_SHOWN]} is no class of models that transformers has")
    return Transformers(found)

"""What makes models, found again by what a run noted of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import transformers

from soupkitchen.models.auto import Transformers
from soupkitchen.models.base import Maker
from soupkitchen.models.function import Built
from soupkitchen.models.sentence import NAMES, SentenceTransformers
from soupkitchen.options.building import build


def maker_named(name: str, options: Mapping[str, Any] | None) -> Maker:
    """What has the `name`, made of the tree of `options` of the group `model` where that is not `Auto`'s."""
    if options is not None:
        return Built(build(options))
    if name in NAMES:
        return SentenceTransformers(name)
    return Transformers(getattr(transformers, name))

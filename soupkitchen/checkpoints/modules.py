"""The modules of a run of sentence-transformers, as its `modules.json` lists them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from soupkitchen.checkpoints.files import WeightFiles, has_weights
from soupkitchen.checkpoints.strangers import read_bytes, read_json
from soupkitchen.errors import CheckpointError

MODULES = "modules.json"
TOLD = "config_sentence_transformers.json"
_PLAIN = ("Transformer", "Pooling", "Normalize", "Dropout")
"""What we do ourselves, without the library."""
_KNOWN = (*_PLAIN, "Dense", "LayerNorm", "StaticEmbedding", "MLMTransformer", "SpladePooling")
_LIBRARY = "sentence_transformers."
_CLASSES = ("SentenceTransformer", "SparseEncoder", "CrossEncoder")


class Module(NamedTuple):
    """A module.

    Attributes:
        path: its folder in the run's; empty for the run's own.
        kind: the name of its class.
        type: the same with its Python module.
    """

    path: str
    kind: str
    type: str

    @property
    def prefix(self) -> str:
        """What comes before the names of its tensors in the run's."""
        return f"{self.path}." if self.path else ""


def modules(folder: Path) -> list[Module]:
    """The modules that the run in `folder` is made of; none where it is none of sentence-transformers'.

    Raises:
        CheckpointError: where its list is none.
    """
    file = folder / MODULES
    if not file.exists():
        return []
    try:
        told: Any = json.loads(read_bytes(file))
        types = [(str(one["path"]), str(one["type"])) for one in told]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is no list of sentence-transformers' modules ({error})") from error
    found = [Module(path, type.rsplit(".", 1)[-1], type) for path, type in types]
    for module in found:
        if Path(module.path).name != module.path:
            raise CheckpointError(f"{file} names {module.path!r}, which is no folder of its own")
    return found


def library_class(folder: Path) -> str | None:
    """The library's class of the run in `folder`, where only the library knows what it does; else None.

    Raises:
        CheckpointError: for a class, or modules, that are not known.
    """
    found = modules(folder)
    if all(module.kind in _PLAIN for module in found):
        return None
    for module in found:  # the library would import whatever is named there
        if not module.type.startswith(_LIBRARY) or module.kind not in _KNOWN:
            raise CheckpointError(
                f"{folder / MODULES} names {module.type}, and of such modules it is not known how they are "
                f"merged; known are {', '.join(_KNOWN)} of sentence-transformers"
            )
    told = read_json(folder / TOLD).get("model_type") if (folder / TOLD).exists() else None
    if told not in (None, *_CLASSES):
        raise CheckpointError(f"{folder / TOLD}: model_type={told} is none of {', '.join(_CLASSES)}")
    return str(told or _CLASSES[0])


def weights_of(folder: Path, own: WeightFiles) -> WeightFiles:
    """The weights of all modules of the run in `folder`, whose own are `own`.

    Raises:
        CheckpointError: where a module is not there.
    """
    parts = {}
    for module in modules(folder):
        place = folder / module.path
        if module.kind not in _PLAIN and not place.is_dir():
            raise CheckpointError(
                f"{folder} lacks {module.path} ({module.kind}), which {MODULES} names; copy the run again"
            )
        if module.path and has_weights(place):
            parts[module.prefix] = WeightFiles.open(place)
    return WeightFiles.together({"": own, **parts}) if parts else own

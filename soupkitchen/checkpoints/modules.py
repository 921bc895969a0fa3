"""The modules of a run of sentence-transformers, as its `modules.json` lists them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from soupkitchen.checkpoints.configuration import CONFIG_NAME
from soupkitchen.checkpoints.files import WeightFiles, has_weights
from soupkitchen.errors import CheckpointError
from soupkitchen.store.documents import read_json

MODULES = "modules.json"
TOLD = "config_sentence_transformers.json"
_PLAIN = ("Transformer", "Pooling", "Normalize")
"""What we do ourselves, without the library, in this order."""
_KNOWN = (*_PLAIN, "Dropout", "Dense", "LayerNorm", "StaticEmbedding", "MLMTransformer", "SpladePooling")
_LIBRARY = "sentence_transformers."


@dataclass(frozen=True)
class Module:
    """A module, as `modules.json` lists it.

    Attributes:
        path: its folder in the run's; empty for the run's own.
        type: its class, with the Python module of that.
        kwargs: what the library hands it with each batch, by name.
    """

    path: str
    type: str
    kwargs: list[str] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """The name of its class."""
        return self.type.rsplit(".", 1)[-1]

    @property
    def prefix(self) -> str:
        """What comes before the names of its tensors in the run's."""
        return f"{self.path}." if self.path else ""


@dataclass(frozen=True)
class Told:
    """What `config_sentence_transformers.json` says."""

    model_type: Literal["SentenceTransformer", "SparseEncoder", "CrossEncoder"] | None = None
    prompts: dict[str, str | None] | None = None
    default_prompt_name: str | None = None
    similarity_fn_name: str | None = None
    truncate_dim: int | None = None
    max_active_dims: int | None = None

    @classmethod
    def of(cls, folder: Path) -> Told:
        """That of the run in `folder`; nothing if it has no such file."""
        return read_json(folder / TOLD, cls, error=CheckpointError) if (folder / TOLD).exists() else cls()


def modules(folder: Path) -> list[Module]:
    """The modules that the run in `folder` is made of; none if it is no run of sentence-transformers.

    Raises:
        CheckpointError: if its list is none.
    """
    file = folder / MODULES
    if not file.exists():
        return []
    found = read_json(file, list[Module], error=CheckpointError)
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
    if _is_plain(folder, found):
        return None
    for module in found:  # the library would import whatever is named there
        if not module.type.startswith(_LIBRARY) or module.kind not in _KNOWN:
            raise CheckpointError(
                f"{folder / MODULES} names {module.type}, and of such modules it is not known how they are "
                f"merged; known are {', '.join(_KNOWN)} of sentence-transformers"
            )
    return Told.of(folder).model_type or "SentenceTransformer"


def _is_plain(folder: Path, found: Sequence[Module]) -> bool:
    """Whether the modules pool what a model says, and do nothing else but normalise that."""
    kinds = [module.kind for module in found if module.kind != "Dropout"]
    if kinds != list(_PLAIN[: len(kinds)]):
        return False
    files = [folder / module.path / CONFIG_NAME for module in found if module.kind == "Normalize"]
    names = [_read_object(file).get(f"module_{way}_name") for file in files for way in ("input", "output")]
    return set(names) <= {None, "sentence_embedding"}


def _read_object(file: Path) -> dict[str, Any]:
    return read_json(file, dict[str, Any], error=CheckpointError) if file.exists() else {}


def weights_of(folder: Path, own: WeightFiles) -> WeightFiles:
    """The weights of all modules of the run in `folder`, whose own are `own`.

    Raises:
        CheckpointError: where a module is not there.
    """
    parts = {}
    for module in modules(folder):
        place = folder / module.path
        if module.kind not in (*_PLAIN, "Dropout") and not place.is_dir():
            raise CheckpointError(
                f"{folder} lacks {module.path} ({module.kind}), which {MODULES} names; copy the run again"
            )
        if module.path and has_weights(place):
            parts[module.prefix] = WeightFiles.open(place)
    return WeightFiles.together({"": own, **parts}) if parts else own

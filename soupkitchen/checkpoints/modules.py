"""The modules of a run of sentence-transformers, as its `modules.json` lists them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from soupkitchen.checkpoints.files import WeightFiles, has_weights
from soupkitchen.checkpoints.folders import CONFIG_NAME, read_json
from soupkitchen.errors import CheckpointError
from soupkitchen.store import files as documents

MODULES = "modules.json"
SENTENCE_CONFIG = "config_sentence_transformers.json"
_PLAIN = ("Transformer", "Pooling", "Normalize")
"""The modules that need no library, in this order."""
_KNOWN = (*_PLAIN, "Dropout", "Dense", "LayerNorm", "StaticEmbedding", "MLMTransformer", "SpladePooling")
_LIBRARY = "sentence_transformers."


@dataclass(frozen=True)
class Module:
    """A module, as `modules.json` lists it.

    Attributes:
        path: its folder in the run's; empty for the run's own.
        type: its class, with the Python module of that.
        kwargs: names of arguments that the library hands it with each batch.
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
        """The prefix of the names of its tensors in the run's."""
        return f"{self.path}." if self.path else ""


@dataclass(frozen=True)
class SentenceConfig:
    """The content of `config_sentence_transformers.json`."""

    model_type: Literal["SentenceTransformer", "SparseEncoder", "CrossEncoder"] | None = None
    prompts: dict[str, str | None] | None = None
    default_prompt_name: str | None = None
    similarity_fn_name: str | None = None
    truncate_dim: int | None = None
    max_active_dims: int | None = None

    @classmethod
    def of(cls, folder: Path) -> SentenceConfig:
        """Reads that of the run in `folder`, if there is one."""
        file = folder / SENTENCE_CONFIG
        return documents.read_json(file, cls, error=CheckpointError) if file.exists() else cls()


def modules(folder: Path) -> list[Module]:
    """Reads the modules of the run in `folder`; none if it is no run of sentence-transformers.

    Raises:
        CheckpointError: if they cannot be read.
    """
    file = folder / MODULES
    if not file.exists():
        return []
    listed = documents.read_json(file, list[Module], error=CheckpointError)
    for module in listed:
        if Path(module.path).name != module.path:
            raise CheckpointError(f"{file} names {module.path!r}, which is no folder of its own")
    return listed


def library_class(folder: Path) -> str | None:
    """The library's class of the run in `folder`; None if the run pools and normalises and does no more.

    Raises:
        CheckpointError: for a class, or modules, that are not known.
    """
    listed = modules(folder)
    if _is_plain(folder, listed):
        return None
    for module in listed:  # the library would import any class that is named
        if not module.type.startswith(_LIBRARY) or module.kind not in _KNOWN:
            raise CheckpointError(
                f"{folder / MODULES} names {module.type}, and of such modules it is not known how they are "
                f"merged; known are {', '.join(_KNOWN)} of sentence-transformers"
            )
    return SentenceConfig.of(folder).model_type or "SentenceTransformer"


def _is_plain(folder: Path, listed: list[Module]) -> bool:
    kinds = [module.kind for module in listed if module.kind != "Dropout"]
    if kinds != list(_PLAIN[: len(kinds)]):
        return False
    files = [folder / module.path / CONFIG_NAME for module in listed if module.kind == "Normalize"]
    configs = [read_json(file) for file in files if file.exists()]
    names = {config.get(f"module_{way}_name") for config in configs for way in ("input", "output")}
    return names <= {None, "sentence_embedding"}


def weights_of(folder: Path, model: WeightFiles) -> WeightFiles:
    """The weights of all modules of the run in `folder`; `model` are those in the folder itself.

    Raises:
        CheckpointError: if a module is missing.
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
    return WeightFiles.together({"": model, **parts}) if parts else model

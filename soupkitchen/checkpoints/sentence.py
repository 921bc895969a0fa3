"""Runs of sentence-transformers: what they do beside the model, where that is no more than pooling.

Pooling, prompts and lengths are read here. What other modules do (Dense and others) only the library knows.
All these files go with the soup.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soupkitchen.checkpoints.modules import MODULES, TOLD, library_class, modules
from soupkitchen.checkpoints.reader import Checkpoint
from soupkitchen.checkpoints.strangers import read_json
from soupkitchen.errors import CheckpointError, IncompatibleError

FILES = (MODULES, "sentence_*_config.json", TOLD, "[0-9]*_*/config.json")
"""What sentence-transformers keeps beside a model, but for weights."""
POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
_LEGACY = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""How versions before 6 wrote it."""


@dataclass(frozen=True)
class Sentences:
    """How a model of sentence-transformers makes an embedding of a text.

    Attributes:
        pooling: of the tokens' last hidden states; several are laid side by side. None at all where only the
            library knows how an embedding is made.
        prompt: what comes before each text.
        max_length: tokens after which a text is cut; None for the model's own limit.
        lower: whether texts are put in lower case first.
    """

    pooling: tuple[str, ...]
    prompt: str = ""
    max_length: int | None = None
    lower: bool = False

    @classmethod
    def of(cls, folder: Path) -> Sentences | None:
        """That of the run in `folder`; None where it is none of sentence-transformers'.

        Raises:
            CheckpointError: where it does what cannot be done here.
        """
        if not (folder / MODULES).exists():
            return None
        pooling: dict[str, Any] | None = None
        for path, kind, _ in modules(folder):
            if kind == "Pooling":
                pooling = read_json(folder / path / "config.json")
        library = library_class(folder) is not None
        if pooling is None and not library:
            raise CheckpointError(
                f"{folder / MODULES} names no Pooling, so it is not known what an embedding is"
            )
        told = _optional(folder / TOLD)
        own = next((read_json(file) for file in sorted(folder.glob("sentence_*_config.json"))), {})
        prompts, name = told.get("prompts") or {}, told.get("default_prompt_name")
        prompt = str(prompts.get(name) or "") if isinstance(prompts, dict) and name else ""
        if prompt and pooling is not None and pooling.get("include_prompt") is False:
            raise CheckpointError(
                f"{folder} leaves its prompt {prompt!r} out of the pooling, which cannot be done here yet"
            )
        length = own.get("max_seq_length")
        return cls(
            () if library or pooling is None else _pooling(folder, pooling),
            prompt,
            length if isinstance(length, int) and length > 0 else None,
            own.get("do_lower_case") is True,
        )


def of_all(runs: Sequence[Checkpoint]) -> Sentences | None:
    """How all runs of a pool make embeddings; None where none is of sentence-transformers.

    Raises:
        IncompatibleError: where two differ.
        CheckpointError: where one does what cannot be done here.
    """
    told = {run.name: Sentences.of(run.path) for run in runs}
    (first, expected), *others = told.items()
    for name, found in others:
        if found != expected:
            raise IncompatibleError(
                f"{first} and {name} make embeddings in different ways (modules.json and what it names: "
                f"{_shown(expected)}, {_shown(found)}): put the right files into both, or leave one out with "
                "pool.exclude=[…]"
            )
    return expected


def _pooling(folder: Path, config: dict[str, Any]) -> tuple[str, ...]:
    told = config.get("pooling_mode")
    if told is None:
        told = [mode for key, mode in _LEGACY.items() if config.get(key)] or ["mean"]
    modes = (told,) if isinstance(told, str) else tuple(told)
    if unknown := [mode for mode in modes if mode not in POOLINGS]:
        raise CheckpointError(
            f"{folder} pools by {unknown[0]}, which is not known here: {', '.join(POOLINGS)}"
        )
    return modes


def _optional(file: Path) -> dict[str, Any]:
    return read_json(file) if file.exists() else {}


def _shown(told: Sentences | None) -> str:
    return (
        "no such files" if told is None else f"{'+'.join(told.pooling) or 'its own'}, prompt {told.prompt!r}"
    )

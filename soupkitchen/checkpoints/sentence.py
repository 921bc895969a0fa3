"""Runs of sentence-transformers: what they do beside the model, where that is no more than pooling.

Pooling, prompts and lengths are read here. What other modules do (Dense and others) only the library knows.
All these files go with the soup, so all runs of a pool must say the same in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soupkitchen.checkpoints.modules import MODULES, TOLD, Told, library_class, modules
from soupkitchen.checkpoints.reader import CONFIG_NAME, Checkpoint
from soupkitchen.checkpoints.tokens import difference as of_tokens
from soupkitchen.checkpoints.tokens import tokens_of
from soupkitchen.errors import CheckpointError, IncompatibleError
from soupkitchen.store.documents import checked, read_json

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
_DEFAULTS = {
    "model_type": "SentenceTransformer", "similarity_fn_name": "cosine", "do_lower_case": False,
    "include_prompt": True, "bias": True, "use_residual": False, "module_input_name": "sentence_embedding",
    "activation_function": "torch.nn.modules.activation.Tanh", "pooling_strategy": "max",
    "transformer_task": "feature-extraction",
}  # fmt: skip
"""What the library takes if a file does not say it."""
_LATER = ("modality_config", "module_output_name")
"""What old versions did not write, and new ones make of the rest."""


@dataclass(frozen=True)
class Pooling:
    """What the `config.json` of a Pooling says; the modes one by one are from before version 6."""

    pooling_mode: str | list[str] | None = None
    include_prompt: bool = True
    pooling_mode_cls_token: bool = False
    pooling_mode_max_tokens: bool = False
    pooling_mode_mean_tokens: bool = False
    pooling_mode_mean_sqrt_len_tokens: bool = False
    pooling_mode_weightedmean_tokens: bool = False
    pooling_mode_lasttoken: bool = False


@dataclass(frozen=True)
class Own:
    """What `sentence_bert_config.json` says."""

    max_seq_length: int | None = None
    do_lower_case: bool | None = None


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
        pooling: Pooling | None = None
        for module in modules(folder):
            if module.kind == "Pooling":
                pooling = read_json(folder / module.path / CONFIG_NAME, Pooling, error=CheckpointError)
        library = library_class(folder) is not None
        if pooling is None and not library:
            raise CheckpointError(
                f"{folder / MODULES} names no Pooling, so it is not known what an embedding is"
            )
        told, own = Told.of(folder), _own(folder)
        if cut := told.truncate_dim or told.max_active_dims:
            raise CheckpointError(
                f"{folder / TOLD} cuts embeddings to {cut} numbers (truncate_dim, max_active_dims), which "
                "cannot be done here yet: set that to null in all runs to compare whole embeddings"
            )
        prompt = (told.prompts or {}).get(told.default_prompt_name or "") or ""
        if prompt and pooling is not None and not pooling.include_prompt:
            raise CheckpointError(
                f"{folder} leaves its prompt {prompt!r} out of the pooling, which cannot be done here yet"
            )
        length = own.max_seq_length
        return cls(
            () if library or pooling is None else _pooling(folder, pooling),
            prompt,
            length if length and length > 0 else None,
            bool(own.do_lower_case),
        )


def of_all(runs: Sequence[Checkpoint]) -> Sentences | None:
    """How all runs of a pool make embeddings; None if none is of sentence-transformers.

    The runs of a pool that have `modules.json` agree in what it says; see `difference`.

    Raises:
        IncompatibleError: if only some have one.
        CheckpointError: if they do what cannot be done here.
    """
    without = [run for run in runs if not (run.path / MODULES).exists()]
    if without and len(without) < len(runs):
        raise IncompatibleError(
            f"{without[0].name} has no {MODULES}, as others have, so how it makes embeddings is not known: "
            "put that of its base into its folder, or leave it out with pool.exclude=[…]"
        )
    return Sentences.of(runs[0].path)


Said = list[tuple[str, dict[str, Any]]]


def said(folder: Path) -> Said:
    """What `modules.json` and the files that it names say of the run in `folder`, by file.

    What the library takes by default, and who wrote it, is left out.

    Raises:
        CheckpointError: if such a file says what it cannot say.
    """
    found = modules(folder)
    if not found:
        return []
    own = _own_file(folder)
    listed = {"modules": [module.kind for module in found], "kwargs": [module.kwargs for module in found]}
    below = [(folder / module.path / CONFIG_NAME, module) for module in found if module.path]
    return [
        (MODULES, listed),
        (TOLD, _meaning(folder / TOLD, Told)),
        ("sentence_bert_config.json", _meaning(own, Own)),
        *(
            (f"{module.path}/{CONFIG_NAME}", _meaning(file, Pooling if module.kind == "Pooling" else None))
            for file, module in below
        ),
    ]


def difference(run: Path, reference: Path, name: str) -> str | None:
    """What the run in folder `run` says otherwise than the reference, called `name`; None if nothing."""
    ours, theirs = said(run), said(reference)
    for (file, own), (_, other) in zip(ours, theirs, strict=False):
        for key in sorted(own.keys() | other.keys()):
            since = key in _LATER and file == "sentence_bert_config.json"
            if own.get(key) != other.get(key) and not (since and (key in own) != (key in other)):
                return f"its {file} says {key}={own.get(key)!r}, and that of {name} {other.get(key)!r}"
    for one, other_one in zip(modules(run), modules(reference), strict=False):
        if one.path and (what := of_tokens(tokens_of(run / one.path), tokens_of(reference / other_one.path))):
            return f"{one.path}: {what}"
    return None


def _own_file(folder: Path) -> Path:
    return next(iter(sorted(folder.glob("sentence_*_config.json"))), folder / "sentence_bert_config.json")


def _own(folder: Path) -> Own:
    file = _own_file(folder)
    return read_json(file, Own, error=CheckpointError) if file.exists() else Own()


def _meaning(file: Path, record: type | None) -> dict[str, Any]:
    told = read_json(file, dict[str, Any], error=CheckpointError) if file.exists() else {}
    typed = checked(told, record, file, CheckpointError) if record is not None else None
    if isinstance(typed, Pooling):
        told = {key: value for key, value in told.items() if key not in _LEGACY} | {
            "pooling_mode": _modes(typed)
        }
    for size in ("word_embedding_dimension", "embedding_dimension"):  # tensors are compared by themselves
        told.pop(size, None)
    if isinstance(typed, Told):
        told["prompts"] = {name: prompt for name, prompt in (typed.prompts or {}).items() if prompt} or None
    if told.get("module_output_name") == told.get("module_input_name", "sentence_embedding"):
        told.pop("module_output_name", None)
    defaults = {"__version__": told.get("__version__"), **_DEFAULTS}
    if told.get("model_type") == "SparseEncoder":
        defaults["similarity_fn_name"] = "dot"
    return {key: value for key, value in told.items() if value not in (None, defaults.get(key))}


def _modes(pooling: Pooling) -> tuple[str, ...]:
    told = pooling.pooling_mode
    if told is None:
        told = [mode for key, mode in _LEGACY.items() if getattr(pooling, key)] or ["mean"]
    return (told,) if isinstance(told, str) else tuple(told)


def _pooling(folder: Path, config: Pooling) -> tuple[str, ...]:
    modes = _modes(config)
    if unknown := [mode for mode in modes if mode not in POOLINGS]:
        raise CheckpointError(
            f"{folder} pools by {unknown[0]}, which is not known here: {', '.join(POOLINGS)}"
        )
    return modes

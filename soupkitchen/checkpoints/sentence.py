"""Reads from the files of sentence-transformers how runs make and compare embeddings.

Pooling, prompts and lengths are read here. Other modules (Dense and others) are run by the library.
All these files go with the soup, so all runs of a pool must say the same in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soupkitchen.checkpoints.checkpoint import Checkpoint
from soupkitchen.checkpoints.folders import CONFIG_NAME, read_json
from soupkitchen.checkpoints.modules import MODULES, SENTENCE_CONFIG, SentenceConfig, library_class, modules
from soupkitchen.checkpoints.vocabulary import difference as vocabulary_difference
from soupkitchen.checkpoints.vocabulary import vocabulary_of
from soupkitchen.errors import CheckpointError, IncompatibleError
from soupkitchen.store import files as documents

FILES = (MODULES, "sentence_*_config.json", SENTENCE_CONFIG, "[0-9]*_*/config.json")
"""The files of sentence-transformers beside a model, but for weights."""
POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
_OLD_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""The keys for each mode before version 6."""
_PASSAGE = ("document", "passage", "corpus")
"""Names of the prompt of passages, in the library's order."""
_MODEL_CONFIG = "sentence_bert_config.json"
_DEFAULTS = {
    "model_type": "SentenceTransformer", "similarity_fn_name": "cosine", "do_lower_case": False,
    "include_prompt": True, "bias": True, "use_residual": False, "module_input_name": "sentence_embedding",
    "activation_function": "torch.nn.modules.activation.Tanh", "pooling_strategy": "max",
    "transformer_task": "feature-extraction",
}  # fmt: skip
"""The library's defaults of keys that a file may leave out."""
_LATER = ("modality_config", "module_output_name")
"""Keys that old versions did not write, and new ones make of the rest."""


@dataclass(frozen=True)
class _Pooling:
    """The `config.json` of a Pooling."""

    pooling_mode: str | list[str] | None = None
    include_prompt: bool = True

    @classmethod
    def of(cls, config: Mapping[str, Any], file: Path) -> _Pooling:
        """Checks the content of `file`, which had a key for each mode before version 6."""
        old = [mode for key, mode in _OLD_KEYS.items() if config.get(key)] or ["mean"]
        options = {**config, "pooling_mode": config.get("pooling_mode") or old}
        return documents.checked(options, cls, file, CheckpointError)

    @property
    def modes(self) -> tuple[str, ...]:
        mode = self.pooling_mode
        return (mode,) if isinstance(mode, str) else tuple(mode or ())


@dataclass(frozen=True)
class _ModelConfig:
    """The content of `sentence_bert_config.json`."""

    max_seq_length: int | None = None
    do_lower_case: bool | None = None


@dataclass(frozen=True)
class Sentences:
    """The steps from a text to its embedding in a model of sentence-transformers.

    Attributes:
        pooling: of the tokens' last hidden states; several are laid side by side. Empty if the library's
            modules make the embedding.
        prompt: put before each text.
        max_length: tokens after which a text is cut; None for the model's own limit.
        lower: whether texts are put in lower case first.
    """

    pooling: tuple[str, ...]
    prompt: str = ""
    max_length: int | None = None
    lower: bool = False

    @classmethod
    def of(cls, folder: Path) -> Sentences | None:
        """Reads that of the run in `folder`; None if it is no run of sentence-transformers.

        Raises:
            CheckpointError: if it does something that cannot be done here.
        """
        if not (folder / MODULES).exists():
            return None
        poolings, library = _poolings(folder), library_class(folder) is not None
        if not poolings and not library:
            raise CheckpointError(
                f"{folder / MODULES} names no Pooling, so it is not known what an embedding is"
            )
        config, model_config = SentenceConfig.of(folder), _model_config_file(folder)
        if cut := config.truncate_dim or config.max_active_dims:
            raise CheckpointError(
                f"{folder / SENTENCE_CONFIG} cuts embeddings to {cut} numbers (truncate_dim, "
                "max_active_dims), which cannot be done here yet: set that to null in all runs to compare "
                "whole embeddings"
            )
        prompt = (config.prompts or {}).get(config.default_prompt_name or "") or ""
        if prompt and not all(pooling.include_prompt for pooling in poolings[-1:]):
            raise CheckpointError(
                f"{folder} leaves its prompt {prompt!r} out of the pooling, which cannot be done here yet"
            )
        modes = () if library else poolings[-1].modes
        if unknown := [mode for mode in modes if mode not in POOLINGS]:
            raise CheckpointError(
                f"{folder} pools by {unknown[0]}, which is not known here: {', '.join(POOLINGS)}"
            )
        limits = _ModelConfig()
        if model_config.exists():
            limits = documents.read_json(model_config, _ModelConfig, error=CheckpointError)
        length = limits.max_seq_length
        return cls(modes, prompt, length if length and length > 0 else None, bool(limits.do_lower_case))


@dataclass(frozen=True)
class Prompts:
    """The prompts and the similarity with which a model of sentence-transformers searches.

    Attributes:
        query, passage: put before each; None for the prompt of any text.
        similarity: compares embeddings, as "cosine"; None if the files do not say.
    """

    query: str | None = None
    passage: str | None = None
    similarity: str | None = None

    @classmethod
    def of(cls, folder: Path) -> Prompts:
        """Reads those of the run in `folder`; none if it is no run of sentence-transformers.

        Raises:
            CheckpointError: if it does something that cannot be done here.
        """
        if not (folder / MODULES).exists():
            return cls()
        config = SentenceConfig.of(folder)
        prompts = config.prompts or {}
        query, passage = prompts.get("query"), next((prompts[n] for n in _PASSAGE if n in prompts), None)
        if (query or passage) and not all(pooling.include_prompt for pooling in _poolings(folder)):
            raise CheckpointError(
                f"{folder} leaves its prompts {query!r} and {passage!r} out of the pooling, "
                "which cannot be done here yet"
            )
        return cls(query, passage, config.similarity_fn_name)


def of_all(runs: Sequence[Checkpoint]) -> Sentences | None:
    """Reads how all runs of a pool make embeddings; None if none is of sentence-transformers.

    The runs of a pool that have `modules.json` agree in their files; see `difference`.

    Raises:
        IncompatibleError: if only some have one.
        CheckpointError: if they do something that cannot be done here.
    """
    without = [run for run in runs if not (run.path / MODULES).exists()]
    if without and len(without) < len(runs):
        raise IncompatibleError(
            f"{without[0].name} has no {MODULES}, as others have, so how it makes embeddings is not known: "
            "put that of its base into its folder, or leave it out with pool.exclude=[…]"
        )
    return Sentences.of(runs[0].path)


def meaning(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Reads `modules.json` and the files that it names, in `folder`: options by file.

    The library's defaults, and the version that wrote the files, are left out.

    Raises:
        CheckpointError: if such a file has a value of a wrong type.
    """
    listed = modules(folder)
    if not listed:
        return []
    kinds = {"modules": [module.kind for module in listed], "kwargs": [module.kwargs for module in listed]}
    files: list[tuple[str, Path, type | None]] = [
        (SENTENCE_CONFIG, folder / SENTENCE_CONFIG, SentenceConfig),
        (_MODEL_CONFIG, _model_config_file(folder), _ModelConfig),
    ]
    for module in listed:
        if module.path:
            record = _Pooling if module.kind == "Pooling" else None
            files.append((f"{module.path}/{CONFIG_NAME}", folder / module.path / CONFIG_NAME, record))
    return [(MODULES, kinds), *((name, _meaning(file, record)) for name, file, record in files)]


def difference(run: Path, reference: Path, name: str) -> str | None:
    """The first difference between the files of a run and of the reference, called `name`; None if equal."""
    for (file, ours), (_, theirs) in zip(meaning(run), meaning(reference), strict=False):
        for key in sorted(ours.keys() | theirs.keys()):
            is_new = key in _LATER and file == _MODEL_CONFIG and (key in ours) != (key in theirs)
            if ours.get(key) != theirs.get(key) and not is_new:
                return f"its {file} says {key}={ours.get(key)!r}, and that of {name} {theirs.get(key)!r}"
    for module, other in zip(modules(run), modules(reference), strict=False):
        vocabularies = vocabulary_of(run / module.path), vocabulary_of(reference / other.path)
        if module.path and (what := vocabulary_difference(*vocabularies)):
            return f"{module.path}: {what}"
    return None


def _poolings(folder: Path) -> list[_Pooling]:
    files = [folder / module.path / CONFIG_NAME for module in modules(folder) if module.kind == "Pooling"]
    return [_Pooling.of(read_json(file), file) for file in files]


def _model_config_file(folder: Path) -> Path:
    return next(iter(sorted(folder.glob("sentence_*_config.json"))), folder / _MODEL_CONFIG)


def _meaning(file: Path, record: type | None) -> dict[str, Any]:
    config = read_json(file) if file.exists() else {}
    typed = documents.checked(config, record, file, CheckpointError) if record is not None else None
    if record is _Pooling:
        modes = _Pooling.of(config, file).modes
        config = {key: config[key] for key in config if key not in _OLD_KEYS} | {"pooling_mode": modes}
    if isinstance(typed, SentenceConfig):
        config["prompts"] = {name: prompt for name, prompt in (typed.prompts or {}).items() if prompt} or None
    for key in ("__version__", "word_embedding_dimension", "embedding_dimension"):  # tensors have sizes
        config.pop(key, None)
    if config.get("module_output_name") == config.get("module_input_name", "sentence_embedding"):
        config.pop("module_output_name", None)
    defaults: dict[str, Any] = dict(_DEFAULTS)
    if config.get("model_type") == "SparseEncoder":
        defaults["similarity_fn_name"] = "dot"
    return {key: value for key, value in config.items() if value not in (None, defaults.get(key))}

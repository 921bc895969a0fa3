"""Reads what sentence-transformers runs say of their modules, prompts and lengths.

The library runs the modules. The files go with the soup, so all runs must agree in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from soupkitchen.checkpoints.files import WeightFiles, has_weights
from soupkitchen.checkpoints.folders import CONFIG_NAME, read_json, vocabulary_difference, vocabulary_of
from soupkitchen.errors import CheckpointError
from soupkitchen.store import files as documents

MODULES = "modules.json"
SENTENCE_CONFIG = "config_sentence_transformers.json"
_WITHOUT_FOLDER = ("Transformer", "Pooling", "Normalize", "Dropout")
"""Modules that may lack a folder; weights of a `Transformer` are the run's own."""
_KNOWN = (*_WITHOUT_FOLDER, "Dense", "LayerNorm", "StaticEmbedding", "MLMTransformer", "SpladePooling")
_EMBEDDING = ("Pooling", "StaticEmbedding", "SpladePooling")
_LIBRARY = "sentence_transformers."
FILES = (MODULES, "sentence_*_config.json", SENTENCE_CONFIG, "[0-9]*_*/config.json")
POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
_OLD_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_PASSAGE = ("document", "passage", "corpus")
_MODEL_CONFIG = "sentence_bert_config.json"
_DEFAULTS = {
    "model_type": "SentenceTransformer", "similarity_fn_name": "cosine", "do_lower_case": False,
    "include_prompt": True, "bias": True, "use_residual": False, "module_input_name": "sentence_embedding",
    "activation_function": "torch.nn.modules.activation.Tanh", "pooling_strategy": "max",
    "transformer_task": "feature-extraction",
}  # fmt: skip
_LATER = ("modality_config", "module_output_name")
"""Keys that old versions did not write, and new ones derive."""


@dataclass(frozen=True)
class Module:
    """An entry of `modules.json`; `kwargs` names arguments that it gets with each batch."""

    path: str
    type: str
    kwargs: list[str] = field(default_factory=list)

    @property
    def kind(self) -> str:
        return self.type.rsplit(".", 1)[-1]

    @property
    def prefix(self) -> str:
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
        file = folder / SENTENCE_CONFIG
        return documents.read_json(file, cls, error=CheckpointError) if file.exists() else cls()


def modules(folder: Path) -> list[Module]:
    """Reads the run's modules; empty if it is no sentence-transformers run.

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
    """The library's class of the run in `folder`; None if it is none of its models of embeddings.

    Raises:
        CheckpointError: if the class or a module is not known.
    """
    listed, config = modules(folder), SentenceConfig.of(folder)
    if not listed or config.model_type == "CrossEncoder":
        return None
    for module in listed:  # the library would import any class that is named
        if not module.type.startswith(_LIBRARY) or module.kind not in _KNOWN:
            raise CheckpointError(
                f"{folder / MODULES} names {module.type}, and of such modules it is not known how they are "
                f"merged; known are {', '.join(_KNOWN)} of sentence-transformers"
            )
    return config.model_type or "SentenceTransformer"


def weights_of(folder: Path, model: WeightFiles) -> WeightFiles:
    """The weights of all modules; `model` are those of the run's own folder.

    Raises:
        CheckpointError: if a module is missing.
    """
    parts = {}
    for module in modules(folder):
        place = folder / module.path
        if module.kind not in _WITHOUT_FOLDER and not place.is_dir():
            raise CheckpointError(
                f"{folder} lacks {module.path} ({module.kind}), which {MODULES} names; copy the run again"
            )
        if module.path and has_weights(place):
            parts[module.prefix] = WeightFiles.open(place)
    return WeightFiles.together({"": model, **parts}) if parts else model


@dataclass(frozen=True)
class _Pooling:
    pooling_mode: str | list[str] | None = None
    include_prompt: bool = True

    @classmethod
    def of(cls, config: Mapping[str, Any], file: Path) -> _Pooling:
        """Checks the content of `file`, which before version 6 had a key for each mode."""
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
        prompt: put before each text.
        max_length: tokens after which a text is cut; None for the model's own limit.
        lower: whether texts are put in lower case first.
        query, passage: put before queries and passages in a search; None for the prompt of any text.
        similarity: compares embeddings in a search, as "cosine"; None if the files do not say.
    """

    prompt: str
    max_length: int | None
    lower: bool
    query: str | None
    passage: str | None
    similarity: str | None

    @classmethod
    def of(cls, folder: Path, searching: bool = False) -> Sentences | None:
        """Reads that of the run in `folder`; None if it is no run of sentence-transformers.

        Args:
            searching: whether the prompts of queries and passages are wanted.

        Raises:
            CheckpointError: if it does something that cannot be done here.
        """
        if not (folder / MODULES).exists():
            return None
        if not any(module.kind in _EMBEDDING for module in modules(folder)):
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
        prompts = config.prompts or {}
        prompt = prompts.get(config.default_prompt_name or "") or ""
        query, passage = prompts.get("query"), next((prompts[n] for n in _PASSAGE if n in prompts), None)
        named = f"prompt {prompt!r}" if prompt else ""
        if searching and (query or passage):
            named = named or f"prompts {query!r} and {passage!r}"
        if named and not all(pooling.include_prompt for pooling in _poolings(folder)):
            raise CheckpointError(
                f"{folder} leaves its {named} out of the pooling, which cannot be done here yet"
            )
        limits = _ModelConfig()
        if model_config.exists():
            limits = documents.read_json(model_config, _ModelConfig, error=CheckpointError)
        length = limits.max_seq_length if (limits.max_seq_length or 0) > 0 else None
        said = prompt, length, bool(limits.do_lower_case), query, passage
        return cls(*said, config.similarity_fn_name)


def meaning(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Reads `modules.json` and the files that it names: options by file.

    Defaults and the writing version are left out.

    Raises:
        CheckpointError: if a value has a wrong type.
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
    """The first difference between the files of a run and of the reference, called `name`."""
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

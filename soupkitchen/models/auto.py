"""Loads models through transformers, and refuses one if its files hold less or more than the model.

Runs of sentence-transformers are loaded by that library, which makes their embeddings.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from soupkitchen.checkpoints import Checkpoint, Pool
from soupkitchen.checkpoints.files import has_weights
from soupkitchen.checkpoints.folders import CONFIG_NAME, names_flash_attention, own_files, read_bytes
from soupkitchen.checkpoints.names import NameMap, elements
from soupkitchen.checkpoints.sentence import MODULES, library_class, modules
from soupkitchen.checkpoints.weights import View
from soupkitchen.errors import CheckpointError, ConfigError, first_line
from soupkitchen.models.maker import Built, Function, Loading, Maker
from soupkitchen.models.processors import processor_of
from soupkitchen.options.building import TARGET, build, check_names, targets
from soupkitchen.tasks import Several, Task
from soupkitchen.tasks.base import Processor
from soupkitchen.tasks.kinds.embeddings import transformer_in

_SENTENCE_CLASSES = ("SentenceTransformer", "SparseEncoder")
_WEIGHTS = (".safetensors", ".bin")
_KINDS = {
    "AutoModelForSequenceClassification": "text_classification, multilabel_classification, text_regression, "
    "reranking (task.architecture=cross)",
    "AutoModelForImageClassification": "image_classification",
    "AutoModelForTokenClassification": "token_classification",
    "AutoModelForCausalLM": "language_modeling, multiple_choice, text_generation, lm_eval",
    "AutoModelForMaskedLM": "masked_language_modeling",
    "AutoModelForQuestionAnswering": "question_answering",
    "AutoModelForSeq2SeqLM": "text_generation",
    "AutoModelForSpeechSeq2Seq": "speech_recognition",
    "AutoModelForCTC": "speech_recognition with task.architecture=ctc",
}
"""Tasks by kind of model."""
_LONGEST = 300
_TIMES_STORED, _MADE_UP = 4, 1 << 28
"""Bounds on a model's size beyond its files: tied weights, computed tables."""
_SHOWN = 100
_OF_AUTO_CLASSES = "_model_mapping"
"""An attribute of transformers' Auto classes of models."""


@dataclass(frozen=True)
class SentenceTransformers:
    """Makes models by a class of sentence-transformers.

    Attributes:
        name: the class, one of `_SENTENCE_CLASSES`.
    """

    library = "sentence-transformers"

    name: str

    def snippet(self, folder: str) -> str:
        return f'from sentence_transformers import {self.name}\n\nmodel = {self.name}("{folder}")'

    def load(self, run: Checkpoint, loading: Loading) -> torch.nn.Module:
        try:
            import sentence_transformers
            from sentence_transformers.util import import_from_string
        except ImportError as error:
            raise ConfigError(
                f"{run.path} is a run of sentence-transformers ({MODULES}): pip install "
                "'soupkitchen[sentence-transformers]'"
            ) from error
        library_class(run.path)  # refuses classes that are not the library's
        _check_claims(run)
        loads = {"dtype": loading.dtype or "auto", "ignore_mismatched_sizes": True}  # see `names`
        if names_flash_attention(run.config):
            loads["attn_implementation"] = "sdpa"
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": loading.trust_remote_code}
        options["model_kwargs"] = loads | loading.placement()
        kind: Any = getattr(sentence_transformers, self.name)
        device = "cpu" if loading.device_map is None else None
        try:
            if run.adapted is None:
                model = kind(str(run.path), device=device, **options)
            else:  # by its path, the library would take the base that the adapter's files name
                parts = []
                for module in modules(run.path):
                    part: Any = import_from_string(module.type)
                    folder = str(run.path if module.path else run.architecture)
                    options |= {"subfolder": module.path, "config_kwargs": _sizes(run)}
                    parts.append(part.load(folder, **options))
                model = kind(modules=parts, device=device)
        except Exception as error:  # a strange modules.json may have it raise anything
            raise CheckpointError(f"{run.path}: {self.name} cannot load it ({first_line(error)})") from error
        _check_placed(model)
        return model if loading.dtype is None else model.to(loading.dtype)

    def names(self, run: Checkpoint, model: Any) -> NameMap:
        children = dict(zip(model._modules, modules(run.path), strict=True))
        names = {
            name: f"{child}.{name.removeprefix(module.prefix)}"
            for child, module in children.items()
            if module.prefix
            for name in run.header
            if name.startswith(module.prefix)
        }
        rest = [name for name in run.header if name not in names]
        inner, computed = transformer_in(model), set[str]()
        if inner is None:
            names |= {name: f"{next(iter(children))}.{name}" for name in rest}
        else:
            place = next(name for name, part in model.named_modules() if part is inner)
            seen = replace(run, weights=View(run.weights, {name: name for name in rest}))
            names |= {name: f"{place}.{to}" for name, to in NameMap.find(seen, inner).names.items()}
            computed = {name for name, _ in inner.named_buffers()}
        return NameMap.given(run, model, names, computed)

    def like(self, model: torch.nn.Module) -> Callable[[dict[str, torch.Tensor]], torch.nn.Module]:
        raise CheckpointError(
            f"a {self.name} with this model keeps what it has computed of its weights, so it cannot be "
            "filled with others"
        )

    def save(self, model: Any, folder: Path, like: Checkpoint, max_shard_size: str | int) -> None:
        """Writes the model, and a folder for each module that has one."""
        inner = transformer_in(model)
        if inner is not None:
            inner.save_pretrained(folder, max_shard_size=max_shard_size)
            copy_code(like, folder)
        for child, module in zip(model.children(), modules(like.path), strict=True):
            place = like.path / module.path
            if module.path and place.is_dir():
                (folder / module.path).mkdir(exist_ok=True)
                for file in own_files(place, "*"):
                    if file.suffix not in _WEIGHTS:
                        shutil.copyfile(file, folder / module.path / file.name)
            if has_weights(place) and (module.path or inner is None):
                state = {name: x.detach().cpu().contiguous() for name, x in child.state_dict().items()}
                save_file(state, folder / module.path / "model.safetensors", {"format": "pt"})

    def processor(
        self, run: Checkpoint, task: Task, pool: Pool | None, model: Any, trust_remote_code: bool
    ) -> tuple[Processor, Path | None]:
        if transformer_in(model) is not None:
            return processor_of(run, task, pool, trust_remote_code)
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(run.path / "tokenizer.json"))
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
        return tokenizer, run.path

    def identity(self) -> list[str]:
        return [self.name, version("sentence-transformers")]


@dataclass(frozen=True)
class Auto:
    """Loads models by transformers or sentence-transformers, as the runs' files say."""

    def maker(self, tasks: Several, pool: Pool) -> Maker:
        """Chooses the maker for the tasks.

        Raises:
            CheckpointError: if the runs have no config.json.
            ConfigError: if the tasks are not for such models.
        """
        if (library := library_class(pool.reference.path)) is not None:
            strange = [task for task in tasks.tasks.values() if not task.takes_sentences]
            if strange or library not in _SENTENCE_CLASSES:
                raise ConfigError(
                    f"{pool.reference.path} is a {library} ({MODULES}): take a task on embeddings, as "
                    "task=embedding_similarity, or task=function"
                )
            return SentenceTransformers(library)
        if not pool.reference.config:
            raise CheckpointError(
                f"{pool.reference.path} holds weights alone, and no {CONFIG_NAME} that says of which model: "
                "model=function model.build=my_module.build names the function that makes it"
            )
        return Transformers(next(iter(tasks.tasks.values())).model_class)


@dataclass(frozen=True)
class Transformers:
    """Models of a class of transformers, as ``AutoModelForCausalLM``."""

    library = "transformers"

    model_class: Any

    @property
    def name(self) -> str:
        return str(self.model_class.__name__)

    def snippet(self, folder: str) -> str:
        return f'from transformers import {self.name}\n\nmodel = {self.name}.from_pretrained("{folder}")'

    def load(self, run: Checkpoint, loading: Loading) -> PreTrainedModel:
        return load_model(run, self.model_class, loading)

    def names(self, run: Checkpoint, model: torch.nn.Module) -> NameMap:
        return NameMap.find(run, model)

    def like(self, model: Any) -> Callable[[dict[str, torch.Tensor]], PreTrainedModel]:
        kind, config, dtype = type(model), model.config, model.dtype
        generation = getattr(model, "generation_config", None)

        def made(tensors: dict[str, torch.Tensor]) -> PreTrainedModel:
            filled: PreTrainedModel = kind.from_pretrained(
                None, config=config, state_dict=tensors, dtype=dtype, trust_remote_code=False
            )
            if generation is not None:
                filled.generation_config = generation
            return filled

        return made

    def save(self, model: Any, folder: Path, like: Checkpoint, max_shard_size: str | int) -> None:
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        copy_code(like, folder)

    def processor(
        self, run: Checkpoint, task: Task, pool: Pool | None, model: Any, trust_remote_code: bool
    ) -> tuple[Processor, Path | None]:
        return processor_of(run, task, pool, trust_remote_code)

    def identity(self) -> list[str]:
        return []


_AUTO, _FUNCTION = (f"soupkitchen.models.{kind.__name__}" for kind in (Auto, Function))


def maker_named(name: str, options: Mapping[str, Any] | None, trust: Collection[str] = ()) -> Maker:
    """The maker that a run recorded: by `name`, or by other `model` options than `Auto`'s.

    Args:
        trust: the user's names that may be imported.

    Raises:
        ConfigError: if a name is not ours, not in `trust` and no model of transformers.
    """
    if options is not None and options.get(TARGET) != _AUTO:
        functions = [options[key] for key in ("build", "processor") if options.get(key) is not None]
        check_names([*targets(options), *functions], [_FUNCTION], trust)
        if not isinstance(made := build(options), Function):
            raise ConfigError(f"model is nothing that makes models: {str(options)[:_SHOWN]}")
        return Built(made)
    if name in _SENTENCE_CLASSES:
        return SentenceTransformers(name)
    kind = getattr(transformers, name, None)
    is_model = isinstance(kind, type) and (
        issubclass(kind, PreTrainedModel) or hasattr(kind, _OF_AUTO_CLASSES)
    )
    if not is_model:
        raise ConfigError(f"model_class={name[:_SHOWN]} is no class of models that transformers has")
    return Transformers(kind)


def copy_code(like: Checkpoint, folder: Path) -> None:
    """Copies a model's own Python files; nothing is run."""
    if like.config.get("auto_map"):
        for file in own_files(like.architecture, "*.py"):
            (folder / file.name).write_bytes(read_bytes(file))


def load_model(run: Checkpoint, model_class: Any, loading: Loading) -> PreTrainedModel:
    """The model that ``model_class.from_pretrained`` makes of `run` or, of an adapter, of its base.

    Raises:
        CheckpointError: if it cannot be loaded, or does not fit its files.
        ConfigError: if there is too little memory.
    """
    folder, options = run.architecture, loading.options()
    options |= _sizes(run)
    _check_claims(run)
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # reported below, by name
    try:
        if names_flash_attention(run.config):
            _choose_attention(folder, loading, options)
        model, report = model_class.from_pretrained(folder, **options)
    except Exception as error:  # a strange config.json may have transformers raise anything
        raise CheckpointError(
            f"{folder}: {model_class.__name__} cannot load it ({_why(folder, error)})"
        ) from error
    _check_placed(model)
    _check_report(run, type(model).__name__, report)
    return model


def _sizes(run: Checkpoint) -> dict[str, int]:
    """Options for the model of an adapter that brings a head, or added tokens."""
    if run.adapted is None or run.config is run.adapted.config:
        return {}
    sizes = {"num_labels": len(run.config.get("id2label") or ()), "vocab_size": run.config.get("vocab_size")}
    return {option: size for option, size in sizes.items() if size}


def _check_placed(model: torch.nn.Module) -> None:
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ConfigError(
            "runtime.device_map: the model does not fit into the memory of the devices (runtime.max_memory), "
            "and weights that lie on disk cannot be written in place"
        )


def _check_report(run: Checkpoint, model: str, report: Mapping[str, Any]) -> None:
    """Refuses a model if transformers made up or left out a part."""
    folder, adapted = run.architecture, run.adapted is not None
    if not adapted and (mismatched := sorted(report["mismatched_keys"])):
        name, stored, wanted = mismatched[0]
        more = f", and {len(mismatched) - 1} more tensors differ in shape" if len(mismatched) > 1 else ""
        raise CheckpointError(
            f"{folder}: {name} has shape {list(stored)} in its files, where its config.json makes a "
            f"{model} of shape {list(wanted)}{more}; was the vocabulary or the head resized "
            "without saving config.json?"
        )
    if missing := sorted(set(report["missing_keys"]) - (run.header.keys() if adapted else set())):
        raise CheckpointError(
            f"{folder} has no weights for {', '.join(missing[:3])}, which {model} needs: "
            "was it fine-tuned for another task?"
        )
    if unexpected := sorted(() if adapted else report["unexpected_keys"]):
        raise CheckpointError(
            f"{folder} holds {', '.join(unexpected[:3])}, for which {model} has no place: "
            "was it fine-tuned for another task?"
        )


def _choose_attention(folder: Path, loading: Loading, options: dict[str, Any]) -> None:
    """Lets transformers choose the attention, not the configuration."""
    of_config = {
        "trust_remote_code": loading.trust_remote_code,
        "local_files_only": options["local_files_only"],
    }
    of_config |= {name: options.pop(name) for name in ("num_labels", "vocab_size") if name in options}
    config = transformers.AutoConfig.from_pretrained(folder, **of_config)
    config._attn_implementation = None
    options["config"] = config


def _check_claims(run: Checkpoint) -> None:
    """Refuses a configuration much larger than the files: transformers would make up the rest."""
    stored = sum(info.elements for info in run.header.values())
    if (claimed := elements(run.architecture)) > _TIMES_STORED * stored + _MADE_UP:
        raise CheckpointError(
            f"{run.architecture / CONFIG_NAME} makes a model of {claimed:,} numbers, but its files hold "
            f"{stored:,}; put its sizes right, or copy the run again"
        )


def _why(folder: Path, error: Exception) -> str:
    """The cause in short: transformers would list all its classes."""
    try:
        config = transformers.AutoConfig.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except Exception:  # a strange config.json
        config = None
    if "Unrecognized configuration class" not in str(error) or config is None:
        return first_line(error)[:_LONGEST]
    fitting = [kind for kind in _automatic() if type(config) in getattr(transformers, kind)._model_mapping]
    if kinds := [_KINDS[kind] for kind in _KINDS if kind in fitting]:
        fit = f"it would fit task={', '.join(kinds)}"
    elif fitting:
        fit = f"a function of yours can score it, with task=function task.model={fitting[0]}"
    else:
        fit = "no task here takes such models yet"
    return f"a {config.model_type} model is none of these: {fit}"


def _automatic() -> list[str]:
    """transformers' Auto classes of models; the one without a head is last."""
    names = [name for name in dir(transformers) if name.startswith("AutoModelFor")]
    return [*(name for name in names if hasattr(getattr(transformers, name), _OF_AUTO_CLASSES)), "AutoModel"]

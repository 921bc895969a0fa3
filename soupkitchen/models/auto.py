"""Models through transformers; one whose files are not all of it, or not only it, is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from soupkitchen.checkpoints import Checkpoint, Pool
from soupkitchen.checkpoints.configuration import CONFIG_NAME, names_flash_attention
from soupkitchen.checkpoints.modules import MODULES, library_class
from soupkitchen.checkpoints.names import NameMap
from soupkitchen.checkpoints.parameters import elements
from soupkitchen.checkpoints.strangers import code_files, read_bytes
from soupkitchen.errors import CheckpointError, ConfigError
from soupkitchen.models.base import Loading, Maker
from soupkitchen.models.processors import processor_of
from soupkitchen.models.sentence import NAMES, SentenceTransformers
from soupkitchen.tasks import Several, Task
from soupkitchen.tasks.base import Processor

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
"""Which tasks take what kind of model."""
_LONGEST = 300
_TIMES_STORED, _MADE_UP = 4, 1 << 28
"""How many more numbers than its files hold a model may have: tied ones, and tables that it computes."""


@dataclass(frozen=True)
class Auto:
    """Models as their runs' files say: through transformers, or sentence-transformers."""

    def maker(self, tasks: Several, pool: Pool) -> Maker:
        """What loads them as the tasks ask.

        Raises:
            CheckpointError: where the runs say nothing of their models.
            ConfigError: where the tasks are not for such models.
        """
        if (library := library_class(pool.reference.path)) is not None:
            strange = [task for task in tasks.tasks.values() if not task.takes_sentences]
            if strange or library not in NAMES:
                raise ConfigError(
                    f"{pool.reference.path} is a {library} with modules of its own ({MODULES}): take a "
                    "task on embeddings, as task=embedding_similarity, or task=function"
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

    model_class: Any

    @property
    def name(self) -> str:
        return str(self.model_class.__name__)

    @property
    def library(self) -> str:
        return "transformers"

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

    def open(self, folder: Path, name: str = "soup") -> Checkpoint:
        return Checkpoint.open(folder, name)

    def processor(
        self, run: Checkpoint, task: Task, pool: Pool | None, model: Any, trust_remote_code: bool
    ) -> tuple[Processor, Path | None]:
        return processor_of(run, task, pool, trust_remote_code)

    def identity(self) -> list[str]:
        return []


def copy_code(like: Checkpoint, folder: Path) -> None:
    """Copies the Python files that a model with code of its own comes with; nothing is run.

    Which these are was checked when the run was opened, so this fails only where they changed since.
    """
    if like.config.get("auto_map"):
        for file in code_files(like.architecture):
            (folder / file.name).write_bytes(read_bytes(file))


def load_model(run: Checkpoint, model_class: Any, loading: Loading) -> PreTrainedModel:
    """The model that ``model_class.from_pretrained`` makes of `run` or, of an adapter, of its base.

    Raises:
        CheckpointError: where it cannot be loaded, or where files and model are not of each other.
        ConfigError: where the model does not fit where it is to be spread.
    """
    folder, options = run.architecture, loading.options()
    if run.adapted is not None and run.config is not run.adapted.config:  # it brings a head, or added tokens
        sizes = {
            "num_labels": len(run.config.get("id2label") or ()),
            "vocab_size": run.config.get("vocab_size"),
        }
        options |= {option: size for option, size in sizes.items() if size}
    _check_claims(run)
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # they are told below, by name
    try:
        if names_flash_attention(run.config):
            _choose_attention(folder, loading, options)
        model, report = model_class.from_pretrained(folder, **options)
    except Exception as error:  # whatever a strange config.json makes of the model
        raise CheckpointError(
            f"{folder}: {model_class.__name__} cannot load it ({_why(folder, error)})"
        ) from error
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ConfigError(
            "runtime.device_map: the model does not fit into the memory of the devices (runtime.max_memory), "
            "and weights that lie on disk cannot be written in place"
        )
    _check_report(run, type(model).__name__, report)
    return model


def _check_report(run: Checkpoint, model: str, report: Mapping[str, Any]) -> None:
    """Refuses a model of which transformers made up a part, or files of which it left some out."""
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
    """Has transformers choose among its own kinds of attention, whatever the configuration names."""
    of_config = {
        "trust_remote_code": loading.trust_remote_code,
        "local_files_only": options["local_files_only"],
    }
    of_config |= {name: options.pop(name) for name in ("num_labels", "vocab_size") if name in options}
    config = transformers.AutoConfig.from_pretrained(folder, **of_config)
    config._attn_implementation = None
    options["config"] = config


def _check_claims(run: Checkpoint) -> None:
    """Refuses a configuration that makes a much larger model than there are weights for.

    Whatever is not in the files transformers would make up, and in full size.
    """
    stored = sum(info.elements for info in run.header.values())
    if (claimed := elements(run.architecture)) > _TIMES_STORED * stored + _MADE_UP:
        raise CheckpointError(
            f"{run.architecture / CONFIG_NAME} makes a model of {claimed:,} numbers, but its files hold "
            f"{stored:,}; put its sizes right, or copy the run again"
        )


def _why(folder: Path, error: Exception) -> str:
    """What transformers says, in short: it names all the classes that it knows where one does not fit."""
    try:
        config = transformers.AutoConfig.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except Exception:  # whatever a strange config.json does
        config = None
    if "Unrecognized configuration class" not in str(error) or config is None:
        return str(error).strip().split("\n")[0][:_LONGEST]
    fitting = [kind for kind in _automatic() if type(config) in getattr(transformers, kind)._model_mapping]
    if kinds := [_KINDS[kind] for kind in _KINDS if kind in fitting]:
        fit = f"it would fit task={', '.join(kinds)}"
    elif fitting:
        fit = f"a function of yours can score it, with task=function task.model={fitting[0]}"
    else:
        fit = "no task here takes such models yet"
    return f"a {config.model_type} model is none of these: {fit}"


def _automatic() -> list[str]:
    """The classes by which transformers loads models for something, those without a head last."""
    names = [name for name in dir(transformers) if name.startswith("AutoModelFor")]
    return [*(name for name in names if hasattr(getattr(transformers, name), "_model_mapping")), "AutoModel"]

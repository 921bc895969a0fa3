"""The one model in memory, whose weights are written in place for every candidate.

The model is built once, by transformers, from the pool's first run. Everything
else works in the names that tensors have in files. transformers renames some of
them when it loads, and fuses others; so the way from each file tensor to its
parameter is found once, by loading, and is never guessed:

- where files and model use the same names, they are compared by value;
- where they don't, transformers' own table of renames is asked, and what it says is compared
  by value too;
- where that does not tell, the model is loaded with a different number in each file
  tensor, and each parameter tells by its content where it came from;
- where a parameter is made of several file tensors, there is no writing in
  place: the model is filled through transformers' own loading, slower, and the
  log says so.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
import xxhash
from accelerate.utils.memory import clear_device_cache
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedModel

from soupkitchen.checkpoints.configuration import CONFIG_NAME, names_flash_attention
from soupkitchen.checkpoints.content import blocks_of
from soupkitchen.checkpoints.parameters import elements, kept_in_float32, parameter_names
from soupkitchen.checkpoints.reader import Checkpoint
from soupkitchen.errors import CheckpointError, ConfigError

log = logging.getLogger(__name__)

_KINDS = {
    "AutoModelForSequenceClassification": "text_classification, multilabel_classification, text_regression",
    "AutoModelForImageClassification": "image_classification",
    "AutoModelForTokenClassification": "token_classification",
    "AutoModelForCausalLM": "language_modeling, multiple_choice, text_generation, lm_eval",
    "AutoModelForSeq2SeqLM": "text_generation",
}
"""Which tasks take what kind of model."""
_LONGEST = 300
_TIMES_STORED, _MADE_UP = 4, 1 << 28
"""How many more numbers than its files hold a model may have: tied ones, and tables that it computes."""


@dataclass(frozen=True)
class Loading:
    """How transformers is to load models.

    Attributes:
        dtype: of the weights; None for that of the files.
        device_map: None for the one device, or "auto" and what else accelerate takes to spread a
            model over several.
        max_memory: bytes by device, where a model is spread; None for what there is.
        trust_remote_code: whether code that comes with a model may be run.
    """

    dtype: torch.dtype | None = None
    device_map: str | Mapping[str, Any] | None = None
    max_memory: Mapping[int | str, int] | None = None
    trust_remote_code: bool = False

    def options(self) -> dict[str, Any]:
        """Arguments of ``from_pretrained``, for a folder: nothing that a file names is asked of the hub."""
        options: dict[str, Any] = {"dtype": self.dtype or "auto", "trust_remote_code": self.trust_remote_code}
        options["local_files_only"] = not self.trust_remote_code  # code may be in a repository of its own
        if self.device_map is not None:
            options |= {"device_map": self.device_map, "max_memory": self.max_memory}
        return options


class LiveModel:
    """A transformers model that is filled from (file name, tensor) pairs.

    Attributes:
        model: the model, in evaluation mode, on its device.
        in_place: whether filling writes straight into the parameters.
    """

    def __init__(
        self, run: Checkpoint, model_class: Any, device: torch.device, loading: Loading | None = None
    ) -> None:
        """Builds the architecture of `run`, as ``model_class.from_pretrained`` does.

        Its weights are those of the run or, of an adapter, still those of its base.

        Raises:
            CheckpointError: where the run does not fill the model, or has tensors
                that the model has no place for.
            ConfigError: where the model does not fit where it is to be spread.
        """
        self._model_class, self._device, self._loading = model_class, device, loading or Loading()
        self._slots: Slots | None = None
        self._made_anew = self._loaded = False
        self._padding: int | None = None
        self.load(run)

    def load(self, run: Checkpoint) -> None:
        """Takes another model, as ``from_pretrained`` makes it of `run`; the one before is let go first."""
        again, self._loaded = self._loaded, True
        self.release()
        self.model: PreTrainedModel = _load(run, self._model_class, self._loading).eval()
        if self._padding is not None and getattr(self.model.config, "pad_token_id", None) is None:
            self.model.config.pad_token_id = self._padding  # a task has chosen it
        if self._loading.device_map is None:
            self.model.to(self._device)
        try:
            self._slots = None if self._made_anew else _find_slots(run, self.model, quietly=again)
        except RuntimeError as error:
            raise CheckpointError(
                f"{run.path}: its tensors do not fit {type(self.model).__name__} ({error}); was its "
                "vocabulary or its head resized?"
            ) from error

    @property
    def in_place(self) -> bool:
        return self._slots is not None

    def release(self) -> None:
        """Gives the model's memory back; another has to be loaded before anything else."""
        if (model := self.__dict__.pop("model", None)) is not None:
            self._padding = getattr(model.config, "pad_token_id", None)
        self._slots = model = None
        clear_device_cache(garbage_collection=True)

    def fill_through_transformers(self) -> None:
        """Has `fill` make a new model each time: forward passes leave something in this one."""
        self._slots, self._made_anew = None, True

    @torch.no_grad()
    def fill(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Makes the model's weights those of `tensors`, named as in the files.

        What forward passes in evaluation mode have kept of the weights before (LeViT its attention
        biases) is forgotten.

        Raises:
            CheckpointError: where tensors are missing or have no place.
        """
        self.model.train().eval()
        if self._slots is None:
            self._fill_through_transformers(dict(tensors))
            return
        unfilled = set(self._slots)
        for name, tensor in tensors:
            if name not in self._slots:
                raise CheckpointError(f"the model has no place for the tensor {name!r}")
            if (slot := self._slots[name]) is not None:
                slot.copy_(tensor)
            unfilled.discard(name)
        if unfilled:
            raise CheckpointError(
                f"no tensor given for {', '.join(sorted(unfilled)[:3])}: the model is half filled"
            )

    @contextmanager
    def batchnorm_in_training(self) -> Iterator[None]:
        """Lets forward passes compute the statistics of batch norm anew, as the mean over these passes."""
        layers = self.batchnorms()
        momenta = [layer.momentum for layer in layers]
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None
            layer.train()
        try:
            yield
        finally:
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum
                layer.eval()

    def batchnorms(self) -> list[_BatchNorm]:
        """The model's batch-norm layers that keep running statistics."""
        modules = self.model.modules()
        return [m for m in modules if isinstance(m, _BatchNorm) and m.track_running_stats]

    def batchnorm_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The statistics of batch norm that the model holds now, by name in files.

        Raises:
            CheckpointError: where transformers rearranges the tensors of the files.
        """
        if self._slots is None:
            raise CheckpointError("batch norm can only be recalibrated in models that are filled in place")
        statistics = {buffer.data_ptr() for layer in self.batchnorms() for buffer in layer.buffers()}
        for name, slot in self._slots.items():
            if slot is not None and slot.data_ptr() in statistics:
                yield name, slot

    @property
    def spread(self) -> bool:
        """Whether accelerate has spread the model over devices, and moves data between them."""
        return hasattr(self.model, "hf_device_map")

    @property
    def bytes(self) -> dict[torch.device, int]:
        """How much memory the model takes, by device."""
        taken: Counter[torch.device] = Counter()
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            taken[tensor.device] += tensor.nbytes
        return dict(taken)

    def save(self, folder: Path, max_shard_size: str | int = "50GB") -> None:
        """Writes the model as ``save_pretrained`` does, tensors named as in the files."""
        self.model.save_pretrained(folder, max_shard_size=max_shard_size)

    def ignores(self, name: str) -> bool:
        """Whether transformers has no use for the file tensor `name` (an old buffer, say)."""
        return self._slots is not None and self._slots[name] is None

    def dtype_of(self, name: str, dtype: torch.dtype) -> torch.dtype:
        """That in which the file tensor `name` is loaded where the model is loaded as `dtype`."""
        kept = kept_in_float32(self.model, dtype)
        return torch.float32 if kept is not None and kept(name) else dtype

    def digests(self) -> dict[str, str]:
        """A digest of the values of each parameter and buffer, by the model's names."""
        return {name: _digest(tensor) for name, tensor in self.model.state_dict().items()}

    def _fill_through_transformers(self, tensors: dict[str, torch.Tensor]) -> None:
        config, kind, dtype = self.model.config, type(self.model), self.model.dtype
        generation = getattr(self.model, "generation_config", None)
        self.release()
        filled = kind.from_pretrained(
            None, config=config, state_dict=tensors, dtype=dtype, trust_remote_code=False
        )
        if generation is not None:
            filled.generation_config = generation
        self.model = filled.eval().to(self._device)


def _digest(tensor: torch.Tensor) -> str:
    state = xxhash.xxh3_128(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    for block in blocks_of(tensor.cpu()):
        state.update(block)
    return state.hexdigest()


def _load(run: Checkpoint, model_class: Any, loading: Loading) -> PreTrainedModel:
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
    if run.adapted is None and (mismatched := sorted(report["mismatched_keys"])):
        name, stored, wanted = mismatched[0]
        more = f", and {len(mismatched) - 1} more tensors differ in shape" if len(mismatched) > 1 else ""
        raise CheckpointError(
            f"{folder}: {name} has shape {list(stored)} in its files, where its config.json makes a "
            f"{type(model).__name__} of shape {list(wanted)}{more}; was the vocabulary or the head resized "
            "without saving config.json?"
        )
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ConfigError(
            "runtime.device_map: the model does not fit into the memory of the devices (runtime.max_memory), "
            "and weights that lie on disk cannot be written in place"
        )
    if missing := sorted(set(report["missing_keys"]) - (run.header.keys() if run.adapted else set())):
        raise CheckpointError(
            f"{folder} has no weights for {', '.join(missing[:3])}, which {type(model).__name__} needs: "
            "was it fine-tuned for another task?"
        )
    if unexpected := sorted(report["unexpected_keys"] if run.adapted is None else ()):
        raise CheckpointError(
            f"{folder} holds {', '.join(unexpected[:3])}, for which {type(model).__name__} has no place: "
            "was it fine-tuned for another task?"
        )
    return model


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
    kinds = {
        kind: tasks
        for kind, tasks in _KINDS.items()
        if type(config) in getattr(transformers, kind)._model_mapping
    }
    fit = f"it would fit task={', '.join(kinds.values())}" if kinds else "no task here takes such models yet"
    return f"a {config.model_type} model is none of these: {fit}"


Slots = dict[str, torch.Tensor | None]
"""For each file tensor the parameter or buffer that it fills; None for one that transformers ignores."""


def _find_slots(run: Checkpoint, model: PreTrainedModel, quietly: bool = False) -> Slots | None:
    state = model.state_dict(keep_vars=True)
    found = {name: name for name in run.header if name in state}
    renamed = [name for name in run.header if name not in state]
    if renamed:
        found |= parameter_names(run.architecture, renamed)
    slots, wrong = _slots_of(run, state, found)
    if renamed and (len(found) < len(run.header) or wrong or _unfilled(state, slots)):
        found = {name: to for name, to in found.items() if name not in renamed}
        slots, wrong = _slots_of(run, state, found | _trace(run, model, renamed))
    unfilled = _unfilled(state, slots)
    level = logging.DEBUG if quietly else logging.INFO
    if wrong or unfilled:
        log.log(
            level,
            "%s rearranges %d tensors of its files when it loads them: candidates are filled in through "
            "transformers, slower than in place",
            type(model).__name__,
            max(len(wrong), len(unfilled)),
        )
        return None
    if ignored := [name for name, slot in slots.items() if slot is None]:
        log.log(level, "transformers has no use for %s of the runs' files", ", ".join(ignored))
    return slots


def _slots_of(
    run: Checkpoint, state: Mapping[str, torch.Tensor], found: Mapping[str, str]
) -> tuple[Slots, list[str]]:
    """The slots by a map of names, and the names whose values are not in them."""
    slots: Slots = {name: state.get(found.get(name, "")) for name in run.header}
    loaded = run.adapted or run
    wrong = [
        name
        for name, info in run.header.items()
        if (slot := slots[name]) is not None
        and (expected := loaded.header.get(name)) is not None
        and expected.shape == info.shape
        and not _same(slot, loaded.tensor(name))
    ]
    return slots, wrong


def _unfilled(state: Mapping[str, torch.Tensor], slots: Slots) -> set[int]:
    """Where parameters and buffers lie that no slot fills, by one name or another."""
    untied = {parameter.data_ptr() for parameter in state.values() if parameter.numel()}
    return untied - {slot.data_ptr() for slot in slots.values() if slot is not None}


def _trace(run: Checkpoint, model: PreTrainedModel, renamed: list[str]) -> dict[str, str]:
    """Where transformers puts the tensors called `renamed`: state-dict name by file name.

    The model is loaded once with every element of the i-th file tensor equal to
    i. A parameter that holds one number only, in the shape of its file tensor,
    is that tensor. float32 keeps whole numbers below 2²⁴ exact, and costs 8 bytes a parameter while it lasts.
    """
    marks = {name: float(number) for number, name in enumerate(run.header, start=1)}
    tagged = {name: torch.full(info.shape, marks[name]) for name, info in run.header.items()}
    loaded = type(model).from_pretrained(
        None, config=model.config, state_dict=tagged, dtype=torch.float32, trust_remote_code=False
    )
    by_mark = {marks[name]: name for name in renamed}
    found = {}
    for name, parameter in loaded.state_dict().items():
        if parameter.numel() and (parameter == (mark := parameter.reshape(-1)[0])).all():
            source = by_mark.get(float(mark))
            if source and run.header[source].shape == tuple(parameter.shape):
                found[source] = name
    return found


def _same(slot: torch.Tensor, tensor: torch.Tensor) -> bool:
    return slot.shape == tensor.shape and torch.equal(slot.detach(), tensor.to(slot.device, slot.dtype))

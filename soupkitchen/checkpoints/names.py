"""Has transformers make the model of a `config.json`, and finds the places of files' tensors in it.

Files keep the names that a model had when it was first published. transformers renames some tensors when
it loads them (a ViT's ``attention.query`` is ``q_proj`` now), and makes one parameter of several others
(a mixture's experts). Which ones is never guessed. If the names differ, stand-ins of the files' tensors
go through transformers' own loading: tensors of torch's meta device, which have a shape and no content, so
that this takes no memory however large the model is. A parameter in the storage of a stand-in is
that tensor. A map is used once the loaded model has been found to have the files' values by it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from soupkitchen.checkpoints.checkpoint import Checkpoint
from soupkitchen.checkpoints.folders import CONFIG_NAME, cached_by
from soupkitchen.checkpoints.weights import TensorInfo
from soupkitchen.errors import CheckpointError

log = logging.getLogger(__name__)

Slots = Mapping[str, torch.Tensor | None]
"""For each file tensor the parameter or buffer that it fills; None for one that transformers ignores."""
Layout = Mapping[str, tuple[tuple[int, ...], str]]
"""For each name in a state dict the shape, and the first name of the same memory: others are tied to it."""


# The model without weights


@cached_by(CONFIG_NAME)
def architecture(folder: Path) -> Any:
    """The model of the `config.json` in `folder`, without weights; None if transformers cannot make it.

    Code that comes with a model is not run here, even if the user trusts it. Said outright, transformers does
    not ask the user either.
    """
    return _made(folder)


def tied_names(folder: Path) -> Mapping[str, str]:
    """The tied parameters of the model in `folder`: for each name the name that it shares memory with."""
    model = architecture(folder)
    return dict(model.all_tied_weights_keys) if model is not None else {}


def elements(folder: Path) -> int:
    """The number of values in the model in `folder`, buffers included; 0 if it is not known."""
    model = architecture(folder)
    return sum(x.numel() for x in (*model.parameters(), *model.buffers())) if model is not None else 0


def kept_in_float32(model: Any, dtype: torch.dtype) -> Callable[[str], bool] | None:
    """A test, by name, for parameters of `model` that stay float32 in loading as `dtype`; None if none do.

    A mixture's routers stay, and T5's `wo` in float16.
    """
    plan: dict[str, Any] = getattr(model, "_get_dtype_plan", lambda dtype: {})(dtype)
    if not plan:
        return None
    pattern = re.compile("|".join(name.replace("*", ".*") for name in plan))
    return lambda name: pattern.search(name) is not None


@cached_by(CONFIG_NAME)
def rows_of_labels(folder: Path, labels: int) -> frozenset[str]:
    """The parameters of the head of the model in `folder`: they have a row for each label.

    They are those that grow by a row if the model is made with one label more. None are known if anything
    grows otherwise, or if transformers cannot make the model.
    """
    models = [_made(folder, number) for number in (labels, labels + 1)]
    if None in models:
        return frozenset()
    few, many = ({name: tuple(x.shape) for name, x in model.state_dict().items()} for model in models)
    grown = frozenset(name for name in few.keys() | many.keys() if few.get(name) != many.get(name))
    by_one = all(
        name in few and few[name][:1] == (labels,) and many.get(name) == (labels + 1, *few[name][1:])
        for name in grown
    )
    return grown if by_one else frozenset()


def _made(folder: Path, labels: int | None = None) -> Any:
    """Makes the model in `folder`, without weights, with so many labels or its own; None if that fails."""
    if not (folder / CONFIG_NAME).is_file():
        return None
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
        if labels is not None:
            config.num_labels = labels
        config._attn_implementation = None  # one that a configuration names may be downloaded
        model_class = getattr(transformers, (config.architectures or [""])[0])
        if not issubclass(model_class, transformers.PreTrainedModel):
            return None
        with torch.device("meta"):
            return model_class(config)
    except Exception:  # a strange config.json may have transformers raise anything; loading it reports that
        return None


# Names


@dataclass(frozen=True)
class NameMap:
    """The places of files' tensors in models of one kind.

    Attributes:
        kind: the models' class.
        shapes: of the files' tensors.
        layout: of the models' parameters and buffers.
        names: the name in the state dict by the name in files, for tensors that have one.
        in_place: whether writing each tensor to its place fills the model as loading it does.
    """

    kind: type
    shapes: Mapping[str, tuple[int, ...]]
    layout: Layout
    names: Mapping[str, str]
    in_place: bool

    @classmethod
    def find(cls, run: Checkpoint, model: Any) -> NameMap:
        """The map for a model that transformers has just loaded from `run` or, of an adapter, from its base.

        Raises:
            CheckpointError: if `run` has tensors of a shape that the model has no place for.
        """
        shapes, layout = shapes_of(run.header), layout_of(model)
        same = {name: name for name in shapes} if shapes.keys() <= layout.keys() else None
        if same and _fills(same, shapes, layout) and _holds(model, same, run):
            return cls(type(model), shapes, layout, same, in_place=True)
        traced, mismatched = _trace(type(model), model.config, run.header)
        if mismatched:
            name, given, wanted = mismatched[0]
            raise CheckpointError(
                f"{run.path}: {name} has shape {list(given)}, where {type(model).__name__} has "
                f"{list(wanted)}; was its vocabulary or its head resized?"
            )
        in_place = traced != same and _fills(traced, shapes, layout) and _holds(model, traced, run)
        return cls(type(model), shapes, layout, traced, in_place)

    @classmethod
    def given(cls, run: Checkpoint, model: Any, names: Mapping[str, str]) -> NameMap:
        """The map by `names` for a model that was just loaded from `run`.

        Raises:
            CheckpointError: if it does not fill the model, or the model holds other values than the files.
        """
        shapes, layout = shapes_of(run.header), layout_of(model)
        if strange := sorted(shapes.keys() - names.keys()) or sorted(set(names.values()) - layout.keys()):
            raise CheckpointError(
                f"{run.path} holds {strange[0]}, for which {type(model).__name__} has no place"
            )
        if not _fills(names, shapes, layout) or not _holds(model, names, run):
            raise CheckpointError(
                f"{run.path}: its files do not fill the {type(model).__name__} that is made of them; copy "
                "the run again"
            )
        return cls(type(model), shapes, layout, names, in_place=True)

    def is_for(self, run: Checkpoint, model: Any) -> bool:
        """Tells whether names, shapes and ties of `model` and of the files of `run` are those of this map."""
        found = type(model), shapes_of(run.header), layout_of(model)
        return found == (self.kind, self.shapes, self.layout)

    def slots(self, model: Any) -> Slots | None:
        """The places of the files' tensors in `model`; None if it cannot be filled in place."""
        if not self.in_place:
            return None
        state = model.state_dict(keep_vars=True)
        return {name: state[self.names[name]] if name in self.names else None for name in self.shapes}


def parameter_names(folder: Path, header: Mapping[str, TensorInfo]) -> Mapping[str, str]:
    """The names of files' tensors in the model of the `config.json` in `folder`, by name in files.

    Tensors that transformers puts together or takes apart have no name there and are left out; so are all,
    if transformers cannot make the model.
    """
    return _parameter_names(folder, tuple(header.items()))


def float32_tensors(folder: Path, dtype: torch.dtype, header: Mapping[str, TensorInfo]) -> frozenset[str]:
    """The tensors of files that stay float32 when transformers loads the model as `dtype`."""
    kept = kept_in_float32(architecture(folder), dtype)
    if kept is None:
        return frozenset()
    names = parameter_names(folder, header)
    return frozenset(name for name in header if kept(names.get(name, name)))


@cached_by(CONFIG_NAME)
def _parameter_names(folder: Path, header: tuple[tuple[str, TensorInfo], ...]) -> Mapping[str, str]:
    model = architecture(folder)
    return _trace(type(model), model.config, dict(header))[0] if model is not None else {}


def _trace(
    kind: Any, config: Any, header: Mapping[str, TensorInfo]
) -> tuple[dict[str, str], list[tuple[str, tuple[int, ...], tuple[int, ...]]]]:
    """Has transformers place the tensors: returns the state dict's name by file name.

    Beside it the name, shape and wanted shape of each tensor that would not fit.
    """
    # all in one floating-point dtype, or loading would convert some, and so copy them out of their storage
    stand_ins = {
        name: torch.empty(
            info.shape,
            dtype=torch.float32 if info.is_floating_point else info.torch_dtype or torch.float32,
            device="meta",
        )
        for name, info in header.items()
    }
    try:
        with _quiet():
            loaded, report = kind.from_pretrained(
                None,
                config=config,
                state_dict=stand_ins,
                dtype=torch.float32,
                device_map={"": "meta"},
                trust_remote_code=False,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except Exception:  # a model may count on having weights: it is filled otherwise
        log.debug("tracing %s", kind.__name__, exc_info=True)
        return {}, []
    sources = {_memory(tensor): name for name, tensor in stand_ins.items()}
    names: dict[str, str] = {}
    for name, parameter in loaded.state_dict().items():
        if (source := sources.get(_memory(parameter))) is not None:
            names.setdefault(source, name)
    return names, sorted(report["mismatched_keys"])


def _memory(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Identifies a tensor by its memory. Storages of the meta device have no address."""
    storage = tensor.untyped_storage()._cdata
    return storage, tensor.storage_offset(), tuple(tensor.shape), tensor.stride()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences transformers, which reported the same before, or has no weights yet."""
    from transformers.utils import logging as reports

    level, bars = reports.get_verbosity(), reports.is_progress_bar_enabled()
    reports.set_verbosity_error()
    reports.disable_progress_bar()
    try:
        yield
    finally:
        reports.set_verbosity(level)
        if bars:
            reports.enable_progress_bar()


def shapes_of(header: Mapping[str, TensorInfo]) -> dict[str, tuple[int, ...]]:
    """The shapes of the files' tensors."""
    return {name: info.shape for name, info in header.items()}


def layout_of(model: Any) -> Layout:
    """The layout of a model's parameters and buffers in memory."""
    first: dict[tuple[torch.device, int], str] = {}
    return {
        name: (tuple(x.shape), first.setdefault((x.device, x.data_ptr()), name))
        for name, x in model.state_dict().items()
    }


def first_names(model: Any) -> dict[str, str]:
    """For each name in a model's state dict the first name of the same memory."""
    return {name: first if 0 not in shape else name for name, (shape, first) in layout_of(model).items()}


def _fills(names: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], layout: Layout) -> bool:
    """Tells whether every tensor fits in its place, and every place has a tensor, by one name or another."""
    if any(layout[to][0] != shapes[name] for name, to in names.items()):
        return False
    wanted = {first for shape, first in layout.values() if 0 not in shape}
    return wanted <= {layout[to][1] for to in names.values()}


def _holds(model: Any, names: Mapping[str, str], run: Checkpoint) -> bool:
    """Tells whether the model has the values of the files that it was loaded from.

    Tensors that only an adapter has, or has in another shape, are not in these.
    """
    state, loaded = model.state_dict(), run.adapted or run
    for name, to in names.items():
        expected = loaded.header.get(name)
        if expected is None or expected.shape != run.header[name].shape:
            continue
        tensor = loaded.tensor(name).to(state[to].device, state[to].dtype)
        if not torch.equal(state[to], tensor):
            log.debug("%s has other values than the file's %s", to, name)
            return False
    return True

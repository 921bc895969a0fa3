"""Makes the model of a `config.json` with transformers, and finds file tensors in it.

transformers renames some file tensors (a ViT's ``attention.query`` becomes ``q_proj``) and joins others (a
mixture's experts). To trace this, stand-ins of the file tensors go through its own loading, on the meta
device, without memory. A parameter that shares a stand-in's storage is that tensor. A map is used only if the
loaded model has the files' values at its places.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping
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
"""For each file tensor, its parameter or buffer; None if transformers ignores it."""
Layout = Mapping[str, tuple[tuple[int, ...], str]]
"""For each name in a state dict, its shape and the first name tied to the same memory."""


# The model without weights


@cached_by(CONFIG_NAME)
def architecture(folder: Path) -> Any:
    """The model of the `config.json` in `folder`, without weights; None if transformers cannot make it.

    The model's own code is not run, even if the user trusts it; `trust_remote_code=False` keeps transformers
    from asking.
    """
    return _made(folder)


def tied_names(folder: Path) -> Mapping[str, str]:
    """For each tied parameter, the one that it is tied to."""
    model = architecture(folder)
    return dict(model.all_tied_weights_keys) if model is not None else {}


def elements(folder: Path) -> int:
    """The model's number of values, buffers included; 0 if unknown."""
    model = architecture(folder)
    return sum(x.numel() for x in (*model.parameters(), *model.buffers())) if model is not None else 0


def kept_in_float32(model: Any, dtype: torch.dtype) -> Callable[[str], bool] | None:
    """A test, by name, for parameters that stay float32 if `model` is loaded as `dtype`; None if none do."""
    plan: dict[str, Any] = getattr(model, "_get_dtype_plan", lambda dtype: {})(dtype)
    if not plan:
        return None
    pattern = re.compile("|".join(name.replace("*", ".*") for name in plan))
    return lambda name: pattern.search(name) is not None


@cached_by(CONFIG_NAME)
def rows_of_labels(folder: Path, labels: int) -> frozenset[str]:
    """The head's parameters, which grow by a row if the model gets one more label.

    The result is empty if anything grows otherwise, or if transformers cannot make the model.
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
    """The places of file tensors in models of one kind.

    Attributes:
        kind: the models' class.
        shapes: the file tensors' shapes.
        layout: the models' parameters and buffers.
        names: the state dict's name, by file name.
        in_place: filling the places is the same as loading.
    """

    kind: type
    shapes: Mapping[str, tuple[int, ...]]
    layout: Layout
    names: Mapping[str, str]
    in_place: bool

    @classmethod
    def find(cls, run: Checkpoint, model: Any) -> NameMap:
        """The map for a model just loaded from `run` or an adapter's base.

        Raises:
            CheckpointError: if a tensor's shape does not fit the model.
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
    def given(
        cls, run: Checkpoint, model: Any, names: Mapping[str, str], computed: Collection[str] = ()
    ) -> NameMap:
        """The map by `names` for a model just loaded from `run`.

        Args:
            computed: file tensors that the model makes itself, as the `position_ids` of old files.

        Raises:
            CheckpointError: if it does not fill the model, or values differ from the files'.
        """
        shapes, layout = shapes_of(run.header), layout_of(model)
        placeless = shapes.keys() - names.keys() - set(computed)
        if strange := sorted(placeless) or sorted(set(names.values()) - layout.keys()):
            raise CheckpointError(
                f"{run.path} holds {strange[0]}, for which {type(model).__name__} has no place"
            )
        if missing := _unfilled(names, layout):
            raise CheckpointError(
                f"{run.path} has no weights for {', '.join(missing[:3])}, which {type(model).__name__} needs"
            )
        if not _fills(names, shapes, layout) or not _holds(model, names, run):
            raise CheckpointError(
                f"{run.path}: its files do not fill the {type(model).__name__} that is made of them; copy "
                "the run again"
            )
        return cls(type(model), shapes, layout, names, in_place=True)

    def is_for(self, run: Checkpoint, model: Any) -> bool:
        """Tells whether the map fits `model` and the run's files."""
        found = type(model), shapes_of(run.header), layout_of(model)
        return found == (self.kind, self.shapes, self.layout)

    def slots(self, model: Any) -> Slots | None:
        if not self.in_place:
            return None
        state = model.state_dict(keep_vars=True)
        return {name: state[self.names[name]] if name in self.names else None for name in self.shapes}


def parameter_names(folder: Path, header: Mapping[str, TensorInfo]) -> Mapping[str, str]:
    """The state dict's names by file name, for the model in `folder`.

    Tensors that transformers joins or splits are left out; so are all if it cannot make the model.
    """
    return _parameter_names(folder, tuple(header.items()))


def float32_tensors(folder: Path, dtype: torch.dtype, header: Mapping[str, TensorInfo]) -> frozenset[str]:
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
    """The state dict's name by file name, traced through transformers' loading.

    Also returns name, shape and wanted shape of each tensor that does not fit.
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
    """Silences warnings about missing weights and those already shown."""
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
    return {name: info.shape for name, info in header.items()}


def layout_of(model: Any) -> Layout:
    first: dict[tuple[torch.device, int], str] = {}
    return {
        name: (tuple(x.shape), first.setdefault((x.device, x.data_ptr()), name))
        for name, x in model.state_dict().items()
    }


def first_names(model: Any) -> dict[str, str]:
    return {name: first if 0 not in shape else name for name, (shape, first) in layout_of(model).items()}


def _fills(names: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], layout: Layout) -> bool:
    fit = all(layout[to][0] == shapes[name] for name, to in names.items())
    return fit and not _unfilled(names, layout)


def _unfilled(names: Mapping[str, str], layout: Layout) -> list[str]:
    wanted = {first for shape, first in layout.values() if 0 not in shape}
    return sorted(wanted - {layout[to][1] for to in names.values()})


def _holds(model: Any, names: Mapping[str, str], run: Checkpoint) -> bool:
    """Tells whether the model has its files' values, apart from the adapter's own tensors."""
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

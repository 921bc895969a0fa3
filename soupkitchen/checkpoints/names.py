"""The one map between what files call their tensors and what the model calls its parameters.

Files keep the names that a model had when it was first published. transformers renames some tensors when
it loads them (a ViT's ``attention.query`` is ``q_proj`` now), and makes one parameter of several others
(a mixture's experts). Which ones is never guessed. Where the names differ, stand-ins of the files' tensors
go through transformers' own loading: tensors of torch's meta device, which have a shape and no content, so
that this takes no memory however large the model is. A parameter that lies in the storage of a stand-in is
that tensor. A map is used once the loaded model has been found to have the files' values by it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from soupkitchen.checkpoints.configuration import CONFIG_NAME
from soupkitchen.checkpoints.files import TensorInfo, cached_by
from soupkitchen.checkpoints.parameters import architecture, kept_in_float32
from soupkitchen.checkpoints.reader import Checkpoint
from soupkitchen.errors import CheckpointError

log = logging.getLogger(__name__)

Slots = Mapping[str, torch.Tensor | None]
"""For each file tensor the parameter or buffer that it fills; None for one that transformers ignores."""
Layout = Mapping[str, tuple[tuple[int, ...], str]]
"""For each name in a state dict the shape, and the first name of the same memory: others are tied to it."""


@dataclass(frozen=True)
class NameMap:
    """Where the tensors of files lie in models of one kind.

    Attributes:
        kind: the models' class.
        shapes: the files' tensors.
        layout: the models' parameters and buffers.
        names: by name in files, those that have one, the name in the state dict.
        in_place: whether writing each tensor to its place fills the model as loading it does.
    """

    kind: type
    shapes: Mapping[str, tuple[int, ...]]
    layout: Layout
    names: Mapping[str, str]
    in_place: bool

    @classmethod
    def find(cls, run: Checkpoint, model: Any) -> NameMap:
        """The map for a model that transformers has just loaded: from `run` or, of an adapter, from its base.

        Raises:
            CheckpointError: where `run` has tensors of a shape that the model has no place for.
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
        """The map for a model that was just loaded from `run`, of which the names are known.

        Raises:
            CheckpointError: where it does not fill the model, or the model holds other values than the files.
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
        """Whether it is that of `model` and the files of `run` too: names, shapes and ties are the same."""
        return (
            type(model) is self.kind
            and shapes_of(run.header) == self.shapes
            and layout_of(model) == self.layout
        )

    def slots(self, model: Any) -> Slots | None:
        """Where the files' tensors go in `model`; None where it cannot be filled in place."""
        if not self.in_place:
            return None
        state = model.state_dict(keep_vars=True)
        return {name: state[self.names[name]] if name in self.names else None for name in self.shapes}


def parameter_names(folder: Path, header: Mapping[str, TensorInfo]) -> Mapping[str, str]:
    """How the model whose `config.json` is in `folder` calls the tensors of files, by name in files.

    Tensors that transformers puts together or takes apart have no name of their own and are left
    out; so are all, where transformers cannot make the model.
    """
    return _parameter_names(folder, tuple(header.items()))


def float32_tensors(folder: Path, dtype: torch.dtype, header: Mapping[str, TensorInfo]) -> frozenset[str]:
    """Which of the tensors of files stay float32 where transformers loads the model as `dtype`."""
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
    """Where transformers puts tensors: the state dict's name by file name.

    Beside it the name, shape and wanted shape of those that it would put where they do not fit.
    """
    # all in one floating-point dtype, or loading would convert some, and so copy them out of their storage
    stand_ins = {
        name: torch.empty(info.shape, dtype=_stand_in_dtype(info), device="meta")
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
    except Exception:  # whatever a model does that counts on having weights: it is filled otherwise
        log.debug("tracing %s", kind.__name__, exc_info=True)
        return {}, []
    sources = {_memory(tensor): name for name, tensor in stand_ins.items()}
    found: dict[str, str] = {}
    for name, parameter in loaded.state_dict().items():
        if (source := sources.get(_memory(parameter))) is not None:
            found.setdefault(source, name)
    return found, sorted(report["mismatched_keys"])


def _stand_in_dtype(info: TensorInfo) -> torch.dtype:
    return torch.float32 if info.is_floating_point or info.torch_dtype is None else info.torch_dtype


def _memory(tensor: torch.Tensor) -> tuple[Any, ...]:
    """What two tensors have in common only if they are one, and neither a part of the other nor transposed.

    Storages of the meta device have no address.
    """
    storage = tensor.untyped_storage()._cdata
    return storage, tensor.storage_offset(), tuple(tensor.shape), tensor.stride()


@contextmanager
def _quiet() -> Iterator[None]:
    """Has transformers say nothing: the same was loaded before, or has no weights yet."""
    from transformers.utils import logging as told

    level, bars = told.get_verbosity(), told.is_progress_bar_enabled()
    told.set_verbosity_error()
    told.disable_progress_bar()
    try:
        yield
    finally:
        told.set_verbosity(level)
        if bars:
            told.enable_progress_bar()


def shapes_of(header: Mapping[str, TensorInfo]) -> dict[str, tuple[int, ...]]:
    """The shapes of the files' tensors."""
    return {name: info.shape for name, info in header.items()}


def layout_of(model: Any) -> Layout:
    """How a model's parameters and buffers lie in memory."""
    first: dict[tuple[torch.device, int], str] = {}
    return {
        name: (tuple(x.shape), first.setdefault((x.device, x.data_ptr()), name))
        for name, x in model.state_dict().items()
    }


def first_names(model: Any) -> dict[str, str]:
    """For each name in a model's state dict the first name of the same memory."""
    return {name: first if 0 not in shape else name for name, (shape, first) in layout_of(model).items()}


def _fills(names: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], layout: Layout) -> bool:
    """Whether every tensor fits in its place, and every place has a tensor, by one name or another."""
    if any(layout[to][0] != shapes[name] for name, to in names.items()):
        return False
    wanted = {first for shape, first in layout.values() if 0 not in shape}
    return wanted <= {layout[to][1] for to in names.values()}


def _holds(model: Any, names: Mapping[str, str], run: Checkpoint) -> bool:
    """Whether the model has the values of the files that it was loaded from, looked at one tensor at a time.

    What an adapter brings anew, or in another shape, has none there.
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

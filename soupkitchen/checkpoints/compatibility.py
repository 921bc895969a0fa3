"""Checks that runs can be merged, before any time is spent on them, and mends what is only named otherwise.

Every run is held against a reference, one of those that most runs are like. Names that differ
by a prefix or because two tensors are tied, and heads whose labels are in another order, are
put right; all else is a problem. All problems of all runs are reported at once.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from soupkitchen.checkpoints import sentence
from soupkitchen.checkpoints.configuration import CONFIG_NAME, named_dtypes
from soupkitchen.checkpoints.files import TensorInfo
from soupkitchen.checkpoints.names import float32_tensors, parameter_names
from soupkitchen.checkpoints.parameters import rows_of_labels, tied_names
from soupkitchen.checkpoints.reader import Checkpoint
from soupkitchen.checkpoints.tokens import difference, tokens_of
from soupkitchen.checkpoints.views import View, Widened, aligned

_SHOWN = 3
_NEVER_LOADED = re.compile(r"(.*\.)?(position_ids|rotary_emb\.inv_freq)")
"""Buffers that old files hold and that transformers computes."""
_HEAD = re.compile(r"(.*\.)?((\w+_)?classifier|score|classification_head)(\.out_proj)?\.(weight|bias)")
"""The last layer of a classification head, by transformers' names, of a model that cannot be made."""


_COMPUTES = (
    "num_attention_heads", "num_key_value_heads", "n_head", "head_dim", "hidden_act", "activation_function",
    "hidden_activation", "layer_norm_eps", "rms_norm_eps", "layer_norm_epsilon", "rope_theta", "rope_scaling",
    "rope_parameters", "sliding_window", "position_embedding_type", "image_size", "patch_size",
)  # fmt: skip
"""What the same weights compute differently with."""


class Problem(NamedTuple):
    """Why a run cannot be merged with the others."""

    run: str
    what: str


def reference_of(runs: Sequence[Checkpoint]) -> Checkpoint:
    """The first of the runs that most are like; a whole model rather than an adapter."""
    kinds = [kind(run) for run in runs]
    counts = Counter(kinds)
    commonest = max(counts, key=counts.__getitem__)  # the first of several
    first = [run for run, own in zip(runs, kinds, strict=True) if own == commonest]
    return next((run for run in first if run.adapted is None), first[0])


def kind(run: Checkpoint) -> Any:
    """What runs that can be merged have in common, most often."""
    shapes = frozenset((name, info.shape) for name, info in run.header.items())
    tokens = tokens_of(run.path)
    told = None if tokens is None else tokens.frozen
    modules = str(sentence.said(run.path))
    return run.config.get("model_type"), shapes, tuple(sorted(labels_of(run.config))), told, modules


def fitted(run: Checkpoint, reference: Checkpoint) -> tuple[Checkpoint, list[Problem]]:
    """The run with the reference's names and labels, and what is wrong with it."""
    problems = [Problem(run.name, what) for what in _unfit(run, reference)]
    if problems:
        return run, problems
    run = _renamed(run, reference)
    problems += [Problem(run.name, what) for what in _differences(run, reference)]
    if not problems:
        relabelled = _relabelled(run, reference)
        if isinstance(relabelled, str):
            problems.append(Problem(run.name, relabelled))
        else:
            run = relabelled
    if what := _untied(run):
        problems.append(Problem(run.name, what))
    if what := difference(tokens_of(run.path), tokens_of(reference.path)):
        problems.append(Problem(run.name, what))
    if what := sentence.difference(run.path, reference.path, reference.name):
        problems.append(Problem(run.name, f"{what}: they make embeddings in different ways"))
    return run, problems


def _unfit(run: Checkpoint, reference: Checkpoint) -> list[str]:
    """What rules a run out whatever its tensors are called."""
    if bool(run.config) != bool(reference.config):
        without = run if reference.config else reference
        return [f"{without.path} is not a checkpoint: it has no {CONFIG_NAME}, as others have"]
    ours, theirs = run.config.get("model_type"), reference.config.get("model_type")
    if ours != theirs:
        return [f"its model_type is {ours!r}, not {theirs!r}"]
    for key in _COMPUTES:
        ours, theirs = run.config.get(key), reference.config.get(key)
        if ours is not None and theirs is not None and ours != theirs:
            return [f"it computes otherwise: {key} in config.json is {ours!r}, not {theirs!r}"]
    if run.config.get("quantization_config"):
        return ["its weights are quantised (quantization_config in config.json); use the unquantised run"]
    strange = [name for name, info in run.header.items() if not _mergeable(info)]
    return (
        [f"{strange[0]} is of dtype {run.header[strange[0]].dtype}, which is not merged"] if strange else []
    )


def _mergeable(info: TensorInfo) -> bool:
    dtype = info.torch_dtype
    return dtype is not None and not info.dtype.startswith("F8")


# Names


def _renamed(run: Checkpoint, reference: Checkpoint) -> Checkpoint:
    """The run by the reference's names, as far as they are there by any name."""
    if run.header.keys() == reference.header.keys():
        return run
    found = aligned(run.header, reference.header)
    tied = tied_names(reference.architecture)
    for name in reference.header.keys() - found.keys():
        twin = next((twin for twin in _twins(name, tied) if twin in run.header), None)
        if twin is not None:
            found[name] = twin
    used = set(found.values())
    for name in run.header.keys() - used:
        twins = [found[twin] for twin in _twins(name, tied) if twin in found]
        if not (_NEVER_LOADED.fullmatch(name) or any(_is_twin(run, name, twin) for twin in twins)):
            found[name] = name  # to be named as a tensor too many
    return replace(run, weights=View(run.weights, found))


def without_twins(run: Checkpoint) -> Checkpoint:
    """The run with each of its tied tensors once, as safetensors files have them."""
    tied = tied_names(run.architecture)
    names = {
        name: name
        for name in run.header
        if not _NEVER_LOADED.fullmatch(name) and not _is_twin(run, name, tied.get(name))
    }
    return run if len(names) == len(run.header) else replace(run, weights=View(run.weights, names))


def _is_twin(run: Checkpoint, name: str, source: str | None) -> bool:
    """Whether `name` is `source` by another name, and not a tensor of its own."""
    return source is not None and source in run.header and torch.equal(run.tensor(name), run.tensor(source))


def _untied(run: Checkpoint) -> str | None:
    """What is wrong where tensors that should be one are two."""
    if not any(name.endswith(("lm_head.weight", "decoder.weight")) for name in run.header):
        return None
    for name, source in tied_names(run.architecture).items():
        if name in run.header and source in run.header and not _is_twin(run, name, source):
            return (
                f"{name} and {source} are tied by config.json (tie_word_embeddings) and differ; a model "
                "cannot have both"
            )
    return None


def _twins(name: str, tied: Mapping[str, str]) -> list[str]:
    source = tied.get(name, name)
    return [twin for twin in (source, *(n for n, s in tied.items() if s == source)) if twin != name]


def _differences(run: Checkpoint, reference: Checkpoint) -> list[str]:
    problems = []
    if missing := sorted(reference.header.keys() - run.header.keys()):
        problems.append(f"lacks {_names(missing)}")
    if extra := sorted(run.header.keys() - reference.header.keys()):
        problems.append(f"has {_names(extra)} besides")
    shared = sorted(run.header.keys() & reference.header.keys())
    other = [
        f"{name} has shape {list(run.header[name].shape)}, not {list(reference.header[name].shape)}"
        for name in shared
        if run.header[name].shape != reference.header[name].shape
    ]
    if len(other) > _SHOWN:
        other = [f"{len(other)} tensors have other shapes: {other[0]}, …; is it a model of another size?"]
    kinds = [
        f"{name} holds {_kind_of(run.header[name])}, not {_kind_of(reference.header[name])}"
        for name in shared
        if run.header[name].is_floating_point != reference.header[name].is_floating_point
    ]
    if len(kinds) > _SHOWN:
        kinds = [f"{len(kinds)} tensors are of another kind: {kinds[0]}, …"]
    return [*problems, *other, *kinds]


def _kind_of(info: TensorInfo) -> str:
    return f"{'floating-point' if info.is_floating_point else 'whole'} numbers ({info.dtype})"


def _names(names: list[str]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} tensor{'s' * (len(names) > 1)}: {', '.join(names[:_SHOWN])}{rest}"


# Labels


def _relabelled(run: Checkpoint, reference: Checkpoint) -> Checkpoint | str:
    """The run with the rows of its head in the reference's order; or why that cannot be."""
    ours, theirs = labels_of(run.config), labels_of(reference.config)
    if ours == theirs:
        return run
    told = f"its labels (id2label in config.json) are {_shown(ours)}, not {_shown(theirs)}"
    if sorted(ours) != sorted(theirs) or len(set(ours)) < len(ours):
        return f"{told}: the rows of the two heads mean different things"
    head = _head_of(reference, len(ours))
    if not head:
        return f"{told}, and which tensors are its head is not known, so they cannot be put in order"
    order = [ours.index(label) for label in theirs]
    rows = dict.fromkeys(head, order)
    names = {name: name for name in run.header}
    numbers: dict[str, Any] = {
        key: reference.config[key] for key in ("id2label", "label2id") if key in reference.config
    }
    return replace(run, config={**run.config, **numbers}, weights=View(run.weights, names, rows))


def _head_of(run: Checkpoint, labels: int) -> list[str]:
    """The tensors of the run that have a row for each of so many labels; none where they are not known."""
    rows = [name for name, info in run.header.items() if info.shape[:1] == (labels,)]
    grown = rows_of_labels(run.architecture, labels)
    if not grown:
        return [name for name in rows if _HEAD.fullmatch(name)]
    names = parameter_names(run.architecture, run.header)
    head = [name for name in rows if names.get(name, name) in grown]
    return head if len(head) == len(grown) else []


def labels_of(config: Mapping[str, Any]) -> list[str]:
    """The names of a model's labels, by number; none where `config` names none."""
    id2label = config.get("id2label") or {}
    if not isinstance(id2label, Mapping) or not all(str(number).isdecimal() for number in id2label):
        return ["(not understood)", str(id2label)]
    return [str(label) for _, label in sorted(id2label.items(), key=lambda item: int(item[0]))]


def _shown(labels: Sequence[str]) -> str:
    if not labels:
        return "not given"
    return f"[{', '.join(labels[:_SHOWN])}{', …' if len(labels) > _SHOWN else ''}]"


# Values


def not_finite(run: Checkpoint) -> Problem | None:
    """A tensor of the run with NaN or Inf in it; it takes a reading to find out."""
    for name, count in run.weights.not_finite.items():
        return Problem(run.name, f"{name} has {count} values that are NaN or infinite")
    return None


def common_dtype(runs: Sequence[Checkpoint]) -> torch.dtype | None:
    """The narrowest dtype that holds the floating-point values of all runs; None where they have just one.

    Files may hold several dtypes, and another than their `config.json` says, which is that in which
    transformers loads them. Tensors that it keeps in float32 whatever the others are do not count.
    """
    named = {name for run in runs for name in named_dtypes(run.config)}
    for without in _kept_sets(runs):
        kinds = _dtypes(runs, without)
        if len(kinds) == 1 and named <= {str(next(iter(kinds))).removeprefix("torch.")}:
            return None
    return functools.reduce(torch.promote_types, kinds) if (kinds := _dtypes(runs)) else None


def _dtypes(runs: Sequence[Checkpoint], without: Collection[str] = ()) -> set[torch.dtype]:
    """The floating-point dtypes of the runs' tensors."""
    infos = [info for run in runs for name, info in run.header.items() if name not in without]
    return {info.torch_dtype for info in infos if info.torch_dtype and info.torch_dtype.is_floating_point}


def _kept_sets(runs: Sequence[Checkpoint]) -> Iterator[frozenset[str]]:
    """Sets of tensors that need not count: none, and those kept in float32 beside half-precision ones."""
    yield frozenset()
    kinds = _dtypes(runs)
    for half in (torch.bfloat16, torch.float16):
        if kinds == {half, torch.float32}:
            yield float32_tensors(runs[0].architecture, half, runs[0].header)


def widened(run: Checkpoint, dtype: torch.dtype) -> Checkpoint:
    """The run with all floating-point tensors in `dtype`."""
    if all(info.torch_dtype == dtype for info in run.header.values() if info.is_floating_point):
        return run
    return replace(run, weights=Widened(run.weights, dtype))

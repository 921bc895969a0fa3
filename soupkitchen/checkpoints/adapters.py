"""Opens LoRA adapters as runs: low-rank task vectors on their base model.

Tensors are assigned to modules as peft does it. Modules trained whole (`modules_to_save`, biases) replace the
model's. No merged copy is written.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from soupkitchen.checkpoints.adapter_config import ADAPTER_CONFIG_NAME, AdapterConfig, BlockDiagonal
from soupkitchen.checkpoints.checkpoint import Checkpoint
from soupkitchen.checkpoints.files import WeightFiles
from soupkitchen.checkpoints.folders import check_folder, read_json
from soupkitchen.checkpoints.names import architecture, parameter_names, tied_names
from soupkitchen.checkpoints.weights import AdaptedWeights, LowRank, Rows, Shift, TensorInfo, Weights, aligned
from soupkitchen.errors import CheckpointError, IncompatibleError

log = logging.getLogger(__name__)

ADAPTER_STEM = "adapter_model"

PREFIX = "base_model.model."
"""peft's prefix of module names."""
_WRAPPED = ".base_layer"
"""peft's suffix of a module with several adapted parameters."""
_PART = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_B\.bias"
    r"|(lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)(?=$|\.weight$))(\.weight)?"
)
_ROWS = re.compile(r"(?P<module>.+)\.token_adapter\.trainable_tokens_delta")
_WHOLE = re.compile(
    r"(?P<module>.+?)(\.token_adapter)?\.(base_layer|modules_to_save(\.default)?)\.(?P<parameter>[^.]+)"
)
_OF_TRAINING = re.compile(r".+\.(lora_velora_embed|lora_monteclora_sampler\..+)|.*\.original_module\..*")
"""Tensors for training only (VeLoRA, MonteCLoRA), and originals of modules trained whole."""
_HEADS = ("lm_head.weight", "decoder.weight", "embed_out.weight")
_HEADLESS = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")
"""peft's task types without a head tied to an embedding."""

_Place = tuple[int, tuple[int, int]]
"""An expert, and its range of outputs (begin, end)."""


@dataclass
class _Stored:
    """Names of an adapter's tensors in its files: low-rank changes by module and part, others by
    parameter.
    """

    parts: dict[str, dict[str, str]] = field(default_factory=dict)
    whole: dict[str, str] = field(default_factory=dict)
    rows: dict[str, str] = field(default_factory=dict)


def is_adapter(folder: Path) -> bool:
    return (folder / ADAPTER_CONFIG_NAME).exists()


def base_of(folder: Path) -> str:
    """The folder or hub name of the adapter's base model.

    Raises:
        CheckpointError: if its configuration names none.
    """
    config = read_json(folder / ADAPTER_CONFIG_NAME)
    name, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not name or not isinstance(name, str):
        raise CheckpointError(
            f"{folder / ADAPTER_CONFIG_NAME} does not say what it was trained on "
            "(base_model_name_or_path); give that as pool.base=…"
        )
    return f"{name}@{revision}" if revision and not Path(name).exists() else name


def open_adapter(path: Path, name: str, base: Checkpoint) -> Checkpoint:
    """Opens the adapter in folder `path` as a run on `base`.

    Raises:
        CheckpointError: if the adapter is broken, or is no task vector.
        IncompatibleError: if it does not fit `base`.
    """
    check_folder(path)
    config = AdapterConfig.read(path, base.config.get("model_type"))
    files = WeightFiles.open(path, ADAPTER_STEM)
    stored = _sorted_out(path, files)
    changed = dict(_changes_of_parameters(config, stored, files, base)) if config.target_parameters else {}
    _select(config, stored, base)
    _check_whole(config, stored.whole, base)
    parts, whole, rows = stored.parts, stored.whole, stored.rows
    weights_of = {f"{module}.weight": module for module in parts}
    biases = {f"{module}.bias": module for module, tensors in parts.items() if "lora_B.bias" in tensors}
    files_of = {name: name for name in base.header}
    if len(aligned([*weights_of, *whole, *rows], files_of)) < len(weights_of) + len(whole) + len(rows):
        # adapters call modules as the model does, which may be otherwise than the files do
        files_of = {name: file for file, name in parameter_names(base.path, base.header).items()} | files_of
    target = {
        inner: files_of[name] for name, inner in aligned([*weights_of, *biases, *rows], files_of).items()
    }
    target |= {name: name for name in rows.keys() & whole.keys() - target.keys()}  # a tied head, saved twice
    if lost := sorted((weights_of.keys() | rows.keys()) - target.keys()):
        if (source := tied_names(base.path).get(lost[0])) is not None:
            raise _apart(config.file, lost[0], source)
        raise IncompatibleError(f"it adapts {lost[0]!r}, which {base.path} does not have: is that its base?")
    for inner, module in weights_of.items():
        changed[target[inner]] = _low_rank(config, module, parts[module], files, base, target[inner])
    edited: dict[str, Shift | Rows] = {}
    for inner, module in biases.items():
        if inner not in target:
            raise IncompatibleError(
                f"it has a bias for {module!r} (lora_bias), but that has none in {base.path}, so the two "
                "cannot be merged"
            )
        edited[target[inner]] = Shift(parts[module]["lora_B.bias"], config.scale(module))
    edited |= {target[inner]: _rows(config, inner, key, files) for inner, key in rows.items()}
    if config.trainable_token_indices and not rows:
        raise CheckpointError(f"{path}: trainable_token_indices names rows that its files do not hold")
    replaced = {files_of[name]: whole[inner] for name, inner in aligned(list(whole), files_of).items()}
    placed = set(replaced.values())
    replaced |= {name: key for name, key in whole.items() if key not in placed}
    for adapted in replaced.keys() & changed.keys():  # an adapted embedding is saved beside its adapter
        if adapted in base.header and torch.equal(files.tensor(replaced[adapted]), base.tensor(adapted)):
            del replaced[adapted]
    if twice := sorted(edited.keys() & changed.keys()):
        raise CheckpointError(f"{path}: {twice[0]} has rows of its own and an adapter, too")
    weights = AdaptedWeights(base.weights, files, changed, replaced, edited)
    _check_shapes(weights, base)
    _check_ties(config, weights, base, files_of)
    return Checkpoint(name, path, _config(base, weights), weights, adapted=base)


def _sorted_out(path: Path, files: WeightFiles) -> _Stored:
    stored = _Stored()
    for key in files.header:
        inner = key.removeprefix(PREFIX)
        if match := _PART.fullmatch(inner):
            stored.parts.setdefault(match["module"], {})[match["part"]] = key
        elif match := _ROWS.fullmatch(inner):
            stored.rows[f"{match['module']}.weight"] = key
        elif match := _WHOLE.fullmatch(inner):
            stored.whole[f"{match['module']}.{match['parameter']}"] = key
        elif _OF_TRAINING.fullmatch(inner):
            continue
        elif "lora_" in inner or "trainable_tokens" in inner:
            raise CheckpointError(
                f"{path}: the tensor {key!r} is of a kind of adapter that cannot be merged here yet"
            )
        else:
            stored.whole[inner] = key
    return stored


def _select(config: AdapterConfig, stored: _Stored, base: Checkpoint) -> None:
    """Removes modules that the configuration does not select, as peft does."""
    left = [module for name in stored.rows if not config.trained_rows(module := name.rpartition(".")[0])]
    for module in left:
        del stored.rows[f"{module}.weight"]
    for module, tensors in list(stored.parts.items()):
        selected = config.selects(module)
        if selected is None:
            selected = "lora_A" in tensors and _is_inner(base, module)
        if not selected:
            left.append(module)
            del stored.parts[module]
    for name, key in list(stored.whole.items()):
        if f"{_WRAPPED}." in key:
            if name.rpartition(".")[0] in left:
                del stored.whole[name]
        elif name.rpartition(".")[0] in stored.parts:
            raise CheckpointError(
                f"{config.file.parent}: the tensor {key!r} is called as old versions of peft called it, and "
                "newer ones leave it out; load the adapter with the version that saved it, and save it merged"
            )
    if left and not stored.parts:
        raise CheckpointError(
            f"{config.file} selects none of the modules that its files adapt, as {left[0]} (target_modules, "
            "exclude_modules, layers_to_transform, modules_to_save); put back what it was trained with"
        )
    if left:
        log.warning(
            "%s: the files hold an adapter of %s%s, which the configuration does not select (target_modules, "
            "exclude_modules, layers_to_transform, modules_to_save, trainable_token_indices): it is "
            "left out, as peft does",
            config.file,
            left[0],
            f" and {len(left) - 1} more modules" if len(left) > 1 else "",
        )


def _is_inner(base: Checkpoint, module: str) -> bool:
    model = architecture(base.path)
    heads: tuple[str, ...] = _HEADS
    if model is not None and (head := model.get_output_embeddings()) is not None:
        heads = tuple(f"{name}.weight" for name, part in model.named_modules() if part is head)
    return not f"{module}.weight".endswith(heads)


def _check_whole(config: AdapterConfig, whole: Collection[str], base: Checkpoint) -> None:
    """Refuses files without a module of `modules_to_save`, as peft does."""
    for module in config.modules_to_save or ():
        there = [name for name in base.header if f".{module}." in f".{name}"]
        if there and not any(f".{module}." in f".{name}" for name in whole):
            raise CheckpointError(
                f"{config.file}: modules_to_save names {module}, but its files hold no {there[0]}; copy "
                "the run again, or take the name out"
            )


def _low_rank(
    config: AdapterConfig, module: str, parts: Mapping[str, str], files: Weights, base: Checkpoint, name: str
) -> LowRank:
    path, embedding = config.file.parent, "lora_embedding_A" in parts
    down, up = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A", "lora_B")
    if down not in parts or up not in parts:
        raise CheckpointError(
            f"{path}: of {module!r} only {', '.join(sorted(parts))} is there; copy it again"
        )
    magnitude = parts.get("lora_magnitude_vector")
    wrong = None
    if config.use_dora and magnitude is None:
        wrong = "has no lora_magnitude_vector, which DoRA needs"
    elif magnitude is not None and not config.use_dora:
        wrong = f"has a lora_magnitude_vector, but {ADAPTER_CONFIG_NAME} says use_dora=false"
    elif bool(config.lora_bias) != ("lora_B.bias" in parts) and not embedding:
        article = "no" if config.lora_bias else "a"
        wrong = f"has {article} lora_B.bias, but {ADAPTER_CONFIG_NAME} says lora_bias={config.lora_bias}"
    if wrong:
        raise CheckpointError(f"{path}: {module!r} {wrong}")
    config.check_rank(module, files.header[parts[down]].shape[0])
    blocks = (config.use_bdlora or BlockDiagonal()).blocks(module)
    transposed = embedding or _is_transposed(config, base, name, files.header[parts[up]].shape[0])
    return LowRank(parts[down], parts[up], config.scale(module), transposed, magnitude, blocks)


def _is_transposed(config: AdapterConfig, base: Checkpoint, name: str, outputs: int) -> bool:
    """Tells whether the base's tensor `name` is (in, out), like transformers' Conv1D.

    The shape tells; if it is square, the module's class does. peft's `fan_in_fan_out` describes only its last
    module, so it is the last resort.
    """
    shape = base.header[name].shape
    if len(shape) != 2 or shape[0] != shape[1]:
        return len(shape) == 2 and shape[0] != outputs
    model = architecture(base.path)
    if model is None:
        return bool(config.fan_in_fan_out)
    modules = dict(model.named_modules())
    module = name.rpartition(".")[0]
    if module not in modules:
        module = parameter_names(base.path, base.header).get(name, name).rpartition(".")[0]
    return type(modules.get(module)).__name__ == "Conv1D"


def _rows(config: AdapterConfig, inner: str, key: str, files: Weights) -> Rows:
    rows, number = config.trained_rows(inner.rpartition(".")[0]), files.header[key].shape[0]
    if len(set(rows)) != number or len(rows) != number or min(rows) < 0:
        raise CheckpointError(
            f"{config.file}: trainable_token_indices should name the {number} rows that {key!r} "
            "holds, each once"
        )
    return Rows(key, tuple(rows))


# Adapters of single parameters (`target_parameters`), as those of the experts of a mixture are


def _changes_of_parameters(
    config: AdapterConfig, stored: _Stored, files: Weights, base: Checkpoint
) -> Iterator[tuple[str, LowRank]]:
    """Moves single parameters' changes out of `stored.parts`, by the base's tensor.

    peft wraps a module once for each adapted parameter, the first innermost.
    """
    model = architecture(base.path)
    if model is None:
        raise CheckpointError(
            f"{config.file}: target_parameters needs a model that transformers can make without foreign code"
        )
    adapted: dict[str, list[str]] = {}
    for place, module in model.named_modules():
        for short, _ in module.named_parameters(recurse=False):
            if config.names_parameter(f"{place}.{short}"):
                adapted.setdefault(place, []).append(short)
    named = {module.replace(_WRAPPED, "") for module in stored.parts}
    for place, module in aligned(list(named), adapted).items():
        for depth, short in enumerate(reversed(adapted[place])):
            wrapper = module + _WRAPPED * depth
            if wrapper in stored.parts:  # else peft makes one that changes nothing
                parts = stored.parts.pop(wrapper)
                yield from _of_parameter(config, base, model, f"{place}.{short}", parts, files)


def _of_parameter(
    config: AdapterConfig, base: Checkpoint, model: Any, name: str, parts: Mapping[str, str], files: Weights
) -> Iterator[tuple[str, LowRank]]:
    if parts.keys() != {"lora_A", "lora_B"}:
        raise CheckpointError(f"{config.file.parent}: of {name!r} {', '.join(sorted(parts))} is there")
    parameter, owner = model.get_parameter(name), model.get_submodule(name.rpartition(".")[0])
    experts = parameter.shape[0] if parameter.ndim == 3 else 1
    config.check_rank(name, files.header[parts["lora_A"]].shape[0], experts)
    transposed = experts > 1 and bool(getattr(owner, "is_transposed", False))
    plan = LowRank(parts["lora_A"], parts["lora_B"], config.scale(name), transposed, experts=experts)
    places = _tensors_of(base.path, base.header, name)
    if not places or (transposed and any(place is not None for place in places.values())):
        raise CheckpointError(
            f"{config.file}: which tensors of {base.path} the parameter {name} (target_parameters) is made "
            "of is not known, so adapters of it cannot be merged here yet"
        )
    for tensor, place in places.items():
        expert, rows = place or (None, None)
        yield tensor, replace(plan, expert=expert, rows=rows)


def _tensors_of(folder: Path, header: Mapping[str, TensorInfo], parameter: str) -> dict[str, _Place | None]:
    """The file tensors that make up a parameter, and their places in it.

    The place is None if the tensor is the whole parameter. If files hold each expert in its own tensors,
    transformers splits a tensor of place numbers to show where they go. If that yields no file tensors, the
    result is empty.
    """
    model = architecture(folder)
    whole = [file for file, name in parameter_names(folder, header).items() if name == parameter]
    if model is None or whole:
        return dict.fromkeys(whole)
    from transformers.core_model_loading import revert_weight_conversion

    shape = model.get_parameter(parameter).shape
    if len(shape) != 3:
        return {}
    experts, outputs = (torch.arange(number) for number in shape[:2])
    places = torch.stack(torch.meshgrid(experts, outputs, indexing="ij"), dim=-1)
    tensors: dict[str, _Place | None] = {}
    for name, part in revert_weight_conversion(model, {parameter: places}).items():
        if part.ndim != 2 or header.get(name, TensorInfo((), "")).shape != (len(part), shape[2]):
            return {}
        (expert, first), last = part[0].tolist(), int(part[-1, 1])
        tensors[name] = expert, (first, last + 1)
        if not torch.equal(part, places[expert, first : last + 1]):
            return {}
    return tensors


# Checks


def _check_shapes(weights: AdaptedWeights, base: Checkpoint) -> None:
    header, files = weights.header, weights.files.header
    for name, plan in weights.changed.items():
        down, up = files[plan.down].shape, files[plan.up].shape
        shape, (of_a, of_b) = header[name].shape, plan.blocks
        outputs = up[0] if plan.rows is None else plan.rows[1] - plan.rows[0]
        made = (outputs, down[1] * of_a, *down[2:]) if len(shape) > 1 else ()
        made = (*made[1::-1], *made[2:]) if plan.transposed else made
        made = (plan.experts, *made) if plan.experts > 1 and plan.expert is None else made
        fits = torch.Size(made).numel() == torch.Size(shape).numel() and made[:1] == shape[:1]
        if down[0] != up[1] * of_b or down[0] % of_a or up[0] % of_b or not fits:
            raise IncompatibleError(
                f"its change of {name} is {list(up)} times {list(down)}, but in {base.path} that has shape "
                f"{list(shape)}: is that its base?"
            )
    for name, edit in weights.edited.items():
        given, shape = files[edit.key].shape, header[name].shape
        if isinstance(edit, Shift):
            fits = given == shape
        else:
            fits = given[1:] == shape[1:] and max(edit.rows) < shape[0]
        if not fits:
            raise IncompatibleError(
                f"its {edit.key} has shape {list(given)}, which does not fit {name} of {base.path}, "
                f"{list(shape)}"
            )


def _check_ties(
    config: AdapterConfig, weights: AdaptedWeights, base: Checkpoint, files_of: Mapping[str, str]
) -> None:
    """Refuses a tensor that was trained apart from one that it is tied to.

    Without `ensure_weight_tying` peft trains a copy of one of them: its model has no ties, which its
    configuration does not say.
    """
    saved = config.modules_to_save or []
    trained = [
        name
        for name in (*weights.changed, *weights.replaced)
        if name in weights.changed or any(name.rpartition(".")[0].endswith(str(module)) for module in saved)
    ]
    if not trained or base.config.get("tie_word_embeddings") is False:
        return
    headless = str(config.task_type) in _HEADLESS
    for name, source in tied_names(base.path).items():
        if headless and name.endswith(_HEADS):
            continue
        tied = {files_of.get(name, name), files_of.get(source, source)}
        for tensor in tied.intersection(trained):
            (other,) = tied - {tensor} or {tensor}
            if {tensor, other} & weights.changed.keys() or other not in weights.replaced:
                raise _apart(config.file, tensor, other)


def _apart(file: Path, tensor: str, other: str) -> CheckpointError:
    return CheckpointError(
        f"{file}: {tensor} was trained apart from {other}, to which the base ties it (tie_word_embeddings), "
        "so the two differ, and a model cannot have both; train such adapters with modules_to_save and "
        "ensure_weight_tying=True"
    )


def _config(base: Checkpoint, weights: AdaptedWeights) -> dict[str, Any]:
    config = base.config
    for name in weights.replaced:
        rows, old = weights.header[name].shape[0], base.header.get(name)
        if old is not None and old.shape[0] == rows:
            continue
        if re.fullmatch(r"(.*\.)?(score|classifier|out_proj)\.weight", name):
            labels = {str(number): f"LABEL_{number}" for number in range(rows)}
            numbers = {label: int(number) for number, label in labels.items()}
            config = {**config, "id2label": labels, "label2id": numbers}
        elif old is not None and old.shape[0] == base.config.get("vocab_size"):
            config = {**config, "vocab_size": rows}
    return config

"""LoRA adapters as runs: low-rank task vectors on the model that they were trained on.

Which module of the model a tensor of an adapter's files belongs to, and how it changes that, is decided here,
as peft decides it. Modules trained whole (`modules_to_save`, biases) replace the model's. No merged copy is
ever written.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from soupkitchen.checkpoints.adapter_config import ADAPTER_CONFIG_NAME, AdapterConfig, BlockDiagonal
from soupkitchen.checkpoints.changes import AdaptedWeights, LowRank, Rows, Shift
from soupkitchen.checkpoints.files import WeightFiles, Weights
from soupkitchen.checkpoints.mixtures import WRAPPED, changes_of_parameters
from soupkitchen.checkpoints.names import parameter_names
from soupkitchen.checkpoints.parameters import architecture, tied_names
from soupkitchen.checkpoints.reader import Checkpoint
from soupkitchen.checkpoints.strangers import check_folder, read_json
from soupkitchen.checkpoints.views import aligned
from soupkitchen.errors import CheckpointError, IncompatibleError

log = logging.getLogger(__name__)

ADAPTER_STEM = "adapter_model"

PREFIX = "base_model.model."
"""What peft puts before the name of each module."""
_PART = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_B\.bias"
    r"|(lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)(?=$|\.weight$))(\.weight)?"
)
_ROWS = re.compile(r"(?P<module>.+)\.token_adapter\.trainable_tokens_delta")
_WHOLE = re.compile(
    r"(?P<module>.+?)(\.token_adapter)?\.(base_layer|modules_to_save(\.default)?)\.(?P<parameter>[^.]+)"
)
_OF_TRAINING = re.compile(r".+\.(lora_velora_embed|lora_monteclora_sampler\..+)")
"""What VeLoRA and MonteCLoRA train with; their models are those of plain LoRA."""
_HEADS = ("lm_head.weight", "decoder.weight", "embed_out.weight")
_HEADLESS = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")
"""peft's kinds of task whose models have no head that is tied to an embedding."""


def is_adapter(folder: Path) -> bool:
    """Whether `folder` holds a peft adapter."""
    return (folder / ADAPTER_CONFIG_NAME).exists()


def base_of(folder: Path) -> str:
    """What the adapter in `folder` says that it was trained on: a folder or a hub name.

    Raises:
        CheckpointError: if it does not say.
    """
    config: dict[str, Any] = read_json(folder / ADAPTER_CONFIG_NAME)
    name, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not name or not isinstance(name, str):
        raise CheckpointError(
            f"{folder / ADAPTER_CONFIG_NAME} does not say what it was trained on "
            "(base_model_name_or_path); give that as pool.base=…"
        )
    return f"{name}@{revision}" if revision and not Path(name).exists() else name


def open_adapter(path: Path, name: str, base: Checkpoint) -> Checkpoint:
    """The run that the adapter in folder `path` makes of `base`.

    Raises:
        CheckpointError: for an adapter that is broken, or of a kind that is no task vector.
        IncompatibleError: if it does not fit `base`.
    """
    check_folder(path)
    config = AdapterConfig.read(path, base.config.get("model_type"))
    files = WeightFiles.open(path, ADAPTER_STEM)
    parts: dict[str, dict[str, str]] = {}
    whole: dict[str, str] = {}
    rows: dict[str, str] = {}
    for key in files.header:
        inner = key.removeprefix(PREFIX)
        if match := _PART.fullmatch(inner):
            parts.setdefault(match["module"], {})[match["part"]] = key
        elif match := _ROWS.fullmatch(inner):
            rows[f"{match['module']}.weight"] = key
        elif match := _WHOLE.fullmatch(inner):
            whole[f"{match['module']}.{match['parameter']}"] = key
        elif ".original_module." in inner or _OF_TRAINING.fullmatch(inner):
            continue  # what a module trained whole was before
        elif "lora_" in inner or "trainable_tokens" in inner:
            raise CheckpointError(
                f"{path}: the tensor {key!r} is of a kind of adapter that cannot be merged here yet"
            )
        else:
            whole[inner] = key
    plans = dict(changes_of_parameters(config, parts, files, base)) if config.target_parameters else {}
    _select(config, parts, whole, rows, base)
    _check_whole(config, whole, base)
    wanted = {f"{module}.weight": module for module in parts}
    biases = {f"{module}.bias": module for module, found in parts.items() if "lora_B.bias" in found}
    files_of = {name: name for name in base.header}
    if len(aligned([*wanted, *whole, *rows], files_of)) < len(wanted) + len(whole) + len(rows):
        # adapters call modules as the model does, which may be otherwise than the files do
        files_of = {name: file for file, name in parameter_names(base.path, base.header).items()} | files_of
    found = {inner: files_of[name] for name, inner in aligned([*wanted, *biases, *rows], files_of).items()}
    found |= {name: name for name in rows.keys() & whole.keys() - found.keys()}  # a tied head is saved twice
    if lost := sorted((wanted.keys() | rows.keys()) - found.keys()):
        if (source := tied_names(base.path).get(lost[0])) is not None:
            raise _apart(config.file, lost[0], source)
        raise IncompatibleError(f"it adapts {lost[0]!r}, which {base.path} does not have: is that its base?")
    changed = plans | {
        found[inner]: _low_rank(config, module, parts[module], files, base, found[inner])
        for inner, module in wanted.items()
    }
    edited: dict[str, Shift | Rows] = {}
    for inner, module in biases.items():
        if inner not in found:
            raise IncompatibleError(
                f"it has a bias for {module!r} (lora_bias), but that has none in {base.path}, so the two "
                "cannot be merged"
            )
        edited[found[inner]] = Shift(parts[module]["lora_B.bias"], config.scale(module))
    edited |= {found[inner]: _rows(config, inner, key, files, base) for inner, key in rows.items()}
    if config.trainable_token_indices and not rows:
        raise CheckpointError(f"{path}: trainable_token_indices names rows that its files do not hold")
    replaced = {files_of[name]: whole[inner] for name, inner in aligned(list(whole), files_of).items()}
    replaced |= {name: key for name, key in whole.items() if key not in replaced.values()}
    for adapted in replaced.keys() & changed.keys():  # an adapted embedding is saved beside its adapter
        if adapted in base.header and torch.equal(files.tensor(replaced[adapted]), base.tensor(adapted)):
            del replaced[adapted]
    if twice := sorted(edited.keys() & changed.keys()):
        raise CheckpointError(f"{path}: {twice[0]} has rows of its own and an adapter, too")
    weights = AdaptedWeights(base.weights, files, changed, replaced, edited)
    _check_shapes(weights, base)
    _check_ties(config, weights, base, files_of)
    return Checkpoint(name, path, _config(base, weights), weights, adapted=base)


def _select(
    config: AdapterConfig,
    parts: dict[str, dict[str, str]],
    whole: dict[str, str],
    rows: dict[str, str],
    base: Checkpoint,
) -> None:
    """Takes out what peft leaves in the files: of modules that the configuration does not select."""
    left = [module for name in rows if not config.trained_rows(module := name.rpartition(".")[0])]
    for module in left:
        del rows[f"{module}.weight"]
    for module in list(parts):
        selected = config.selects(module)
        if selected is None:
            selected = "lora_A" in parts[module] and _is_inner(base, module)
        if not selected:
            left.append(module)
            del parts[module]
    for name in [name for name, key in whole.items() if f"{WRAPPED}." in key]:
        if name.rpartition(".")[0] in left:
            del whole[name]
    if left and not parts:
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
    for name, key in whole.items():
        if name.rpartition(".")[0] in parts and f"{WRAPPED}." not in key:
            raise CheckpointError(
                f"{config.file.parent}: the tensor {key!r} is called as old versions of peft called it, and "
                "newer ones leave it out; load the adapter with the version that saved it, and save it merged"
            )


def _is_inner(base: Checkpoint, module: str) -> bool:
    """Whether "all-linear" means the module: a linear one, and not the one that puts out tokens."""
    model = architecture(base.path)
    head = model.get_output_embeddings() if model is not None else None
    heads = (
        {f"{name}.weight" for name, part in model.named_modules() if part is head}
        if head is not None
        else _HEADS
    )
    return not f"{module}.weight".endswith(tuple(heads))


def _check_whole(config: AdapterConfig, whole: Collection[str], base: Checkpoint) -> None:
    """Refuses files that lack a module that was trained whole: peft cannot load them either."""
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
    if (magnitude is not None) != bool(config.use_dora):
        what = (
            "has no lora_magnitude_vector, which DoRA needs"
            if config.use_dora
            else (f"has a lora_magnitude_vector, but {ADAPTER_CONFIG_NAME} says use_dora=false")
        )
        raise CheckpointError(f"{path}: {module!r} {what}")
    if bool(config.lora_bias) != ("lora_B.bias" in parts) and not embedding:
        what = "has no" if config.lora_bias else "has a"
        raise CheckpointError(
            f"{path}: {module!r} {what} lora_B.bias, but {ADAPTER_CONFIG_NAME} says "
            f"lora_bias={config.lora_bias}"
        )
    config.check_rank(module, files.header[parts[down]].shape[0])
    blocks = (config.use_bdlora or BlockDiagonal()).blocks(module)
    up_shape = files.header[parts[up]].shape
    transposed = embedding or _is_transposed(config, base, name, up_shape[0])
    return LowRank(parts[down], parts[up], config.scale(module), transposed, magnitude, blocks)


def _is_transposed(config: AdapterConfig, base: Checkpoint, name: str, outputs: int) -> bool:
    """Whether the tensor `name` of the base is (in, out), as the weight of transformers' Conv1D is.

    The shape tells, but for a square. peft's own `fan_in_fan_out` is that of the last module it came by, so
    it is asked only if transformers cannot make the model.
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


def _rows(config: AdapterConfig, inner: str, key: str, files: Weights, base: Checkpoint) -> Rows:
    """The rows of the embedding `inner` that were trained, and where they are."""
    rows, number = config.trained_rows(inner.rpartition(".")[0]), files.header[key].shape[0]
    if len(set(rows)) != number or len(rows) != number or min(rows) < 0:
        raise CheckpointError(
            f"{config.file}: trainable_token_indices should name the {number} rows that {key!r} "
            "holds, each once"
        )
    return Rows(key, tuple(rows))


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
        own, shape = files[edit.key].shape, header[name].shape
        fits = own == shape if isinstance(edit, Shift) else own[1:] == shape[1:] and max(edit.rows) < shape[0]
        if not fits:
            raise IncompatibleError(
                f"its {edit.key} has shape {list(own)}, which does not fit {name} of {base.path}, "
                f"{list(shape)}"
            )


def _check_ties(
    config: AdapterConfig,
    weights: AdaptedWeights,
    base: Checkpoint,
    files_of: Mapping[str, str],
) -> None:
    """Refuses what was trained apart from a tensor that it is tied to in the base.

    peft trains a copy of the one and leaves the other as it was, unless told otherwise
    (`ensure_weight_tying`): the model that it makes has no ties any more, which its configuration
    does not say.
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
        tied = {files_of.get(name, name), files_of.get(source, source)}
        if headless and name.endswith(_HEADS):
            continue
        for one in tied.intersection(trained):
            (other,) = tied - {one} or {one}
            if one in weights.changed or other in weights.changed or other not in weights.replaced:
                raise _apart(config.file, one, other)


def _apart(file: Path, one: str, other: str) -> CheckpointError:
    return CheckpointError(
        f"{file}: {one} was trained apart from {other}, to which the base ties it (tie_word_embeddings), so "
        "the two differ, and a model cannot have both; train such adapters with modules_to_save and "
        "ensure_weight_tying=True"
    )


def _config(base: Checkpoint, weights: AdaptedWeights) -> dict[str, Any]:
    """The base's configuration, with the sizes of what the adapter brings: labels of a head, added tokens."""
    changes: dict[str, Any] = {}
    for name in weights.replaced:
        rows = weights.header[name].shape[0]
        own = base.header.get(name)
        if own is not None and own.shape[0] == rows:
            continue
        module, _, parameter = name.rpartition(".")
        if parameter == "weight" and re.search(r"(^|\.)(score|classifier|out_proj)$", module):
            numbered = {str(number): f"LABEL_{number}" for number in range(rows)}
            changes["id2label"] = numbered
            changes["label2id"] = {label: int(number) for number, label in numbered.items()}
        elif own is not None and own.shape[0] == base.config.get("vocab_size"):
            changes["vocab_size"] = rows
    return {**base.config, **changes} if changes else base.config

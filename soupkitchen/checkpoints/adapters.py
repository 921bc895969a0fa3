"""LoRA adapters as runs: low-rank task vectors on the model that they were trained on.

What an adapter changes of a weight W is Δ = s·B·A, with s = α/r (α/√r for rsLoRA); with
DoRA it is Δ = m·(W + s·B·A)/‖W + s·B·A‖ − W, a norm for each output. Modules trained whole
(`modules_to_save`, biases) replace the model's. No merged copy is ever written.

Hu et al. 2021, "LoRA", arXiv 2106.09685. Kalajdzievski 2023, "rsLoRA", arXiv 2312.03732.
Liu et al. 2024, "DoRA", arXiv 2402.09353. File format: peft.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import xxhash

from soupkitchen.checkpoints.files import TensorInfo, WeightFiles, Weights
from soupkitchen.checkpoints.names import parameter_names
from soupkitchen.checkpoints.parameters import tied_names
from soupkitchen.checkpoints.patterns import ends_with, is_simple
from soupkitchen.checkpoints.reader import Checkpoint
from soupkitchen.checkpoints.strangers import check_folder, read_json
from soupkitchen.checkpoints.views import aligned
from soupkitchen.errors import CheckpointError, IncompatibleError

ADAPTER_CONFIG_NAME = "adapter_config.json"
ADAPTER_STEM = "adapter_model"

PREFIX = "base_model.model."
"""What peft puts before the name of each module."""
_PART = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(\.weight)?"
)
_WHOLE = re.compile(r"(?P<module>.+)\.(base_layer|modules_to_save(\.default)?)\.(?P<parameter>[^.]+)")
_CONV1D_MODELS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer", "gptsan-japanese")
_CONV1D = ("c_attn", "c_proj", "c_fc", "q_attn")
_CHANGES_THE_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")
_MOST_EXPRESSIONS = 64
_HEADS = ("lm_head.weight", "decoder.weight", "embed_out.weight")
_HEADLESS = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")
"""peft's kinds of task whose models have no head that is tied to an embedding."""
_NOT_FOLLOWED = ("alora_invocation_tokens", "layer_replication", "target_parameters", "use_qalora")


@dataclass(frozen=True)
class LowRank:
    """The factors of one weight's change, as names in the adapter's file.

    Attributes:
        down: A, (r, in).
        up: B, (out, r).
        scale: s.
        transposed: whether the weight is (in, out), as an embedding or GPT-2's Conv1D.
        magnitude: DoRA's m, one for each output; None without.
    """

    down: str
    up: str
    scale: float
    transposed: bool
    magnitude: str | None = None


class AdaptedWeights(Weights):
    """The weights that an adapter gives its base: formed one tensor at a time."""

    def __init__(
        self, base: Weights, files: Weights, changed: Mapping[str, LowRank], replaced: Mapping[str, str]
    ) -> None:
        """`changed` and `replaced` are by name of the base's tensor."""
        self.base, self.files, self.changed, self.replaced = base, files, changed, replaced

    @cached_property
    def header(self) -> Mapping[str, TensorInfo]:
        own = {name: self.files.header[key] for name, key in self.replaced.items()}
        kept = {name: self.base.header[name] for name in own.keys() & self.base.header.keys()}
        own |= {name: TensorInfo(own[name].shape, info.dtype) for name, info in kept.items()}
        return dict(sorted({**self.base.header, **own}.items()))

    def is_in_files(self, name: str) -> bool:
        return name not in self.changed

    def leaves(self, name: str) -> bool:
        return name not in self.changed and name not in self.replaced

    def tensor(self, name: str) -> torch.Tensor:
        return self.exact(name, torch.device("cpu")).to(self.header[name].torch_dtype)

    def task_vector(self, name: str, device: torch.device) -> torch.Tensor | None:
        alone = name in self.changed and name not in self.replaced
        return self._change(name, device) if alone else None

    def exact(self, name: str, device: torch.device) -> torch.Tensor:
        if name not in self.changed:
            return self._unchanged(name)
        return self._change(name, device).add_(self._unchanged(name).to(device, torch.float32))

    def _unchanged(self, name: str) -> torch.Tensor:
        """What the low-rank change, if there is one, is of."""
        key = self.replaced.get(name)
        return self.base.tensor(name) if key is None else self.files.tensor(key)

    @cached_property
    def fingerprint(self) -> str:
        parts = [
            self.base.fingerprint,
            self.files.fingerprint,
            repr(sorted(self.changed.items())),
            repr(sorted(self.replaced.items())),
        ]
        return xxhash.xxh3_128("\0".join(parts).encode()).hexdigest()

    @property
    def not_finite(self) -> Mapping[str, int]:
        return self.files.not_finite

    def changed_files(self) -> list[Path]:
        return [*self.base.changed_files(), *self.files.changed_files()]

    def factors(self, name: str, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """A, (r, in), and s·B, (out, r), of the tensor `name`: float32, flat but for these two axes."""
        plan = self.changed[name]
        down = self.files.tensor(plan.down).to(device, torch.float32).flatten(1)
        up = self.files.tensor(plan.up).to(device, torch.float32).flatten(1)
        return down, up * plan.scale

    def _change(self, name: str, device: torch.device) -> torch.Tensor:
        plan, shape = self.changed[name], self.header[name].shape
        down, up = self.factors(name, device)
        change = up @ down
        change = (change.T if plan.transposed else change).reshape(shape)
        if plan.magnitude is None:
            return change
        weight = self._unchanged(name).to(device, torch.float32)
        outputs = len(shape) - 1 if plan.transposed else 0
        others = [axis for axis in range(len(shape)) if axis != outputs]
        moved = weight + change
        norm = torch.linalg.vector_norm(moved, dim=others, keepdim=True)
        magnitude = self.files.tensor(plan.magnitude).to(device, torch.float32).reshape(norm.shape)
        return moved.mul_(magnitude / norm).sub_(weight)


def is_adapter(folder: Path) -> bool:
    """Whether `folder` holds a peft adapter."""
    return (folder / ADAPTER_CONFIG_NAME).exists()


def base_of(folder: Path) -> str:
    """What the adapter in `folder` says that it was trained on: a folder or a hub name.

    Raises:
        CheckpointError: where it does not say.
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
    """The run that the adapter in folder `path` makes of `base`.

    Raises:
        CheckpointError: for an adapter that is broken, or of a kind that is no task vector.
        IncompatibleError: where it does not fit `base`.
    """
    file = path / ADAPTER_CONFIG_NAME
    check_folder(path)
    config = read_json(file)
    _check_kind(file, config)
    files = WeightFiles.open(path, ADAPTER_STEM)
    parts: dict[str, dict[str, str]] = {}
    whole: dict[str, str] = {}
    for key in files.header:
        inner = key.removeprefix(PREFIX)
        if match := _PART.fullmatch(inner):
            parts.setdefault(match["module"], {})[match["part"]] = key
        elif match := _WHOLE.fullmatch(inner):
            whole[f"{match['module']}.{match['parameter']}"] = key
        elif ".original_module." in inner:
            continue  # what a module trained whole was before
        elif "lora_" in inner or "trainable_tokens" in inner:
            raise CheckpointError(
                f"{path}: the tensor {key!r} is of a kind of adapter that cannot be merged here yet"
            )
        else:
            whole[inner] = key
    header = base.header
    wanted = {f"{module}.weight": module for module in parts}
    files_of = {name: name for name in header}
    if len(aligned([*wanted, *whole], files_of)) < len(wanted) + len(whole):
        # adapters call modules as the model does, which may be otherwise than the files do
        files_of = {name: file for file, name in parameter_names(base.path, header).items()} | files_of
    found = {inner: files_of[name] for name, inner in aligned(list(wanted), files_of).items()}
    if lost := sorted(wanted.keys() - found.keys()):
        if (source := tied_names(base.path).get(lost[0])) is not None:
            raise _apart(file, lost[0], source)
        raise IncompatibleError(f"it adapts {lost[0]!r}, which {base.path} does not have: is that its base?")
    changed = {
        found[inner]: _low_rank(path, config, module, parts[module], files, _transposed(base, module))
        for inner, module in wanted.items()
    }
    replaced = {files_of[name]: whole[inner] for name, inner in aligned(list(whole), files_of).items()}
    replaced |= {name: key for name, key in whole.items() if key not in replaced.values()}
    for adapted in replaced.keys() & changed.keys():  # an adapted embedding is saved beside its adapter
        if adapted in header and torch.equal(files.tensor(replaced[adapted]), base.tensor(adapted)):
            del replaced[adapted]
    weights = AdaptedWeights(base.weights, files, changed, replaced)
    _check_shapes(weights, base)
    _check_ties(file, config, weights, base, files_of)
    return Checkpoint(name, path, _config(base, weights), weights, adapted=base)


def _check_kind(file: Path, config: Mapping[str, Any]) -> None:
    kind = str(config.get("peft_type")).upper()
    if kind != "LORA":
        raise CheckpointError(
            f"{file}: an adapter of type {kind} is no low-rank task vector; LoRA (rsLoRA, DoRA) is merged"
        )
    initial = str(config.get("init_lora_weights")).lower()
    if initial.startswith(_CHANGES_THE_BASE):
        raise CheckpointError(
            f"{file}: init_lora_weights={initial} changed the base model when training began; have peft "
            "convert it to plain LoRA when saving (path_initial_model_for_weight_conversion)"
        )
    saved = config.get("modules_to_save")
    if saved is not None and not (isinstance(saved, list) and all(isinstance(name, str) for name in saved)):
        raise CheckpointError(f"{file}: modules_to_save={str(saved)[:80]} should be a list of names")
    for option in _NOT_FOLLOWED:
        if config.get(option):
            raise CheckpointError(f"{file}: adapters with {option} cannot be merged here yet")


def _low_rank(
    path: Path,
    config: Mapping[str, Any],
    module: str,
    parts: Mapping[str, str],
    files: Weights,
    transposed: bool,
) -> LowRank:
    embedding = "lora_embedding_A" in parts
    down, up = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A", "lora_B")
    if down not in parts or up not in parts:
        raise CheckpointError(
            f"{path}: of {module!r} only {', '.join(sorted(parts))} is there; copy it again"
        )
    magnitude = parts.get("lora_magnitude_vector")
    if config.get("use_dora") and magnitude is None:
        raise CheckpointError(f"{path}: {module!r} has no lora_magnitude_vector, which DoRA needs")
    rank = _by_pattern(config, "rank_pattern", module, config.get("r"))
    alpha = _by_pattern(config, "alpha_pattern", module, config.get("lora_alpha"))
    if not (isinstance(rank, int) and rank > 0 and _is_number(alpha)):
        raise CheckpointError(
            f"{path / ADAPTER_CONFIG_NAME}: r={rank} and lora_alpha={alpha} should be numbers"
        )
    if files.header[parts[down]].shape[0] != rank:
        raise CheckpointError(
            f"{path}: {module!r} has rank {files.header[parts[down]].shape[0]}, where {ADAPTER_CONFIG_NAME} "
            f"says {rank}"
        )
    scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
    return LowRank(parts[down], parts[up], scale, embedding or transposed, magnitude)


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, (int, float)) and math.isfinite(value)
    except OverflowError:
        return False


def _transposed(base: Checkpoint, module: str) -> bool:
    """Whether the module is one of transformers' Conv1D, whose weight is (in, out).

    peft's own `fan_in_fan_out` is that of the last module it came by, so it does not tell.
    """
    return base.config.get("model_type") in _CONV1D_MODELS and module.rsplit(".", 1)[-1] in _CONV1D


def _by_pattern(config: Mapping[str, Any], option: str, module: str, default: Any) -> Any:
    """What `option` says of `module`: as in peft, a regular expression for the end of its path."""
    patterns = config.get(option) or {}
    try:
        if sum(not is_simple(pattern) for pattern in patterns) > _MOST_EXPRESSIONS:
            raise re.error(f"more than {_MOST_EXPRESSIONS} regular expressions")
        for pattern, value in patterns.items():
            if ends_with(module, pattern):
                return value
    except (AttributeError, TypeError, re.error, RecursionError, OverflowError) as error:
        raise CheckpointError(
            f"{ADAPTER_CONFIG_NAME}: {option}={str(patterns)[:200]} cannot be understood ({error}); give it "
            "the modules by name"
        ) from error
    return default


def _check_shapes(weights: AdaptedWeights, base: Checkpoint) -> None:
    for name, plan in weights.changed.items():
        down, up = weights.files.header[plan.down].shape, weights.files.header[plan.up].shape
        shape = weights.header[name].shape
        made = (up[0], *down[1:]) if len(shape) > 1 else ()
        made = (made[1], made[0]) if plan.transposed and len(made) == 2 else made
        if down[0] != up[1] or torch.Size(made).numel() != torch.Size(shape).numel() or made[0] != shape[0]:
            raise IncompatibleError(
                f"its change of {name} is {list(up)} times {list(down)}, but in {base.path} that has shape "
                f"{list(shape)}: is that its base?"
            )


def _check_ties(
    file: Path,
    config: Mapping[str, Any],
    weights: AdaptedWeights,
    base: Checkpoint,
    files_of: Mapping[str, str],
) -> None:
    """Refuses what was trained apart from a tensor that it is tied to in the base.

    peft trains a copy of the one and leaves the other as it was, unless told otherwise
    (`ensure_weight_tying`): the model that it makes has no ties any more, which its configuration
    does not say.
    """
    saved = config.get("modules_to_save") or []
    trained = [
        name
        for name in (*weights.changed, *weights.replaced)
        if name in weights.changed or any(name.rpartition(".")[0].endswith(str(module)) for module in saved)
    ]
    if not trained or base.config.get("tie_word_embeddings") is False:
        return
    headless = str(config.get("task_type")) in _HEADLESS
    for name, source in tied_names(base.path).items():
        tied = {files_of.get(name, name), files_of.get(source, source)}
        if headless and name.endswith(_HEADS):
            continue
        for one in tied.intersection(trained):
            (other,) = tied - {one} or {one}
            if one in weights.changed or other in weights.changed or other not in weights.replaced:
                raise _apart(file, one, other)


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

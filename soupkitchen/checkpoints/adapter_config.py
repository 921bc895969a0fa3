"""What an adapter's `adapter_config.json` says, and which modules of a model it selects, as peft reads it.

peft makes the modules that the configuration selects and loads into them what is in the file; what is there
besides it leaves out. Options of later versions of peft, and those that make another model than weights can
say, are refused by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TypeVar

from soupkitchen.checkpoints.patterns import ends_with, is_all, is_part, is_simple
from soupkitchen.checkpoints.strangers import read_json
from soupkitchen.errors import CheckpointError
from soupkitchen.store.documents import checked

ADAPTER_CONFIG_NAME = "adapter_config.json"
ALL_LINEAR = "all-linear"

_CHANGES_THE_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")
_MOST_EXPRESSIONS = 64
_NOT_FOLLOWED = (
    "alora_invocation_tokens", "arrow_config", "enable_lora", "kasa_config", "layer_replication",
    "megatron_config", "use_qalora",
)  # fmt: skip
"""Options whose models are no base and a change of its weights, or whose change is not known here."""
_SAYS_NOTHING = (
    "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config",
    "inference_mode", "lora_dropout", "lora_ga_config", "loftq_config", "megatron_core", "merge_weights",
    "modules_to_tie", "monteclora_config", "peft_version", "qalora_group_size", "revision",
    "runtime_config", "target_modules_to_tie", "tied_weights_keys", "velora_config",
)  # fmt: skip
"""Options that merged weights do not depend on."""

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class BlockDiagonal:
    """peft's options of BD-LoRA: parts of names of the modules whose A, and whose B, is cut into blocks."""

    target_modules_bd_a: list[str] | None = None
    target_modules_bd_b: list[str] | None = None
    nblocks: int = 1
    match_strict: bool = True

    def blocks(self, module: str) -> tuple[int, int]:
        """Into how many blocks A and B of the module are cut."""
        of_a, of_b = (
            self.nblocks if any(part in module for part in names or ()) else 1
            for names in (self.target_modules_bd_a, self.target_modules_bd_b)
        )
        return of_a, of_b


@dataclass(frozen=True)
class AdapterConfig:
    """What the configuration of a LoRA adapter says that its weights depend on; see peft's `LoraConfig`."""

    file: Path
    r: int = 8
    lora_alpha: float = 8
    peft_type: str | None = None
    task_type: str | None = None
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    target_parameters: list[str] | None = None
    trainable_token_indices: dict[str, list[int]] | list[int] | None = None
    rank_pattern: dict[str, int] | None = field(default_factory=dict)
    alpha_pattern: dict[str, float] | None = field(default_factory=dict)
    init_lora_weights: bool | str | None = True
    bias: str | None = "none"
    fan_in_fan_out: bool | None = False
    use_rslora: bool | None = False
    use_dora: bool | None = False
    lora_bias: bool | None = False
    use_bdlora: BlockDiagonal | None = None

    @classmethod
    def read(cls, folder: Path, model_type: str | None) -> AdapterConfig:
        """That of the adapter in `folder`, of a model of that type.

        Raises:
            CheckpointError: for an adapter of another kind, or options that are not followed.
        """
        file = folder / ADAPTER_CONFIG_NAME
        told = read_json(file)
        kind = str(told.get("peft_type")).upper()
        if kind != "LORA":
            raise CheckpointError(
                f"{file}: an adapter of type {kind} is no low-rank task vector; LoRA (rsLoRA, DoRA) is merged"
            )
        for option in _NOT_FOLLOWED:
            if told.get(option):
                raise CheckpointError(f"{file}: adapters with {option} cannot be merged here yet")
        of_ours = {own.name for own in fields(cls)} - {"file"}
        if unknown := [key for key in told if told[key] and key not in of_ours and key not in _SAYS_NOTHING]:
            raise CheckpointError(
                f"{file}: the option {unknown[0]} is not known here, so adapters with it cannot be merged; "
                "if it says nothing of the weights, take it out"
            )
        config = checked(
            {key: value for key, value in told.items() if key in of_ours} | {"file": file},
            cls,
            file,
            CheckpointError,
        )
        if config.target_modules is None:
            config = replace(config, target_modules=_usual(config, model_type))
        if config.use_bdlora is not None and config.use_bdlora.nblocks < 1:
            raise CheckpointError(f"{file}: nblocks={config.use_bdlora.nblocks} should be at least 1")
        initial = str(config.init_lora_weights).lower()
        if initial.startswith(_CHANGES_THE_BASE):
            raise CheckpointError(
                f"{file}: init_lora_weights={initial} changed the base model when training began; have peft "
                "convert it to plain LoRA when saving (path_initial_model_for_weight_conversion)"
            )
        return config

    def rank(self, module: str) -> int:
        """The rank of the module's change."""
        rank = self._by_pattern("rank_pattern", module, self.r)
        if rank < 1:
            raise CheckpointError(f"{self.file}: r={rank} should be a whole number of at least 1")
        return rank

    def check_rank(self, module: str, rows: int, experts: int = 1) -> None:
        """Refuses a file whose A of the module has so many rows, if the configuration says otherwise."""
        if rows != self.rank(module) * experts:
            raise CheckpointError(
                f"{self.file.parent}: {module!r} has rank {rows // experts}, where {ADAPTER_CONFIG_NAME} "
                f"says {self.rank(module)}"
            )

    def scale(self, module: str) -> float:
        """What the module's change is multiplied by."""
        alpha, rank = self._by_pattern("alpha_pattern", module, self.lora_alpha), self.rank(module)
        if not math.isfinite(alpha):
            raise CheckpointError(f"{self.file}: lora_alpha={alpha} should be a finite number")
        return alpha / (rank**0.5 if self.use_rslora else rank)

    def selects(self, module: str) -> bool | None:
        """Whether peft adapts the module of that path; None if that depends on what the module is.

        Raises:
            CheckpointError: if it names them by expressions that are not followed.
        """
        if self._excludes(module):
            return False
        targets = self.target_modules or ()
        if isinstance(targets, str):
            return (
                None if targets.lower() == ALL_LINEAR else self._is("target_modules", is_all, module, targets)
            )
        if module in targets:
            return True
        return any(module.endswith(f".{target}") for target in targets) and self._has_layer(module)

    def names_parameter(self, name: str) -> bool:
        """Whether the parameter of that path is adapted by itself (`target_parameters`)."""
        wanted = self.target_parameters or ()
        return name in wanted or any(name.endswith(f".{target}") for target in wanted)

    def trained_rows(self, module: str) -> list[int]:
        """Which rows of the embedding of that path were trained; none if it is not named."""
        told = self.trainable_token_indices or []
        if isinstance(told, list):
            return told
        return next((rows for name, rows in told.items() if f".{module}".endswith(f".{name}")), [])

    def _excludes(self, module: str) -> bool:
        excluded = self.exclude_modules or ()
        if isinstance(excluded, str):
            if self._is("exclude_modules", is_all, module, excluded):
                return True
        elif any(f".{module}".endswith(f".{name}") for name in excluded):
            return True
        return any(self._is("modules_to_save", is_part, module, name) for name in self.modules_to_save or ())

    def _has_layer(self, module: str) -> bool:
        """Whether the first number in the path is that of a layer in `layers_to_transform`."""
        wanted = self.layers_to_transform
        if wanted is None or wanted == []:
            return True
        patterns = [self.layers_pattern] if isinstance(self.layers_pattern, str) else self.layers_pattern
        parts = module.split(".")
        for place in range(1 if patterns else 2, len(parts) - 1):
            above = ".".join(parts[:place])
            if parts[place].isdecimal() and (
                not patterns or any(self._is("layers_pattern", ends_with, above, one) for one in patterns)
            ):
                return int(parts[place]) in (wanted if isinstance(wanted, list) else [wanted])
        return False

    def _by_pattern(self, option: str, module: str, default: Number) -> Number:
        """What the first expression in `option`, for the end of a path, says of `module`."""
        patterns: Mapping[str, Number] = getattr(self, option) or {}
        return next(
            (value for one, value in patterns.items() if self._is(option, ends_with, module, one)), default
        )

    def _is(self, option: str, rule: Callable[[str, str], bool], module: str, pattern: str) -> bool:
        told = getattr(self, option)
        try:
            if not isinstance(told, str) and sum(not is_simple(one) for one in told) > _MOST_EXPRESSIONS:
                raise re.error(f"more than {_MOST_EXPRESSIONS} regular expressions")
            return rule(module, pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise CheckpointError(
                f"{self.file}: {option}={str(told)[:200]} cannot be understood ({error}); give it the "
                "modules by name"
            ) from error


def _usual(config: AdapterConfig, model_type: str | None) -> list[str]:
    """The modules that peft adapts in models of that type if nobody says which.

    Raises:
        CheckpointError: if that is not known.
    """
    try:
        from peft.utils import constants
    except ImportError:
        targets = None
    else:
        targets = constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(str(model_type))
    if targets is not None or config.target_parameters:
        return list(targets or ())
    raise CheckpointError(
        f"{config.file}: target_modules is null, and which modules of a {model_type} that means is not known "
        "here (pip install 'soupkitchen[peft]'); name them"
    )

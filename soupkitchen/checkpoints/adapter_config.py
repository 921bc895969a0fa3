"""Reads an adapter's `adapter_config.json`, and selects a model's modules by it as peft does.

Tensors of other modules are left out. Unsupported options are refused by name.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import regex

from soupkitchen.checkpoints.folders import read_json
from soupkitchen.errors import CheckpointError
from soupkitchen.store.files import checked

ADAPTER_CONFIG_NAME = "adapter_config.json"
ALL_LINEAR = "all-linear"

_CHANGES_THE_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")
_MOST_EXPRESSIONS, _LONGEST_EXPRESSION, _MOST_PARTS = 64, 10_000, 1_000_000
_MATCHING_SECONDS = 5
_SIMPLE = re.compile(r"(?:[\w.-]|\\[.d_-])*(?:[*+](?:[\w.-]|\\[.d_-])*)?")
_ROUNDS = re.compile(r"\{([^}]*)")
_EXTENSIONS = re.compile(r"\(\?(?![:=!])")
_WHOLE, _END, _PART = "({})$", r"(.*\.)?({})$", r"(^|.*\.){}($|\..*)"
"""peft's expressions for a path, for its end after a dot, for some of its names."""
_NOT_FOLLOWED = (
    "alora_invocation_tokens", "arrow_config", "enable_lora", "kasa_config", "layer_replication",
    "megatron_config", "use_qalora",
)  # fmt: skip
"""Refused options, which do more than change weights, or in an unknown way."""
_SAYS_NOTHING = (
    "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config",
    "inference_mode", "lora_dropout", "lora_ga_config", "loftq_config", "megatron_core", "merge_weights",
    "modules_to_tie", "monteclora_config", "peft_version", "qalora_group_size", "revision",
    "runtime_config", "target_modules_to_tie", "tied_weights_keys", "velora_config",
)  # fmt: skip
"""Options that do not affect merged weights."""

Number = TypeVar("Number", int, float)


class Expressions:
    """Matches regular expressions of strangers in bounded time and memory."""

    def __init__(self) -> None:
        self._seconds = float(_MATCHING_SECONDS)

    def match(self, pattern: str, text: str) -> bool:
        """Tells whether `text` begins with `pattern`.

        Raises:
            regex.error: if the pattern is invalid, or takes too much memory.
            TimeoutError: if no time is left.
        """
        if len(pattern) > _LONGEST_EXPRESSION:
            raise regex.error(f"it is longer than {_LONGEST_EXPRESSION} characters")
        if _EXTENSIONS.search(pattern):  # recursion, flags and others
            raise regex.error("groups that begin with '(?' are not followed")
        counts = _ROUNDS.findall(pattern)  # regex takes memory for each round before it matches
        if not all(re.fullmatch(r"\d{0,4},?\d{0,4}", count) for count in counts):
            raise regex.error("braces with more than a number of rounds are not followed")
        rounds = math.prod(max(1, *(int(number or 1) for number in count.split(","))) for count in counts)
        if rounds * len(pattern) > _MOST_PARTS:
            raise regex.error("so many rounds are not followed")
        begin = time.process_time()
        try:
            return regex.match(pattern, text, timeout=max(self._seconds, 1e-3)) is not None
        finally:
            self._seconds -= time.process_time() - begin


@dataclass(frozen=True)
class BlockDiagonal:
    """peft's options of BD-LoRA; the lists hold parts of names of modules with A or B in blocks."""

    target_modules_bd_a: list[str] | None = None
    target_modules_bd_b: list[str] | None = None
    nblocks: int = 1
    match_strict: bool = True

    def blocks(self, module: str) -> tuple[int, int]:
        of_a, of_b = (
            self.nblocks if any(part in module for part in names or ()) else 1
            for names in (self.target_modules_bd_a, self.target_modules_bd_b)
        )
        return of_a, of_b


@dataclass(frozen=True)
class AdapterConfig:
    """The options of a LoRA adapter that affect its weights; see peft's `LoraConfig`."""

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
        """Reads the configuration of the adapter in `folder`.

        Raises:
            CheckpointError: if it is no LoRA adapter, or has unsupported options.
        """
        file = folder / ADAPTER_CONFIG_NAME
        options = read_json(file)
        kind = str(options.get("peft_type")).upper()
        if kind != "LORA":
            raise CheckpointError(
                f"{file}: an adapter of type {kind} is no low-rank task vector; LoRA (rsLoRA, DoRA) is merged"
            )
        for option in _NOT_FOLLOWED:
            if options.get(option):
                raise CheckpointError(f"{file}: adapters with {option} cannot be merged here yet")
        names = {option.name for option in fields(cls)} - {"file"}
        if unknown := [key for key in options if options[key] and key not in (*names, *_SAYS_NOTHING)]:
            raise CheckpointError(
                f"{file}: the option {unknown[0]} is not known here, so adapters with it cannot be merged; "
                "if it says nothing of the weights, take it out"
            )
        tree = {key: value for key, value in options.items() if key in names} | {"file": file}
        config = checked(tree, cls, file, CheckpointError)
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
        rank = self._by_pattern("rank_pattern", module, self.r)
        if rank < 1:
            raise CheckpointError(f"{self.file}: r={rank} should be a whole number of at least 1")
        return rank

    def check_rank(self, module: str, rows: int, experts: int = 1) -> None:
        """Raises a CheckpointError if the module's A has another rank."""
        if rows != self.rank(module) * experts:
            raise CheckpointError(
                f"{self.file.parent}: {module!r} has rank {rows // experts}, where {ADAPTER_CONFIG_NAME} "
                f"says {self.rank(module)}"
            )

    def scale(self, module: str) -> float:
        alpha, rank = self._by_pattern("alpha_pattern", module, self.lora_alpha), self.rank(module)
        if not math.isfinite(alpha):
            raise CheckpointError(f"{self.file}: lora_alpha={alpha} should be a finite number")
        return alpha / (rank**0.5 if self.use_rslora else rank)

    def selects(self, module: str) -> bool | None:
        """Tells whether peft adapts the module; None if that depends on its class.

        Raises:
            CheckpointError: if an expression cannot be evaluated.
        """
        if self._excludes(module):
            return False
        targets = self.target_modules or ()
        if isinstance(targets, str):
            if targets.lower() == ALL_LINEAR:
                return None
            return self._matches("target_modules", targets, module)
        if module in targets:
            return True
        return any(module.endswith(f".{target}") for target in targets) and self._has_layer(module)

    def names_parameter(self, name: str) -> bool:
        wanted = self.target_parameters or ()
        return name in wanted or any(name.endswith(f".{target}") for target in wanted)

    def trained_rows(self, module: str) -> list[int]:
        """The embedding's trained rows, if any."""
        indices = self.trainable_token_indices or []
        if isinstance(indices, list):
            return indices
        return next((rows for name, rows in indices.items() if f".{module}".endswith(f".{name}")), [])

    def _excludes(self, module: str) -> bool:
        excluded = self.exclude_modules or ()
        if isinstance(excluded, str):
            if self._matches("exclude_modules", excluded, module):
                return True
        elif any(f".{module}".endswith(f".{name}") for name in excluded):
            return True
        return any(
            self._matches("modules_to_save", name, module, _PART) for name in self.modules_to_save or ()
        )

    def _has_layer(self, module: str) -> bool:
        wanted = self.layers_to_transform
        if wanted is None or wanted == []:
            return True
        patterns = [self.layers_pattern] if isinstance(self.layers_pattern, str) else self.layers_pattern
        parts = module.split(".")
        for place in range(1 if patterns else 2, len(parts) - 1):
            above = ".".join(parts[:place])
            if parts[place].isdecimal() and (
                not patterns
                or any(self._matches("layers_pattern", pattern, above, _END) for pattern in patterns)
            ):
                return int(parts[place]) in (wanted if isinstance(wanted, list) else [wanted])
        return False

    def _by_pattern(self, option: str, module: str, default: Number) -> Number:
        values: Mapping[str, Number] = getattr(self, option) or {}
        return next(
            (value for name, value in values.items() if self._matches(option, name, module, _END)), default
        )

    @cached_property
    def _expressions(self) -> Expressions:
        return Expressions()

    def _matches(self, option: str, pattern: str, module: str, frame: str = _WHOLE) -> bool:
        value = getattr(self, option)
        try:
            if not isinstance(value, str) and sum(map(_is_expression, value)) > _MOST_EXPRESSIONS:
                raise regex.error(f"more than {_MOST_EXPRESSIONS} regular expressions")
            return self._expressions.match(frame.replace("{}", pattern), module)
        except (regex.error, RecursionError, OverflowError, TimeoutError) as error:
            raise CheckpointError(
                f"{self.file}: {option}={str(value)[:200]} cannot be understood ({error}); give it the "
                "modules by name"
            ) from error


def _is_expression(pattern: str) -> bool:
    return _SIMPLE.fullmatch(pattern) is None


def _usual(config: AdapterConfig, model_type: str | None) -> list[str]:
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

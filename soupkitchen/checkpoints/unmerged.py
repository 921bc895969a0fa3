"""Finds weights in a run's folder that would be neither merged nor saved.

A Trainer leaves the state of its optimizer beside a model, an export leaves the same weights in another
format: neither is missed. But a head in a folder below, trained apart, is part of the fine-tuned model.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from soupkitchen.checkpoints.files import SAFE
from soupkitchen.checkpoints.folders import CONFIG_NAME, read_json
from soupkitchen.checkpoints.pickles import holds_tensors
from soupkitchen.errors import CheckpointError, first_of

log = logging.getLogger(__name__)

_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
_DEEP = 3
"""Levels of folders that are looked at."""
_MANY = 100_000
"""Entries that are looked at."""
_SHOWN = 3

_TRAINING = re.compile(
    r"optimizer.*|scheduler.*|scaler.*|rng_state.*|training_args.*|random_states.*|sampler.*|custom_checkpoint.*"
    r"|trainer_.*|ema_.*|dataloader.*"
)
"""Files that training resumes from."""
_VARIANT = r"(\.(fp\d+|bf16|b?float\d+|int\d+|(non_)?ema|\d+)|-\d+-of-\d+)*\.(safetensors|bin|pt|pth)"
_SAME_MODEL = re.compile(rf"(model|pytorch_model|consolidated){_VARIANT}")
_SAME_ADAPTER = re.compile(rf"adapter_model{_VARIANT}")
"""The same weights in transformers' other format, in another precision, or as their makers published them."""
_NOT_THE_MODEL = re.compile(
    r"\..*|checkpoint-.*|runs|logs|wandb|mlruns|lightning_logs|global_step.*|optimizer.*|pytorch_model_fsdp.*"
    r"|distributed_checkpoint.*|onnx|openvino|coreml|tflite|gguf|original|eval.*|__pycache__"
)
"""Folders of training's state and logs, of exports, and of the files that a model was converted from."""


def check_whole(folder: Path, merged: Collection[Path]) -> None:
    """Refuses a run that holds other weights than those that are merged, if they may be part of the model.

    Args:
        folder: the run's.
        merged: the files of its weights.

    Raises:
        CheckpointError: naming them.
    """
    folders = {file.parent for file in merged}
    same = _SAME_ADAPTER if any(_SAME_ADAPTER.fullmatch(file.name) for file in merged) else _SAME_MODEL
    parts = [
        file.relative_to(folder).as_posix()
        for file in _weight_files(folder)
        if file not in merged
        and not (file.parent in folders and same.fullmatch(file.name))
        and not is_of_training(file)
        and (file.suffix == SAFE or holds_tensors(file))
    ]
    if parts:
        raise CheckpointError(
            f"it holds weights besides its model's, which would be neither merged nor saved: "
            f"{first_of(parts, _SHOWN)}. Models of several parts cannot be merged yet; where "
            "these are no part of the model, move them out of the run's folder"
        )


def _weight_files(folder: Path) -> Iterator[Path]:
    """Yields the files below `folder` with suffixes of weights."""
    waiting, seen = [(folder, 0)], 0
    while waiting:
        place, depth = waiting.pop()
        for entry in sorted(os.scandir(place), key=lambda entry: entry.name):
            seen += 1
            if seen > _MANY:
                log.warning("%s holds more than %d files; only these were looked at", folder, _MANY)
                return
            if entry.is_file():
                if entry.name.endswith(_SUFFIXES):
                    yield Path(entry.path)
            elif entry.is_dir(follow_symlinks=False) and depth < _DEEP and not _is_apart(Path(entry.path)):
                waiting.append((Path(entry.path), depth + 1))


def _is_apart(folder: Path) -> bool:
    """Whether the subfolder is no part of the model: by its name, or as it is a model of its own."""
    if _NOT_THE_MODEL.fullmatch(folder.name) or (folder / "adapter_config.json").exists():
        return True
    config = folder / CONFIG_NAME
    return config.exists() and "model_type" in read_json(config)


def is_of_training(file: Path) -> bool:
    """Whether training resumes from the file, by its name."""
    return _TRAINING.fullmatch(file.name) is not None

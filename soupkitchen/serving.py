"""Saves the soup as a model folder, and proves that what was saved is what was scored."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from soupkitchen.checkpoints import Checkpoint
from soupkitchen.checkpoints.reader import Tensors
from soupkitchen.errors import GuaranteeError
from soupkitchen.evaluation import Evaluator, LiveModel


def save(
    live: LiveModel,
    processor: Any,
    weights: Callable[[], Tensors],
    folder: Path,
    recalibrated: bool = False,
) -> None:
    """Writes the live model to `folder` as ``save_pretrained`` does, tokenizer or image processor included.

    The folder appears by a rename when it is complete and its tensors have been
    read back equal to the last bit; until then an older one stays as it was.

    Args:
        live: the model, filled with `weights()`.
        processor: what has a ``save_pretrained`` of its own.
        recalibrated: whether its batch-norm statistics are its own, and not those of `weights()`.

    Raises:
        GuaranteeError: where a tensor on disk is not the one that was to be saved.
    """
    beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        live.save(beside)
        processor.save_pretrained(beside)
        own = dict(live.batchnorm_tensors()) if recalibrated else {}
        expected = ((name, own.get(name, tensor)) for name, tensor in weights())
        _compare(Checkpoint.open(beside), expected, live)
        beside.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        beside.rename(folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def rescore(evaluator: Evaluator, expected: float) -> None:
    """Scores a soup that was loaded back from disk, and compares with the score that it was kept for.

    Raises:
        GuaranteeError: where the two differ.
    """
    again = evaluator.score("heldout").score
    both_nan = math.isnan(again) and math.isnan(expected)
    if not (both_nan or math.isclose(again, expected, rel_tol=1e-6, abs_tol=1e-9)):
        raise GuaranteeError(
            f"the saved soup scores {again:.6f} on the held-out set, but scored {expected:.6f} before it was "
            "saved. It is left in place for inspection; do not use it, and please report this."
        )


def _compare(saved: Checkpoint, weights: Tensors, live: LiveModel) -> None:
    for name, expected in weights:
        if name not in saved.header:
            if live.ignores(name) or _is_tied(name, live):
                continue
            raise GuaranteeError(f"{saved.path}: the tensor {name!r} was not saved")
        if not _equal(saved.tensor(name), expected.cpu()):
            raise GuaranteeError(f"{saved.path}: the tensor {name!r} on disk is not the one that was scored")


def _is_tied(name: str, live: LiveModel) -> bool:
    """Whether transformers leaves `name` out because another tensor in the file holds its values."""
    return name in live.model.all_tied_weights_keys


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal to the last bit, a NaN of a diverged run being equal to itself."""
    return one.dtype == other.dtype and torch.equal(
        one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8)
    )

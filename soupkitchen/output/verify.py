"""Proves that the live model is filled as if loaded, and that the saved model is the one that was scored."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from soupkitchen.checkpoints import Checkpoint
from soupkitchen.errors import CheckpointError, GuaranteeError
from soupkitchen.evaluation import Evaluator, LiveModel

log = logging.getLogger(__name__)

_MODELS = str(Path("transformers", "models"))
"""The folder of transformers' models, which raise errors if an input is missing."""
_EXAMPLES = 4
"""Examples on which a filled model is compared with a loaded one."""


def prove_filling(evaluator: Evaluator, first: Checkpoint, last: Checkpoint | None) -> None:
    """Compares models filled in place with loaded ones; if they differ, models are made anew from then on.

    A model may keep values that it computed from its weights (LeViT its attention biases, RWKV weights scaled
    for inference). Filled with another run's weights it would still use those.

    Args:
        first: the run that the live model was loaded from; of an adapter, its base was.
        last: another run that transformers can load; None if there is none.

    Raises:
        CheckpointError: if the model needs other inputs than the task gives.
    """
    live = evaluator.live
    if last is None or not live.in_place:
        return
    examples = {name: order[:_EXAMPLES] for name, order in evaluator.examples.order("heldout").items()}
    try:
        expected = [(first, evaluator.outputs("heldout", examples))]
    except (AttributeError, TypeError, ValueError) as error:
        if _MODELS not in traceback.extract_tb(error.__traceback__)[-1].filename:
            raise
        raise CheckpointError(
            f"{first.path}: {type(live.model).__name__} cannot be run on what the task gives it ({error}): "
            "models that need more than that, as boxes or images beside texts, are none of this task's"
        ) from error
    evaluator.release()
    live.load(last)
    expected.insert(0, (last, evaluator.outputs("heldout", examples)))
    evaluator.release()
    live.load(first)
    for run, outputs in expected:
        live.fill(run.tensors())
        if not _alike(evaluator.outputs("heldout", examples), outputs, exactly=True):
            log.warning(
                "%s keeps in itself what it computes of its weights: for each candidate a new one is made by "
                "transformers, slower than in place",
                type(live.model).__name__,
            )
            live.make_anew()
            return


def check_weights(saved: LiveModel, state: Mapping[str, str], folder: Path) -> None:
    """Checks that a soup that was loaded has the parameters and buffers of the model that was scored.

    Args:
        saved: the soup in `folder`, not used yet.
        state: digests of those of the scored model, by name.

    Raises:
        GuaranteeError: if one differs.
    """
    loaded = saved.digests()
    if differing := sorted(n for n in state.keys() | loaded.keys() if state.get(n) != loaded.get(n)):
        raise GuaranteeError(
            f"{folder}: {differing[0]}, as loaded from the saved soup, is not what was scored. The soup is "
            "left in place for inspection; do not use it, and please report this"
        )


def check_answers(
    saved: Evaluator,
    outputs: Mapping[str, Sequence[Any]],
    examples: Mapping[str, np.ndarray] | None,
    folder: Path,
) -> None:
    """Checks that a soup that was loaded answers as the model that was scored, on one batch.

    Args:
        saved: of the soup in `folder`.
        outputs: of the scored model for the batch, by task.
        examples: the held-out examples of `saved` in the batch; None for all of them.

    Raises:
        GuaranteeError: if its answers differ.
    """
    if examples is None:
        examples = {name: np.arange(size) for name, size in saved.examples.sizes("heldout").items()}
    if not _alike(saved.outputs("heldout", examples), outputs):
        raise GuaranteeError(
            f"{folder}: the saved soup has the weights that were scored and answers otherwise. It is left in "
            "place for inspection; do not use it, and please report this"
        )
    log.info("saved    %s: loaded back, it has the same weights and answers the same", folder)


def _alike(ours: Any, theirs: Any, exactly: bool = False) -> bool:
    """Tells whether two trees of tensors, texts and numbers are the same; NaN is equal to itself."""
    if isinstance(ours, Mapping):
        return ours.keys() == theirs.keys() and all(_alike(ours[k], theirs[k], exactly) for k in ours)
    if isinstance(ours, torch.Tensor):
        tolerances: dict[str, Any] = {"rtol": 0, "atol": 0} if exactly else {}
        try:
            torch.testing.assert_close(ours.cpu(), theirs.cpu(), equal_nan=True, **tolerances)
        except AssertionError:
            return False
        return True
    if isinstance(ours, (list, tuple)):
        return len(ours) == len(theirs) and all(
            _alike(*pair, exactly) for pair in zip(ours, theirs, strict=True)
        )
    if isinstance(ours, float):
        return bool(np.isclose(ours, theirs, rtol=0 if exactly else 1e-5, equal_nan=True))
    return bool(ours == theirs)

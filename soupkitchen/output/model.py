"""Saves the soup as users load it, as a model or as one adapter, and proves that it is what was scored."""

from __future__ import annotations

import logging
import math
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate.utils import convert_file_size_to_int
from safetensors import SafetensorError

from soupkitchen.checkpoints import Checkpoint
from soupkitchen.checkpoints.adapters import open_adapter
from soupkitchen.checkpoints.weights import AdaptedWeights
from soupkitchen.errors import CheckpointError, ConfigError, GuaranteeError, SaveError
from soupkitchen.evaluation import Evaluator, LiveModel
from soupkitchen.merging import MergeMethod, StackMethod
from soupkitchen.models.processors import copy_processor
from soupkitchen.options import check_fields
from soupkitchen.options.kinds import AtLeast1, Size
from soupkitchen.output import adapter
from soupkitchen.search.base import Coefficient
from soupkitchen.soup import Soup
from soupkitchen.store.files import appearing
from soupkitchen.tasks import Several

log = logging.getLogger(__name__)

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_MODELS = str(Path("transformers", "models"))
"""The folder of transformers' models, which fail if an input is missing."""
_EXAMPLES = 4


@dataclass(frozen=True)
class Output:
    """Options of saving the soup.

    Attributes:
        format: "full" for a model, "adapter" for one LoRA adapter on the pool's base.
        max_shard_size: the largest size of a weight file, as ``5GB``.
        dtype: "float32", "bfloat16" or "float16", for scoring and saving; None for the runs' dtype.
        rank: the rank to which a saved adapter is cut; None for an exact one, which only a linear soup of
            adapters has.
        verify: "batch" compares the saved model's tensors and its answers on a batch with the scored one's;
            "full" also scores held-out again.
        push_to_hub: the hub repository, as "org/name"; None for none.
        private: create that repository as private.

    Raises:
        ConfigError: if an option is out of range, or options contradict each other.
    """

    format: Literal["full", "adapter"] = "full"
    max_shard_size: Size = "50GB"
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    rank: AtLeast1 | None = None
    verify: Literal["batch", "full"] = "batch"
    push_to_hub: str | None = None
    private: bool = True

    def __post_init__(self) -> None:
        check_fields(self, "output")
        try:
            convert_file_size_to_int(self.max_shard_size)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"output.max_shard_size={self.max_shard_size} is no size, as 5GB") from error
        if self.rank is not None and self.format != "adapter":
            raise ConfigError("output.rank is for output.format=adapter")

    @property
    def torch_dtype(self) -> torch.dtype | None:
        return _DTYPES[self.dtype] if self.dtype else None

    def check(self, runs: Sequence[Checkpoint], method: MergeMethod | StackMethod) -> None:
        """Refuses, before any work, a soup that cannot be saved.

        Raises:
            ConfigError: if it cannot.
        """
        if self.format == "full":
            return
        if not all(run.adapted for run in runs):
            raise ConfigError(
                "output.format=adapter needs a pool of LoRA adapters only; output.format=full saves any soup"
            )
        if not all(isinstance(run.weights, AdaptedWeights) for run in runs):
            raise ConfigError(
                "adapters that differ in dtype, in the order of labels or in the model that they are for "
                "cannot be saved as one adapter yet; output.format=full saves their soup"
            )
        if what := adapter.unlike_plain(runs):
            raise ConfigError(
                f"output.format=adapter: {what}, which is not written as one adapter yet; output.format=full "
                "saves their soup"
            )
        if not method.keeps_untouched:
            raise ConfigError(
                "a sum that is not divided by its weights multiplies the base, too, which no adapter says: "
                "take method.normalize=true, or output.format=full"
            )
        if self.rank is None and not adapter.is_exact(runs, method):
            raise ConfigError(
                "only a linear soup of LoRA adapters (no DoRA) is one adapter exactly; give the rank to cut "
                "another to as output.rank=…, or save a model with output.format=full"
            )

    def save(self, live: LiveModel, processor: Path | None, folder: Path, like: Checkpoint) -> Checkpoint:
        """Writes the live model to `folder` like ``save_pretrained``, with its processor, and opens it.

        Until it is complete, an older folder stays.

        Args:
            live: the model, filled.
            processor: the folder of the tokenizer's or image processor's files.
            like: the run that gives tensor names and other files.

        Raises:
            SaveError: if it cannot be written.
        """
        with _appearing(folder) as beside:
            live.save(beside, like, self.max_shard_size)
            if processor is not None:
                copy_processor(processor, beside)
        return Checkpoint.open(folder, "soup")

    def save_adapter(
        self,
        runs: Sequence[Checkpoint],
        weights: Sequence[Coefficient],
        soup: Callable[[], Soup],
        processor: Path | None,
        folder: Path,
    ) -> Checkpoint:
        """Writes the soup of the adapters `runs` to `folder` as one peft adapter, and opens it.

        Args:
            weights: each run's weight, or weights by part of the depth.
            processor: the folder of the tokenizer's files.

        Raises:
            SaveError: if it cannot be written.
        """
        base = runs[0].adapted
        assert base is not None
        if self.rank is None:
            factored = adapter.concatenated(runs, weights)
        else:
            factored = adapter.truncated(runs, adapter.changes(runs, weights, soup()), self.rank)
        whole = adapter.whole_tensors(runs, weights, soup())
        with _appearing(folder) as beside:
            adapter.write_adapter(runs, factored, whole, beside)
            if processor is not None:
                copy_processor(processor, beside)
        log.info(
            "one adapter of rank %d holds the soup's change with a relative error of %.2e",
            factored.rank,
            factored.error,
        )
        return open_adapter(folder, "soup", base)

    def check_score(self, again: float, expected: float, floor: float, tasks: Several, folder: Path) -> None:
        """Compares the score of the soup, loaded back, with the expected one.

        Args:
            again: the loaded soup's score.
            floor: the least score of an adapter, which may be cut.

        Raises:
            GuaranteeError: if a model's score differs, or an adapter's is below `floor`.
        """
        same = math.isclose(again, expected, rel_tol=1e-6, abs_tol=1e-9) or (
            math.isnan(again) and math.isnan(expected)
        )
        if same:
            log.info("saved    %s: loaded back, it scores the same", folder)
        elif self.format == "full":
            raise GuaranteeError(
                f"the saved soup scores {again:.6f} on the held-out set, but scored {expected:.6f} before it "
                "was saved. It is left in place for inspection; do not use it, and please report this."
            )
        elif again >= floor:
            log.warning(
                "saved    %s: as one adapter the soup scores %.4f on held-out, and %.4f as it was merged",
                folder,
                tasks.shown(again),
                tasks.shown(expected),
            )
        else:
            raise GuaranteeError(
                f"cut to rank {self.rank}, the soup in {folder} scores {tasks.shown(again):.6f} on the "
                f"held-out set, worse than the best single run ({tasks.shown(floor):.6f}): "
                "raise output.rank, or take output.format=full"
            )


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    try:
        with appearing(folder) as beside:
            yield beside
    except (OSError, SafetensorError) as error:
        raise SaveError(
            f"the soup could not be written to {folder} ({error}): nothing is left half-written. "
            "Make room, or name another results_dir"
        ) from error


def prove_filling(evaluator: Evaluator, first: Checkpoint, last: Checkpoint | None) -> None:
    """Compares models filled in place with loaded ones; if they differ, models are made anew from then on.

    A model may keep values computed from its weights (LeViT's attention biases), which filling would not
    update.

    Args:
        first: the run, or the adapter's base, that the live model was loaded from.
        last: another run that transformers can load, if any.

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
    """Checks that a loaded soup has the scored model's parameters and buffers.

    Args:
        saved: the soup, not used yet.
        state: digests of the scored model's tensors, by name.

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
    """Checks that a loaded soup answers one batch as the scored model did.

    Args:
        outputs: the scored model's, by task.
        examples: the batch's held-out examples; None for all.

    Raises:
        GuaranteeError: if answers differ.
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
    """Tells whether two trees of tensors, texts and numbers are equal, NaN included."""
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

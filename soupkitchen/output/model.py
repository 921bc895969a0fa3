"""Saves the soup as users load it: as a model, or as one adapter."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from accelerate.utils import convert_file_size_to_int
from safetensors import SafetensorError

from soupkitchen.checkpoints import Checkpoint
from soupkitchen.checkpoints.adapters import open_adapter
from soupkitchen.checkpoints.weights import AdaptedWeights
from soupkitchen.errors import ConfigError, GuaranteeError, SaveError
from soupkitchen.evaluation import LiveModel
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


@dataclass(frozen=True)
class Output:
    """Options of saving the soup.

    Attributes:
        format: "full" for a model, "adapter" for one LoRA adapter on the pool's base.
        max_shard_size: the most that a weight file may have, as ``5GB``.
        dtype: of the weights, "float32", "bfloat16" or "float16", both scored and saved; None for that of
            the runs.
        rank: of a saved adapter, to which the soup's change is cut; None for an exact one, which only a
            linear soup of adapters has.
        verify: the proof that the saved model is the one that was scored: "batch" compares its
            tensors, to the bit, and its answers on a batch; "full" scores all of held-out again, too.
        push_to_hub: the repository on the hub that the soup is pushed to, as "org/name"; None for none.
        private: whether that repository is private, if it is new.

    Raises:
        ConfigError: for options out of range, or that contradict each other.
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
        """Refuses, before any work, a soup that could not be saved.

        Raises:
            ConfigError: saying why.
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
        """Writes the live model to `folder` as ``save_pretrained`` does, with what prepares its inputs.

        The folder appears by a rename when it is complete; until then an older one stays as it was.

        Args:
            live: the model, filled.
            processor: the folder with the files of the tokenizer or image processor, which are copied.
            like: the run whose names of tensors, and other files, are taken.

        Returns:
            The saved model, opened.

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
        """Writes the soup of the adapters `runs` to `folder` as one adapter, as peft loads it.

        Args:
            weights: of each run, or of each run in each part of the depth.
            soup: makes an empty soup.
            processor: the folder with the files of the tokenizer, which are copied.

        Returns:
            The saved adapter, opened on its base.

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
        """Compares the score of a soup that was loaded back with the score that it was kept for.

        Args:
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
    """A folder to write a soup to, which becomes `folder` by a rename when that is done."""
    try:
        with appearing(folder) as beside:
            yield beside
    except (OSError, SafetensorError) as error:
        raise SaveError(
            f"the soup could not be written to {folder} ({error}): nothing is left half-written. "
            "Make room, or name another results_dir"
        ) from error

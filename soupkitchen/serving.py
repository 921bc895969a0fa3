"""Saves the soup as users load it, and proves that what was saved is what was scored."""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate.utils import convert_file_size_to_int
from safetensors import SafetensorError

from soupkitchen.checkpoints import Checkpoint
from soupkitchen.checkpoints.adapters import AdaptedWeights, open_adapter
from soupkitchen.checkpoints.reader import Tensors
from soupkitchen.checkpoints.views import aligned
from soupkitchen.errors import ConfigError, GuaranteeError, SaveError
from soupkitchen.evaluation import Evaluator, LiveModel
from soupkitchen.low_rank import Changes, adapted, concatenated, truncated, write_adapter
from soupkitchen.merging import Linear, MergeMethod, StackMethod
from soupkitchen.options import check_fields
from soupkitchen.soup import Soup
from soupkitchen.tasks import Several

log = logging.getLogger(__name__)

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Output:
    """How the soup is saved.

    Attributes:
        format: "full" for a model, "adapter" for one LoRA adapter on the pool's base.
        max_shard_size: the most that a weight file may have, as ``5GB``.
        dtype: of the weights, "float32", "bfloat16" or "float16", and of all that is scored, so
            that what is scored is what is saved; None for that of the runs.
        rank: of a saved adapter, to which the soup's change is cut; None for one that
            is exact, which only a linear soup of adapters has.

    Raises:
        ConfigError: for options out of range, or that contradict each other.
    """

    format: Literal["full", "adapter"] = "full"
    max_shard_size: str | int = "50GB"
    dtype: str | None = None
    rank: int | None = None

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
        """Refuses, before any work, what could not be saved.

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
                "adapters that differ in dtype or in the order of labels cannot be saved as one adapter yet; "
                "output.format=full saves their soup"
            )
        if self.rank is None and not _is_exact(runs, method):
            raise ConfigError(
                "only a linear soup of LoRA adapters (no DoRA) is one adapter exactly; give the rank to cut "
                "another to as output.rank=…, or save a model with output.format=full"
            )

    def save(
        self,
        live: LiveModel,
        processor: Any,
        weights: Callable[[], Tensors],
        folder: Path,
        like: Checkpoint,
        recalibrated: bool = False,
    ) -> Checkpoint:
        """Writes the live model to `folder` as ``save_pretrained`` does, with what prepares its inputs.

        The folder appears by a rename when it is complete and its tensors have been
        read back equal to the last bit; until then an older one stays as it was.

        Args:
            live: the model, filled with `weights()`.
            processor: what has a ``save_pretrained`` of its own.
            like: the run whose custom code, if it has any, belongs to the model.
            recalibrated: whether its batch-norm statistics are its own, and not those of `weights()`.

        Returns:
            What was saved, opened.

        Raises:
            GuaranteeError: where a tensor on disk is not the one that was to be saved.
            SaveError: where it cannot be written.
        """
        with _appearing(folder) as beside:
            live.save(beside, self.max_shard_size)
            processor.save_pretrained(beside)
            _copy_code(like, beside)
            own = dict(live.batchnorm_tensors()) if recalibrated else {}
            expected = ((name, own.get(name, tensor)) for name, tensor in weights())
            _compare(Checkpoint.open(beside), expected, live, like)
        return Checkpoint.open(folder)

    def save_adapter(
        self,
        runs: Sequence[Checkpoint],
        method: MergeMethod | StackMethod,
        soup: Callable[[], Soup],
        processor: Any,
        folder: Path,
    ) -> Checkpoint:
        """Writes the soup of the adapters `runs` to `folder` as one adapter, as peft loads it.

        Args:
            method: that of the soup.
            soup: makes an empty soup, for what is not exact.

        Returns:
            What was saved, opened on its base.

        Raises:
            SaveError: where it cannot be written.
        """
        base = runs[0].adapted
        assert base is not None
        weights = [method.weight(run.name) for run in runs]
        if self.rank is None:
            assert isinstance(method, Linear)
            factored = concatenated(runs, weights, method.normalize)
        else:
            factored = truncated(runs, _changes(runs, soup(), method), self.rank)
        whole = _whole_tensors(runs, soup(), method)
        with _appearing(folder) as beside:
            write_adapter(runs, factored, whole, beside)
            processor.save_pretrained(beside)
        log.info(
            "one adapter of rank %d holds the soup's change with a relative error of %.2e",
            factored.rank,
            factored.error,
        )
        return open_adapter(folder, "soup", base)

    def verify(self, saved: Evaluator, expected: float, best: float, tasks: Several, folder: Path) -> None:
        """Scores a soup that was loaded back from disk, and compares with the score that it was kept for.

        Raises:
            GuaranteeError: where a model's differs, or an adapter's is below that of the `best` single run.
        """
        again = saved.score("heldout").score
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
        elif again >= best:
            log.warning(
                "saved    %s: as one adapter the soup scores %.4f on held-out, and %.4f as it was merged",
                folder,
                tasks.shown(again),
                tasks.shown(expected),
            )
        else:
            raise GuaranteeError(
                f"cut to rank {self.rank}, the soup in {folder} scores {tasks.shown(again):.6f} on the "
                f"held-out set, worse than the best single run ({tasks.shown(best):.6f}): "
                "raise output.rank, or take output.format=full"
            )


def _is_exact(runs: Sequence[Checkpoint], method: MergeMethod | StackMethod) -> bool:
    plans = [plan for run in runs for plan in adapted(run).changed.values()]
    return isinstance(method, Linear) and not any(plan.magnitude for plan in plans)


def _changes(runs: Sequence[Checkpoint], soup: Soup, method: MergeMethod | StackMethod) -> Changes:
    """What the soup of the adapters `runs` changes of their base, float32."""
    changed = {name for run in runs for name in adapted(run).changed}
    if len(runs) == 1:  # a soup of one is that run, whatever the method
        device = torch.device("cpu")
        yield from (
            (name, exact)
            for name in changed
            if (exact := runs[0].weights.task_vector(name, device)) is not None
        )
        return
    base = runs[0].adapted
    assert base is not None
    soup.dtype = torch.float32
    for name, merged in soup.blend(runs, method):
        if name in changed:
            yield name, merged.cpu() - base.tensor(name).float()


def _whole_tensors(
    runs: Sequence[Checkpoint], soup: Soup, method: MergeMethod | StackMethod
) -> dict[str, torch.Tensor]:
    """What the modules that any of the runs trained whole come to, by name of tensor."""
    names = {name for run in runs for name in adapted(run).replaced}
    return {name: tensor.cpu() for name, tensor in soup.blend(runs, method) if name in names} if names else {}


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A folder to write to, which becomes `folder` by a rename when that is done."""
    try:
        beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            yield beside
            beside.chmod(0o755)
            old = beside.with_name(f"{beside.name}.old")
            if folder.exists():
                folder.rename(old)
            beside.rename(folder)
            shutil.rmtree(old, ignore_errors=True)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
    except (OSError, SafetensorError) as error:
        raise SaveError(
            f"the soup could not be written to {folder} ({error}): nothing is left half-written. "
            "Make room, or name another results_dir"
        ) from error


def recover(folder: Path) -> None:
    """Puts right what a kill in the middle of saving left beside the soup `folder`."""
    for old in folder.parent.glob(f".{folder.name}.*.old"):
        if not folder.exists():
            old.rename(folder)
    for left in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(left, ignore_errors=True)


def _copy_code(like: Checkpoint, folder: Path) -> None:
    """Copies the Python files that a model with code of its own comes with; nothing is run."""
    if like.config.get("auto_map"):
        for file in like.architecture.glob("*.py"):
            shutil.copy(file, folder / file.name)


def _compare(saved: Checkpoint, weights: Tensors, live: LiveModel, like: Checkpoint) -> None:
    names = aligned(saved.header, like.header)  # a bare encoder's tensors are saved with a prefix
    for name, expected in weights:
        if name not in names:
            if live.ignores(name) or _is_tied(name, live):
                continue
            raise GuaranteeError(f"{saved.path}: the tensor {name!r} was not saved")
        if not _equal(saved.tensor(names[name]), expected.cpu()):
            raise GuaranteeError(f"{saved.path}: the tensor {name!r} on disk is not the one that was scored")


def _is_tied(name: str, live: LiveModel) -> bool:
    """Whether transformers leaves `name` out because another tensor in the file holds its values."""
    return name in live.model.all_tied_weights_keys


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal to the last bit, a NaN of a diverged run being equal to itself."""
    return one.dtype == other.dtype and torch.equal(
        one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8)
    )

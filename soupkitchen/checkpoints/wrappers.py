"""What wrappers of modules leave in a state dict: prefixes, counts, an average beside live weights."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from soupkitchen.checkpoints.files import TensorInfo
from soupkitchen.errors import CheckpointError

log = logging.getLogger(__name__)

_PARALLEL, _COMPILED = "module.", "_orig_mod."
_WRAPPERS = re.compile(
    r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\."
)
_AVERAGE = re.compile(r"([^.]+\.)*?(ema_model|model_ema|ema|swa_model|averaged?_model)\.")


class Naming(NamedTuple):
    """Which of the tensors in a file are the model's.

    Attributes:
        names: the file's name by the model's, without what wrappers of modules put before it.
        others: the file's names of other weights of the same model, live ones beside their average, by the
            model's.
        counts: what wrappers count, as the number of models in an average.
    """

    names: dict[str, str]
    others: dict[str, str]
    counts: list[str]

    @classmethod
    def of(cls, file: Path, header: Mapping[str, TensorInfo], prefix: str | None) -> Naming:
        """That of the tensors in `file`; of those whose names begin with `prefix`, if that is said.

        An average of weights is taken, if the file has both that and the weights themselves.

        Raises:
            CheckpointError: for names that only differ in what wrappers put there.
        """
        counts = [name for name, info in header.items() if _counts(name, info, header)]
        named = [name for name in header if name not in counts]
        first = _averaged(named, counts) if prefix is None else prefix
        taken = _unwrapped(file, [name for name in named if name.startswith(first)], first)
        left = {_WRAPPERS.sub("", name): name for name in named if not name.startswith(first)}
        live = _live(taken, left)
        others = {name: left[live + name] for name in taken} if live is not None else {}
        if prefix is None and left:
            if len(others) < len(left):  # not of the same model: somebody has to say what they are
                return cls(_unwrapped(file, list(header)), {}, [])
            tell(f"the averaged ({first})", str(live))
        return cls(taken, others, counts)


def _unwrapped(file: Path, names: Sequence[str], prefix: str = "") -> dict[str, str]:
    told = {_WRAPPERS.sub("", name.removeprefix(prefix)): name for name in names}
    if len(told) < len(names):
        raise CheckpointError(f"{file} has tensors whose names differ by {_COMPILED} only")
    while told and all(name.startswith(_PARALLEL) for name in told):
        told = {name.removeprefix(_PARALLEL): own for name, own in told.items()}
    return told


def _counts(name: str, info: TensorInfo, names: Collection[str]) -> bool:
    """Whether the tensor is what a wrapper of the other tensors counts: `AveragedModel`, ema-pytorch."""
    above, _, last = name.rpartition(".")
    wrapped = {"n_averaged": _PARALLEL, "initted": "ema_model.", "step": "ema_model."}.get(last)
    if wrapped is None or info.elements != 1:
        return False
    return any(one.startswith(f"{above}.{wrapped}" if above else wrapped) for one in names)


def _averaged(names: Sequence[str], counts: Sequence[str]) -> str:
    """What comes before the names of averaged weights, if it is certain; else nothing."""
    of_counts = {
        f"{count.removesuffix('n_averaged')}{_PARALLEL}" for count in counts if count.endswith("n_averaged")
    }
    of_ema = {f"{count.removesuffix('initted')}ema_model." for count in counts if count.endswith("initted")}
    of_names = {match[0] for name in names if (match := _AVERAGE.match(name))}
    return next((min(found) for found in (of_counts, of_ema, of_names) if len(found) == 1), "")


def _live(taken: Collection[str], left: Collection[str]) -> str | None:
    """What comes before the names in `left` that are those in `taken`; None if these are not all there."""
    longest = max(taken, key=len, default="")
    prefixes = (name.removesuffix(longest) for name in left if name.endswith(longest))
    return next((one for one in prefixes if all(one + name in left for name in taken)), None)


@cache
def tell(taken: str, left: str) -> None:
    """Says once which of the weights in the pool's files are taken."""
    log.info(
        "the files hold averaged weights and live ones: %s are taken; pool.key=%s takes the others",
        taken,
        left,
    )

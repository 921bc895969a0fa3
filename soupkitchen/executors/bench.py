"""The bench: the one model in memory, the mixer that fills it and the evaluator that scores it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from accelerate.utils.memory import should_reduce_batch_size

from soupkitchen.errors import CheckpointError, MachineError, SoupkitchenError
from soupkitchen.evaluation import Evaluator, Identity
from soupkitchen.evaluation.identity import own_code, versions
from soupkitchen.evaluation.scoring import Progress
from soupkitchen.executors.base import Request, Scoring
from soupkitchen.metrics import Rows
from soupkitchen.process import stopwatch
from soupkitchen.soup import Mixer, Recipe, check_unchanged
from soupkitchen.store.digests import digest

Announce = Callable[[str, str], Progress]
"""Told what is about to be scored, in words, and its run; returns what is called as examples are done."""


def _silent(what: str, run: str) -> Progress:
    return lambda done, total: None


class Bench:
    """Merges recipes into the live model and scores them.

    Attributes:
        announce: is told what is about to be scored.
        elsewhere: makes such a bench in another process, to which it can be sent; None if nothing can.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        mixer: Mixer,
        announce: Announce = _silent,
        elsewhere: Callable[[], Bench] | None = None,
    ) -> None:
        self.evaluator = evaluator
        self.mixer = mixer
        self.announce = announce
        self.elsewhere = elsewhere

    def fill(self, recipe: Recipe, growing: bool = False) -> None:
        """Makes the live model's weights those of `recipe`.

        Args:
            growing: whether recipes follow that share all ingredients but the last.

        Raises:
            CheckpointError: if files of the pool have changed meanwhile.
        """
        with stopwatch.part("merging"):
            self.evaluator.live.fill(self.mixer.tensors(recipe, growing))
        if recipe.recalibrate:
            self.evaluator.recalibrate(recipe.recalibrate)
        check_unchanged(recipe, self.mixer.pool)

    def predictions(self, split: str, name: str, batches: Sequence[np.ndarray]) -> Iterator[Rows]:
        """The live model's predictions for each batch of a task's examples."""
        return self.evaluator.predictions(split, name, batches)

    def sees(self) -> dict[str, str]:
        """Digests of runs, data, model and packages: alike in processes that can share work."""
        evaluator, pool = self.evaluator, self.mixer.pool
        identity = Identity(evaluator, pool)
        headers = {
            run.name: {name: [*info.shape, info.dtype] for name, info in run.header.items()} for run in pool
        }
        others = [str(file) for run in pool for file in run.changed_files()]  # than the first process opened
        return {
            "runs": digest([headers, others]),
            "data": digest([identity.examples(split) for split in evaluator.examples.splits]),
            "model": identity.model(),
            "packages": digest(versions(), own_code()),
        }

    def check_alike(self, others: Mapping[str, Mapping[str, str]]) -> None:
        """Refuses to work with others that see something else.

        Args:
            others: the result of `sees` of each, by its name.

        Raises:
            MachineError: for the first that sees something else.
        """
        here = self.sees()
        for who, theirs in others.items():
            if different := [what for what, value in theirs.items() if value != here[what]]:
                raise MachineError(
                    f"{who} has other {' and '.join(different)} than this process: all have to see the same "
                    "files, on storage that they share"
                )

    def score(self, request: Request) -> Scoring:
        """Scores a request.

        Raises:
            MachineError: if that fails for a reason that does not lie in the weights.
            CheckpointError: if files of the pool have changed meanwhile.
            SoupkitchenError: for an error that the user can put right.
        """
        evaluator, recipe, started = self.evaluator, request.recipe, time.perf_counter()
        evaluator.examples.batch_size = request.batch_size or evaluator.examples.batch_size
        try:
            self.fill(recipe, request.growing)
            seconds = time.perf_counter() - started
            progress = self.announce(request.what, request.run)
            evaluation = evaluator.score(
                request.split, request.threshold, progress, request.order, request.piece, self.predictions
            )
        except Exception as error:  # a forward pass may raise anything
            check_unchanged(recipe, self.mixer.pool)
            if _of_the_machine(error):
                raise MachineError(
                    f"{request.what}: {_first_line(error)}. Nothing is lost: when that is put right, the "
                    "same command continues"
                ) from error
            if isinstance(error, SoupkitchenError) and not isinstance(error, CheckpointError):
                raise
            return Scoring(None, error=_first_line(error), batch_size=evaluator.examples.batch_size)
        return Scoring(evaluation, seconds, evaluator.examples.batch_size)


def _of_the_machine(error: BaseException) -> bool:
    """Tells whether an error says nothing of the weights: a disk, a device or the memory failed."""
    if isinstance(error, (OSError, MemoryError)) or should_reduce_batch_size(error):
        return True
    accelerator = getattr(torch, "AcceleratorError", None)  # since torch 2.8
    return (accelerator is not None and isinstance(error, accelerator)) or "CUDA error" in str(error)


def _first_line(error: BaseException) -> str:
    message = str(error).strip().split("\n")[0]
    own = isinstance(error, (SoupkitchenError, OSError))
    return message if message and own else f"{type(error).__name__}: {message}".rstrip(": ")

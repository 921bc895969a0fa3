"""The one model in memory, what fills it and what scores it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch
from accelerate.utils.memory import should_reduce_batch_size

from soupkitchen.errors import CheckpointError, MachineError, SoupkitchenError
from soupkitchen.evaluation import Evaluator, Identity, Stopping
from soupkitchen.evaluation.evaluator import Forward, Progress
from soupkitchen.evaluation.identity import own_code, versions
from soupkitchen.executors.base import Request, Scoring
from soupkitchen.soup import Mixer, Recipe, check_unchanged
from soupkitchen.stopwatch import stopwatch
from soupkitchen.store.digests import digest

Announce = Callable[[str], Progress]
"""Told what is about to be scored; returns what is called as examples are done."""


Fill = Callable[[Recipe, bool, bool], None]
"""Fills the model: with what a recipe gives, and whether others follow that grow, or merge the same again."""


def _silent(what: str) -> Progress:
    return lambda done, total: None


class Bench:
    """Where recipes are merged into the live model and scored.

    Attributes:
        announce: is told what is about to be scored.
        elsewhere: makes such a bench in another process, to which it can be sent; None where nobody can.
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

    def fill(self, recipe: Recipe, growing: bool = False, again: bool = False) -> None:
        """Makes the live model's weights those of `recipe`.

        Raises:
            CheckpointError: where files of the pool have changed meanwhile.
        """
        with stopwatch.part("merging"):
            self.evaluator.live.fill(self.mixer.tensors(recipe, growing, again))
        if recipe.recalibrate:
            self.evaluator.recalibrate(recipe.recalibrate)
        check_unchanged(recipe, self.mixer.pool)

    def sees(self) -> dict[str, str]:
        """Digests of what is scored and of what scores it, by kind: alike where processes can share work."""
        evaluator, pool = self.evaluator, self.mixer.pool
        known = Identity(evaluator, pool)
        headers = {
            run.name: {name: [*info.shape, info.dtype] for name, info in run.header.items()} for run in pool
        }
        others = [str(file) for run in pool for file in run.changed_files()]  # than the first process opened
        return {
            "runs": digest([headers, others]),
            "data": digest([known.examples(split) for split in evaluator.examples.splits]),
            "model": known.model(),
            "packages": digest(versions(), own_code()),
        }

    def check_alike(self, others: Mapping[str, Mapping[str, str]]) -> None:
        """Refuses to work with others that see something else.

        Args:
            others: what each `sees`, by who it is.

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

    def score(
        self, request: Request, fill: Fill | None = None, predictions: Forward | None = None
    ) -> Scoring:
        """Scores what a request asks for.

        Args:
            fill: fills the model in another way, with others.
            predictions: predicts in another way, with others.

        Raises:
            MachineError: where that fails for a reason that does not lie in the weights.
            CheckpointError: where files of the pool have changed meanwhile.
            SoupkitchenError: for what the user can put right.
        """
        recipe, split = request.recipe, request.split
        examples = self.evaluator.examples
        if request.batch_size:
            examples.batch_size = request.batch_size
        bar = request.bar
        try:
            started = time.perf_counter()
            (fill or self.fill)(recipe, request.growing, request.again)
            seconds = time.perf_counter() - started
            with examples.ordered(split, request.order):
                stop = None if bar is None else Stopping.of(bar, self.evaluator.tasks, examples, split)
                announced = self.announce(request.what)
                evaluation = self.evaluator.score(split, stop, announced, request.piece, predictions)
        except Exception as error:  # a forward pass may raise anything
            check_unchanged(recipe, self.mixer.pool)
            if _of_the_machine(error):
                raise MachineError(
                    f"{request.what}: {_first_line(error)}. Nothing is lost: when that is put right, the "
                    "same command continues"
                ) from error
            if isinstance(error, SoupkitchenError) and not isinstance(error, CheckpointError):
                raise
            return Scoring(None, error=_first_line(error), batch_size=examples.batch_size)
        return Scoring(evaluation, seconds, examples.batch_size)


def _of_the_machine(error: BaseException) -> bool:
    """Whether an error says nothing of the weights: a disk, a device or the memory failed."""
    if isinstance(error, (OSError, MemoryError)) or should_reduce_batch_size(error):
        return True
    accelerator = getattr(torch, "AcceleratorError", None)  # since torch 2.8
    return (accelerator is not None and isinstance(error, accelerator)) or "CUDA error" in str(error)


def _first_line(error: BaseException) -> str:
    message = str(error).strip().split("\n")[0]
    own = isinstance(error, (SoupkitchenError, OSError))
    return message if message and own else f"{type(error).__name__}: {message}".rstrip(": ")

"""The one model in memory, what fills it and what scores it."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from accelerate.utils.memory import should_reduce_batch_size

from soupkitchen.errors import CheckpointError, MachineError, SoupkitchenError
from soupkitchen.evaluation import Evaluator, Stopping
from soupkitchen.evaluation.evaluator import Progress
from soupkitchen.executors.base import Request, Scoring
from soupkitchen.soup import Mixer, Recipe, check_unchanged

Announce = Callable[[str], Progress]
"""Told what is about to be scored; returns what is called as examples are done."""


def _silent(what: str) -> Progress:
    return lambda done, total: None


class Bench:
    """Where recipes are merged into the live model and scored."""

    def __init__(self, evaluator: Evaluator, mixer: Mixer, announce: Announce = _silent) -> None:
        self.evaluator = evaluator
        self.mixer = mixer
        self._announce = announce

    def fill(self, recipe: Recipe, growing: bool = False, again: bool = False) -> None:
        """Makes the live model's weights those of `recipe`.

        Raises:
            CheckpointError: where files of the pool have changed meanwhile.
        """
        self.evaluator.live.fill(self.mixer.tensors(recipe, growing, again))
        if recipe.recalibrate:
            self.evaluator.recalibrate(recipe.recalibrate)
        check_unchanged(recipe, self.mixer.pool)

    def score(self, request: Request) -> Scoring:
        """Scores what a request asks for.

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
            self.fill(recipe, request.growing, request.again)
            seconds = time.perf_counter() - started
            with examples.ordered(split, request.order):
                stop = None if bar is None else Stopping.of(bar, self.evaluator.tasks, examples, split)
                evaluation = self.evaluator.score(split, stop, self._announce(request.what), request.piece)
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

"""At which step of training a run was saved."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

from soupkitchen.checkpoints.reader import Checkpoint
from soupkitchen.checkpoints.sources import TRAINER_STATE
from soupkitchen.checkpoints.strangers import read_json
from soupkitchen.errors import CheckpointError
from soupkitchen.options.kinds import is_whole

_NUMBER = re.compile(r"\d+")
_LONGEST = 18
"""Digits of a number that may be a step."""


def training_step(run: Checkpoint) -> int | None:
    """What the run's `trainer_state.json` says, else the last number in its name; None where there is none.

    A run may be called ``checkpoint-500``, ``step_1000`` or ``org/name@step1000``.
    """
    told: Any = None
    with suppress(CheckpointError):  # most runs have none, and no run needs one
        told = read_json(run.path / TRAINER_STATE).get("global_step")
    if is_whole(told) and told >= 0:
        return int(told)
    numbers = _NUMBER.findall(run.name)
    return int(numbers[-1]) if numbers and len(numbers[-1]) <= _LONGEST else None

"""The best window of one run: soups of its last 2, 3, … checkpoints; held-out data decides how many.

Averaging the last checkpoints of a run at constant learning rate imitates a decay over these steps. The
method weighs the checkpoints: ``method.weights={by: step, decay: cosine}``.

Tian et al. 2025, "WSM", arXiv 2507.17634, which finds that duration matters most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from soupkitchen.errors import ConfigError
from soupkitchen.options.kinds import Durations
from soupkitchen.search.base import Guarded, Mixture, Proposal, Ranked, Trial


@dataclass(frozen=True)
class Window(Guarded):
    """Search for a window of one run's checkpoints; `conf/search/window.yaml` describes the options.

    A mixture has the newest checkpoint first, so each window extends the one before, and a running state
    serves. With ``end="any"`` the latest windows come first.
    """

    durations: Durations = "all"
    end: Literal["last", "any"] = "last"

    def check(self, pool: Sequence[Ranked]) -> None:
        check_steps(pool, "search=window")
        longest = 0 if isinstance(self.durations, str) else max(self.durations)
        if longest > len(pool):
            raise ConfigError(
                f"search.durations={self.durations}: the pool has {len(pool)} runs, so no window can be of "
                f"{longest}; ask for {len(pool)} at most, or all"
            )

    def most(self, runs: int) -> int:
        return sum(
            len(self._durations(most)) for most in (range(1, runs + 1) if self.end == "any" else [runs])
        )

    def propose(self, pool: Sequence[Ranked], soup: Mixture, trials: Sequence[Trial]) -> list[Proposal]:
        return list(self._windows(pool))[len(trials) :]

    def _windows(self, pool: Sequence[Ranked]) -> Iterator[Proposal]:
        newest_first = sorted(pool, key=_step, reverse=True)
        for skipped in range(len(pool) if self.end == "any" else 1):
            run = newest_first[skipped:]
            for duration in self._durations(len(run)):
                name = f"{duration} up to step {run[0].step}" if skipped else f"last {duration}"
                mixture = Mixture(tuple(one.name for one in run[:duration]))
                yield Proposal(name, mixture, among="windows")

    def _durations(self, most: int) -> list[int]:
        if self.durations == "all":
            return list(range(2, most + 1))
        if self.durations == "geometric":
            powers = [2**power for power in range(1, most.bit_length())]
            return sorted({*powers, most} - {1})
        return sorted(int(duration) for duration in self.durations if 1 < int(duration) <= most)


def check_steps(runs: Sequence[Ranked], option: str) -> None:
    """Checks that runs have different known training steps, which `option` needs.

    Raises:
        ConfigError: if a step is unknown, or two are equal.
    """
    remedy = "take checkpoints of one run, as pool.path=run pool.checkpoints=all"
    if unknown := [run.name for run in runs if run.step is None]:
        raise ConfigError(
            f"{option} needs the training step of each run, and that of {', '.join(unknown[:5])} is not "
            "known: there is no trainer_state.json that says it, and no number in the name. Name folders as "
            f"checkpoint-500, or {remedy}"
        )
    seen: dict[int | None, str] = {}
    for run in runs:
        if (other := seen.setdefault(run.step, run.name)) != run.name:
            raise ConfigError(
                f"{option} needs runs of different training steps, and {other} and {run.name} are both of "
                f"step {run.step}; {remedy}, or leave one out with pool.exclude"
            )


def _step(run: Ranked) -> int:
    assert run.step is not None, "check comes first"
    return run.step

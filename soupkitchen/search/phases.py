"""Searches that are several, one after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from soupkitchen.search.base import Choice, Mixture, Proposal, Ranked, Trial

Phase = Callable[[Sequence[Ranked], Mixture, Sequence[Trial]], Sequence[Proposal | Choice]]
"""Proposes as a `Search` does; it sees its own trials only."""


def in_turn(
    phases: Sequence[Phase], pool: Sequence[Ranked], start: Mixture, trials: Sequence[Trial]
) -> Sequence[Proposal | Choice]:
    """What is next, where each phase begins with the soup that the one before it ended with."""
    soup, left = start, trials
    for phase in phases:
        proposed, soup, left = played(phase, pool, soup, left)
        if proposed:
            return proposed
    return []


def played(
    phase: Phase, pool: Sequence[Ranked], start: Mixture, trials: Sequence[Trial]
) -> tuple[Sequence[Proposal | Choice], Mixture, Sequence[Trial]]:
    """What a phase proposes after these trials, the soup then, and the trials that are no longer its own."""
    soup, left = start, deque(trials)
    own: list[Trial] = []
    while proposed := phase(pool, soup, own):
        if not left:
            return proposed, soup, []
        taken = _taken(proposed, left)
        own += taken
        soup = next((trial.proposal.mixture for trial in taken if trial.kept), soup)
    return [], soup, list(left)


def _taken(proposed: Sequence[Proposal | Choice], left: deque[Trial]) -> list[Trial]:
    """The trials that came of what was proposed: up to the first that was kept."""
    taken: list[Trial] = []
    for entry in proposed:
        size = len(entry.proposals) if isinstance(entry, Choice) else 1
        some = [left.popleft() for _ in range(min(size, len(left)))]
        taken += some
        if not left or any(trial.kept for trial in some):
            break
    return taken

"""One process, one model: what is asked for is scored when its turn comes, and not before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from soupkitchen.executors.base import Executor, Request, Scoring


@dataclass
class Local(Executor):
    """Scores in this process, one request after the other."""

    def score(self, requests: Sequence[Request]) -> Iterator[Scoring]:
        return map(self.bench.score, requests)

"""The examples of each split: what they are compared with, in which batches and in which order they come.

In the same batches, whatever their order, equal weights give equal scores to the last bit: how an
example is padded depends on the others of its batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from soupkitchen.evaluation.outcome import Evaluation
from soupkitchen.metrics import Rows

BUCKET = 4
"""Batches of like difficulty that are sorted by length together."""

_SEED = 0

Order = Mapping[str, np.ndarray]
"""For each task, the numbers of its examples in the order in which they are scored."""


@dataclass
class Listed:
    """One task's examples of one split.

    Attributes:
        references: what predictions are compared with, in the data's order.
        lengths: of each example; None where all are of one length.
        order: in which they are scored: the longest first, until others are found to be harder.
    """

    references: Rows
    lengths: np.ndarray | None = None
    order: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        every = np.arange(len(self.references))
        self.order = every if self.lengths is None else np.argsort(-self.lengths, kind="stable")


class Examples:
    """All splits, by role ("heldout", "test", "train") and task.

    Attributes:
        batch_size: examples in a batch.
        arranged: splits whose batches are no longer those of like length.
        shuffled: of these, splits in an order drawn at random, which stays.
    """

    def __init__(self, splits: Mapping[str, Mapping[str, Listed]], batch_size: int) -> None:
        self.splits = splits
        self.batch_size = batch_size
        self.arranged: set[str] = set()
        self.shuffled: set[str] = set()

    @property
    def scored(self) -> tuple[str, ...]:
        """The roles of the splits that are scored."""
        return tuple(role for role in self.splits if role != "train")

    def sizes(self, split: str) -> dict[str, int]:
        """How many examples each task has in the split."""
        return {name: len(listed.order) for name, listed in self.splits[split].items()}

    def size(self, split: str) -> int:
        """How many examples the split has."""
        return sum(self.sizes(split).values())

    def references(self, split: str) -> dict[str, Rows]:
        """For each task, what predictions are compared with, in the data's order."""
        return {name: listed.references for name, listed in self.splits[split].items()}

    def order(self, split: str) -> dict[str, np.ndarray]:
        """For each task, the order in which the split's examples are scored."""
        return {name: listed.order for name, listed in self.splits[split].items()}

    def reorder(self, split: str, order: Order) -> None:
        """Scores the examples of the split in the given order from now on."""
        for name, listed in self.splits[split].items():
            listed.order = order[name]

    def batches(self, split: str) -> dict[str, list[np.ndarray]]:
        """For each task, the examples of each batch, in the order in which batches are scored."""
        return {
            name: [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
            for name, order in self.order(split).items()
        }

    def arrange(self, split: str, soup: Evaluation, pool: Sequence[Evaluation]) -> None:
        """Makes batches of like difficulty: what `soup` does worst on, and among that what `pool` does.

        A bad candidate then shows early. Examples of like difficulty are sorted by length.
        Metrics that are no means keep their batches.
        """
        order = self.order(split)
        for name, listed in self.splits[split].items():
            values = [e.parts[name].values for e in pool if not np.isnan(e.score)]
            known = [v for v in values if v is not None]
            by_soup = soup.parts[name].values
            if not known or by_soup is None:
                continue
            hardest = np.argsort(by_soup + np.mean(known, axis=0), kind="stable")
            if listed.lengths is not None:
                size = BUCKET * self.batch_size
                buckets = [hardest[start : start + size] for start in range(0, len(hardest), size)]
                lengths = listed.lengths
                hardest = np.concatenate([b[np.argsort(-lengths[b], kind="stable")] for b in buckets])
            order[name] = hardest
            self.arranged.add(split)
        self.reorder(split, order)

    def shuffle(self, split: str, soup: Evaluation) -> None:
        """Puts the examples into an order drawn at random, the same every time, which then stays.

        What is said of all examples with some confidence, given some of them, rests on that. So they are not
        sorted by length either. Metrics that are no means keep their batches: `soup` tells which are.
        """
        order, random = self.order(split), np.random.default_rng(_SEED)
        for name in self.splits[split]:
            if soup.parts[name].values is not None:
                order[name] = random.permutation(len(order[name]))
                self.arranged.add(split)
                self.shuffled.add(split)
        self.reorder(split, order)

    def hardest_first(self, split: str, soup: Evaluation) -> None:
        """Puts the batches first that `soup` does worst on; which examples are scored together stays.

        A last batch that is not full stays the last, so that all others stay whole. An order drawn at random
        stays as it is.
        """
        if split in self.shuffled:
            return
        order = {}
        for name, batches in self.batches(split).items():
            values = soup.parts[name].values
            if values is not None:
                full = [batch for batch in batches if len(batch) == self.batch_size]
                means = [float(values[batch].mean()) for batch in full]
                first = [full[index] for index in np.argsort(means, kind="stable")]
                batches = [*first, *batches[len(full) :]]
            order[name] = np.concatenate(batches)
        self.reorder(split, order)

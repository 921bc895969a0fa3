"""What to run, and everything that is made ready before it: data, model, journal, cache."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from soupkitchen.cache import EvaluationCache, digest
from soupkitchen.checkpoints import Checkpoint, Pool
from soupkitchen.checkpoints.views import View
from soupkitchen.cooking import CONTROLS, Cooking, Outcome
from soupkitchen.display import Display
from soupkitchen.errors import (
    ConfigError,
    JournalError,
)
from soupkitchen.evaluation import (
    EvaluationOptions,
    Evaluator,
    Runtime,
    Scorer,
    evaluator_of,
    identity,
    load_splits,
    warn_of_splits,
)
from soupkitchen.evaluation.statistics import least_p
from soupkitchen.journal import Journal
from soupkitchen.layout import CONFIG, EVALUATIONS, JOURNAL, LEADERBOARD, SOUP, TRAJECTORY
from soupkitchen.merging import MergeMethod, StackMethod
from soupkitchen.merging.weights import check_names
from soupkitchen.records import Trajectory, remove_unfinished
from soupkitchen.search import Greedy, Search
from soupkitchen.search.rules import AcceptRule
from soupkitchen.serving import Output, recover
from soupkitchen.soup import Soup
from soupkitchen.tasks import Several, Task
from soupkitchen.verification import prove_filling

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Experiment:
    """What to run.

    Attributes:
        pool: the runs to make soup of.
        task: what "good" means.
        method: how runs are merged.
        search: which are tried, and which stay.
        runtime: where and how it runs.
        evaluation: how models are scored.
        output: how the soup is saved.
        folder: an existing folder, where the tables and the soup go.
        top_k: how many of the best runs the control `uniform_top_k` merges; None for
            as many as the soup has, and at least two.
    """

    pool: Pool
    task: Task | Several
    method: MergeMethod | StackMethod
    search: Search
    runtime: Runtime
    folder: Path
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)
    output: Output = field(default_factory=Output)
    top_k: int | None = None

    def run(self) -> Outcome:
        """Cooks the soup.

        Raises:
            SoupkitchenError: for whatever the user can put right.
            GuaranteeError: where the saved soup is not the one that was scored, or a
                greedy one is worse than the best single run.
        """
        method = self._weighted_method()
        Soup(method, base=self.pool.base)  # refuses a method without the base that it needs
        check_names(self.method.weights, [run.name for run in self.pool])
        self.output.check(self.pool.runs, method)
        tasks = Several.of(self.task)
        if self.pool.trust_scores and tasks.aggregate == "normalized":
            raise ConfigError(
                "task.aggregate=normalized needs the scores of all single runs, which pool.trust_scores=true "
                "does not find out: choose mean or min, or leave trust_scores false"
            )
        splits = load_splits(tasks, training=self.method.recalibrate_batchnorm > 0)
        if isinstance(self.search, Greedy):
            examples = sum(map(len, splits["heldout"].values()))
            AcceptRule.of(self.search.accept).check(least_p(tasks, examples))
        evaluator = evaluator_of(self.pool.reference, tasks, splits, self.runtime, self.dtype, pool=self.pool)
        if self.method.recalibrate_batchnorm and not evaluator.live.batchnorms():
            raise ConfigError(
                "method.recalibrate_batchnorm: this model has no batch norm to recalibrate; leave it at 0"
            )
        warn_of_splits(tasks, splits)
        prove_filling(evaluator, self.pool.reference, self._loadable_last())
        kept = self._cleared()
        journal = Journal(self.folder / JOURNAL)
        names = [name for name in tasks.tasks if name]
        trajectory = Trajectory(self.folder / TRAJECTORY, names, lambda: journal.replaying)
        with Display(self._examples_at_most(evaluator)) as display:
            scorer = Scorer(
                evaluator,
                display.scoring,
                self.evaluation.open_cache(),
                journal,
                kept,
                self.search.on_error == "skip",
            )
            self._begin(journal, scorer)
            return Cooking(self, method, scorer, trajectory, journal).run(splits)

    def _loadable_last(self) -> Checkpoint | None:
        """The last run, beside the reference, that transformers loads as we read it: no adapter, no view."""
        reference = self.pool.reference
        if reference.adapted is not None:
            return None
        plain = [run for run in self.pool if run.adapted is None and not isinstance(run.weights, View)]
        return next((run for run in reversed(plain) if run is not reference), None)

    def _cleared(self) -> EvaluationCache:
        """Clears away what kills left half-written; the run's own evaluations."""
        recover(self.folder / SOUP)
        for name in (TRAJECTORY, LEADERBOARD, CONFIG):
            remove_unfinished(self.folder / name)
        kept = EvaluationCache(self.folder / EVALUATIONS)
        kept.remove_unfinished()
        return kept

    def _begin(self, journal: Journal, scorer: Scorer) -> None:
        """Notes what the run depends on or, where it is continued, checks that this is as it was.

        Raises:
            JournalError: where it is not.
        """
        base, tasks = self.pool.base, scorer.evaluator.tasks.tasks
        now: dict[str, Any] = {
            "runs": {run.name: run.fingerprint for run in self.pool},
            "base": {"base": base.fingerprint} if base and self.method.needs_base else {},
            "model": {"configuration": scorer.model()},
            "task": {name or "task": digest(task.metric.identity()) for name, task in tasks.items()},
            "data": {split: scorer.examples_of(split) for split in scorer.evaluator.splits},
        }
        versions = identity.versions()
        begun = journal.recall(event="begin")
        if begun is None:
            journal.add(event="begin", versions=versions, **now)
            return
        before = {kind: begun[kind] for kind in now if kind != "task"}
        before["task"] = begun.get("task", now["task"])  # journals of before 2026-11-25 have none
        changed = [f"{kind} {name}" for kind in now for name in _different(before[kind], now[kind])]
        if changed:
            raise JournalError(
                f"changed since this run began: {', '.join(changed)}. Put that back, or start anew with "
                "overwrite=true, which keeps the old results aside"
            )
        if other := _different(begun["versions"], versions):
            log.warning("the run began with another version of %s", ", ".join(other))
        log.info("continuing: %d events are in %s", journal.events_before, journal.file)

    @property
    def dtype(self) -> torch.dtype | None:
        """That of the soup, and of all that is scored; None for that of the runs."""
        return self.output.torch_dtype or self.pool.dtype

    def _weighted_method(self) -> MergeMethod | StackMethod:
        """The method, with the weights that a list of runs gave.

        Raises:
            ConfigError: where the method has weights of its own.
        """
        if not self.pool.weights:
            return self.method
        if self.method.weights is not None:
            raise ConfigError("both the list of runs (pool.path) and method.weights give weights: drop one")
        return replace(self.method, weights=dict(self.pool.weights))

    @property
    def greater_is_better(self) -> bool:
        """Whether a higher `Outcome.score` is a better one."""
        return Several.of(self.task).greater_is_better

    def _examples_at_most(self, evaluator: Evaluator) -> int:
        heldout = evaluator.size("heldout") * (2 * len(self.pool) - 1 + CONTROLS)
        test = evaluator.size("test") * (2 + CONTROLS) if "test" in evaluator.splits else 0
        return heldout + test


def _different(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The keys whose values differ, or that are in one only."""
    return sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))

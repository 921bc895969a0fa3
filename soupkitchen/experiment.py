"""One run of soupkitchen: from a pool to a saved, verified soup and its tables.

`Experiment.run` reads like the algorithm: rank the pool; for each next run merge,
score, keep or discard; save; check that what was saved is what was scored.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import datasets
import pandas as pd
from accelerate import Accelerator

from soupkitchen import serving
from soupkitchen.checkpoints import Checkpoint, Pool
from soupkitchen.display import Display
from soupkitchen.errors import DataError, GuaranteeError
from soupkitchen.evaluation import (
    Evaluator,
    LiveModel,
    Runtime,
    Scored,
    Scorer,
    confidence_interval,
)
from soupkitchen.merging import MergeMethod, StackMethod
from soupkitchen.records import Entry, Step, Trajectory, leaderboard, write_csv
from soupkitchen.search import Ranked, Search, Trial, rank
from soupkitchen.soup import Soup
from soupkitchen.tasks import Task
from soupkitchen.tasks.data import count_overlap

log = logging.getLogger(__name__)

Splits = Mapping[str, datasets.Dataset]

CONTROLS = 2
"""Models in the final table beside the soup and the single runs: uniform, and uniform of the top k."""


@dataclass(frozen=True)
class Outcome:
    """What a finished run comes to.

    Attributes:
        score: the soup's on held-out, with the metric's own sign.
        gain: how much better than the best single run's on held-out; more is better.
        ingredients: the soup's, in merge order.
        leaderboard: the final table.
    """

    score: float
    gain: float
    ingredients: tuple[str, ...]
    leaderboard: pd.DataFrame


@dataclass(frozen=True)
class Experiment:
    """What to run.

    Attributes:
        pool: the runs to make soup of.
        task: what "good" means.
        method: how runs are merged.
        search: which are tried, and which stay.
        runtime: where and how it runs.
        folder: an existing folder, where the tables and the soup go.
        top_k: how many of the best runs the control `uniform_top_k` merges; None for
            as many as the soup has, and at least two.
    """

    pool: Pool
    task: Task
    method: MergeMethod | StackMethod
    search: Search
    runtime: Runtime
    folder: Path
    top_k: int | None = None

    def run(self) -> Outcome:
        """Cooks the soup.

        Raises:
            SoupkitchenError: for whatever the user can put right.
            GuaranteeError: where the saved soup is not the one that was scored, or a
                greedy one is worse than the best single run.
        """
        Soup(self.method, base=self.pool.base)  # refuses a method without the base that it needs
        splits = self.task.data.load_splits()
        evaluator = self._evaluator(self.pool.runs[0], splits, self.runtime.accelerator())
        self._warn_of_splits(splits)
        trajectory = Trajectory(self.folder / "trajectory.csv")
        with Display(self._examples_at_most(evaluator)) as display:
            scorer = Scorer(evaluator, display.scoring)
            ranked = self._rank_pool(scorer, trajectory)
            soup, score = self._search(ranked, scorer, trajectory)
            self._save(soup, score, evaluator, splits)
            entries = self._final_table(soup, ranked, scorer, trajectory)
        table = leaderboard(entries, self.task.metric.name, self._sign)
        write_csv(self.folder / "leaderboard.csv", table)
        best = rank(ranked)[0]
        return Outcome(self.task.metric.shown(score), score - best.score, soup.ingredients, table)

    # The algorithm

    def _rank_pool(self, scorer: Scorer, trajectory: Trajectory) -> list[Ranked]:
        ranked = []
        for number, run in enumerate(self.pool, start=1):
            what = f"ranking {run.name} ({number} of {len(self.pool)})"
            scored = scorer.score(what, (run.name,), run.tensors)
            trajectory.add(self._step("rank", run.name, scored))
            log.info("rank     %-24s %s", run.name, self._shown(scored.evaluation.score))
            ranked.append(Ranked(run.name, scored.evaluation.score))
        if all(math.isnan(run.score) for run in ranked):
            raise DataError("every run of the pool scores NaN on the held-out set: there is nothing to rank")
        return ranked

    def _search(self, ranked: Sequence[Ranked], scorer: Scorer, trajectory: Trajectory) -> tuple[Soup, float]:
        """The soup that the search ends with, and its held-out score."""
        order = self.search.order(ranked)
        soup = Soup(self.method, scorer.evaluator.accelerator.device, self.pool.base)
        soup.keep(self.pool[order[0].name])
        scored = scorer.score("starting", soup.ingredients, soup.tensors)
        best = scored.evaluation.score
        trajectory.add(self._step("merge", order[0].name, scored, "start", size=1))
        trials: list[Trial] = []
        while (name := self.search.propose(order, trials)) is not None:
            candidate = self.pool[name]
            ingredients = (*soup.ingredients, name)
            if not self.search.needs_scores and len(trials) + 2 < len(order):
                soup.keep(candidate)
                trials.append(Trial(name, score=None, kept=True))
                size = len(ingredients)
                rule = self.search.rule
                trajectory.add(
                    Step("merge", name, "keep", soup_size=size, ingredients=ingredients, rule=rule)
                )
                continue
            what = f"merging {name} ({len(trials) + 1} of {len(order) - 1})"
            scored = scorer.score(what, ingredients, partial(soup.taste, candidate))
            score = scored.evaluation.score
            kept = self.search.accepts(score, best)
            decision = "keep" if kept else "discard"
            log.info("%-8s %-24s %s (soup: %s)", decision, name, self._shown(score), self._shown(best))
            if kept:
                soup.keep(candidate)
            trajectory.add(self._step("merge", name, scored, decision, best, len(soup.ingredients)))
            trials.append(Trial(name, score, kept))
            best = score if kept else best
        if self.search.needs_scores and best < rank(ranked)[0].score:
            raise GuaranteeError("the soup is worse on the held-out set than the best single run")
        return soup, best

    def _save(self, soup: Soup, score: float, evaluator: Evaluator, splits: Splits) -> None:
        """Saves the soup, loads it back as a user would, and scores that."""
        folder = self.folder / "soup"
        serving.save(evaluator.live, evaluator.processor, soup.tensors, folder)
        heldout = {"heldout": splits["heldout"]}
        saved = self._evaluator(Checkpoint.open(folder), heldout, evaluator.accelerator)
        serving.rescore(saved, score)
        log.info("saved    %s: loaded back, it scores the same", folder)

    def _final_table(
        self, soup: Soup, ranked: Sequence[Ranked], scorer: Scorer, trajectory: Trajectory
    ) -> list[Entry]:
        """Scores the controls on held-out, and the models worth reporting on test."""
        best_first = [run.name for run in rank(ranked)]
        top_k = min(self.top_k or max(2, len(soup.ingredients)), len(self.pool))
        models = [
            ("soup", "soup", soup.ingredients),
            ("uniform", "uniform", tuple(run.name for run in self.pool)),
            (f"uniform_top_{top_k}", "uniform", tuple(best_first[:top_k])),
            *((run.name, "single", (run.name,)) for run in self.pool),
        ]
        entries = []
        for model, kind, ingredients in models:
            scored = {}
            for split in scorer.evaluator.splits:
                if split == "test" and kind == "single" and model != best_first[0]:
                    continue
                scored[split] = self._score_model(model, ingredients, split, scorer)
                if kind != "single" or split == "test":
                    trajectory.add(self._step("final", model, scored[split], split=split))
            heldout, test = scored["heldout"].evaluation, scored.get("test")
            interval = confidence_interval(heldout, self.task.metric)
            test_score = test.evaluation.score if test else None
            entries.append(Entry(model, kind, ingredients, heldout.score, test_score, interval))
        return entries

    # Helpers

    def _score_model(self, model: str, ingredients: tuple[str, ...], split: str, scorer: Scorer) -> Scored:
        soup = Soup(self.method, scorer.evaluator.accelerator.device, self.pool.base)
        weights = partial(soup.blend, [self.pool[name] for name in ingredients])
        return scorer.score(f"{model} on {split}", ingredients, weights, split)

    def _evaluator(self, run: Checkpoint, splits: Splits, accelerator: Accelerator) -> Evaluator:
        runtime = self.runtime
        live = LiveModel(run, self.task.model_class, accelerator.device)
        processor = self.task.load_processor(str(run.path))
        return Evaluator(self.task, live, processor, splits, accelerator, runtime.batch_size, runtime.workers)

    def _warn_of_splits(self, splits: Splits) -> None:
        if "test" not in splits:
            log.warning("No test split (task.data.test): the soup's held-out score is somewhat optimistic")
        elif overlap := count_overlap(splits["heldout"], splits["test"], self.task.content_columns):
            log.warning(
                "%d of %d test examples are held-out examples too: test scores will look too good",
                overlap,
                len(splits["test"]),
            )

    def _examples_at_most(self, evaluator: Evaluator) -> int:
        heldout = evaluator.size("heldout") * (2 * len(self.pool) - 1 + CONTROLS)
        test = evaluator.size("test") * (2 + CONTROLS) if "test" in evaluator.splits else 0
        return heldout + test

    def _step(
        self,
        stage: str,
        candidate: str,
        scored: Scored,
        decision: str = "",
        best: float | None = None,
        size: int | None = None,
        split: str = "heldout",
    ) -> Step:
        evaluation, metric = scored.evaluation, self.task.metric
        return Step(
            stage=stage,
            candidate=candidate,
            decision=decision,
            split=split,
            metric=metric.name,
            score=metric.shown(evaluation.score),
            best_before=None if best is None else metric.shown(best),
            gain=None if best is None else evaluation.score - best,
            soup_size=size,
            ingredients=scored.ingredients,
            examples_scored=0 if scored.cached else evaluation.examples_scored,
            examples_total=evaluation.examples_scored,
            merge_seconds=scored.merge_seconds,
            eval_seconds=0.0 if scored.cached else evaluation.seconds,
            cached=scored.cached,
            rule="" if best is None else self.search.rule,
        )

    def _shown(self, score: float) -> str:
        return f"{self.task.metric.name} {self.task.metric.shown(score):.4f}"

    @property
    def _sign(self) -> int:
        return 1 if self.task.metric.greater_is_better else -1

"""One run of soupkitchen: from a pool to a saved, verified soup and its tables.

`Experiment.run` reads like the algorithm: rank the pool; for each next run merge,
score, keep or discard; save; check that what was saved is what was scored.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pandas as pd

from soupkitchen import serving
from soupkitchen.checkpoints import Checkpoint, Pool
from soupkitchen.decisions import Judge, Verdict
from soupkitchen.display import Display
from soupkitchen.errors import ConfigError, DataError, GuaranteeError
from soupkitchen.evaluation import (
    Evaluation,
    EvaluationOptions,
    Evaluator,
    LiveModel,
    Recipe,
    Runtime,
    Scored,
    Scorer,
    confidence_interval,
)
from soupkitchen.merging import MergeMethod, StackMethod
from soupkitchen.records import Entry, Step, Trajectory, leaderboard, write_csv
from soupkitchen.search import Ranked, Search, Trial, rank
from soupkitchen.soup import Soup
from soupkitchen.tasks import Several, Task
from soupkitchen.tasks.data import count_overlap

log = logging.getLogger(__name__)

Splits = Mapping[str, Mapping[str, datasets.Dataset]]
"""By role ("heldout", "test", "train"), by task."""

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
        evaluation: how models are scored.
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
    top_k: int | None = None

    def run(self) -> Outcome:
        """Cooks the soup.

        Raises:
            SoupkitchenError: for whatever the user can put right.
            GuaranteeError: where the saved soup is not the one that was scored, or a
                greedy one is worse than the best single run.
        """
        Soup(self.method, base=self.pool.base)  # refuses a method without the base that it needs
        tasks = Several.of(self.task)
        splits = load_splits(tasks, training=self.method.recalibrate_batchnorm > 0)
        evaluator = evaluator_of(self.pool.runs[0], tasks, splits, self.runtime)
        if self.method.recalibrate_batchnorm and not evaluator.live.batchnorms():
            raise ConfigError(
                "method.recalibrate_batchnorm: this model has no batch norm to recalibrate; leave it at 0"
            )
        warn_of_splits(tasks, splits)
        trajectory = Trajectory(self.folder / "trajectory.csv", [name for name in tasks.tasks if name])
        with Display(self._examples_at_most(evaluator)) as display:
            scorer = Scorer(evaluator, display.scoring, self.evaluation.open_cache())
            return _Run(self, scorer, trajectory).run(splits)

    @property
    def greater_is_better(self) -> bool:
        """Whether a higher `Outcome.score` is a better one."""
        return Several.of(self.task).greater_is_better

    def _examples_at_most(self, evaluator: Evaluator) -> int:
        heldout = evaluator.size("heldout") * (2 * len(self.pool) - 1 + CONTROLS)
        test = evaluator.size("test") * (2 + CONTROLS) if "test" in evaluator.splits else 0
        return heldout + test


class _Run:
    """An experiment under way."""

    def __init__(self, experiment: Experiment, scorer: Scorer, trajectory: Trajectory) -> None:
        self.pool, self.search, self.folder = experiment.pool, experiment.search, experiment.folder
        self.experiment = experiment
        self.method = experiment.method
        self.singles: list[Evaluation] = []
        self.scorer = scorer
        self.trajectory = trajectory
        self.judge = Judge(experiment.search, scorer, experiment.evaluation.early_stopping)

    @property
    def tasks(self) -> Several:
        return self.scorer.evaluator.tasks

    def run(self, splits: Splits) -> Outcome:
        ranked = self._rank_pool()
        soup, scored = self._search(ranked)
        self._save(scored, splits)
        entries = self._final_table(scored, ranked)
        table = leaderboard(entries, self.tasks.name, 1 if self.tasks.greater_is_better else -1)
        write_csv(self.folder / "leaderboard.csv", table)
        score, best = scored.evaluation.score, rank(ranked)[0]
        return Outcome(self.tasks.shown(score), score - best.score, soup.ingredients, table)

    # The algorithm

    def _rank_pool(self) -> list[Ranked]:
        """Scores every run by itself, and has its tasks and its method learn from that what they need to."""
        singles: dict[str, Scored] = {}
        for number, run in enumerate(self.pool, start=1):
            what = f"ranking {run.name} ({number} of {len(self.pool)})"
            singles[run.name] = self.scorer.score(what, self._single(run.name))
            log.info("rank     %-24s %s", run.name, self._shown(singles[run.name]))
            if self.tasks.aggregate != "normalized":
                self._record("rank", run.name, singles[run.name])
        if self.tasks.aggregate == "normalized":  # by what only the whole ranking tells
            scores = {name: scored.evaluation.scores for name, scored in singles.items()}
            self.scorer.rank_tasks(self.tasks.ranked(scores))
            singles = {name: self.scorer.score(name, self._single(name)) for name in singles}
            for name, scored in singles.items():
                self._record("rank", name, scored)
        ranked = [Ranked(name, scored.evaluation.score) for name, scored in singles.items()]
        if all(math.isnan(run.score) for run in ranked):
            raise DataError("every run of the pool scores NaN on the held-out set: there is nothing to rank")
        self.method = self.method.with_scores({run.name: run.score for run in ranked})
        self.singles = [scored.evaluation for scored in singles.values()]
        return ranked

    def _search(self, ranked: Sequence[Ranked]) -> tuple[Soup, Scored]:
        """The soup that the search ends with, and how it scores."""
        order = self.search.order(ranked)
        soup = self._soup()
        soup.keep(self.pool[order[0].name])
        best = self.scorer.score("starting", self._single(order[0].name))
        self._hardest_first(best)
        self._record("merge", order[0].name, best, decision="start", soup_size=1)
        trials: list[Trial] = []
        while (name := self.search.propose(order, trials)) is not None:
            candidate = self.pool[name]
            ingredients = (*soup.ingredients, name)
            if not self.search.needs_scores and len(trials) + 2 < len(order):
                soup.keep(candidate)
                trials.append(Trial(name, score=None, kept=True))
                step = Step("merge", name, decision="keep", ingredients=ingredients, rule=self.search.rule)
                self.trajectory.add(replace(step, soup_size=len(ingredients)))
                continue
            what = f"merging {name} ({len(trials) + 1} of {len(order) - 1})"
            recipes = self._recipes(ingredients, partial(soup.taste, candidate))
            verdicts = self.judge.decide(what, recipes, best)
            kept = next((verdict.scored for verdict in verdicts if verdict.kept), None)
            if kept:
                soup.keep(candidate, self.method.variants[kept.recipe.variant])
                kept = replace(kept, recipe=replace(kept.recipe, weights=soup.tensors))
            for verdict in verdicts:
                self._record_verdict(name, verdict, best, len(soup.ingredients))
            trials.append(Trial(name, kept.evaluation.score if kept else None, kept is not None))
            if kept:
                best = kept
                self._hardest_first(best)
        if self.search.needs_scores and best.evaluation.score < rank(ranked)[0].score:
            raise GuaranteeError("the soup is worse on the held-out set than the best single run")
        return soup, best

    def _save(self, scored: Scored, splits: Splits) -> None:
        """Saves the soup, loads it back as a user would, and scores that."""
        folder, evaluator = self.folder / "soup", self.scorer.evaluator
        self.scorer.fill(scored.recipe)
        recalibrated = scored.recipe.recalibrate > 0 and len(scored.recipe.ingredients) > 1
        serving.save(evaluator.live, evaluator.processor, scored.recipe.weights, folder, recalibrated)
        runtime = replace(self.experiment.runtime, batch_size=evaluator.batch_size)
        saved = evaluator_of(
            Checkpoint.open(folder),
            self.tasks,
            {"heldout": splits["heldout"]},
            runtime,
            evaluator.accelerator,
        )
        saved.reorder("heldout", scored.order)
        serving.rescore(saved, scored.evaluation.score)
        log.info("saved    %s: loaded back, it scores the same", folder)

    def _final_table(self, soup: Scored, ranked: Sequence[Ranked]) -> list[Entry]:
        """Scores the controls on held-out, and the models worth reporting on test."""
        best_first = [run.name for run in rank(ranked)]
        top_k = self.experiment.top_k or max(2, len(soup.recipe.ingredients))
        top = best_first[: min(top_k, len(self.pool))]
        models = [
            ("soup", "soup", [soup.recipe]),
            ("uniform", "uniform", self._blends([run.name for run in self.pool])),
            (f"uniform_top_{len(top)}", "uniform", self._blends(top)),
            *((run.name, "single", [self._single(run.name)]) for run in self.pool),
        ]
        entries = []
        for model, kind, recipes in models:
            scored = {"heldout": self.judge.best(f"{model} on heldout", recipes)}
            recipe = scored["heldout"].recipe
            if "test" in self.scorer.evaluator.splits and (kind != "single" or model == best_first[0]):
                scored["test"] = self.scorer.score(f"{model} on test", recipe, "test")
            for split, one in scored.items():
                if kind != "single" or split == "test":
                    self._record("final", model, one)
            entries.append(self._entry(model, kind, scored))
        return entries

    def _hardest_first(self, soup: Scored) -> None:
        """What the soup gets wrong is scored first, and first of that what most runs get wrong."""
        self.scorer.evaluator.hardest_first("heldout", soup.evaluation, self.singles)

    # Recipes

    def _soup(self) -> Soup:
        return Soup(self.method, self.scorer.evaluator.accelerator.device, self.pool.base)

    def _single(self, name: str) -> Recipe:
        run = self.pool[name]
        return Recipe((name,), "", run.tensors, lambda: run.fingerprint)

    def _recipes(self, ingredients: Sequence[str], weights: Any) -> list[Recipe]:
        """One for each variant of the method; `weights` is told the variant."""
        return [
            Recipe(
                tuple(ingredients),
                name,
                partial(weights, variant=variant),
                partial(self._content, tuple(ingredients), variant),
                self.method.recalibrate_batchnorm,
            )
            for name, variant in self.method.variants.items()
        ]

    def _blends(self, ingredients: Sequence[str]) -> list[Recipe]:
        if len(ingredients) == 1:
            return [self._single(ingredients[0])]
        runs = [self.pool[name] for name in ingredients]
        return self._recipes(ingredients, partial(self._soup().blend, runs))

    def _content(self, ingredients: Sequence[str], variant: MergeMethod | StackMethod) -> list[Any]:
        base = self.pool.base.fingerprint if variant.needs_base and self.pool.base else None
        weights = [variant.weight(name) for name in ingredients]
        options = repr(replace(variant, weights=None))
        return [[self.pool[name].fingerprint for name in ingredients], weights, base, options]

    # Records

    def _record_verdict(self, name: str, verdict: Verdict, best: Scored, size: int) -> None:
        scored, comparison = verdict.scored, verdict.comparison
        decision = "keep" if verdict.kept else "discard"
        compared: dict[str, Any] = {}
        if comparison is not None:
            low, high = comparison.interval or (None, None)
            compared = {
                "gain": comparison.gain,
                "gain_low": low,
                "gain_high": high,
                "p_value": comparison.p_value,
                "fixed": comparison.fixed,
                "broken": comparison.broken,
            }
        log.info(
            "%-8s %-24s %s (soup: %s)", decision, name, self._shown(scored), self._shown(best, metric=False)
        )
        self._record(
            "merge",
            name,
            scored,
            decision=decision,
            best_before=self.tasks.shown(best.evaluation.score),
            soup_size=size,
            rule=self.search.rule,
            **compared,
        )

    def _record(self, stage: str, candidate: str, scored: Scored, **more: Any) -> None:
        evaluation, tasks = scored.evaluation, self.tasks
        score = tasks.shown(evaluation.score)
        step = Step(
            stage=stage,
            candidate=candidate,
            variant=scored.recipe.variant,
            split=evaluation.split,
            metric=tasks.name,
            score=score if evaluation.complete else None,
            score_at_most=None if evaluation.complete else score,
            ingredients=scored.recipe.ingredients,
            examples_scored=0 if scored.cached else evaluation.examples_scored,
            examples_total=evaluation.examples_total,
            stopped_early=not evaluation.complete,
            merge_seconds=scored.merge_seconds,
            eval_seconds=0.0 if scored.cached else evaluation.seconds,
            cached=scored.cached,
            tasks=_shown_tasks(scored) if evaluation.complete else {},
        )
        self.trajectory.add(replace(step, **more))

    def _entry(self, model: str, kind: str, scored: Mapping[str, Scored]) -> Entry:
        heldout, test = scored["heldout"], scored.get("test")
        return Entry(
            model,
            kind,
            heldout.recipe.ingredients,
            heldout.evaluation.score,
            test.evaluation.score if test else None,
            confidence_interval(heldout.evaluation, self.tasks),
            _shown_tasks(heldout),
            _shown_tasks(test) if test else {},
        )

    def _shown(self, scored: Scored, metric: bool = True) -> str:
        evaluation = scored.evaluation
        at_most = "" if evaluation.complete else "at most " if self.tasks.greater_is_better else "at least "
        name = f"{self.tasks.name} " if metric else ""
        return f"{name}{at_most}{self.tasks.shown(evaluation.score):.4f}"


def load_splits(tasks: Several, training: bool = False) -> Splits:
    """The splits of all tasks: held-out; test, where all have one; and, where wanted, training data.

    Raises:
        DataError: where one is not there.
    """
    loaded = {name: task.data.load_splits(task.stratify_column) for name, task in tasks.tasks.items()}
    roles = [role for role in ("heldout", "test") if all(role in splits for splits in loaded.values())]
    splits = {role: {name: loaded[name][role] for name in loaded} for role in roles}
    if training:
        splits["train"] = {
            name: task.data.load_training(task.stratify_column) for name, task in tasks.tasks.items()
        }
    return splits


def evaluator_of(
    run: Checkpoint, tasks: Several, splits: Splits, runtime: Runtime, accelerator: Any = None
) -> Evaluator:
    """An evaluator of models of the architecture of `run`, with its tokenizer or image processor."""
    accelerator = accelerator or runtime.accelerator()
    first = next(iter(tasks.tasks.values()))
    live = LiveModel(run, first.model_class, accelerator.device)
    processor = first.load_processor(str(run.path))
    return Evaluator(tasks, live, processor, splits, accelerator, runtime.batch_size, runtime.workers)


def warn_of_splits(tasks: Several, splits: Splits) -> None:
    """Warns of scores that will look better than they are."""
    if "test" not in splits:
        log.warning("No test split (task.data.test): the soup's held-out score is somewhat optimistic")
        return
    for name, task in tasks.tasks.items():
        heldout, test = splits["heldout"][name], splits["test"][name]
        if overlap := count_overlap(heldout, test, task.content_columns or heldout.column_names):
            log.warning(
                "%s%d of %d test examples are held-out examples too: test scores will look too good",
                f"{name}: " if name else "",
                overlap,
                len(test),
            )


def _shown_tasks(scored: Scored) -> dict[str, float]:
    """The score of each task that has a name, with its metric's own sign."""
    parts = scored.evaluation.parts
    return {name: part.metric.shown(part.score) for name, part in parts.items() if name}

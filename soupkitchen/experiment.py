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
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from soupkitchen.cache import EvaluationCache
from soupkitchen.checkpoints import Pool
from soupkitchen.decisions import Judge, Verdict
from soupkitchen.display import Display
from soupkitchen.errors import (
    CandidateError,
    CheckpointError,
    ConfigError,
    DataError,
    GuaranteeError,
    JournalError,
)
from soupkitchen.evaluation import (
    Evaluation,
    EvaluationOptions,
    Evaluator,
    Recipe,
    Runtime,
    Scored,
    Scorer,
    Splits,
    confidence_interval,
    evaluator_of,
    load_splits,
    warn_of_splits,
)
from soupkitchen.evaluation.scorer import PACKAGES
from soupkitchen.journal import Journal
from soupkitchen.merging import MergeMethod, StackMethod
from soupkitchen.records import Entry, Step, Trajectory, leaderboard, remove_unfinished, write_csv
from soupkitchen.search import Ranked, Search, Trial, rank
from soupkitchen.serving import Output, recover
from soupkitchen.soup import Soup, in_dtype
from soupkitchen.states import StateMemory
from soupkitchen.tasks import Several, Task

log = logging.getLogger(__name__)

JOURNAL, EVALUATIONS, TRAJECTORY, SOUP = "journal.jsonl", "evaluations", "trajectory.csv", "soup"

_NAN = "its score is NaN"

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
        self.output.check(self.pool.runs, method)
        tasks = Several.of(self.task)
        splits = load_splits(tasks, training=self.method.recalibrate_batchnorm > 0)
        evaluator = evaluator_of(self.pool.reference, tasks, splits, self.runtime, self._dtype)
        if self.method.recalibrate_batchnorm and not evaluator.live.batchnorms():
            raise ConfigError(
                "method.recalibrate_batchnorm: this model has no batch norm to recalibrate; leave it at 0"
            )
        warn_of_splits(tasks, splits)
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
            return _Run(self, method, scorer, trajectory, journal).run(splits)

    def _cleared(self) -> EvaluationCache:
        """Clears away what kills left half-written; the run's own evaluations."""
        recover(self.folder / SOUP)
        for name in (TRAJECTORY, "leaderboard.csv", "config.yaml"):
            remove_unfinished(self.folder / name)
        kept = EvaluationCache(self.folder / EVALUATIONS)
        kept.remove_unfinished()
        return kept

    def _begin(self, journal: Journal, scorer: Scorer) -> None:
        """Notes what the run depends on or, where it is continued, checks that this is as it was.

        Raises:
            JournalError: where it is not.
        """
        base = self.pool.base
        now: dict[str, Any] = {
            "runs": {run.name: run.fingerprint for run in self.pool},
            "base": {"base": base.fingerprint} if base and self.method.needs_base else {},
            "data": {split: scorer.examples_of(split) for split in scorer.evaluator.splits},
        }
        versions = {package: version(package) for package in PACKAGES}
        begun = journal.recall(event="begin")
        if begun is None:
            journal.add(event="begin", versions=versions, **now)
            return
        changed = [f"{kind} {name}" for kind in now for name in _different(begun[kind], now[kind])]
        if changed:
            raise JournalError(
                f"changed since this run began: {', '.join(changed)}. Put that back, or start anew with "
                "overwrite=true, which keeps the old results aside"
            )
        if other := _different(begun["versions"], versions):
            log.warning("the run began with another version of %s", ", ".join(other))
        log.info("continuing: %d events are in %s", journal.events_before, journal.file)

    @property
    def _dtype(self) -> torch.dtype | None:
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


class _Run:
    """An experiment under way."""

    def __init__(
        self,
        experiment: Experiment,
        method: MergeMethod | StackMethod,
        scorer: Scorer,
        trajectory: Trajectory,
        journal: Journal,
    ) -> None:
        self.pool, self.search, self.folder = experiment.pool, experiment.search, experiment.folder
        self.experiment = experiment
        self.method = method
        self.dtype = experiment.output.torch_dtype or experiment.pool.dtype
        self.singles: list[Evaluation] = []
        self.best_single = math.nan  # its score
        self.scorer = scorer
        self.trajectory = trajectory
        self.journal = journal
        self.usable = list(self.pool)
        self.judge = Judge(experiment.search, scorer, experiment.evaluation.early_stopping)

    @property
    def tasks(self) -> Several:
        return self.scorer.evaluator.tasks

    def run(self, splits: Splits) -> Outcome:
        ranked = self._rank_pool()
        scored = self._search(ranked)
        self._save(scored, splits)
        entries = self._final_table(scored, ranked)
        table = leaderboard(entries, self.tasks.name, 1 if self.tasks.greater_is_better else -1)
        self.journal.once(event="finish", greater_is_better=self.tasks.greater_is_better)
        write_csv(self.folder / "leaderboard.csv", table)
        score = scored.evaluation.score
        return Outcome(self.tasks.shown(score), score - self.best_single, scored.recipe.ingredients, table)

    # The algorithm

    def _rank_pool(self) -> list[Ranked]:
        """Scores every run by itself, and has its tasks and its method learn from that what they need to."""
        if self.pool.trust_scores:
            return self._rank_by_list()
        singles: dict[str, Scored] = {}
        for number, run in enumerate(self.pool, start=1):
            what = f"ranking {run.name} ({number} of {len(self.pool)})"
            try:
                singles[run.name] = self.scorer.score(what, self._single(run.name))
            except CandidateError as error:
                self._record_error("rank", run.name, (run.name,), str(error))
                self.usable.remove(run)
                continue
            log.info("rank     %-24s %s", run.name, self._shown(singles[run.name]))
            if self.tasks.aggregate != "normalized":
                self._record_rank(run.name, singles[run.name])
        if self.tasks.aggregate == "normalized":  # by what only the whole ranking tells
            scores = {name: scored.evaluation.scores for name, scored in singles.items()}
            self.scorer.rank_tasks(self.tasks.ranked(scores))
            singles = {name: self.scorer.score(name, self._single(name)) for name in singles}
            for name, scored in singles.items():
                self._record_rank(name, scored)
        ranked = [Ranked(name, scored.evaluation.score) for name, scored in singles.items()]
        if not ranked:
            raise CheckpointError("no run of the pool can be scored; the reasons are above")
        if all(math.isnan(run.score) for run in ranked):
            raise DataError("every run of the pool scores NaN on the held-out set: there is nothing to rank")
        self.method = self.method.with_scores({run.name: run.score for run in ranked})
        self.singles = [scored.evaluation for scored in singles.values()]
        self.best_single = rank(ranked)[0].score
        return ranked

    def _rank_by_list(self) -> list[Ranked]:
        """The runs by the scores that came with the list of them; only the best is scored."""
        metric = self.tasks.name
        given = {}
        for run in self.pool:
            scores = self.pool.scores.get(run.name, {})
            found = next((scores[key] for key in (metric, f"heldout_{metric}") if key in scores), None)
            if found is None:
                raise ConfigError(
                    f"pool.trust_scores=true: the list of runs gives no {metric} for {run.name}; it has "
                    f"{', '.join(scores) or 'no scores'}"
                )
            given[run.name] = found if self.tasks.greater_is_better else -found
        ranked = rank([Ranked(name, score) for name, score in given.items()])
        for one in ranked:
            log.info("rank     %-24s %s %.4f (listed)", one.name, metric, self.tasks.shown(one.score))
        best = self.scorer.score(f"scoring {ranked[0].name}", self._single(ranked[0].name))
        log.warning(
            "the order of the runs is that of listed scores (pool.trust_scores): only %s was scored, %s. "
            "That the soup is no worse than the best single run is checked against that one",
            ranked[0].name,
            self._shown(best),
        )
        self._record("rank", ranked[0].name, best)
        self.method = self.method.with_scores(given)
        self.singles = [best.evaluation]
        self.best_single = best.evaluation.score
        return [next(one for one in ranked if one.name == run.name) for run in self.pool]

    def _search(self, ranked: Sequence[Ranked]) -> Scored:
        """The soup that the search ends with, and how it scores."""
        order = self.search.order(ranked)
        if not self.search.needs_scores:
            return self._take_all(order)
        soup = self._soup()
        soup.keep(self.pool[order[0].name])
        best = self.scorer.score("starting", self._single(order[0].name))
        self._hardest_first(best)
        self._record("merge", order[0].name, best, decision="start", soup_size=1)
        trials: list[Trial] = []
        while (name := self.search.propose(order, trials)) is not None:
            candidate = self.pool[name]
            what = f"merging {name} ({len(trials) + 1} of {len(order) - 1})"
            recipes = self._recipes((*soup.ingredients, name), partial(soup.taste, candidate))
            try:
                verdicts = self.judge.decide(what, recipes, best)
            except CandidateError as error:
                self._record_error(
                    "merge", name, (*soup.ingredients, name), str(error), len(soup.ingredients)
                )
                trials.append(Trial(name, score=None, kept=False))
                continue
            kept = next((verdict.scored for verdict in verdicts if verdict.kept), None)
            self.journal.once(event="decision", candidate=name, kept=kept.recipe.variant if kept else None)
            if kept:
                soup.keep(candidate, self.method.variants[kept.recipe.variant])
                kept = replace(kept, recipe=replace(kept.recipe, weights=soup.tensors))
            for verdict in verdicts:
                self._record_verdict(name, verdict, best, len(soup.ingredients))
            trials.append(Trial(name, kept.evaluation.score if kept else None, kept is not None))
            if kept:
                best = kept
                self._hardest_first(best)
        if best.evaluation.score < self.best_single:
            raise GuaranteeError("the soup is worse on the held-out set than the best single run")
        return best

    def _take_all(self, order: Sequence[Ranked]) -> Scored:
        """The soup of a search that decides nothing: blended at once, so no running state is kept."""
        best = self.scorer.score("starting", self._single(order[0].name))
        self._record("merge", order[0].name, best, decision="start", soup_size=1)
        ingredients: tuple[str, ...] = (order[0].name,)
        trials: list[Trial] = []
        while (name := self.search.propose(order, trials)) is not None:
            ingredients += (name,)
            trials.append(Trial(name, score=None, kept=True))
            if len(ingredients) < len(order):
                step = Step("merge", name, decision="keep", ingredients=ingredients, rule=self.search.rule)
                self.trajectory.add(replace(step, soup_size=len(ingredients)))
        verdicts = self.judge.decide(f"merging {len(ingredients)} runs", self._blends(ingredients), best)
        for verdict in verdicts:
            self._record_verdict(ingredients[-1], verdict, best, len(ingredients))
        return next(verdict.scored for verdict in verdicts if verdict.kept)

    def _save(self, scored: Scored, splits: Splits) -> None:
        """Saves the soup, loads it back as a user would, and scores that."""
        folder, evaluator, output = self.folder / SOUP, self.scorer.evaluator, self.experiment.output
        if self.journal.recall(event="saved") and folder.exists():
            return
        recipe = scored.recipe
        self.scorer.fill(recipe)
        if output.format == "adapter":
            runs = [self.pool[name] for name in recipe.ingredients]
            method = self.method.variants[recipe.variant] if recipe.variant else self.method
            saved_run = output.save_adapter(runs, method, self._soup, evaluator.processor, folder)
        else:
            recalibrated = recipe.recalibrate > 0 and len(recipe.ingredients) > 1
            saved_run = output.save(
                evaluator.live, evaluator.processor, recipe.weights, folder, self.pool.reference, recalibrated
            )
        runtime = replace(self.experiment.runtime, batch_size=evaluator.batch_size)
        heldout = {"heldout": splits["heldout"]}
        saved = evaluator_of(saved_run, self.tasks, heldout, runtime, self.dtype, evaluator.accelerator)
        if saved_run.adapted is not None:
            saved.live.fill(saved_run.tensors())
        saved.reorder("heldout", scored.order)
        output.verify(saved, scored.evaluation.score, self.best_single, self.tasks, folder)
        if not self.journal.replaying:
            self.journal.add(event="saved")

    def _final_table(self, soup: Scored, ranked: Sequence[Ranked]) -> list[Entry]:
        """Scores the controls on held-out, and the models worth reporting on test."""
        best_first = [run.name for run in rank(ranked)]
        top_k = self.experiment.top_k or max(2, len(soup.recipe.ingredients))
        top = best_first[: min(top_k, len(self.usable))]
        models = [
            ("soup", "soup", [soup.recipe]),
            ("uniform", "uniform", self._blends([run.name for run in self.usable])),
            (f"uniform_top_{len(top)}", "uniform", self._blends(top)),
            *((run.name, "single", [self._single(run.name)]) for run in self.usable),
        ]
        entries = []
        if self.pool.trust_scores:  # runs that were not scored stay so
            models = [model for model in models if model[1] != "single" or model[0] == best_first[0]]
            entries = [Entry(run.name, "listed", (run.name,), run.score) for run in rank(ranked)[1:]]
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
        """An empty one."""
        evaluator, runtime = self.scorer.evaluator, self.experiment.runtime
        device = evaluator.accelerator.device
        memory = StateMemory(device, *runtime.state_budget(evaluator.live.bytes), runtime.offload())
        return Soup(self.method, device, self.pool.base, self.dtype, memory)

    def _single(self, name: str) -> Recipe:
        run = self.pool[name]
        weights = partial(in_dtype, run.tensors, self.dtype)
        return Recipe(
            (name,),
            "",
            weights,
            lambda: [run.fingerprint, str(self.dtype)] if self.dtype else run.fingerprint,
        )

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
        dtype = [str(self.dtype)] if self.dtype else []
        return [[self.pool[name].fingerprint for name in ingredients], weights, base, options, *dtype]

    # Records

    def _record_rank(self, name: str, scored: Scored) -> None:
        nan = math.isnan(scored.evaluation.score)
        if nan and self.search.on_error == "stop":
            raise DataError(f"{name} scores NaN on the held-out set; search.on_error=skip goes on without it")
        more = {"decision": "error", "reason": _NAN} if nan else {}
        self._record("rank", name, scored, **more)

    def _record_error(
        self, stage: str, name: str, ingredients: tuple[str, ...], reason: str, soup_size: int | None = None
    ) -> None:
        log.warning("error    %-24s %s", name, reason)
        step = Step(
            stage, name, decision="error", ingredients=ingredients, reason=reason, soup_size=soup_size
        )
        self.trajectory.add(step)

    def _record_verdict(self, name: str, verdict: Verdict, best: Scored, size: int) -> None:
        scored, comparison = verdict.scored, verdict.comparison
        decision, reason = "keep" if verdict.kept else "discard", ""
        if math.isnan(scored.evaluation.score):
            if self.search.on_error == "stop":
                raise DataError(
                    f"the soup with {name} scores NaN on the held-out set; search.on_error=skip goes on "
                    "without it"
                )
            decision, reason = "error", _NAN
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
            reason=reason,
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


def _shown_tasks(scored: Scored) -> dict[str, float]:
    """The score of each task that has a name, with its metric's own sign."""
    parts = scored.evaluation.parts
    return {name: part.metric.shown(part.score) for name, part in parts.items() if name}


def _different(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The keys whose values differ, or that are in one only."""
    return sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))

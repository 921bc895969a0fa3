"""What to run, and everything that is made ready before it: data, model, ledger, cache."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import torch

from soupkitchen.checkpoints import Checkpoint, Pool
from soupkitchen.checkpoints.weights import View
from soupkitchen.errors import ConfigError
from soupkitchen.evaluation import (
    EvaluationOptions,
    Evaluator,
    Identity,
    Runtime,
    Splits,
    check_batchnorm,
    evaluator_of,
    find_columns,
    fit_to,
    identity,
    load_splits,
    warn_of_splits,
)
from soupkitchen.evaluation.peaks import peak, reset_peak
from soupkitchen.evaluation.statistics import least_p
from soupkitchen.executors import Bench, Executor, Local
from soupkitchen.experiment.algorithm import find_soup
from soupkitchen.experiment.controls import CONTROLS, final_table
from soupkitchen.experiment.judge import Judge
from soupkitchen.experiment.ledger import Ledger, Observer
from soupkitchen.experiment.partial_ranking import by_part
from soupkitchen.experiment.profiling import watch, write_profile
from soupkitchen.experiment.ranking import by_list, check_ranking, steps_of, unscored
from soupkitchen.experiment.recipes import Recipes, check_weights, with_options
from soupkitchen.experiment.reporting import Report, describe_soup, score_without_each, write_map
from soupkitchen.experiment.saving import save_soup
from soupkitchen.experiment.scores import Scores
from soupkitchen.experiment.steps import Steps
from soupkitchen.merging import MergeMethod, StackMethod
from soupkitchen.models import Auto, Models
from soupkitchen.models.processors import warn_of_files
from soupkitchen.options.building import build, describe
from soupkitchen.output import Output, mergekit, prove_filling
from soupkitchen.output.hub import check_hub, push
from soupkitchen.output.recipe_file import RecipeFile, saved_fingerprint
from soupkitchen.records.derived import report
from soupkitchen.records.display import Display
from soupkitchen.search import Facts, Ranked, Search
from soupkitchen.search.rules import share_of
from soupkitchen.soup import Mixer, Recipe, Soup, StateMemory
from soupkitchen.soup.ahead import Ahead
from soupkitchen.soup.depth import layers
from soupkitchen.stopwatch import stopwatch
from soupkitchen.store import checksums
from soupkitchen.store.digests import digest
from soupkitchen.store.evaluations import EvaluationCache
from soupkitchen.store.files import recover
from soupkitchen.store.layout import (
    EVALUATIONS,
    JOURNAL,
    MAP,
    MERGEKIT,
    RECIPE,
    SOUP,
    has_weights,
)
from soupkitchen.store.settings import flat
from soupkitchen.tasks import Several, Task

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
        executor: who scores, and on how many benches at once.
        report: what people look at.
        model: what makes the models; by default transformers, as the runs and the task say.
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
    executor: Executor = field(default_factory=Local)
    report: Report = field(default_factory=Report)
    model: Models = field(default_factory=Auto)
    top_k: int | None = None

    def run(self, observers: Sequence[Observer] = ()) -> None:
        """Cooks the soup: tables and model are in `folder` when it returns.

        Args:
            observers: are told of all that happens.

        Raises:
            SoupkitchenError: for whatever the user can put right.
            GuaranteeError: where the saved soup is not the one that was scored, or a
                greedy one is worse than the best single run.
        """
        method = self._weighted_method()
        Soup(method, base=self.pool.base)  # refuses a method without the base that it needs
        build(describe(replace(method, weights=None)))  # as recipes have it
        search = self._search(method)
        self.output.check(self.pool.runs, method)
        if self.output.push_to_hub is not None:
            check_hub(self.output.push_to_hub)
        tasks = Several.of(self.task)
        check_ranking(self.search.ranking, self.pool, tasks, method)
        tasks = fit_to(find_columns(tasks), self.pool)
        splits = self._splits(tasks)
        examples = sum(map(len, splits["heldout"].values()))
        self.search.rule.check(least_p(tasks, examples))
        evaluator = self._evaluator(tasks, splits)
        check_batchnorm(evaluator, self.method.recalibrate_batchnorm)
        self._prove(evaluator)
        reset_peak(evaluator.accelerator.device)
        warn_of_splits(tasks, splits)
        warn_of_files(self.pool.reference)
        own = self._cleared()
        with Display(self._examples_at_most(evaluator)) as display:
            ledger = Ledger(self.folder, [display, *observers])
            elsewhere = replace(self, executor=Local()).bench
            bench = Bench(evaluator, self._mixer(evaluator), display.scoring, elsewhere)
            self.executor.start(bench)
            watch(evaluator.accelerator.device, self.runtime.profile)
            try:
                self._cook(bench, ledger, own, method, search, splits)
            finally:
                self.executor.stop()
        if self.runtime.profile:
            write_profile(self.folder)

    def bench(self) -> Bench:
        """The live model and the pool, for a process that scores what another asks for."""
        tasks = fit_to(find_columns(Several.of(self.task)), self.pool)
        evaluator = self._evaluator(tasks, self._splits(tasks))
        self._prove(evaluator)
        return Bench(evaluator, self._mixer(evaluator))

    def _splits(self, tasks: Several) -> Splits:
        return load_splits(tasks, training=self.method.recalibrate_batchnorm > 0)

    def _evaluator(self, tasks: Several, splits: Splits) -> Evaluator:
        """What scores the pool's models."""
        maker = self.model.maker(tasks, self.pool)
        return evaluator_of(
            self.pool.reference, tasks, splits, self.runtime, self.dtype, pool=self.pool, maker=maker
        )

    def _prove(self, evaluator: Evaluator) -> None:
        """Sees to it that filled models answer as loaded ones do; takes two loadings."""
        prove_filling(evaluator, self.pool.reference, self._loadable_last())

    def _cook(
        self,
        bench: Bench,
        ledger: Ledger,
        own: EvaluationCache,
        method: MergeMethod | StackMethod,
        search: Search,
        splits: Splits,
    ) -> None:
        """Ranks the pool, finds the soup, saves it, and compares it with the others."""
        evaluator, pool = bench.evaluator, self.pool
        known = Identity(evaluator, pool)
        self._begin(ledger, known, evaluator)
        scores = Scores(
            self.executor,
            evaluator.examples,
            evaluator.tasks,
            ledger,
            known,
            own=own,
            shared=self.evaluation.open_cache(),
            on_error=self.search.on_error,
        )
        steps = Steps(scores, self.search.rule.text)
        dtype = None if self.dtype is None else str(self.dtype).removeprefix("torch.")
        recipes = Recipes(method, dtype, steps_of(self._runs))
        told, share = (pool, scores, recipes, steps), share_of(self.search.ranking)
        ranking = by_list(*told) if pool.trust_scores else by_part(*told, share)
        recipes = replace(recipes, method=method.with_scores({run.name: run.score for run in ranking.runs}))
        judge = Judge(
            search.rule,
            scores,
            recipes,
            self.evaluation.stops_early,
            self.evaluation.confidence,
            goes_on=search.guaranteed,
            again=search.again,
        )
        soup, ranking = find_soup(search, ranking, judge, steps)
        saved = ledger.saved()
        lost = checksums.altered(self.folder)
        checksums.set_aside(self.folder, lost.keys() - checksums.DERIVED - {JOURNAL})
        if not (saved and has_weights(self.folder / SOUP)):
            with stopwatch.part("saving"):
                save_soup(soup, self.folder / SOUP, ranking.best, bench, self.output, splits, self.runtime)
        if not saved:
            ledger.save(soup.recipe.to_data())
        self._write_recipe(soup.recipe, evaluator, anew=bool({RECIPE, MERGEKIT} & lost.keys()))
        final_table(soup, ranking, judge, steps, self.top_k)
        if self.report.contributions:
            score_without_each(soup, scores, ledger)
        taken = peak(evaluator.accelerator.device)
        if taken.device is not None:
            log.info("at most %.2f GiB were taken on the device", taken.device)
        if self.report.write:
            write_map(pool, self.folder / SOUP, self.folder / MAP, self.report.map_gib)
            describe_soup(self.folder, soup.recipe, pool, evaluator.live.maker, self.task)
        if self.output.push_to_hub is not None:
            url = push(self.folder / SOUP, self.output.push_to_hub, self.output.private)
            log.info("pushed   %s", url)
        last = partial(report, self.folder) if self.report.write else _nothing
        ledger.finish(scores.tasks.greater_is_better, taken, last)
        checksums.note(self.folder)

    def _write_recipe(self, recipe: Recipe, evaluator: Evaluator, anew: bool) -> None:
        """Writes down, once or anew, how the soup is made again, by us and by mergekit."""
        if (self.folder / RECIPE).is_file() and not anew:
            return
        live = evaluator.live
        told = RecipeFile.of(
            recipe,
            self.pool,
            live.maker.name,
            evaluator.processor_folder,
            model=None if isinstance(self.model, Auto) else describe(self.model),
            output=self.output,
            pad_token_id=None
            if live.pad_token_id == self.pool.reference.config.get("pad_token_id")
            else live.pad_token_id,
            device=evaluator.accelerator.device.type,
            soup=saved_fingerprint(self.folder / SOUP),
        )
        if unsaid := mergekit.write(told, self.folder / MERGEKIT):
            log.info("no %s: %s", MERGEKIT, unsaid)
        told.write(self.folder / RECIPE)

    @cached_property
    def _runs(self) -> Sequence[Ranked]:
        """The runs before any is scored; their training steps are read from files."""
        return unscored(self.pool)

    def _search(self, method: MergeMethod | StackMethod) -> Search:
        """The search, told of the method.

        Raises:
            ConfigError: where it cannot search with that method, or this pool.
        """
        options = flat(describe(replace(method, weights=None)))
        depth = layers(list(self.pool.reference.header))
        search = self.search.knowing(Facts(options, method.negative_weights, method.weighs, depth))
        check_weights(self.method, self._runs)
        search.check(self._runs)
        try:
            for tried in search.extremes():
                with_options(method, tried)
        except ConfigError as error:
            raise ConfigError(f"search.options: {error}") from error
        return search

    def _mixer(self, evaluator: Evaluator) -> Mixer:
        live, device = evaluator.live, evaluator.accelerator.device

        def memory() -> StateMemory:
            return StateMemory(device, *self.runtime.state_budget(live.bytes, device), self.runtime.offload())

        room, _ = self.runtime.batch_budget(device)
        reader = None if device.type == "cpu" else Ahead(device, room)
        return Mixer(self.pool, device, live.dtype_of, memory, reader)

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
        checksums.clear_unfinished(self.folder)
        own = EvaluationCache(self.folder / EVALUATIONS)
        own.remove_unfinished()
        return own

    def _begin(self, ledger: Ledger, known: Identity, evaluator: Evaluator) -> None:
        """Notes what the run depends on or, where it is continued, checks that this is as it was."""
        base, tasks = self.pool.base, evaluator.tasks
        depends: dict[str, Mapping[str, str]] = {
            "runs": {run.name: run.fingerprint for run in self.pool},
            "base": {"base": base.fingerprint} if base and self.method.needs_base else {},
            "model": {"configuration": known.model()},
            "task": {name or "task": digest(one.metric.identity()) for name, one in tasks.tasks.items()},
            "data": {split: known.examples(split) for split in evaluator.examples.scored},
        }
        ledger.begin(
            identity.versions(),
            depends,
            metric=tasks.name,
            greater_is_better=tasks.greater_is_better,
            best=tasks.best if math.isfinite(tasks.best) else None,
            columns=[name for name in tasks.tasks if name],
            model_class=evaluator.live.maker.name,
        )

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

    def _examples_at_most(self, evaluator: Evaluator) -> int:
        models = len(self.pool) + self.search.most(len(self.pool)) + CONTROLS
        heldout = evaluator.examples.size("heldout") * models
        test = evaluator.examples.size("test") * (2 + CONTROLS) if "test" in evaluator.examples.splits else 0
        return heldout + test


def _nothing() -> None:
    """Makes nothing."""

"""An experiment: the parts of a run, and all that is prepared before the algorithm."""

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
from soupkitchen.evaluation.statistics import least_p
from soupkitchen.executors import Bench, Executor, Local
from soupkitchen.experiment.algorithm import CONTROLS, final_table, find_soup
from soupkitchen.experiment.finishing import Report, describe_soup, save_soup, score_without_each, write_map
from soupkitchen.experiment.judge import Judge
from soupkitchen.experiment.ledger import Ledger, Observer
from soupkitchen.experiment.measuring import peak, reset_peak, watch, write_profile
from soupkitchen.experiment.race import by_race
from soupkitchen.experiment.ranking import by_list, by_scoring, check_ranking, steps_of, unscored
from soupkitchen.experiment.recipes import Recipes, check_weights, with_options
from soupkitchen.experiment.scores import Scores
from soupkitchen.experiment.steps import Steps
from soupkitchen.merging import MergeMethod, StackMethod
from soupkitchen.models import Auto, Models
from soupkitchen.models.processors import warn_of_files
from soupkitchen.options.building import build, describe
from soupkitchen.output import Output, mergekit, prove_filling
from soupkitchen.output.card import check_hub, push
from soupkitchen.output.recipe_file import RecipeFile, saved_fingerprint
from soupkitchen.process import stopwatch
from soupkitchen.records.results import report
from soupkitchen.records.terminal import Display
from soupkitchen.search import Facts, Ranked, Search
from soupkitchen.search.base import confidence_of
from soupkitchen.soup import Mixer, Recipe, Soup, StateMemory
from soupkitchen.soup.coefficients import layers
from soupkitchen.soup.reader import ReadAhead
from soupkitchen.store.digests import digest
from soupkitchen.store.evaluations import EvaluationCache
from soupkitchen.store.files import recover
from soupkitchen.store.folder import (
    DERIVED,
    EVALUATIONS,
    JOURNAL,
    MAP,
    MERGEKIT,
    RECIPE,
    SOUP,
    altered,
    clear_unfinished,
    has_weights,
    note_checksums,
    set_aside,
)
from soupkitchen.store.settings import flat
from soupkitchen.tasks import Several, Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Experiment:
    """The parts of a run; see `soupkitchen.cook`.

    Attributes:
        folder: an existing folder for the tables and the soup.
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
        """Cooks the soup, and writes tables and model to `folder`.

        Raises:
            SoupkitchenError: if something is wrong that the user can put right.
            GuaranteeError: if the saved soup is not the scored one, or the search is guaranteed and the soup
                is below the best single run.
        """
        method = self._weighted_method()
        Soup(method, base=self.pool.base)  # refuses a method without the base that it needs
        build(describe(replace(method, weights=None)))  # fails now if recipes cannot rebuild it
        search = self._search(method)
        self.output.check(self.pool.runs, method)
        if self.output.push_to_hub is not None:
            check_hub(self.output.push_to_hub)
        check_ranking(search.ranking, self.pool, Several.of(self.task), method)
        tasks, splits = self._tasks_and_splits()
        search.rule.check(least_p(tasks, sum(map(len, splits["heldout"].values()))))
        evaluator = self._evaluator(tasks, splits)
        check_batchnorm(evaluator, self.method.recalibrate_batchnorm)
        prove_filling(evaluator, self.pool.reference, self._loadable_last())
        device = evaluator.accelerator.device
        reset_peak(device)
        warn_of_splits(tasks, splits)
        warn_of_files(self.pool.reference)
        recover(self.folder / SOUP)
        clear_unfinished(self.folder)
        with Display(self._examples_at_most(evaluator)) as display:
            ledger = Ledger(self.folder, [display, *observers])
            elsewhere = replace(self, executor=Local()).bench
            bench = Bench(evaluator, self._mixer(evaluator), display.scoring, elsewhere)
            self.executor.start(bench)
            watch(device, self.runtime.profile)
            try:
                self._cook(bench, ledger, method, search, splits)
            finally:
                self.executor.stop()
        if self.runtime.profile:
            write_profile(self.folder)

    def bench(self) -> Bench:
        """The bench for a process that scores another one's requests."""
        evaluator = self._evaluator(*self._tasks_and_splits())
        prove_filling(evaluator, self.pool.reference, self._loadable_last())
        return Bench(evaluator, self._mixer(evaluator))

    def _cook(
        self, bench: Bench, ledger: Ledger, method: MergeMethod | StackMethod, search: Search, splits: Splits
    ) -> None:
        evaluator, pool = bench.evaluator, self.pool
        keys = Identity(evaluator, pool)
        self._begin(ledger, keys, evaluator)
        own, shared = EvaluationCache(self.folder / EVALUATIONS), self.evaluation.open_cache()
        own.remove_unfinished()
        scores = Scores(
            self.executor,
            evaluator.examples,
            evaluator.tasks,
            ledger,
            keys,
            own=own,
            shared=shared,
            on_error=search.on_error,
        )
        steps = Steps(scores, search.rule.text)
        dtype = None if self.dtype is None else str(self.dtype).removeprefix("torch.")
        recipes = Recipes(method, dtype, steps_of(self._runs))
        if pool.trust_scores:
            ranking = by_list(pool, scores, recipes, steps)
        elif (confidence := confidence_of(search.ranking)) is not None:
            ranking = by_race(pool, scores, recipes, steps, confidence, search.rule.margin)
        else:
            ranking = by_scoring(pool, scores, recipes, steps)
        recipes = replace(recipes, method=method.with_scores({run.name: run.score for run in ranking.runs}))
        rule = search.rule.after_ranking(ranking.noise(scores))
        if rule != search.rule:
            log.info(
                "gains of %g and less could not be told from chance here, and are not enough", rule.amount
            )
        steps = Steps(scores, rule.text)
        judge = Judge(rule, scores, recipes, self.evaluation.stopping, skips=search.guaranteed)
        soup, ranking = find_soup(search, ranking, judge, steps)
        saved = ledger.saved()
        lost = altered(self.folder)
        set_aside(self.folder, lost.keys() - DERIVED - {JOURNAL})
        if not (saved and has_weights(self.folder / SOUP)):
            with stopwatch.part("saving"):
                save_soup(soup, self.folder / SOUP, ranking, bench, self.output, splits, self.runtime)
        if not saved:
            ledger.save(soup.recipe.to_data())
        if {RECIPE, MERGEKIT} & lost.keys() or not (self.folder / RECIPE).is_file():
            self._write_recipe(soup.recipe, evaluator)
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
        last = partial(report, self.folder) if self.report.write else lambda: None
        ledger.finish(scores.tasks.greater_is_better, taken, last)
        note_checksums(self.folder)

    def _write_recipe(self, recipe: Recipe, evaluator: Evaluator) -> None:
        live = evaluator.live
        own_padding = live.pad_token_id != self.pool.reference.config.get("pad_token_id")
        file = RecipeFile.of(
            recipe,
            self.pool,
            live.maker.name,
            evaluator.processor_folder,
            model=None if isinstance(self.model, Auto) else describe(self.model),
            output=self.output,
            pad_token_id=live.pad_token_id if own_padding else None,
            device=evaluator.accelerator.device.type,
            soup=saved_fingerprint(self.folder / SOUP),
        )
        if reason := mergekit.write(file, self.folder / MERGEKIT):
            log.info("no %s: %s", MERGEKIT, reason)
        file.write(self.folder / RECIPE)

    @cached_property
    def _runs(self) -> Sequence[Ranked]:
        return unscored(self.pool)

    def _search(self, method: MergeMethod | StackMethod) -> Search:
        options = flat(describe(replace(method, weights=None)))
        depth = layers(list(self.pool.reference.header))
        search = self.search.knowing(Facts(options, method.negative_weights, method.weighs, depth))
        check_weights(self.method, self._runs)
        search.check(self._runs)
        if Several.of(self.task).floors and not search.guaranteed:
            raise ConfigError(
                "task.floors need a search that keeps only what is better, and search="
                f"{type(search).__name__.lower()} keeps what it makes: choose another, or leave them null"
            )
        try:
            for extreme in search.extremes():
                with_options(method, extreme)
        except ConfigError as error:
            raise ConfigError(f"search.options: {error}") from error
        return search

    def _tasks_and_splits(self) -> tuple[Several, Splits]:
        tasks = fit_to(find_columns(Several.of(self.task)), self.pool)
        return tasks, load_splits(tasks, training=self.method.recalibrate_batchnorm > 0)

    def _evaluator(self, tasks: Several, splits: Splits) -> Evaluator:
        maker, pool = self.model.maker(tasks, self.pool), self.pool
        return evaluator_of(pool.reference, tasks, splits, self.runtime, self.dtype, pool=pool, maker=maker)

    def _mixer(self, evaluator: Evaluator) -> Mixer:
        live, device = evaluator.live, evaluator.accelerator.device

        def memory() -> StateMemory:
            return StateMemory(device, *self.runtime.state_budget(live.bytes, device), self.runtime.offload())

        room, _ = self.runtime.batch_budget(device)
        reader = None if device.type == "cpu" else ReadAhead(device, room)
        return Mixer(self.pool, device, live.dtype_of, memory, reader, caching=self.search.again)

    def _loadable_last(self) -> Checkpoint | None:
        """The last run besides the reference that transformers can load: no adapter, no view."""
        reference = self.pool.reference
        if reference.adapted is not None:
            return None
        plain = [run for run in self.pool if run.adapted is None and not isinstance(run.weights, View)]
        return next((run for run in reversed(plain) if run is not reference), None)

    def _begin(self, ledger: Ledger, keys: Identity, evaluator: Evaluator) -> None:
        """Notes all that the run depends on, or checks it if the run is continued."""
        base, tasks = self.pool.base, evaluator.tasks
        depends: dict[str, Mapping[str, str]] = {
            "runs": {run.name: run.fingerprint for run in self.pool},
            "base": {"base": base.fingerprint} if base and self.method.needs_base else {},
            "model": {"configuration": keys.model()},
            "task": {name or "task": digest(task.metric.identity()) for name, task in tasks.tasks.items()},
            "data": {split: keys.examples(split) for split in evaluator.examples.scored},
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
        """The soup's dtype; None for that of the runs."""
        return self.output.torch_dtype or self.pool.dtype

    def _weighted_method(self) -> MergeMethod | StackMethod:
        """The method, with the weights from the list of runs."""
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

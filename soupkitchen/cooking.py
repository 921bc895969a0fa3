"""The algorithm: from a pool to a saved, verified soup and its tables.

`Cooking.run` reads like the paper's: rank the pool; for each next run merge, score, keep or
discard; save; check that what was saved is what was scored. Whatever takes long goes through
the journal, so a run that is continued comes this way again and does nothing twice.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from soupkitchen.checkpoints import Checkpoint
from soupkitchen.checkpoints.views import View, aligned
from soupkitchen.decisions import Judge
from soupkitchen.errors import CandidateError, CheckpointError, ConfigError, DataError, GuaranteeError
from soupkitchen.evaluation import Evaluation, Recipe, Scored, Scorer, Splits, evaluator_of, identity
from soupkitchen.journal import Journal
from soupkitchen.layout import LEADERBOARD, SOUP, has_weights
from soupkitchen.logbook import Logbook
from soupkitchen.merging import MergeMethod, StackMethod
from soupkitchen.records import Entry, Step, Trajectory, leaderboard, write_csv
from soupkitchen.search import Ranked, Trial, rank
from soupkitchen.soup import Soup, in_dtype
from soupkitchen.states import StateMemory
from soupkitchen.tasks import Several
from soupkitchen.verification import check_answers, check_weights

if TYPE_CHECKING:
    from soupkitchen.experiment import Experiment

log = logging.getLogger(__name__)

CONTROLS = 2
"""Models in the final table beside the soup and the single runs: uniform, and uniform of the top k."""

_NEAR = 1e-3
"""Runs whose score differs by less than this share from the best one's may change places with it."""


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


class Cooking:
    """An experiment under way: the algorithm."""

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
        self.dtype = experiment.dtype
        self.singles: list[Evaluation] = []
        self.best_single = math.nan  # its score
        self.scorer = scorer
        self.logbook = Logbook(trajectory, scorer, experiment.search)
        self.journal = journal
        self.usable = list(self.pool)
        self.judge = Judge(experiment.search, scorer, experiment.evaluation.early_stopping)
        self._warned: set[str] = set()
        self._state: Soup | None = None  # whose tensors the best recipe's weights are

    @property
    def tasks(self) -> Several:
        return self.scorer.evaluator.tasks

    def run(self, splits: Splits) -> Outcome:
        ranked = self._rank_pool()
        scored = self._search(ranked)
        scored = self._save(scored, splits)
        entries = self._final_table(scored, ranked)
        table = leaderboard(entries, self.tasks.name, 1 if self.tasks.greater_is_better else -1)
        self.journal.once(event="finish", greater_is_better=self.tasks.greater_is_better)
        write_csv(self.folder / LEADERBOARD, table)
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
                self._note(error)
                self.logbook.error("rank", run.name, (run.name,), str(error))
                self.usable.remove(run)
                continue
            log.info("rank     %-24s %s", run.name, self.logbook.shown(singles[run.name]))
            if self.tasks.aggregate != "normalized":
                self.logbook.ranked(run.name, singles[run.name])
        if self.tasks.aggregate == "normalized":  # by what only the whole ranking tells
            scores = {name: scored.evaluation.scores for name, scored in singles.items()}
            self.scorer.rank_tasks(self.tasks.ranked(scores))
            singles = {name: self.scorer.score(name, self._single(name)) for name in singles}
            for name, scored in singles.items():
                self.logbook.ranked(name, scored)
        ranked = [Ranked(name, scored.evaluation.score) for name, scored in singles.items()]
        if not ranked:
            raise CheckpointError("no run of the pool can be scored; the reasons are above")
        if all(math.isnan(run.score) for run in ranked):
            raise DataError("every run of the pool scores NaN on the held-out set: there is nothing to rank")
        self.method = self.method.with_scores({run.name: run.score for run in ranked})
        self.singles = [scored.evaluation for scored in singles.values()]
        self.best_single = rank(ranked)[0].score
        return ranked

    def _note(self, error: CandidateError) -> None:
        """Has the journal say what the search goes on without; what ends a run may have gone next time."""
        if error.event is not None:
            self.journal.add(**error.event)

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
            self.logbook.shown(best),
        )
        self.logbook.step("rank", ranked[0].name, best)
        self.method = self.method.with_scores(given)
        self.singles = [best.evaluation]
        self.best_single = best.evaluation.score
        return [next(one for one in ranked if one.name == run.name) for run in self.pool]

    def _search(self, ranked: Sequence[Ranked]) -> Scored:
        """The soup that the search ends with, and how it scores."""
        if not self.search.needs_scores:
            return self._take_all(self.search.order(ranked))
        order = self.search.order(self._arranged(ranked))
        soup = self._soup()
        soup.keep(self.pool[order[0].name])
        best = self.scorer.score("starting", self._single(order[0].name))
        self.logbook.step("merge", order[0].name, best, decision="start", soup_size=1)
        trials: list[Trial] = []
        while (name := self.search.propose(order, trials)) is not None:
            candidate = self.pool[name]
            what = f"merging {name} ({len(trials) + 1} of {len(order) - 1})"
            recipes = self._recipes((*soup.ingredients, name), partial(soup.taste, candidate))
            try:
                verdicts = self.judge.decide(what, recipes, best)
            except CandidateError as error:
                self._note(error)
                self.logbook.error(
                    "merge", name, (*soup.ingredients, name), str(error), len(soup.ingredients)
                )
                trials.append(Trial(name, score=None, kept=False))
                continue
            kept = next((verdict.scored for verdict in verdicts if verdict.kept), None)
            self.journal.once(event="decision", candidate=name, kept=kept.recipe.variant if kept else None)
            if kept:
                soup.keep(candidate, self.method.variants[kept.recipe.variant])
                kept = replace(kept, recipe=replace(kept.recipe, weights=soup.tensors))
                self._state = soup
            for verdict in verdicts:
                self.logbook.verdict(name, verdict, best, len(soup.ingredients))
            trials.append(Trial(name, kept.evaluation.score if kept else None, kept is not None))
            if kept:
                best = kept
                self.scorer.evaluator.hardest_first("heldout", best.evaluation)
        if not best.evaluation.score >= self.best_single:
            raise GuaranteeError("the soup is worse on the held-out set than the best single run")
        return best

    def _take_all(self, order: Sequence[Ranked]) -> Scored:
        """The soup of a search that decides nothing: blended at once, so no running state is kept."""
        best = self.scorer.score("starting", self._single(order[0].name))
        self.logbook.step("merge", order[0].name, best, decision="start", soup_size=1)
        ingredients: tuple[str, ...] = (order[0].name,)
        trials: list[Trial] = []
        while (name := self.search.propose(order, trials)) is not None:
            ingredients += (name,)
            trials.append(Trial(name, score=None, kept=True))
            if len(ingredients) < len(order):
                step = Step("merge", name, decision="keep", ingredients=ingredients, rule=self.search.rule)
                self.logbook.trajectory.add(replace(step, soup_size=len(ingredients)))
        verdicts = self.judge.decide(f"merging {len(ingredients)} runs", self._blends(ingredients), best)
        for verdict in verdicts:
            self.logbook.verdict(ingredients[-1], verdict, best, len(ingredients))
        return next(verdict.scored for verdict in verdicts if verdict.kept)

    def _arranged(self, ranked: Sequence[Ranked]) -> Sequence[Ranked]:
        """Has what most runs get wrong scored first, and the best runs scored again in these batches.

        A candidate and what it is compared with are scored in the same batches: numbers that
        differ only because examples were padded otherwise decide nothing.
        """
        evaluator = self.scorer.evaluator
        if not self.judge.early_stopping:
            return ranked
        best, *others = rank(ranked)
        start = self.scorer.score("starting", self._single(best.name))
        evaluator.arrange("heldout", start.evaluation, self.singles)
        if "heldout" not in evaluator.arranged or all(t.metric.binary for t in self.tasks.tasks.values()):
            return ranked
        listed = self.pool.trust_scores  # others were not scored
        near = -1 if listed else abs(best.score) * _NEAR
        again = {
            run.name: self.scorer.score(
                f"starting ({run.name})", self._single(run.name), anew=True
            ).evaluation
            for run in (best, *(run for run in others if best.score - run.score <= near))
        }
        self.best_single = max(evaluation.score for evaluation in again.values())
        if listed:
            return ranked
        return [Ranked(run.name, again[run.name].score if run.name in again else run.score) for run in ranked]

    def _save(self, scored: Scored, splits: Splits) -> Scored:
        """Saves the soup, loads it back as a user would, and proves that it is what was scored.

        The state of the search, then the live model are let go before the soup is loaded: never are
        there two models.
        """
        folder, evaluator, output = self.folder / SOUP, self.scorer.evaluator, self.experiment.output
        saved_before = self.journal.recall(event="saved") is not None
        if saved_before and has_weights(folder):
            return scored
        recipe = scored.recipe
        self.scorer.fill(recipe)
        if output.format == "adapter":
            runs = [self.pool[name] for name in recipe.ingredients]
            method = self.method.variants[recipe.variant] if recipe.variant else self.method
            saved_run = output.save_adapter(runs, method, self._soup, evaluator.processor_folder, folder)
            evaluator.live.fill(saved_run.tensors())
            again = evaluator.score("heldout").score
            floor = min(self.best_single, scored.evaluation.score)  # a uniform soup may be worse
            output.check_score(again, scored.evaluation.score, floor, self.tasks, folder)
        else:
            state = evaluator.live.digests()
            saved_run = output.save(evaluator.live, evaluator.processor_folder, folder, self.pool.reference)
            batch = {name: batches[0] for name, batches in evaluator.batches("heldout").items()}
            outputs = evaluator.outputs("heldout", batch)
            scored = self._served_from_files(scored, saved_run)
            evaluator.release()
            whole = output.verify == "full"
            asked = {
                name: split if whole else split.select(batch[name])
                for name, split in splits["heldout"].items()
            }
            runtime = replace(self.experiment.runtime, batch_size=evaluator.batch_size)
            evaluator.live.load(saved_run)
            check_weights(evaluator.live, state, folder)
            saved = evaluator_of(
                *(saved_run, self.tasks, {"heldout": asked}, runtime, self.dtype),
                accelerator=evaluator.accelerator,
                live=evaluator.live,
            )
            check_answers(saved, outputs, batch if whole else None, folder)
            if whole:
                saved.reorder("heldout", scored.order)
                again = saved.score("heldout").score
                output.check_score(again, scored.evaluation.score, self.best_single, self.tasks, folder)
            saved.release()
            evaluator.live.load(self.pool.reference)
        if not saved_before:
            self.journal.add(event="saved")
        return scored

    def _served_from_files(self, scored: Scored, saved: Checkpoint) -> Scored:
        """The soup with its weights read from the files that it was saved in; its state is given up."""
        names = aligned(saved.header, self.pool.reference.header)
        if names.keys() != self.pool.reference.header.keys():
            return scored  # saved otherwise than the runs are
        if self._state is not None:
            self._state.forget()
        weights = replace(saved, weights=View(saved.weights, names)).tensors
        return replace(scored, recipe=replace(scored.recipe, weights=weights))

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
            scored = {}
            try:
                scored["heldout"] = self.judge.best(f"{model} on heldout", recipes)
                recipe = scored["heldout"].recipe
                if "test" in self.scorer.evaluator.splits and (kind != "single" or model == best_first[0]):
                    scored["test"] = self.scorer.score(f"{model} on test", recipe, "test")
            except CandidateError as error:
                self._note(error)
                self.logbook.error("final", model, recipes[0].ingredients, str(error))
                if "heldout" not in scored:
                    continue
            for split, one in scored.items():
                if kind != "single" or split == "test":
                    self.logbook.step("final", model, one)
            entries.append(self.logbook.entry(model, kind, scored))
        return entries

    # Recipes

    def _soup(self) -> Soup:
        """An empty one."""
        evaluator, runtime = self.scorer.evaluator, self.experiment.runtime
        device = evaluator.accelerator.device
        budget = runtime.state_budget(evaluator.live.bytes, device)
        memory = StateMemory(device, *budget, runtime.offload())
        return Soup(self.method, device, self.pool.base, self._dtype_of, memory, self._warned)

    def _dtype_of(self, name: str) -> torch.dtype | None:
        """That of a tensor of the soup; None for that of the runs."""
        return None if self.dtype is None else self.scorer.evaluator.live.dtype_of(name, self.dtype)

    def _changed(self, ingredients: Sequence[str]) -> list[Path]:
        """The files that are not what they were when the pool was opened."""
        base = [self.pool.base] if self.pool.base and self.method.needs_base else []
        runs = [self.pool[name] for name in ingredients]
        return [file for run in (*runs, *base) for file in run.changed_files()]

    def _single(self, name: str) -> Recipe:
        run = self.pool[name]
        return Recipe(
            (name,),
            "",
            partial(in_dtype, run.tensors, self._dtype_of),
            lambda: [run.fingerprint, str(self.dtype)] if self.dtype else run.fingerprint,
            changed=run.changed_files,
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
                partial(self._changed, ingredients),
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
        code = identity.foreign_code(variant)
        return [[self.pool[n].fingerprint for n in ingredients], weights, base, options, *dtype, *code]

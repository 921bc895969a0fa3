"""Saves and verifies the soup; writes its map, contributions and model card."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from soupkitchen.checkpoints import Checkpoint, Pool
from soupkitchen.errors import CheckpointError, GuaranteeError
from soupkitchen.evaluation import Evaluation, Runtime, Splits, evaluator_of
from soupkitchen.executors import Bench, Request
from soupkitchen.experiment.ledger import Ledger
from soupkitchen.experiment.ranking import Ranking
from soupkitchen.experiment.scores import Scored, Scores, Unscorable
from soupkitchen.models import Maker
from soupkitchen.options import check_fields
from soupkitchen.options.kinds import NotNegative
from soupkitchen.output import Output, check_answers, check_weights
from soupkitchen.output.card import CARD, PICTURE, write_card
from soupkitchen.records.run import Run
from soupkitchen.search.base import missed
from soupkitchen.soup import Recipe
from soupkitchen.soup.mixer import task_vector_gram
from soupkitchen.store.files import write_text
from soupkitchen.store.folder import SOUP
from soupkitchen.tasks import Several, Task

log = logging.getLogger(__name__)


def save_soup(
    soup: Scored,
    folder: Path,
    ranking: Ranking,
    bench: Bench,
    output: Output,
    splits: Splits,
    runtime: Runtime,
) -> None:
    """Saves the soup to `folder` and verifies it; memory never holds two models.

    Raises:
        SaveError: if it cannot be written.
        GuaranteeError: if it is not the scored soup.
    """
    evaluator, mixer, recipe, expected = bench.evaluator, bench.mixer, soup.recipe, soup.evaluation.score
    live, processor = evaluator.live, evaluator.processor_folder
    if output.format == "adapter":
        runs = [mixer.pool[name] for name in recipe.ingredients]
        mixer.forget()
        adapter = output.save_adapter(
            runs, recipe.coefficients, lambda: mixer.empty(recipe), processor, folder
        )
        live.fill(adapter.tensors())
        saved_scores = evaluator.score("heldout")
        output.check_score(saved_scores.score, expected, min(ranking.best, expected), evaluator.tasks, folder)
        _check_floors(saved_scores, soup.evaluation, ranking.floors, folder)
        return
    bench.fill(recipe)
    mixer.forget()
    digests = live.digests()
    saved = output.save(live, processor, folder, mixer.pool.reference)
    batch = {name: batches[0] for name, batches in evaluator.examples.batches("heldout").items()}
    outputs = evaluator.outputs("heldout", batch)
    mixer.take_from(saved, recipe)
    evaluator.release()
    whole, heldout = output.verify == "full", splits["heldout"]
    asked = {name: split if whole else split.select(batch[name]) for name, split in heldout.items()}
    live.load(saved)
    check_weights(live, digests, folder)
    rescorer = evaluator_of(
        saved,
        evaluator.tasks,
        {"heldout": asked},
        replace(runtime, batch_size=evaluator.examples.batch_size),
        evaluator.dtype,
        accelerator=evaluator.accelerator,
        live=live,
    )
    check_answers(rescorer, outputs, batch if whole else None, folder)
    if whole:
        again = rescorer.score("heldout", order=soup.order).score
        output.check_score(again, expected, ranking.best, evaluator.tasks, folder)
    rescorer.release()
    live.load(mixer.pool.reference)


def _check_floors(saved: Evaluation, merged: Evaluation, floors: Mapping[str, float], folder: Path) -> None:
    """Checks that the saved adapter meets all floors, up to rounding: its rank may be cut."""
    scores = merged.scores
    below = missed({name: min(floor, scores[name]) for name, floor in floors.items()}, saved.scores)
    lost = [name for name in below if not math.isclose(saved.scores[name], scores[name], rel_tol=1e-6)]
    if lost:
        raise GuaranteeError(
            f"as one adapter the soup in {folder} is below the floor of {', '.join(lost)}: "
            "raise output.rank, or take output.format=full"
        )


@dataclass(frozen=True)
class Report:
    """The parts of a run's report; `conf/report/default.yaml` describes the options.

    Raises:
        ConfigError: if an option is out of range.
    """

    write: bool = True
    contributions: bool = False
    map_gib: NotNegative = 20.0

    def __post_init__(self) -> None:
        check_fields(self, "report")


def score_without_each(soup: Scored, scores: Scores, ledger: Ledger) -> None:
    """Scores the soup without each of its ingredients, by the same method."""
    recipe = soup.recipe
    if recipe.size < 2:
        return
    for place, name in enumerate(recipe.ingredients):
        ingredients = recipe.ingredients[:place] + recipe.ingredients[place + 1 :]
        coefficients = recipe.coefficients[:place] + recipe.coefficients[place + 1 :]
        without = Recipe.single(ingredients[0], recipe.dtype)
        if len(ingredients) > 1:
            without = replace(recipe, ingredients=ingredients, coefficients=coefficients)
        (result,) = scores.each([Request(f"the soup without {name}", without)])
        if isinstance(result, Unscorable):
            log.warning("%s", result.reason)
        else:
            ledger.contribution(name, result.evaluation.score)


def write_map(pool: Pool, soup: Path, file: Path, most: float) -> None:
    """Writes the Gram matrix of task vectors of the runs and the soup; skips pools of over `most` GiB."""
    runs, header = list(pool), pool.reference.header
    size = sum(info.elements * info.torch_dtype.itemsize for info in header.values() if info.torch_dtype)
    if file.is_file() or size * len(runs) > most * 2**30:
        return
    saved = _saved(soup, pool)
    runs += [] if saved is None else [saved]
    gram, origin = task_vector_gram(runs, pool.base)
    finite = np.isfinite(gram).sum(1)
    whole = finite == finite.max()  # leaves out runs that overflow
    content = {
        "names": [run.name for run, fits in zip(runs, whole, strict=True) if fits],
        "soup": saved.name if saved is not None and whole[-1] else None,
        "base": pool.base is not None,
        "origin": origin if np.isfinite(origin) else None,
        "gram": np.nan_to_num(gram[whole][:, whole], posinf=0.0, neginf=0.0).tolist(),
    }
    write_text(file, json.dumps(content, allow_nan=False))


def describe_soup(folder: Path, recipe: Recipe, pool: Pool, maker: Maker, task: Task | Several) -> None:
    """Writes the model card if it is missing; only logs a failure."""
    if all((folder / SOUP / name).is_file() for name in (CARD, PICTURE)):
        return
    data = getattr(getattr(task, "data", None), "path", None) or type(task).__name__
    shown = data if isinstance(data, str) and "/" not in data.strip("/") else Path(str(data)).name
    try:
        write_card(folder / SOUP, Run(folder), recipe, pool, maker, shown)
    except Exception as error:  # a card is not worth a soup
        file = folder / SOUP / CARD
        log.warning("%s could not be written (%s); the run itself is complete", file, error)
        log.debug("%s", file, exc_info=error)


def _saved(soup: Path, pool: Pool) -> Checkpoint | None:
    """The soup by the runs' tensor names; None if it has others or is an adapter."""
    name = "soup"
    while name in {run.name for run in pool}:
        name += "'"
    try:
        return pool.by_its_names(Checkpoint.open(soup, name))
    except CheckpointError:
        return None

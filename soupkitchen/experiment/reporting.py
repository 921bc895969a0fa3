"""What a run notes for its report, beside its decisions: the pool's map, what each ingredient is worth."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from soupkitchen.checkpoints import Checkpoint, Pool
from soupkitchen.errors import CandidateError, CheckpointError
from soupkitchen.executors import Request
from soupkitchen.experiment.ledger import Ledger
from soupkitchen.experiment.scores import Scored, Scores
from soupkitchen.models import Maker
from soupkitchen.options import check_fields
from soupkitchen.options.kinds import NotNegative
from soupkitchen.output.card import CARD, PICTURE, write_card
from soupkitchen.records.run import Run
from soupkitchen.soup import Recipe
from soupkitchen.soup.gram import task_vector_gram
from soupkitchen.store.files import write_text
from soupkitchen.store.layout import SOUP
from soupkitchen.tasks import Several, Task

log = logging.getLogger(__name__)

_SOUP = "soup"


@dataclass(frozen=True)
class Report:
    """The report of a run.

    Attributes:
        write: whether there is one, as `report.html`.
        contributions: whether the soup is scored without each of its ingredients, too.
        map_gib: pools of more GiB than that are not read again for a map of how alike their runs are; 0 for
            no map.

    Raises:
        ConfigError: for options out of range.
    """

    write: bool = True
    contributions: bool = False
    map_gib: NotNegative = 20.0

    def __post_init__(self) -> None:
        check_fields(self, "report")


def score_without_each(soup: Scored, scores: Scores, ledger: Ledger) -> None:
    """Scores the soup without each of its ingredients, merged by the same method."""
    recipe = soup.recipe
    if recipe.size < 2:
        return
    for place, name in enumerate(recipe.ingredients):
        rest = [number for number in range(recipe.size) if number != place]
        ingredients = tuple(recipe.ingredients[number] for number in rest)
        if len(ingredients) == 1:
            without = Recipe.single(ingredients[0], recipe.dtype)
        else:
            coefficients = tuple(recipe.coefficients[number] for number in rest)
            without = replace(recipe, ingredients=ingredients, coefficients=coefficients)
        try:
            scored = scores.score(Request(f"the soup without {name}", without))
        except CandidateError as error:
            log.warning("%s", scores.failed(error))
            continue
        ledger.contribution(name, scored.evaluation.score)


def write_map(pool: Pool, soup: Path, file: Path, most: float) -> None:
    """Writes down how alike the runs of `pool`, and the soup saved in the folder `soup`, are.

    Args:
        most: GiB; pools of more are not read.
    """
    runs, header = list(pool), pool.reference.header
    size = sum(info.elements * info.torch_dtype.itemsize for info in header.values() if info.torch_dtype)
    if file.is_file() or size * len(runs) > most * 2**30:
        return
    if (saved := _saved(soup, pool)) is not None:
        runs.append(saved)
    gram, origin = task_vector_gram(runs, pool.base)
    whole = (
        np.isfinite(gram).sum(1) == np.isfinite(gram).sum(1).max()
    )  # one that overflows has no place on it
    if saved is not None and not whole[-1]:
        saved = None
    told = {
        "names": [run.name for run, fits in zip(runs, whole, strict=True) if fits],
        "soup": None if saved is None else saved.name,
        "base": pool.base is not None,
        "origin": origin if np.isfinite(origin) else None,
        "gram": np.nan_to_num(gram[whole][:, whole], posinf=0.0, neginf=0.0).tolist(),
    }
    write_text(file, json.dumps(told, allow_nan=False))


def describe_soup(folder: Path, recipe: Recipe, pool: Pool, maker: Maker, task: Task | Several) -> None:
    """Writes the model card of the soup in the run's `folder`, once; the soup is complete without one."""
    if all((folder / SOUP / name).is_file() for name in (CARD, PICTURE)):
        return
    data = getattr(getattr(task, "data", None), "path", None) or type(task).__name__
    shown = data if isinstance(data, str) and "/" not in data.strip("/") else Path(str(data)).name
    try:
        write_card(folder / SOUP, Run(folder), recipe, pool, maker, shown)
    except Exception as error:  # nobody loses a soup for what is said of it
        file = folder / SOUP / CARD
        log.warning("%s could not be written (%s); the run itself is complete", file, error)
        log.debug("%s", file, exc_info=error)


def _saved(soup: Path, pool: Pool) -> Checkpoint | None:
    """The soup by the runs' names of tensors; None where it has others, or is an adapter."""
    name = _SOUP
    while name in {run.name for run in pool}:
        name += "'"
    try:
        return pool.by_its_names(Checkpoint.open(soup, name))
    except CheckpointError:
        return None

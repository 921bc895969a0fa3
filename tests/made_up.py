"""What stands for models in tests of searches: a table says what each soup predicts for each example."""

from __future__ import annotations

import zlib
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import torch

from soupkitchen import metrics
from soupkitchen.evaluation.scoring import Examples, Listed
from soupkitchen.executors import Fake
from soupkitchen.experiment.algorithm import find_soup
from soupkitchen.experiment.judge import Judge
from soupkitchen.experiment.ledger import Ledger
from soupkitchen.experiment.ranking import by_scoring
from soupkitchen.experiment.recipes import Recipes
from soupkitchen.experiment.scores import Scores
from soupkitchen.experiment.steps import Steps
from soupkitchen.merging import Linear
from soupkitchen.search import Search
from soupkitchen.soup import Recipe
from soupkitchen.tasks import Several
from soupkitchen.tasks.base import DataSource, Task


class Table(Task):
    """A task whose model's predictions are read from a table."""

    data = DataSource()
    model_class = torch.nn.Module

    def __init__(self, metric: str, references: np.ndarray) -> None:
        self.metric = metrics.load(metric)
        self.right = references
        self.current: np.ndarray = references

    def prepare(self, split: datasets.Dataset, processor: Any, model: Any) -> datasets.Dataset:
        return split

    def references(self, prepared: datasets.Dataset) -> np.ndarray:
        return self.right

    def collate(self, examples: Any, processor: Any) -> Any:
        return {"index": torch.tensor([e["index"] for e in examples])}

    def step(self, model: Any, batch: Any, processor: Any) -> torch.Tensor:
        return torch.tensor(self.current[batch["index"].numpy()])


def predictions(
    seed: int, ingredients: tuple[str, ...], variant: str, task: Table, skill: float
) -> np.ndarray:
    """What a soup predicts: errors of all soups are alike, and each has its own besides."""
    shared = np.random.default_rng(seed).random(len(task.right))
    key = zlib.crc32(repr((seed, ingredients, variant)).encode())  # hash() of texts is another each time
    own_luck = np.random.default_rng(key).random(len(task.right))
    if task.metric.inputs == "values":
        return task.right + (own_luck + shared - skill) * 2
    right = 0.7 * shared + 0.3 * own_luck < skill + 0.02 * len(ingredients)
    return np.where(right, task.right, 1 - task.right)


class Names:
    """Evaluations are known by their recipes."""

    def asked(self, recipe: Recipe, split: str) -> str:
        return f"{recipe.digest} {split}"

    predictions = asked

    def check(self, recipe: Recipe) -> None:
        pass


def scores_over(
    answers: Any,
    tables: dict[str, Table],
    *,
    aggregate: str = "mean",
    batch_size: int = 2,
    lengths: Any = None,
    workers: int = 1,
    **options: Any,
) -> Scores:
    """What scores recipes by a function of recipe and split, which says what is predicted.

    Args:
        options: of `Several`.
    """
    several = Several(tables, aggregate, **options)  # type: ignore[arg-type]
    listed = {name: Listed(table.right, lengths) for name, table in tables.items()}
    examples = Examples({"heldout": listed}, batch_size)
    executor = Fake(answers, several, examples, workers)
    return Scores(executor, examples, several, Ledger(None), Names(), on_error="skip")


def searched(search: Search, scores: Scores, names: Any, method: Any = None, stopping: Any = None) -> Any:
    """What a search over runs of these names ends with, and their ranking."""
    recipes, steps = Recipes(method or Linear()), Steps(scores, search.rule.text)
    ranking = by_scoring([SimpleNamespace(name=name) for name in names], scores, recipes, steps)
    return find_soup(search, ranking, Judge(search.rule, scores, recipes, stopping), steps)


def merges_of(scores: Scores) -> list[dict[str, Any]]:
    """The steps of the merge stage."""
    return [event for event in scores.ledger.events if event.get("stage") == "merge"]

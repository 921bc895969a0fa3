"""What a finished run came to, read from its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from soupkitchen.errors import ConfigError
from soupkitchen.experiment.ledger import last_recipe
from soupkitchen.models import Auto, Loading, Transformers, maker_named
from soupkitchen.options.building import TARGET, target_of
from soupkitchen.records import read_csv, separated, soups_score
from soupkitchen.soup import Recipe
from soupkitchen.store import journal
from soupkitchen.store.layout import CONFIG, JOURNAL, LEADERBOARD, SOUP, TRAJECTORY


@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        folder: where its tables and its soup are.
    """

    folder: Path

    @cached_property
    def leaderboard(self) -> pd.DataFrame:
        """Every model that was scored, best first: the soup, the uniform soups and the single runs."""
        return read_csv(self.folder / LEADERBOARD)

    @cached_property
    def trajectory(self) -> pd.DataFrame:
        """What was tried, in order, with the reasons."""
        return read_csv(self.folder / TRAJECTORY)

    @cached_property
    def recipe(self) -> Recipe:
        """What the soup is made of.

        Raises:
            JournalError: where an earlier version of soupkitchen wrote the run.
        """
        return Recipe.from_data(last_recipe(journal.read(self.folder / JOURNAL)))

    @property
    def score(self) -> float:
        """The soup's on held-out, with the metric's own sign."""
        return soups_score(self.leaderboard)

    @property
    def gain(self) -> float:
        """How much better than the best single run the soup is on held-out; more is better."""
        return float(self._soup["delta_vs_best_single"])

    @property
    def ingredients(self) -> tuple[str, ...]:
        """The soup's, in merge order."""
        return separated(self._soup["ingredients"])

    def model(self, **options: Any) -> Any:
        """The soup, loaded as its task loads models.

        Args:
            options: of transformers' ``from_pretrained``.
        """
        begin = journal.read(self.folder / JOURNAL)[0]
        folder = self.folder / SOUP
        told = yaml.safe_load((self.folder / CONFIG).read_bytes()).get("model")
        own = isinstance(told, Mapping) and told.get(TARGET) != target_of(Auto)
        maker = maker_named(begin["model_class"], told if own else None)
        if not isinstance(maker, Transformers):
            return maker.load(maker.open(folder), Loading()).eval()
        if (folder / "adapter_config.json").exists():
            try:
                import peft  # noqa: F401
            except ImportError as error:
                raise ConfigError(
                    f"{folder} is a LoRA adapter, which peft loads: pip install 'soupkitchen[peft]'"
                ) from error
        return maker.model_class.from_pretrained(folder, **options)

    @property
    def _soup(self) -> Any:
        return self.leaderboard[self.leaderboard["kind"] == "soup"].iloc[0]

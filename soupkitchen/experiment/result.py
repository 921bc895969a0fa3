"""The result of a finished run, read from its folder."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from soupkitchen.checkpoints import Checkpoint
from soupkitchen.checkpoints.folders import check_folder
from soupkitchen.errors import ConfigError
from soupkitchen.experiment.ledger import last_recipe
from soupkitchen.models import Loading, Transformers, maker_named
from soupkitchen.options.building import targets
from soupkitchen.records import read_csv, read_leaderboard, separated, soups_score
from soupkitchen.records.tables import COLUMNS
from soupkitchen.soup import Recipe
from soupkitchen.store import journal
from soupkitchen.store.files import about, read_yaml
from soupkitchen.store.folder import CONFIG, JOURNAL, LEADERBOARD, SOUP, TRAJECTORY


@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        folder: where its tables and its soup are.
        trust: names of your own code, as ``my_module.build``, which the folder's files may have imported.
    """

    folder: Path
    trust: Collection[str] = ()

    @classmethod
    def of(cls, folder: Path, config: Mapping[str, Any]) -> Result:
        """The result of a run that the user has just described by `config`, and so trusts."""
        model = config.get("model") or {}
        code = [str(model[option]) for option in ("build", "processor") if model.get(option)]
        return cls(folder, [*targets(config), *code])

    @cached_property
    def leaderboard(self) -> pd.DataFrame:
        """Every model that was scored, best first: the soup, the uniform soups and the single runs."""
        return read_leaderboard(self.folder / LEADERBOARD)

    @cached_property
    def trajectory(self) -> pd.DataFrame:
        """Every candidate that was tried, in order, with the reasons."""
        return read_csv(self.folder / TRAJECTORY, COLUMNS)

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe of the soup.

        Raises:
            JournalError: if the run saved no soup.
            ConfigError: if it names code that is not in `trust`.
        """
        file = self.folder / JOURNAL
        data = last_recipe(file)
        with about(file):
            return Recipe.from_data(data, self.trust)

    @property
    def score(self) -> float:
        """The soup's on held-out, with the metric's own sign."""
        return soups_score(self.leaderboard)

    @property
    def gain(self) -> float:
        """The soup's gain on held-out over the best single run; more is better."""
        return float(self._soup["delta_vs_best_single"])

    @property
    def ingredients(self) -> tuple[str, ...]:
        """The soup's, in merge order."""
        return separated(self._soup["ingredients"])

    def model(self, **options: Any) -> Any:
        """The soup, loaded as its task loads models.

        Args:
            options: of transformers' ``from_pretrained``; what the soup's files name is asked of the hub only
                with ``local_files_only=False``.

        Raises:
            ConfigError: if the run's files name code that is not in `trust`.
        """
        begin, folder = journal.begun(self.folder / JOURNAL)[0], self.folder / SOUP
        file = self.folder / CONFIG
        tree = read_yaml(file, _Config).model
        with about(file):
            maker = maker_named(begin["model_class"], tree, self.trust)
        if not isinstance(maker, Transformers):
            return maker.load(Checkpoint.open(folder, "soup"), Loading()).eval()
        check_folder(folder)
        if (folder / "adapter_config.json").exists():
            try:
                import peft  # noqa: F401
            except ImportError as error:
                raise ConfigError(
                    f"{folder} is a LoRA adapter, which peft loads: pip install 'soupkitchen[peft]'"
                ) from error
        alone = {"trust_remote_code": False, "local_files_only": True}  # whatever the soup's files ask for
        return maker.model_class.from_pretrained(folder, **(alone | options))

    @property
    def _soup(self) -> Any:
        return self.leaderboard[self.leaderboard["kind"] == "soup"].iloc[0]


@dataclass(frozen=True)
class _Config:
    """The part of a run's configuration that it takes to load its soup."""

    model: dict[str, Any] | None = None

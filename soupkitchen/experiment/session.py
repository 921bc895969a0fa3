"""A run in its folder, by one process at a time, and its result."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import transformers

from soupkitchen import process
from soupkitchen.checkpoints import Checkpoint
from soupkitchen.checkpoints.folders import check_folder
from soupkitchen.errors import ConfigError, SaveError, SoupkitchenError, calling
from soupkitchen.executors import Local, Spmd
from soupkitchen.executors.spmd import LostError, ProcessGroup, follow
from soupkitchen.experiment.experiment import Experiment
from soupkitchen.experiment.ledger import last_recipe
from soupkitchen.models import Loading, Transformers, maker_named
from soupkitchen.options.building import targets
from soupkitchen.process import stopwatch
from soupkitchen.records import read_csv, read_leaderboard, separated, soups_score
from soupkitchen.records.results import make_again
from soupkitchen.records.tables import COLUMNS
from soupkitchen.records.trackers import Trackers
from soupkitchen.soup import Recipe
from soupkitchen.store import journal
from soupkitchen.store.files import about, read_yaml
from soupkitchen.store.folder import CONFIG, JOURNAL, LEADERBOARD, SOUP, TRAJECTORY, RunFolder, check_is_ours
from soupkitchen.store.lock import only_process, soft_if_refused

log = logging.getLogger("soupkitchen")


@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        trust: names of your own code, as ``my_module.build``, that the folder's files may import.
    """

    folder: Path
    trust: Collection[str] = ()

    @classmethod
    def of(cls, folder: Path, config: Mapping[str, Any]) -> Result:
        """The result of a run whose options come from the user, so their code is trusted."""
        model = config.get("model") or {}
        code = [str(model[option]) for option in ("build", "processor") if model.get(option)]
        return cls(folder, [*targets(config), *code])

    @cached_property
    def leaderboard(self) -> pd.DataFrame:
        """The scored models, best first: the soup, the uniform soups and the single runs."""
        return read_leaderboard(self.folder / LEADERBOARD)

    @cached_property
    def trajectory(self) -> pd.DataFrame:
        """All candidates in order, with decisions and reasons."""
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
        """The soup's held-out score, with the metric's own sign."""
        return soups_score(self.leaderboard)

    @property
    def gain(self) -> float:
        """The held-out gain over the best single run; more is better."""
        return float(self._soup["delta_vs_best_single"])

    @property
    def ingredients(self) -> tuple[str, ...]:
        """The soup's ingredients, in merge order."""
        return separated(self._soup["ingredients"])

    def model(self, **options: Any) -> Any:
        """Loads the soup as its task loads models.

        Args:
            options: for ``from_pretrained``; only ``local_files_only=False`` asks the hub.

        Raises:
            ConfigError: if files name code that is not in `trust`, or an adapter needs peft.
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
        alone = {"trust_remote_code": False, "local_files_only": True}  # even if its files say more
        return maker.model_class.from_pretrained(folder, **(alone | options))

    @property
    def _soup(self) -> Any:
        return self.leaderboard[self.leaderboard["kind"] == "soup"].iloc[0]


@dataclass(frozen=True)
class _Config:
    model: dict[str, Any] | None = None


def carry_out(
    config: Mapping[str, Any], folder: Path, build: Callable[[Path], Experiment], overwrite: bool = False
) -> Result:
    """Runs or continues the run of `config` in `folder`; does not repeat a finished one.

    Args:
        build: makes the experiment; called only if there is work to do.
        overwrite: move earlier results aside.
    """
    process.check_launch()
    with stopwatch.run(), soft_if_refused():
        group = ProcessGroup.joined()
        if group is None:
            return _carry_out(config, folder, build, overwrite)
        if group.number:
            with _quiet(), _silent():
                follow(group, lambda: build(folder).bench())
            return Result.of(folder, config)
        try:
            return _carry_out(config, folder, _for_all(build, group), overwrite)
        finally:
            with suppress(LostError):
                group.tell("end")


def _for_all(build: Callable[[Path], Experiment], group: ProcessGroup) -> Callable[[Path], Experiment]:
    """Starts the launch's other processes once the experiment is built."""

    def built(folder: Path) -> Experiment:
        experiment = build(folder)
        if type(experiment.executor) is Local:
            experiment = replace(experiment, executor=Spmd())
        group.tell("build")
        return experiment

    return built


def _carry_out(
    config: Mapping[str, Any], folder: Path, build: Callable[[Path], Experiment], overwrite: bool
) -> Result:
    check_is_ours(folder)
    with only_process(folder):
        check_is_ours(folder)  # it may have changed meanwhile
        run = RunFolder(folder)
        if run.is_to_be_run(config, overwrite):
            if run.is_finished and not overwrite:
                for name, what in run.lost(config).items():
                    log.warning("%s %s: it is made again", folder / name, what)
            trackers = Trackers(config.get("tracker"), folder, config)
            with run.begun(config, overwrite), _still_there(folder), _quiet(), calling():
                experiment = build(folder)
                run.write(config)
                with trackers:
                    experiment.run([trackers])
            _log(Result.of(folder, config))
        elif lost := run.lost(config):
            make_again(folder, lost)
        return Result.of(folder, config)


@contextmanager
def _still_there(folder: Path) -> Iterator[None]:
    """Replaces an error if it came from somebody removing the folder."""
    try:
        yield
    except (OSError, SoupkitchenError) as error:
        if folder.is_dir():
            raise
        raise SaveError(f"{folder} is gone: something removed or renamed it while the run worked") from error


def _log(result: Result) -> None:
    size, gain = len(result.ingredients), result.gain
    if gain > 0:
        log.info("The soup of %d gains %.4f over the best single run.", size, gain)
    elif size == 1:
        log.info("No run improved on the best single one: the soup is that run. This is a normal outcome.")
    elif gain == 0:
        log.info("The soup of %d scores what the best single run does.", size)
    else:
        log.info("The soup is %.4f worse than the best single run on held-out.", -gain)


@contextmanager
def _silent() -> Iterator[None]:
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)


@contextmanager
def _quiet() -> Iterator[None]:
    library = transformers.utils.logging
    with ExitStack() as undo:
        undo.callback(library.set_verbosity, library.get_verbosity())
        library.set_verbosity_error()
        if library.is_progress_bar_enabled():
            undo.callback(library.enable_progress_bar)
        library.disable_progress_bar()
        if not datasets.are_progress_bars_disabled():
            undo.callback(datasets.enable_progress_bars)
        datasets.disable_progress_bars()
        yield

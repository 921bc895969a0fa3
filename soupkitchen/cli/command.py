"""Runs the command line: Hydra composes the options, and a run is begun, continued or reported."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from soupkitchen import process
from soupkitchen.cli import config as conf
from soupkitchen.cli.config import explained
from soupkitchen.cli.startup import importing
from soupkitchen.console import say
from soupkitchen.options import check_tree
from soupkitchen.options.building import build
from soupkitchen.options.files import CONF
from soupkitchen.process import stopwatch
from soupkitchen.store.folder import LEADERBOARD, REPORT, SOUP, TRAJECTORY, RunFolder, check_is_ours, shown
from soupkitchen.store.lock import only_process
from soupkitchen.store.settings import CHOICES

log = logging.getLogger("soupkitchen")

_CHOSEN = ("pool", "task", "method", "search")

conf.register_resolvers()  # here, as launchers import this module in processes of their own


class Failed(BaseException):
    """Carries an error past Hydra, which would put its own words before it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def run_all(config: DictConfig) -> float:
    """Runs one job; returns the soup's held-out score, for sweepers such as Optuna's.

    A loss is negated, so the direction is always ``maximize``.
    """
    try:
        with stopwatch.run():
            return run(config)
    except Exception as error:  # whatever it is, Hydra would put a line above it
        if HydraConfig.get().mode != RunMode.MULTIRUN or isinstance(error, BrokenPipeError):
            raise Failed(error) from error
        if reason := explained(error):
            log.error("%s failed: %s", config.name, reason)
        else:
            log.exception("%s failed", config.name)
        raise  # the other jobs go on


def run(config: DictConfig) -> float:
    """Runs one job, continues it, or reports it if finished; returns the soup's score, higher better.

    Raises:
        SoupkitchenError: if something is wrong that the user can fix.
    """
    conf.check_keys(config)
    folder = Path(f"{config.results_dir}/{config.name}").absolute()
    check_is_ours(folder)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    if config.overwrite or not RunFolder(folder).is_finished:
        _session()  # whose imports those of the check are
        check_tree(plain)
    choices = HydraConfig.get().runtime.choices
    plain[CHOICES] = {group: choices[group] for group in _CHOSEN}
    process.check_launch()
    _say_what_is_the_demos(config, choices)
    if process.world_size() > 1 or config.overwrite or not _is_there(folder, plain):
        _session()(plain, folder, lambda at: _experiment(plain, at), config.overwrite)
    return 0.0 if process.rank() else _report(folder)


def _say_what_is_the_demos(config: DictConfig, choices: Any) -> None:
    """Says once that the demo's runs or data are used, because the user named none."""
    job: Any = HydraConfig.get().job
    if process.rank() or job.get("num", 0):
        return
    own_pool = choices["pool"] != "demo" or config.pool.get("path") is not None
    if not own_pool and choices["task"] == "demo":
        say(
            "This is the demo: nine runs and texts of its own, made on first use (1 to 3 minutes).\nYours: "
            "python -m soupkitchen pool.path='runs/*' task=text_classification task.data.path=reviews "
            "(--help has all options)"
        )
    elif choices["pool"] not in ("two_tasks", "lm") and own_pool == (choices["task"] == "demo"):
        missing = "task=… and task.data.path=… name" if own_pool else "pool.path='runs/*' names"
        theirs = "data" if own_pool else "runs"
        say(f"The {theirs} are the demo's: {missing} yours")


def _is_there(folder: Path, plain: dict[str, Any]) -> bool:
    """Tells whether no work is left that needs runs and data, without heavy imports."""
    run = RunFolder(folder)
    if not run.is_finished:
        return False
    with only_process(folder):
        check_is_ours(folder)  # it may have changed meanwhile
        if run.is_to_be_run(plain, overwrite=False):
            return False
        if lost := run.lost(plain):
            from soupkitchen.records.results import make_again

            make_again(folder, lost)
        return True


def _experiment(options: dict[str, Any], folder: Path) -> Any:
    """The experiment that `options` describe. Cheap parts first, so that their errors come first."""
    from soupkitchen.experiment import Experiment

    parts = {group: build(options[group]) for group in conf.PARTS}
    return Experiment(**parts, folder=folder, top_k=options["top_k"])


@cache
def _session() -> Callable[..., Any]:
    with importing():
        from soupkitchen.experiment.session import carry_out
    return carry_out


def _report(folder: Path) -> float:
    from soupkitchen.records import greater_is_better, read_leaderboard, soups_score, update_sweep_leaderboard
    from soupkitchen.records.terminal import print_files, print_leaderboard

    table = read_leaderboard(folder / LEADERBOARD)
    all_runs = update_sweep_leaderboard(folder.parent)
    print_leaderboard(table)
    files = {
        "leaderboard": folder / LEADERBOARD,
        "trajectory": folder / TRAJECTORY,
        "soup": folder / SOUP,
        "report": folder / REPORT if (folder / REPORT).is_file() else None,
        "all runs": all_runs,
    }
    print_files({what: shown(file) for what, file in files.items() if file is not None})
    score = soups_score(table)
    return score if greater_is_better(folder, table) else -score

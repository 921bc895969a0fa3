"""What the command line does: Hydra composes the options, and a run is begun, continued or reported."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from soupkitchen import config as conf
from soupkitchen.errors import ConfigError, SaveError, SoupkitchenError
from soupkitchen.startup import importing
from soupkitchen.store.layout import (
    CONFIG,
    EVALUATIONS,
    JOURNAL,
    LEADERBOARD,
    LOG,
    SOUP,
    TRAJECTORY,
    check_is_ours,
    has_weights,
)
from soupkitchen.store.lock import only_process

log = logging.getLogger("soupkitchen")

_RESULTS = (LEADERBOARD, TRAJECTORY, EVALUATIONS, SOUP, JOURNAL, CONFIG)


class Failed(BaseException):
    """An error on its way past Hydra, which would otherwise put words of its own before it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


@hydra.main(version_base="1.3", config_path=str(conf.CONF), config_name="config")
def run_all(config: DictConfig) -> float:
    """Runs what the command line says: one job, or each of several."""
    try:
        return run(config)
    except Exception as error:  # whatever it is, Hydra would put a line above it
        if HydraConfig.get().mode == RunMode.MULTIRUN:  # the other jobs go on
            raise
        raise Failed(error) from error


def run(config: DictConfig) -> float:
    """Runs one job, continues it, or reports it if it is finished; the soup's held-out score.

    Raises:
        SoupkitchenError: for whatever the user can put right.
    """
    conf.check(config)
    folder = Path(f"{config.results_dir}/{config.name}").absolute()
    check_is_ours(folder)
    if not _is_finished(folder):
        _import_libraries()
    with only_process(folder):
        check_is_ours(folder)  # it may have changed meanwhile
        if not _is_new(config, folder):
            return _finish(folder)
        try:
            _work(config, folder)
        except (OSError, SaveError) as error:
            if not folder.is_dir():
                raise SaveError(
                    f"{folder} is gone: something removed or renamed it while the run worked"
                ) from error
            raise
        return _finish(folder)


def _work(config: DictConfig, folder: Path) -> None:
    with _appearing(folder, anew=config.overwrite):
        if not (folder / CONFIG).exists():
            _write_config(config, folder)  # our mark
        experiment = _build(config, folder)
        _write_config(config, folder)
        experiment.run()
    from soupkitchen.experiment.result import Result

    result = Result(folder)
    size, gain = len(result.ingredients), result.gain
    if gain > 0:
        log.info("The soup of %d gains %.4f over the best single run.", size, gain)
    elif size == 1:
        log.info("No run improved on the best single one: the soup is that run. This is a normal outcome.")
    elif gain == 0:
        log.info("The soup of %d scores what the best single run does.", size)
    else:
        log.info("The soup is %.4f worse than the best single run on held-out.", -gain)


def _write_config(config: DictConfig, folder: Path) -> None:
    from soupkitchen.store.files import write_text

    write_text(folder / CONFIG, OmegaConf.to_yaml(config, resolve=True))


@contextlib.contextmanager
def _appearing(folder: Path, anew: bool) -> Iterator[None]:
    """The folder of a run. Where the run never begins, it is left as it was.

    Args:
        anew: whether earlier results are moved aside, into a folder of their own inside it.
    """
    there = folder.is_dir()
    folder.mkdir(exist_ok=True)
    earlier = [name for name in _RESULTS if (folder / name).exists()]
    aside = folder / f"before-{datetime.now():%Y%m%d-%H%M%S-%f}" if anew and _holds_results(folder) else None
    if aside is not None:
        aside.mkdir()
        for name in earlier:
            (folder / name).rename(aside / name)
        log.info("earlier results are in %s", aside)
    logged = (folder / LOG).exists()
    try:
        yield
    finally:
        if not (folder / JOURNAL).exists():
            with contextlib.suppress(OSError):
                for name in (CONFIG, TRAJECTORY):
                    if aside is not None or name not in earlier:
                        (folder / name).unlink(missing_ok=True)
                if aside is not None:
                    for name in earlier:
                        (aside / name).rename(folder / name)
                    aside.rmdir()
                if not logged:
                    (folder / LOG).unlink(missing_ok=True)
                if not there:
                    folder.rmdir()


def _holds_results(folder: Path) -> bool:
    return any((folder / name).exists() for name in (JOURNAL, TRAJECTORY, LEADERBOARD))


def _build(config: DictConfig, folder: Path) -> Any:
    """The experiment that `config` describes. Cheap parts first, so that their errors come first."""
    _import_libraries()
    from soupkitchen.experiment import Experiment

    parts = {}
    for group in conf.PARTS:
        try:
            parts[group] = hydra.utils.instantiate(config[group], _convert_="all")
        except HydraException as error:
            if isinstance(error.__cause__, SoupkitchenError):
                raise error.__cause__ from None
            raise
    return Experiment(**parts, folder=folder, top_k=config.top_k)


@cache
def _import_libraries() -> None:
    with importing():
        import datasets
        import transformers

        import soupkitchen.experiment  # noqa: F401

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()


def _is_finished(folder: Path) -> bool:
    """Whether nothing is left to do in `folder`."""
    return (folder / LEADERBOARD).is_file() and has_weights(folder / SOUP)


def _is_new(config: DictConfig, folder: Path) -> bool:
    """Whether there is work to do in `folder`; results of something else are never overwritten."""
    if config.overwrite or not _holds_results(folder):
        return True
    changed = conf.difference(conf.what_was_run(folder / CONFIG), conf.what_is_run(config))
    if changed:
        raise ConfigError(
            f"{folder} holds another run's results:\n  "
            + "\n  ".join(changed)
            + "\nGive this run another name=, or move the old results aside with overwrite=true."
        )
    if (folder / LEADERBOARD).is_file() and not has_weights(folder / SOUP):
        log.warning("%s is gone: the soup is merged and saved again", _relative(folder / SOUP))
    return not _is_finished(folder)


def _finish(folder: Path) -> float:
    """Brings the table of all runs up to date and prints the leaderboard; the soup's held-out score."""
    from soupkitchen.display import print_files, print_leaderboard
    from soupkitchen.records import read_csv, update_sweep_leaderboard

    all_runs = update_sweep_leaderboard(folder.parent)
    table = read_csv(folder / LEADERBOARD)
    print_leaderboard(table)
    files = {
        "leaderboard": folder / LEADERBOARD,
        "trajectory": folder / TRAJECTORY,
        "soup": folder / SOUP,
        "all runs": all_runs,
    }
    print_files({what: _relative(file) for what, file in files.items() if file is not None})
    score = next(column for column in table.columns if column.startswith("heldout_"))
    return float(table.loc[table["kind"] == "soup", score].iloc[0])


def _relative(path: Path) -> Path:
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path

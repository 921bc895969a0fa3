"""A run in its folder: begun, continued or reported, by one process at a time.

The command line and the Python API come this way alike.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import transformers

from soupkitchen import process
from soupkitchen.errors import SaveError, SoupkitchenError, calling
from soupkitchen.executors import Local, Spmd
from soupkitchen.executors.process_group import LostError, ProcessGroup
from soupkitchen.executors.spmd import follow
from soupkitchen.experiment.experiment import Experiment
from soupkitchen.experiment.result import Result
from soupkitchen.process import stopwatch
from soupkitchen.records.results import make_again
from soupkitchen.records.trackers import Trackers
from soupkitchen.store.folder import RunFolder, check_is_ours
from soupkitchen.store.lock import only_process, soft_if_refused

log = logging.getLogger("soupkitchen")


def carry_out(
    config: Mapping[str, Any], folder: Path, build: Callable[[Path], Experiment], overwrite: bool = False
) -> Result:
    """Runs, or continues, the run of `config` in `folder`; a finished one is taken as it is.

    Args:
        config: the options by group, as the run's `config.yaml` keeps them.
        folder: the run's own; it need not be there.
        build: makes the experiment; called only if there is work to do.
        overwrite: whether earlier results are moved aside.

    Raises:
        SoupkitchenError: for an error that the user can put right.
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
    """Has the other processes of a launch begin once it is clear that there is work that can be done."""

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
    """Says of an error that somebody removed the folder meanwhile, if so."""
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
    """Silences all but the first process of a launch."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the libraries that work for us."""
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

"""The command line: `python -m soupkitchen`, or `soupkitchen`.

Hydra composes the options; this module builds what they name, runs it, and says
what came of it. Nothing heavy is imported before there is something to run.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shlex
import signal
import sys
from datetime import datetime
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from soupkitchen import config as conf
from soupkitchen.errors import ConfigError, SoupkitchenError
from soupkitchen.journal import Journal
from soupkitchen.layout import CONFIG, EVALUATIONS, JOURNAL, LEADERBOARD, SOUP, TRAJECTORY
from soupkitchen.lock import only_process
from soupkitchen.startup import importing

log = logging.getLogger("soupkitchen")


class _Terminated(KeyboardInterrupt):
    """SIGTERM, as SLURM and container runtimes send it."""


def main() -> None:
    """Runs the command line; exits with 1 and a message for what the user can put right."""
    full_error = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here, to be explained
    conf.register_resolvers()
    signal.signal(signal.SIGTERM, _terminate)
    logging.raiseExceptions = False  # where the disk is full, the log is the least of it
    words = sys.argv[1:]
    sys.argv[1:] = conf.sweepable(words)
    try:
        _hydra_main()
    except KeyboardInterrupt as stop:
        terminated = isinstance(stop, _Terminated)
        again = [word for word in words if not word.startswith("overwrite=")]  # that would start anew
        command = shlex.join(["python", "-m", "soupkitchen", *again])
        what = "terminated" if terminated else "interrupted"
        print(f"{what}; what was done is kept. To continue:\n{command}", file=sys.stderr, flush=True)
        os._exit(143 if terminated else 130)  # threads of libraries are not waited for
    except (HydraException, OmegaConfBaseException, SoupkitchenError) as error:
        if full_error:
            raise
        own = isinstance(error, SoupkitchenError)
        print(f"error: {error if own else conf.explain(_told(error))}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if full_error or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        print(
            f"error: {error.filename or 'a file'} cannot be written ({error.strerror}). Nothing is lost: "
            "make room, and the same command continues",
            file=sys.stderr,
        )
        sys.exit(1)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated


@hydra.main(version_base="1.3", config_path=str(conf.CONF), config_name="config")
def _hydra_main(config: DictConfig) -> float:
    return run(config, Path(HydraConfig.get().runtime.output_dir))


def _told(error: BaseException | None) -> str:
    """What Hydra has to say: the messages of the error and its causes."""
    messages = []
    while error is not None:
        if str(error) and str(error) not in messages:
            messages.append(str(error))
        error = error.__cause__
    return "\n".join(messages)


def run(config: DictConfig, folder: Path) -> float:
    """Runs one job in `folder`, continues it, or reports it if it is finished; the soup's held-out score."""
    with only_process(folder):
        return _run(config, folder)


def _run(config: DictConfig, folder: Path) -> float:
    try:
        conf.check(config)
        if not _is_new(config, folder):
            last = Journal(folder / JOURNAL).last
            if "greater_is_better" in last:  # it may have been killed before this
                _update_sweep(folder.parent, last["greater_is_better"])
            return _report(folder)
        experiment = _build(config, folder)
    except Exception:
        _remove_if_empty(folder)
        raise
    from soupkitchen.records import write_text

    write_text(folder / CONFIG, OmegaConf.to_yaml(config, resolve=True))
    outcome = experiment.run()
    score = outcome.score
    if outcome.gain > 0:
        log.info(
            "The soup of %d gains %.4f over the best single run.", len(outcome.ingredients), outcome.gain
        )
    elif len(outcome.ingredients) == 1:
        log.info("No run improved on the best single one: the soup is that run. This is a normal outcome.")
    elif outcome.gain == 0:
        log.info("The soup of %d scores what the best single run does.", len(outcome.ingredients))
    else:
        log.info("The soup is %.4f worse than the best single run on held-out.", -outcome.gain)
    _update_sweep(folder.parent, experiment.greater_is_better)
    _report(folder)
    return score


def _build(config: DictConfig, folder: Path) -> Any:
    """The experiment that `config` describes. Cheap parts first, so that their errors come first."""
    _import_libraries()
    from soupkitchen.experiment import Experiment

    parts = {}
    for group in ("runtime", "output", "evaluation", "search", "method", "task", "pool"):
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


def _is_new(config: DictConfig, folder: Path) -> bool:
    """Whether there is work to do in `folder`; results of something else are never overwritten."""
    if not any((folder / name).exists() for name in (JOURNAL, TRAJECTORY, LEADERBOARD)):
        return True  # nothing was scored, so nothing can be lost
    if config.overwrite:
        _move_aside(folder)
        return True
    if not (folder / CONFIG).exists():
        raise ConfigError(f"{folder} holds results without their {CONFIG}; overwrite=true moves them aside")
    before = conf.what_is_run(OmegaConf.load(folder / CONFIG))
    changed = conf.difference(before, conf.what_is_run(config))
    finished = (folder / LEADERBOARD).exists()
    if changed:
        raise ConfigError(
            f"{folder} holds another run's results:\n  "
            + "\n  ".join(changed)
            + "\nGive this run another name=, or move the old results aside with overwrite=true."
        )
    return not finished


def _remove_if_empty(folder: Path) -> None:
    """Takes back the folder that Hydra made for a run that never began."""
    with contextlib.suppress(OSError):
        folder.rmdir()


def _move_aside(folder: Path) -> None:
    """Moves earlier results into a folder of their own inside `folder`."""
    aside = folder / f"before-{datetime.now():%Y%m%d-%H%M%S-%f}"
    aside.mkdir()
    for name in (LEADERBOARD, TRAJECTORY, EVALUATIONS, SOUP, JOURNAL, CONFIG):
        if (folder / name).exists():
            (folder / name).rename(aside / name)
    log.info("earlier results are in %s", aside)


def _update_sweep(folder: Path, greater_is_better: bool) -> None:
    from soupkitchen.records import update_sweep_leaderboard

    update_sweep_leaderboard(folder, greater_is_better)


def _report(folder: Path) -> float:
    """Prints the leaderboard and where things are; the soup's held-out score."""
    import pandas as pd

    from soupkitchen.display import print_files, print_leaderboard

    table = pd.read_csv(folder / LEADERBOARD)
    print_leaderboard(table)
    shown = _relative(folder)
    print_files(
        {
            "leaderboard": shown / LEADERBOARD,
            "trajectory": shown / TRAJECTORY,
            "soup": shown / "soup",
            "all runs": shown.parent / LEADERBOARD,
        }
    )
    score = next(column for column in table.columns if column.startswith("heldout_"))
    return float(table.loc[table["kind"] == "soup", score].iloc[0])


def _relative(folder: Path) -> Path:
    try:
        return folder.relative_to(Path.cwd())
    except ValueError:
        return folder


if __name__ == "__main__":
    main()

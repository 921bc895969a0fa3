"""Shows a run in progress in TensorBoard, W&B, MLflow or Trackio.

Accelerate's trackers do the work. A class for each finds its run again, and places tables and files.
`Trackers` observes the ledger and reports each step once, even if the run is interrupted.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, ClassVar
from uuid import uuid4

import pandas as pd
from annotated_types import Ge

from soupkitchen.checkpoints.sources import check_store
from soupkitchen.errors import ConfigError
from soupkitchen.options import shown
from soupkitchen.records import leaderboard
from soupkitchen.store.files import own, read_json, remove_unfinished, write_text
from soupkitchen.store.folder import CONFIG, LEADERBOARD, RECIPE, REPORT, TENSORBOARD, TRACKERS, TRAJECTORY
from soupkitchen.store.journal import STEP
from soupkitchen.store.settings import flat

log = logging.getLogger(__name__)

OptionValue = str | int | float | bool
PROJECT = "soupkitchen"
"""The project of our runs, unless the user names another."""
_FILES = (TRAJECTORY, LEADERBOARD, CONFIG, REPORT, RECIPE)
"""The files that are kept with a run, if they exist at the end."""


class Client:
    """One run in one tracker.

    Attributes:
        name: of the tracker in accelerate, its package, our option and the extra.
        run: the tracker's id of the run.

    Args:
        folder: the run's; the tracker shows its name.
        options: the run's, by dotted key; sent once.
        run: the tracker's id of this run's earlier start, if any.
    """

    name: ClassVar[str]

    def __init__(self, folder: Path, options: Mapping[str, OptionValue], run: str | None) -> None:
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState()  # which accelerate's classes ask what process this is
        self.options, self.run = dict(options), run or uuid4().hex[:8]
        self.tracker: Any = LOGGER_TYPE_TO_CLASS[self.name](**self.arguments(folder, new=run is None))
        self.tracker.start()

    @classmethod
    def check(cls) -> None:
        """Raises:
        ConfigError: if the tracker cannot work.
        """

    def arguments(self, folder: Path, new: bool) -> dict[str, Any]:
        raise NotImplementedError

    def configure(self, again: bool) -> None:
        """Sends the run's options; `again` if that was done before."""
        if not again:
            self.tracker.store_init_configuration(self.options)

    def kept(self, steps: int, ended: bool) -> int:
        """The number of steps that the tracker has.

        Args:
            steps: the number of steps sent.
            ended: the tracker's run was ended after that, not killed.
        """
        return steps

    def show(self, name: str, table: pd.DataFrame, step: int) -> None:
        raise NotImplementedError

    def keep(self, files: Sequence[Path]) -> None:
        """Keeps files with the run, as an artifact."""
        artifact = import_module(self.name).Artifact(f"run-{self.run}-results", type=PROJECT)
        for file in files:
            artifact.add_file(str(file))
        self.tracker.tracker.log_artifact(artifact)

    def finish(self, complete: bool) -> None:
        """Ends it; `complete` is false if the run was interrupted and may continue."""
        self.tracker.finish()


class TensorBoard(Client):
    """Event files in the run's folder: ``tensorboard --logdir results`` shows all runs.

    A continued run adds a file to the folder. Tables are text; there are no artifacts.
    """

    name = "tensorboard"

    def arguments(self, folder: Path, new: bool) -> dict[str, Any]:
        return {"run_name": TENSORBOARD, "logging_dir": folder}

    def show(self, name: str, table: pd.DataFrame, step: int) -> None:
        columns = list(table.columns)
        rows = [
            columns,
            ["---"] * len(columns),
            *table.astype(object).where(table.notna(), "").to_numpy().tolist(),
        ]
        lines = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
        self.tracker.log({name: "\n".join(lines)}, step=step)

    def keep(self, files: Sequence[Path]) -> None:
        """Does nothing, since TensorBoard keeps no files."""


class Wandb(Client):
    """Weights & Biases; respects its environment variables: ``WANDB_PROJECT``, ``WANDB_MODE=offline``, …

    A continued run keeps its id. Offline, each start is a folder: ``wandb sync --append``.
    """

    name = "wandb"

    def arguments(self, folder: Path, new: bool) -> dict[str, Any]:
        return {
            "run_name": os.environ.get("WANDB_PROJECT", PROJECT),
            "name": folder.name,
            "id": self.run,
            "resume": None if new else "allow",
            "settings": {"console": "off"},  # the terminal has a display of ours
        }

    def configure(self, again: bool) -> None:
        self.tracker.store_init_configuration(self.options)  # a kill may have lost it

    def kept(self, steps: int, ended: bool) -> int:
        """The server's steps. Offline, a kill loses unwritten steps, so all are sent again.

        If the server gets a step twice, it keeps the first.
        """
        run = self.tracker.tracker
        if run.offline:
            return steps if ended else 0
        return int(run.step)

    def show(self, name: str, table: pd.DataFrame, step: int) -> None:
        self.tracker.log_table(name, dataframe=table, step=step)

    def finish(self, complete: bool) -> None:
        self.tracker.tracker.finish(exit_code=0 if complete else 1)


class Mlflow(Client):
    """MLflow, at ``MLFLOW_TRACKING_URI`` or in the working directory's local store.

    A run of the experiment `PROJECT`, or ``MLFLOW_EXPERIMENT_NAME``; if continued, it keeps its id.
    """

    name = "mlflow"

    @classmethod
    def check(cls) -> None:
        check_store("tracker=mlflow")

    def __init__(self, folder: Path, options: Mapping[str, OptionValue], run: str | None) -> None:
        super().__init__(folder, options, run)
        self.run = self.tracker.tracker.info.run_id

    def arguments(self, folder: Path, new: bool) -> dict[str, Any]:
        return {
            "experiment_name": PROJECT,
            "run_id": None if new else self.run,
            "run_name": folder.name,
            "nested_run": True,  # the user may have begun one of their own
        }

    def show(self, name: str, table: pd.DataFrame, step: int) -> None:
        import mlflow

        mlflow.log_table(table.astype(object), f"{name}.json", run_id=self.run)

    def keep(self, files: Sequence[Path]) -> None:
        for file in files:
            self.tracker.log_artifact(str(file))

    def finish(self, complete: bool) -> None:
        import mlflow

        mlflow.end_run("FINISHED" if complete else "KILLED")


class Trackio(Client):
    """Trackio: a database on this machine, or a Space (``TRACKIO_SPACE_ID``).

    A run is found again by its name, which is therefore unique.
    """

    name = "trackio"

    def arguments(self, folder: Path, new: bool) -> dict[str, Any]:
        return {
            "run_name": PROJECT,
            "name": f"{folder.name}-{self.run}",
            "resume": "never" if new else "allow",
            "config": self.options,
            "embed": False,
            "auto_log_gpu": False,
            "auto_log_cpu": False,
        }

    def configure(self, again: bool) -> None:
        """Options go in at the start, since accelerate's class would not keep them now."""

    def show(self, name: str, table: pd.DataFrame, step: int) -> None:
        import trackio

        self.tracker.log({name: trackio.Table(dataframe=table)}, step=step)


CLIENTS: Mapping[str, type[Client]] = {
    client.name: client for client in (TensorBoard, Wandb, Mlflow, Trackio)
}


@dataclass(frozen=True)
class _Memory:
    """An entry of `trackers.json`.

    Attributes:
        run: the tracker's id of the run.
        steps: the number of steps sent.
        ended: it was ended after that.
        configured, done: it got the options and the results.
    """

    run: str
    steps: Annotated[int, Ge(0)] = 0
    ended: bool = False
    configured: bool = False
    done: bool = False


class Trackers:
    """Observes a run for trackers; missed steps are sent when the run continues.

    If a tracker fails, it gets nothing more and the run goes on.

    Args:
        names: one tracker's name, several, or None.
        folder: the run's.
        config: the run's options, as a tree.

    Raises:
        ConfigError: if a tracker is not installed.
    """

    def __init__(self, names: str | Sequence[str] | None, folder: Path, config: Mapping[str, Any]) -> None:
        names = (names,) if isinstance(names, str) else tuple(names or ())
        self._classes = [_class(name) for name in names]
        self._folder, self._options = folder, options_of(config)
        self._clients: dict[str, Client] = {}
        self._failed: list[Client] = []
        self._memories: dict[str, _Memory] = {}
        self._events: list[Mapping[str, Any]] = []
        self._steps = 0
        self._best: float | None = None

    def __enter__(self) -> Trackers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        complete = kind is None and any(event["event"] == "finish" for event in self._events)
        if complete:
            self._each(self._conclude)
        self._each(lambda client: self._end(client, complete))
        self._clients = {}
        for client in self._failed:
            with suppress(Exception):  # its failure was reported
                client.finish(complete=False)

    def noted(self, event: Mapping[str, Any], anew: bool) -> None:
        """Sends an event; a replayed one only to trackers that missed it."""
        self._events.append(event)
        if event["event"] == "begin":
            self._begin()
        elif event["event"] == STEP:
            figures, number = self._figures(event), self._steps
            self._steps += 1
            self._each(lambda client: self._log(client, figures, number))

    def _begin(self) -> None:
        file = self._folder / TRACKERS
        remove_unfinished(file)
        self._memories = _read(file)
        for made_of in self._classes:
            memory = self._memories.get(made_of.name)
            if memory is None or not memory.done:
                with self._watching(made_of.name):
                    self._start(made_of, memory)

    def _start(self, made_of: type[Client], memory: _Memory | None) -> None:
        client = made_of(self._folder, self._options, memory.run if memory else None)
        self._clients[client.name] = client
        steps = client.kept(memory.steps, memory.ended) if memory else 0
        configured = memory is not None and memory.configured
        self._memories[client.name] = _Memory(client.run, configured=configured)
        self._remember(client, steps=steps)
        client.configure(configured)
        self._remember(client, configured=True)

    def _log(self, client: Client, figures: Mapping[str, int | float], number: int) -> None:
        if number >= self._memories[client.name].steps:
            client.tracker.log(dict(figures), step=number)
            self._remember(client, steps=number + 1)

    def _figures(self, step: Mapping[str, Any]) -> dict[str, int | float]:
        """A step's figures; scores have their metric's sign, a higher `gain` is always better."""
        score, begin = step["score"], self._events[0]
        if step["split"] == "heldout" and _is_finite(score):
            better = max if begin["greater_is_better"] else min
            self._best = score if self._best is None else better(self._best, score)
        before = "" if step["split"] == "heldout" else f"{step['split']}_"
        figures = {
            f"{before}score": score,
            **{f"{before}score_{name}": value for name, value in step["tasks"].items()},
            "gain": step["gain"],
            "best_score": self._best,
            "soup_size": step["soup_size"],
            "examples_scored": step["examples_scored"],
            "seconds": step["merge_seconds"] + step["eval_seconds"],
        }
        return {_key(name): value for name, value in figures.items() if _is_finite(value)}

    def _conclude(self, client: Client) -> None:
        table = leaderboard(self._events)
        metric, soup = self._events[0]["metric"], table[table["kind"] == "soup"].iloc[0]
        figures = {
            "soup_score": soup[f"heldout_{metric}"],
            "soup_test_score": soup[f"test_{metric}"],
            "soup_gain": soup["delta_vs_best_single"],
        }
        finite = {name: float(value) for name, value in figures.items() if _is_finite(value)}
        client.tracker.log(finite, step=self._steps)
        client.show("leaderboard", table, self._steps)
        client.keep([file for name in _FILES if (file := self._folder / name).is_file()])
        self._remember(client, done=True)

    def _end(self, client: Client, complete: bool) -> None:
        client.finish(complete)
        self._remember(client, ended=True)

    def _each(self, tell: Callable[[Client], None]) -> None:
        for name, client in list(self._clients.items()):
            with self._watching(name):
                tell(client)

    @contextmanager
    def _watching(self, name: str) -> Iterator[None]:
        """Reports a tracker's first failure, of any kind, and sends it nothing more."""
        try:
            yield
        except Exception as error:
            if name in self._clients:
                self._failed.append(self._clients.pop(name))
            reason = " ".join(str(error).split()) or type(error).__name__
            log.warning("tracker=%s fails (%s): the run goes on without it", name, reason)

    def _remember(self, client: Client, **changes: Any) -> None:
        self._memories[client.name] = replace(self._memories[client.name], **changes)
        memories = {name: asdict(memory) for name, memory in self._memories.items()}
        write_text(self._folder / TRACKERS, f"{json.dumps(memories, indent=1)}\n")


def options_of(config: Mapping[str, Any]) -> dict[str, OptionValue]:
    return {
        _key(name): value if isinstance(value, (str, int, float)) else shown(value)
        for name, value in flat(config).items()
    }


def _class(name: str) -> type[Client]:
    try:
        import_module(name)
    except ImportError as error:
        raise ConfigError(f"tracker={name} needs a package: pip install 'soupkitchen[{name}]'") from error
    CLIENTS[name].check()
    return CLIENTS[name]


def _read(file: Path) -> dict[str, _Memory]:
    if not os.path.lexists(file):
        return {}
    try:
        return read_json(own(file), dict[str, _Memory])
    except ConfigError as error:
        log.warning("%s: trackers begin anew", error)
        return {}


def _is_finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _key(name: str) -> str:
    return re.sub(r"[^\w./: -]", "_", name)

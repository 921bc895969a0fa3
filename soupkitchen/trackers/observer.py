"""Tells trackers what happens in a run, each thing once, however often the run is interrupted."""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

from annotated_types import Ge
from typing_extensions import NotRequired, TypedDict

from soupkitchen.errors import ConfigError
from soupkitchen.options import shown
from soupkitchen.records import leaderboard
from soupkitchen.store.documents import own, read_json
from soupkitchen.store.events import STEP
from soupkitchen.store.files import remove_unfinished, write_text
from soupkitchen.store.layout import CONFIG, LEADERBOARD, RECIPE, REPORT, TRACKERS, TRAJECTORY
from soupkitchen.store.settings import flat
from soupkitchen.trackers.base import Client, OptionValue

log = logging.getLogger(__name__)

_CLIENTS = {"tensorboard": "TensorBoard", "wandb": "Wandb", "mlflow": "Mlflow", "trackio": "Trackio"}
"""By name, which is also that of its file, the class."""
_FILES = (TRAJECTORY, LEADERBOARD, CONFIG, REPORT, RECIPE)
"""What is kept with the run, of what is there in the end."""


class Trackers:
    """Observes a run for trackers; what one was not told of, it is told when the run goes on.

    A tracker that fails is left alone from then on, and the run goes on: nothing depends on it.

    Args:
        names: of the trackers; one name, several, or None.
        folder: the run's.
        config: the options of the run, as a tree.

    Raises:
        ConfigError: where one is not installed.
    """

    def __init__(self, names: str | Sequence[str] | None, folder: Path, config: Mapping[str, Any]) -> None:
        told = (names,) if isinstance(names, str) else tuple(names or ())
        self._classes = {name: _client(name) for name in told}
        self._folder, self._options = folder, options_of(config)
        self._clients: dict[str, Client] = {}
        self._failed: list[Client] = []
        self._known: dict[str, Any] = {}
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
            with suppress(Exception):  # that it fails was said
                client.finish(complete=False)

    def noted(self, event: Mapping[str, Any], anew: bool) -> None:
        """Tells the trackers of an event; of those from before, each tracker what it was not told then."""
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
        self._known = _read(file)
        for name, made_of in self._classes.items():
            if not self._known.get(name, {}).get("done"):
                with self._watching(name):
                    self._start(made_of)

    def _start(self, made_of: type[Client]) -> None:
        known = self._known.get(made_of.name, {})
        client = self._clients[made_of.name] = made_of(self._folder, self._options, known.get("run"))
        steps = client.kept(known["steps"], known.get("ended", False)) if known else 0
        self._remember(client, steps=steps, ended=False)
        client.configure(known.get("configured", False))
        self._remember(client, configured=True)

    def _log(self, client: Client, figures: Mapping[str, int | float], number: int) -> None:
        if number >= self._known[client.name]["steps"]:
            client.log(figures, number)
            self._remember(client, steps=number + 1)

    def _figures(self, step: Mapping[str, Any]) -> dict[str, int | float]:
        """What is told of a step; scores have their metric's own sign, more `gain` is always better."""
        score, begin = step["score"], self._events[0]
        if step["split"] == "heldout" and _is_finite(score):
            better = max if begin["greater_is_better"] else min
            self._best = score if self._best is None else better(self._best, score)
        before = "" if step["split"] == "heldout" else f"{step['split']}_"
        told = {
            f"{before}score": score,
            **{f"{before}score_{name}": value for name, value in step["tasks"].items()},
            "gain": step["gain"],
            "best_score": self._best,
            "soup_size": step["soup_size"],
            "examples_scored": step["examples_scored"],
            "seconds": step["merge_seconds"] + step["eval_seconds"],
        }
        return {_key(name): value for name, value in told.items() if _is_finite(value)}

    def _conclude(self, client: Client) -> None:
        """Tells of what came out."""
        table = leaderboard(self._events)
        metric, soup = self._events[0]["metric"], table[table["kind"] == "soup"].iloc[0]
        figures = {
            "soup_score": soup[f"heldout_{metric}"],
            "soup_test_score": soup[f"test_{metric}"],
            "soup_gain": soup["delta_vs_best_single"],
        }
        client.log({name: float(value) for name, value in figures.items() if _is_finite(value)}, self._steps)
        client.show("leaderboard", table, self._steps)
        client.keep([self._folder / name for name in _FILES if (self._folder / name).is_file()])
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
        """Says once what a tracker fails of, whatever that is, and leaves it alone from then on."""
        try:
            yield
        except Exception as error:
            if name in self._clients:
                self._failed.append(self._clients.pop(name))
            told = " ".join(str(error).split()) or type(error).__name__
            log.warning("tracker=%s fails (%s): the run goes on without it", name, told)

    def _remember(self, client: Client, **told: Any) -> None:
        self._known[client.name] = {**self._known.get(client.name, {}), "run": client.run, **told}
        write_text(self._folder / TRACKERS, f"{json.dumps(self._known, indent=1)}\n")


def options_of(config: Mapping[str, Any]) -> dict[str, OptionValue]:
    """The options of a run by dotted key, as trackers take them."""
    return {
        _key(name): value if isinstance(value, (str, int, float)) else shown(value)
        for name, value in flat(config).items()
    }


def _client(name: str) -> type[Client]:
    """The class for a tracker.

    Raises:
        ConfigError: where it is not installed, or cannot be told anything.
    """
    found: type[Client] = getattr(import_module(f"soupkitchen.trackers.{name}"), _CLIENTS[name])
    try:
        import_module(found.package)
    except ImportError as error:
        raise ConfigError(f"tracker={name} needs a package: pip install 'soupkitchen[{name}]'") from error
    found.check()
    return found


class _Known(TypedDict):
    """What is remembered of a tracker."""

    run: str
    steps: Annotated[int, Ge(0)]
    ended: NotRequired[bool]
    configured: NotRequired[bool]
    done: NotRequired[bool]


def _read(file: Path) -> dict[str, Any]:
    """What is remembered of each tracker; nothing if the file is not there, or was edited."""
    if not os.path.lexists(file):
        return {}
    try:
        return dict(read_json(own(file), dict[str, _Known]))
    except ConfigError as error:
        log.warning("%s: trackers begin anew", error)
        return {}


def _is_finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _key(name: str) -> str:
    """`name` without what MLflow allows in none; the others allow more."""
    return re.sub(r"[^\w./: -]", "_", name)

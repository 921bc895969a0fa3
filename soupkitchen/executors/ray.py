"""Workers on a Ray cluster, each with a live model of its own, that score several requests at once.

Recipes, bars and results cross the wire; weights come from storage that all workers see. With W workers the
next W proposals are scored at once, and the first in order that is kept is taken: the decisions, and
the tables, are those of one process. A worker that dies has its work done again by the one that Ray
starts in its place.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soupkitchen.errors import ConfigError, MachineError, SoupkitchenError
from soupkitchen.executors.base import Bench, Executor, Request, Scoring
from soupkitchen.options import check_fields
from soupkitchen.options.kinds import AtLeast1, NotNegative
from soupkitchen.store.lock import soft_if_refused
from soupkitchen.tasks import Several

log = logging.getLogger(__name__)

_PATIENCE = 600
"""Seconds that a worker may take to start anew."""
_ATTEMPTS = 3
"""The number of times that the same request may lose its worker before the run gives up."""
_HANDSHAKE = 20
"""Seconds that the head of a cluster may take to answer at all."""


@dataclass
class Ray(Executor):
    """Scores on workers of a Ray cluster.

    Attributes:
        address: the cluster's, as "auto" or "ray://head:10001"; None for one on this machine, which is
            started for the run and ends with it.
        workers: how many there are, and so how many requests are scored at once.
        gpus_per_worker: GPUs, or a part of one, that each worker has for itself.

    Raises:
        ConfigError: for options out of range, and where Ray is not installed.
    """

    address: str | None = None
    workers: AtLeast1 = 2
    gpus_per_worker: NotNegative = 0.0

    def __post_init__(self) -> None:
        check_fields(self, "executor")
        imported()

    def start(self, bench: Bench) -> None:
        """Starts the workers; each makes a bench of its own.

        Raises:
            ConfigError: where the cluster cannot be reached, or has no room for so many.
            MachineError: where a worker cannot see what this process sees.
        """
        super().start(bench)
        ray = imported()
        self._own = not ray.is_initialized()
        if self._own:
            connect(self.address, "executor.address", self.workers)
        needed = {"CPU": self.workers, "GPU": self.workers * self.gpus_per_worker}
        has = ray.cluster_resources()
        if short := [what for what, number in needed.items() if number > has.get(what, 0)]:
            raise ConfigError(
                f"executor.workers={self.workers} need {needed[short[0]]:g} {short[0]}s, and the cluster has "
                f"{has.get(short[0], 0):g}"
            )
        ray.method(concurrency_group="control")(_Worker.drop)  # so that it is heard amid a scoring
        needs = {"num_cpus": 1, "num_gpus": self.gpus_per_worker}
        kind = ray.remote(**needs, max_restarts=-1, concurrency_groups={"control": 1})(_Worker)
        self._make = ray.put(bench.elsewhere)  # workers that are started anew need it
        self._workers = [kind.remote(self._make) for _ in range(self.workers)]
        self._asked = 0
        self.learn(bench.evaluator.tasks)
        seen = ray.get([worker.sees.remote() for worker in self._workers])
        for host, theirs in seen:
            if isinstance(theirs, str):
                raise MachineError(f"the worker on {host} cannot begin: {theirs}")
        bench.check_alike({f"worker {n} on {host}": theirs for n, (host, theirs) in enumerate(seen)})

    def score(self, requests: Sequence[Request]) -> Iterator[Scoring]:
        asked = [self._ask(number, request) for number, request in enumerate(requests)]
        try:
            for number, request in enumerate(requests):
                progress = self.bench.announce(request.what, request.run)
                scoring = self._come(number, request, asked[number])
                if scoring.evaluation is not None:
                    total = self.bench.evaluator.examples.size(request.split)
                    progress(scoring.evaluation.examples_scored, total)
                yield scoring
        finally:  # nobody asks for the rest
            for worker in self._workers[: len(requests)]:
                worker.drop.remote(self._asked)

    def learn(self, tasks: Several) -> None:
        super().learn(tasks)
        self._tasks = imported().put(tasks)

    def stop(self) -> None:
        super().stop()
        for worker in getattr(self, "_workers", ()):
            imported().kill(worker)
        self._workers = []
        if getattr(self, "_own", False):
            imported().shutdown()

    def _ask(self, number: int, request: Request) -> Any:
        self._asked += 1
        return self._workers[number % len(self._workers)].score.remote(request, self._tasks, self._asked)

    def _await(self, number: int) -> None:
        """Waits for a worker that may be starting anew: until then whatever it is asked fails at once."""
        ray, deadline = imported(), time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            try:
                ray.get(self._workers[number % len(self._workers)].ready.remote())
                return
            except ray.exceptions.RayActorError:
                time.sleep(1)

    def _come(self, number: int, request: Request, asked: Any) -> Scoring:
        """Waits for the result of a request; if its worker dies, or has no memory left, asks again.

        Raises:
            MachineError: where that happens time and again.
        """
        ray = imported()
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                scoring: Scoring = ray.get(asked)
                return scoring
            except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
                reason: Exception = error
            except ray.exceptions.RayTaskError as error:
                if not isinstance(error.cause, MachineError):
                    raise error.cause from None
                reason = error.cause
                ray.kill(self._workers[number % len(self._workers)], no_restart=False)
            told = str(reason).strip().split("\n")[0]
            if attempt < _ATTEMPTS:
                log.warning("%s: its worker was lost (%s); it is done again", request.what, told)
                self._await(number + attempt)
                asked = self._ask(number + attempt, request)
        raise MachineError(
            f"{request.what}: the worker was lost {_ATTEMPTS} times ({told}). Nothing is lost: when that is "
            "put right, the same command continues"
        )


class _DroppedError(BaseException):
    """The scoring was cancelled."""


class _Worker:
    """A process of the cluster with a bench of its own."""

    def __init__(self, make: Callable[[], Bench]) -> None:
        self._bench: Any = None
        self._now = self._dropped = 0
        self._error = ""
        logging.disable(logging.WARNING)  # what there is to say the driver says
        try:
            with soft_if_refused():
                self._bench = make()
            self._bench.announce = self._watched
        except Exception as error:  # whatever it is, the driver should say it
            self._error = str(error) if isinstance(error, SoupkitchenError) else repr(error)

    def sees(self) -> tuple[str, Any]:
        """The host, and what is seen there, or why nothing is."""
        return socket.gethostname(), self._error or self._bench.sees()

    def ready(self) -> None:
        """Answers once the worker is there."""

    def drop(self, number: int) -> None:
        """Cancels all requests up to `number`, the running one included."""
        self._dropped = max(number, self._dropped)

    def score(self, request: Request, tasks: Several, number: int) -> Scoring:
        if self._error:
            raise MachineError(f"the worker on {socket.gethostname()} cannot begin: {self._error}")
        self._now, self._bench.evaluator.tasks = number, tasks
        try:
            scoring: Scoring = self._bench.score(request)
        except _DroppedError:
            return Scoring(None, error="dropped")
        return scoring

    def _watched(self, what: str, run: str) -> Callable[[int, int], None]:
        def progress(done: int, total: int) -> None:
            if self._now <= self._dropped:
                raise _DroppedError

        return progress


def imported(what: str = "executor=ray") -> Any:
    """Ray itself, for `what` needs it.

    Raises:
        ConfigError: where it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError(f"{what} needs Ray: pip install 'soupkitchen[ray]'") from error
    return ray


def connect(address: str | None, option: str, workers: int = 1) -> None:
    """Connects with a cluster, or starts one here that has room for so many workers.

    Args:
        option: what the address is called on the command line.

    Raises:
        ConfigError: where it cannot be reached.
    """
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what goes wrong comes as an exception
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        if not os.access(Path.home(), os.W_OK):  # there Ray keeps the token of its own clusters
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))
        options |= {"include_dashboard": False, "num_cpus": max(workers, os.cpu_count() or 1)}
    try:
        if address is not None and ":" in (host := address.removeprefix("ray://")):
            name, port = host.rsplit(":", 1)
            socket.create_connection((name, int(port)), timeout=_HANDSHAKE).close()  # Ray tries for minutes
        imported().init(address, **options)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise ConfigError(f"{option}={address} cannot be reached ({error})") from error


@contextmanager
def connected(address: str | None, option: str) -> Iterator[Any]:
    """Ray, connected with a cluster for a while, where it is not already."""
    ray = imported("hydra/launcher=ray")
    own = not ray.is_initialized()
    if own:
        connect(address, option)
    try:
        yield ray
    finally:
        if own:
            ray.shutdown()

"""Workers on a Ray cluster, each with its own live model, that score several requests at once.

Only recipes, thresholds and results are sent; workers read weights from shared storage. Decisions and tables
are those of one process. Ray restarts a worker that dies, and its work is repeated.
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
"""Seconds to wait for a worker's restart."""
_ATTEMPTS = 3
"""The run gives up when a request has lost its worker this often."""
_HANDSHAKE = 20
"""Seconds to wait for the cluster's head."""


@dataclass
class Ray(Executor):
    """Scores on workers of a Ray cluster; `conf/executor/ray.yaml` describes the options.

    Raises:
        ConfigError: if an option is out of range, or Ray is not installed.
    """

    address: str | None = None
    workers: AtLeast1 = 2
    gpus_per_worker: NotNegative = 0.0

    def __post_init__(self) -> None:
        check_fields(self, "executor")
        imported()

    def start(self, bench: Bench) -> None:
        """Starts the workers.

        Raises:
            ConfigError: if the cluster cannot be reached or is too small.
            MachineError: if a worker sees other files.
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
        ray.method(concurrency_group="control")(_Worker.drop)  # runs during a scoring
        needs = {"num_cpus": 1, "num_gpus": self.gpus_per_worker}
        kind = ray.remote(**needs, max_restarts=-1, concurrency_groups={"control": 1})(_Worker)
        self._make = ray.put(bench.elsewhere)  # restarted workers need it
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
        finally:  # the rest is not needed
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
        """Waits for a worker that restarts: until then each call to it fails at once."""
        ray, deadline = imported(), time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            try:
                ray.get(self._workers[number % len(self._workers)].ready.remote())
                return
            except ray.exceptions.RayActorError:
                time.sleep(1)

    def _come(self, number: int, request: Request, asked: Any) -> Scoring:
        """Waits for a result; asks again if the worker dies or runs out of memory."""
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
    def __init__(self, make: Callable[[], Bench]) -> None:
        self._bench: Any = None
        self._now = self._dropped = 0
        self._error = ""
        logging.disable(logging.WARNING)  # the driver logs everything
        try:
            with soft_if_refused():
                self._bench = make()
            self._bench.announce = self._watched
        except Exception as error:  # the driver reports it
            self._error = str(error) if isinstance(error, SoupkitchenError) else repr(error)

    def sees(self) -> tuple[str, Any]:
        return socket.gethostname(), self._error or self._bench.sees()

    def ready(self) -> None:
        """Returns once the worker is there."""

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
    """Imports Ray, which `what` needs.

    Raises:
        ConfigError: if it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError(f"{what} needs Ray: pip install 'soupkitchen[ray]'") from error
    return ray


def connect(address: str | None, option: str, workers: int = 1) -> None:
    """Connects to a cluster, or starts one here; `option` is the address's name on the command line.

    Raises:
        ConfigError: if it cannot be reached.
    """
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # errors come as exceptions
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        if not os.access(Path.home(), os.W_OK):  # Ray keeps its clusters' token there
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))
        options |= {"include_dashboard": False, "num_cpus": max(workers, os.cpu_count() or 1)}
    try:
        if address is not None and ":" in (host := address.removeprefix("ray://")):
            name, port = host.rsplit(":", 1)
            socket.create_connection((name, int(port)), timeout=_HANDSHAKE).close()  # Ray needs minutes
        imported().init(address, **options)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise ConfigError(f"{option}={address} cannot be reached ({error})") from error


@contextmanager
def connected(address: str | None, option: str) -> Iterator[Any]:
    """Connects to a cluster for a while, unless connected already."""
    ray = imported("hydra/launcher=ray")
    own = not ray.is_initialized()
    if own:
        connect(address, option)
    try:
        yield ray
    finally:
        if own:
            ray.shutdown()

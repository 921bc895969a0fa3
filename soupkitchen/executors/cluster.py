"""Ray itself, and how a cluster of it is reached."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from soupkitchen.errors import ConfigError

_HANDSHAKE = 20
"""Seconds that the head of a cluster may take to answer at all."""


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

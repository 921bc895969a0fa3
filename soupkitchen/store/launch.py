"""The number of this process among those that a launcher (torchrun, accelerate launch) started."""

from __future__ import annotations

import os

from soupkitchen.errors import ConfigError


def number() -> int:
    """This process's number among those of its launch: the first is 0, and writes."""
    return int(os.environ.get("RANK", "0")) if size() > 1 else 0


def size() -> int:
    """The number of processes that were launched together; 1 if this one was started by itself."""
    if "RANK" not in os.environ or "MASTER_ADDR" not in os.environ:
        return 1
    return int(os.environ.get("WORLD_SIZE", "1"))


def check() -> None:
    """Raises:
    ConfigError: if several processes were asked for, and this is the only one.
    """
    if "ACCELERATE_USE_CPU" in os.environ and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        raise ConfigError(
            "accelerate launch was asked for several processes and started one, as it does where there are "
            "no GPUs: use torchrun --nproc_per_node N -m soupkitchen …"
        )


def again() -> str:
    """The command that starts such processes again, up to the arguments."""
    if size() == 1:
        return "python -m soupkitchen"
    nodes = size() // max(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)
    several = f"--nnodes {nodes} " if nodes > 1 else ""
    return f"torchrun {several}--nproc_per_node {os.environ.get('LOCAL_WORLD_SIZE', '1')} -m soupkitchen"

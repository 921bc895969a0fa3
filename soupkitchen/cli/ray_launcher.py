"""Runs the jobs of a sweep on a Ray cluster, as many at once as it has room for.

Hydra's own Ray launcher asks for a cloudpickle and a boto3 that do not go with today's Ray and pandas. A job
whose worker dies is started again, and continues what the first had begun.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from soupkitchen.console import say
from soupkitchen.options.kinds import NotNegative, Positive, check

_ATTEMPTS = 3
"""The number of times that a job that loses its worker is started again."""


class RayLauncher(Launcher):
    """A launcher of Hydra's, whose plugin is `hydra_plugins.soupkitchen_ray_launcher`.

    All jobs see the folders that this process sees, by the same names.

    Args:
        address: the cluster's, as "auto" or "ray://head:10001"; None for one on this machine, which is
            started for the sweep and ends with it.
        cpus_per_job: cores that each job has for itself.
        gpus_per_job: GPUs, or a part of one, that each job has for itself.

    Raises:
        ConfigError: for options out of range, and where Ray is not installed.
    """

    def __init__(self, address: str | None = None, cpus_per_job: float = 1, gpus_per_job: float = 0) -> None:
        check("hydra.launcher.address", address, str | None)
        check("hydra.launcher.cpus_per_job", cpus_per_job, Positive)
        check("hydra.launcher.gpus_per_job", gpus_per_job, NotNegative)
        self.address, self.cpus_per_job, self.gpus_per_job = address, cpus_per_job, gpus_per_job
        self.job: tuple[HydraContext, TaskFunction, DictConfig] | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.job = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from soupkitchen.executors.ray import connected  # torch comes with it

        assert self.job is not None
        setup_globals()
        needs = {"num_cpus": self.cpus_per_job, "num_gpus": self.gpus_per_job, "max_retries": _ATTEMPTS}
        with connected(self.address, "hydra.launcher.address") as ray:
            run = ray.remote(**needs)(_run)
            setting = ray.put((*self.job, Singleton.get_state(), Path.cwd()))
            jobs = enumerate(job_overrides, start=initial_job_idx)
            say(f"{len(job_overrides)} jobs go to Ray")
            done: list[JobReturn] = ray.get(
                [run.remote(setting, number, list(words)) for number, words in jobs]
            )
        return done


def _run(
    setting: tuple[HydraContext, TaskFunction, DictConfig, Any, Path], number: int, words: list[str]
) -> JobReturn:
    """Runs one job, in a process of Ray's."""
    hydra_context, task_function, config, state, folder = setting
    os.chdir(folder)
    setup_globals()
    Singleton.set_state(state)
    ours = hydra_context.config_loader.load_sweep_config(config, words)
    with open_dict(ours):
        ours.hydra.job.id, ours.hydra.job.num = f"{ours.hydra.job.name}_{number}", number
    HydraConfig.instance().set_config(ours)
    return run_job(
        hydra_context=hydra_context,
        config=ours,
        task_function=task_function,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )

"""Makes the jobs of a sweep, all combinations with the options that each has, and runs them on Ray if asked.

Of ``-m method=linear,slerp,ties method.sparsifier.density=0.2,0.5`` only TIES has a density: it runs
twice, and linear and slerp run once each. An option that no choice has is an error before any job. Where a
job fails the others go on, and at the end it is said which failed and why. Launchers get plain lists of
overrides, so any will do. Hydra's own Ray launcher asks for a cloudpickle and a boto3 that do not go with
today's Ray and pandas.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from soupkitchen.cli.config import explained
from soupkitchen.console import say
from soupkitchen.errors import ConfigError, SweepError
from soupkitchen.options.kinds import NotNegative, Positive, check
from soupkitchen.store.files import write_text

Job = tuple[str, ...]
_ATTEMPTS = 3
"""Restarts of a job that loses its worker."""


class FittingSweeper(Sweeper):
    """A Hydra sweeper, whose plugin is `hydra_plugins.soupkitchen_sweeper`.

    Args:
        params: values to sweep by option, in the command line's form; the command line has precedence.
        max_batch_size: the most jobs that the launcher gets at once; None for all.
    """

    def __init__(self, params: Mapping[str, Any] | None = None, max_batch_size: int | None = None) -> None:
        if max_batch_size is not None and max_batch_size < 1:
            raise ConfigError(f"hydra.sweeper.max_batch_size={max_batch_size} should be 1 or more, or null")
        self.params, self.max_batch_size = dict(params or {}), max_batch_size
        self.config: DictConfig | None = None
        self.launcher: Launcher | None = None
        self.hydra_context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        """Runs all jobs.

        Raises:
            ConfigError: if the sweep is of a kind that only other sweepers know.
            HydraException: if no job has an option, before any job.
            SweepError: if jobs failed, after all have ended.
        """
        assert self.config is not None
        assert self.launcher is not None
        words = [f"{option}={values}" for option, values in self.params.items()]
        jobs = self._fitting(OverridesParser.create().parse_overrides([*words, *arguments]))
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "multirun.yaml", OmegaConf.to_yaml(self.config))
        size = self.max_batch_size or len(jobs)
        done: list[JobReturn] = []
        for start in range(0, len(jobs), size):
            done += self.launcher.launch(jobs[start : start + size], initial_job_idx=start)
        errors = [_error(job) for job in done]
        if first := next(filter(None, errors), None):
            raise _failed(jobs, errors) from first
        return done

    def _fitting(self, overrides: Sequence[Override]) -> list[Job]:
        swept = {override.key_or_group for override in overrides if override.is_sweep_override()}
        lacking: dict[Job, dict[str, HydraException]] = {}
        jobs: dict[Job, None] = {}
        for whole in combinations(overrides):
            choices = _choices(whole)
            known = choices in lacking
            lacks = lacking.setdefault(choices, {})
            while not known:
                job = tuple(word for word in whole if _key(word) not in lacks)
                try:
                    self.validate_batch_is_legal([job])
                    break
                except HydraException as refused:
                    option = _lacking(refused)
                    if option not in map(_key, job) or not {option.split(".")[0], "experiment"} & swept:
                        raise
                    lacks[option] = refused
            jobs[tuple(word for word in whole if _key(word) not in lacks)] = None
        had = {_key(word) for job in jobs for word in job}
        without: dict[str, list[str]] = {}
        for choices, lacks in lacking.items():
            for option, error in lacks.items():
                if option not in had:
                    raise error
                named = [word for word in choices if _key(word) in (option.split(".")[0], "experiment")]
                without.setdefault(option, []).append(" ".join(named))
        for option, which in without.items():
            say(f"{', '.join(dict.fromkeys(which))}: no {option} there, so they run without it")
        return list(jobs)


def combinations(overrides: Sequence[Override]) -> list[Job]:
    """Each combination of values; the last word for an option counts.

    Raises:
        ConfigError: if values are infinitely many, as ``interval(0, 1)``.
    """
    words: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            words[key] = [f"{key}={override.get_value_element_as_str()}"]
        elif override.is_discrete_sweep():
            words[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            raise ConfigError(
                f"{override.input_line}: an interval has too many values; give some, as {key}=0.2,0.5, or "
                "have one sought with hydra/sweeper=optuna (experiment=optuna)"
            )
    return list(itertools.product(*words.values()))


def _choices(job: Job) -> Job:
    keys = [_key(word) for word in job]
    parts = {key for key in keys if any(other.startswith(f"{key}.") for other in keys)}
    return tuple(word for word in job if "." not in _key(word) or _key(word) in parts)


def _key(word: str) -> str:
    return word.split("=", 1)[0]


def _lacking(error: HydraException) -> str:
    """The group's option that Hydra did not find; empty for another error."""
    match = re.match(r"Could not override '([^'@]+\.[^'@]+)'", str(error))
    return match[1] if match else ""


def _error(job: JobReturn) -> Exception | None:
    with contextlib.redirect_stderr(io.StringIO()):  # where Hydra puts words of its own
        try:
            _ = job.return_value
        except Exception as error:
            return error
    return None


def _failed(jobs: Sequence[Job], errors: Sequence[Exception | None]) -> SweepError:
    common = set.intersection(*map(set, jobs)) if len(jobs) > 1 else set()
    failed = [
        " ".join(word for word in job if word not in common)
        + f": {explained(error) or f'{type(error).__name__}: {error}'}".replace("\n", "\n    ")
        for job, error in zip(jobs, errors, strict=True)
        if error is not None
    ]
    others = "; the others are complete" if len(failed) < len(jobs) else ""
    return SweepError("\n  ".join([f"{len(failed)} of {len(jobs)} jobs failed{others}", *failed]))


class RayLauncher(Launcher):
    """A Hydra launcher, whose plugin is `hydra_plugins.soupkitchen_ray_launcher`.

    All jobs must see this process's folders under the same names.

    Args:
        address: the cluster, as "auto" or "ray://head:10001"; None starts one on this machine for the sweep.
        cpus_per_job: cores for each job.
        gpus_per_job: GPUs, or a fraction of one, for each job.

    Raises:
        ConfigError: if an option is out of range, or Ray is not installed.
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

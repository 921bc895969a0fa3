"""`cook`: a run from Python, as the command line does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

from soupkitchen.checkpoints import Pool
from soupkitchen.errors import ConfigError
from soupkitchen.evaluation import EvaluationOptions, Runtime
from soupkitchen.executors import Executor, Local
from soupkitchen.experiment.experiment import Experiment
from soupkitchen.experiment.finishing import Report
from soupkitchen.experiment.session import Result, carry_out
from soupkitchen.merging import Linear, MergeMethod, StackMethod
from soupkitchen.models import Auto, Models
from soupkitchen.options import building, check_tree
from soupkitchen.options.building import TARGET, describe, target_of
from soupkitchen.options.files import compose, top_level
from soupkitchen.options.kinds import Effort
from soupkitchen.output import Output
from soupkitchen.records import update_sweep_leaderboard
from soupkitchen.search import Greedy, Search
from soupkitchen.store.digests import digest
from soupkitchen.store.settings import slug, tail, what_is_run
from soupkitchen.tasks import Several, Task

_LONGEST = 100


def cook(
    pool: str | Path | Sequence[str | Path] | Pool,
    task: Task | Several,
    method: MergeMethod | StackMethod | None = None,
    *,
    search: Search | None = None,
    base: str | Path | None = None,
    exclude: str | Sequence[str] = (),
    output: Output | None = None,
    runtime: Runtime | None = None,
    evaluation: EvaluationOptions | None = None,
    effort: Effort | None = None,
    executor: Executor | None = None,
    report: Report | None = None,
    model: Models | None = None,
    top_k: int | None = None,
    name: str | None = None,
    results_dir: str | Path = "results",
    overwrite: bool = False,
    tracker: str | Sequence[str] | None = None,
) -> Result:
    """Turns a pool of fine-tuned runs into one better model.

    The same as ``python -m soupkitchen``, with the same files. The same call again continues an interrupted
    run, and does not repeat a finished one.

        from soupkitchen import cook, methods, tasks

        result = cook("runs/*", tasks.text_classification("reviews"), methods.ties(density=0.3))
        result.leaderboard
        model = result.model()

    Args:
        pool: a folder of runs, a glob, a ``.csv`` or ``.jsonl`` list, a hub name, a list of these; or a pool
            from `find_pool`.
        task: see `soupkitchen.tasks`.
        method: see `soupkitchen.methods`; the average by default.
        search: greedy by default.
        base: the model that the runs were fine-tuned from; None for the one that they name.
        exclude: names of runs to leave out, or globs.
        output: how the soup is saved.
        runtime: device, batches and memory.
        evaluation: early stopping and the cache; by default ``SOUPKITCHEN_CACHE`` or
            ``~/.cache/soupkitchen``.
        effort: "exact" by default; "confident" ranks as a race, and discards a candidate once that is as good
            as sure; "frugal" keeps no gain that may be chance, either. It sets the `ranking` and `accept` of
            `search` and the `early_stopping` of `evaluation`, if they have their defaults.
        executor: this process by default.
        model: makes the models; `soupkitchen.models.Function` for state dicts.
        top_k: the size of the control `uniform_top_k`; None for the soup's, at least two.
        name: of the run's folder in `results_dir`; by default made from the options.
        overwrite: move earlier results of that name aside.
        tracker: "tensorboard", "wandb", "mlflow" or "trackio", or several.

    Raises:
        SoupkitchenError: if something is wrong that you can put right; the message says how.
    """
    if not isinstance(task, Several | Task):
        raise ConfigError(
            f"task={task!r} is no task: make one as tasks.text_classification('reviews'), or several at once "
            "as tasks.several({'reviews': …})"
        )
    evaluation = evaluation or building.build(compose("evaluation", "default"))
    evaluation = replace(evaluation, effort=effort or evaluation.effort)
    parts: dict[str, Any] = {
        "task": task,
        "method": method or Linear(),
        "search": _by_effort(search or Greedy(), evaluation.effort, "search", "greedy"),
        "runtime": runtime or Runtime(),
        "evaluation": _by_effort(evaluation, evaluation.effort, "evaluation", "default"),
        "output": output or Output(),
        "executor": executor or Local(),
        "report": report or Report(),
        "model": model or Auto(),
    }
    pool_tree = _pool(pool, base, exclude)
    config = {
        **top_level(),
        **{group: describe(part) for group, part in parts.items() if group != "executor"},
        "pool": pool_tree,
        "executor": _executor(parts["executor"]),
        "results_dir": str(results_dir),
        "overwrite": overwrite,
        "trust_remote_code": parts["runtime"].trust_remote_code,
        "top_k": top_k,
        "tracker": describe(tracker),
    }
    config["name"] = name or _name(config)
    check_tree(config)

    def build(folder: Path) -> Experiment:
        opened = pool if isinstance(pool, Pool) else building.build(pool_tree)
        return Experiment(pool=opened, folder=folder, top_k=top_k, **parts)

    result = carry_out(config, Path(results_dir).absolute() / config["name"], build, overwrite)
    update_sweep_leaderboard(result.folder.parent)
    return result


def _by_effort(options: Any, effort: Effort, group: str, name: str) -> Any:
    """The options with what `effort` says in `conf/` instead of what they have by default."""
    if effort == "exact":
        return options
    exact, wanted = compose(group, name), compose(group, name, effort)
    changed = {
        key: value
        for key, value in wanted.items()
        if value != exact[key] and getattr(options, key, None) == exact[key]
    }
    return replace(options, **changed) if changed else options  # not every search has these


def _executor(executor: Executor) -> dict[str, Any]:
    if is_dataclass(executor):
        tree: dict[str, Any] = describe(executor)
        return tree
    return {TARGET: target_of(type(executor))}


def _pool(
    pool: str | Path | Sequence[str | Path] | Pool, base: str | Path | None, exclude: str | Sequence[str]
) -> dict[str, Any]:
    if isinstance(pool, Pool):
        if base is not None or exclude:
            raise ConfigError("base and exclude are for find_pool, where the pool was opened; leave them out")
        if pool.options:
            return dict(pool.options)
        base = pool.base.path if pool.base else None
        pool = [run.path for run in pool]
    path: Any = str(pool) if isinstance(pool, (str, Path)) else [str(run) for run in pool]
    if not path:
        raise ConfigError("pool names no runs: give a folder, a glob, or a list of these")
    options = {"path": path, "exclude": describe(exclude), "base": None if base is None else str(base)}
    return {**compose("pool", "folder"), **options}


def _name(config: Mapping[str, Any]) -> str:
    """A readable folder name with a digest of all that results depend on."""
    path = config["pool"]["path"]
    kinds = [str(config[part][TARGET]).rpartition(".")[2] for part in ("method", "search")]
    words = "-".join(slug(part) for part in (tail(path if isinstance(path, str) else path[0]), *kinds))
    return f"{words[:_LONGEST]}-{digest(what_is_run(config))[:8]}"

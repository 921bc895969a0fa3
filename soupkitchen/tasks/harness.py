"""Tasks of EleutherAI's lm-evaluation-harness, run on the live model. Extra: lm-eval.

Source: https://github.com/EleutherAI/lm-evaluation-harness
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from transformers import GenerationConfig

from soupkitchen.errors import ConfigError, DataError, SoupkitchenError, did_you_mean
from soupkitchen.metrics import installed
from soupkitchen.options.building import TARGET, describe, target_of
from soupkitchen.options.kinds import AtLeast0, AtLeast1, SomeTexts, TaskFloors, TaskWeights
from soupkitchen.tasks.kinds.lm_eval import HarnessTask, generation_of
from soupkitchen.tasks.kinds.several import Several
from soupkitchen.tasks.templates import Bounded

log = logging.getLogger(__name__)

_GENERATION = ("until", "max_gen_toks", "max_tokens", "max_completion_tokens")
"""Names in generation_kwargs that are the harness's own."""


def harness_tasks(
    tasks: SomeTexts,
    num_fewshot: AtLeast0 | None = None,
    limit: AtLeast1 | None = None,
    test_limit: AtLeast1 | None = None,
    metric: str | None = None,
    filter: str | None = None,
    architecture: Literal["causal", "seq2seq"] = "causal",
    aggregate: Literal["mean", "min", "normalized"] = "mean",
    weights: TaskWeights | None = None,
    floors: TaskFloors | None = None,
    apply_chat_template: bool | str = False,
    fewshot_as_multiturn: bool | None = None,
    system_instruction: str | None = None,
    gen_kwargs: str | Mapping[str, Any] | None = None,
    include_path: str | None = None,
) -> HarnessTask | Several:
    """One task of the harness, or several aggregated.

    Args:
        tasks: names of tasks or groups, or paths of task YAMLs.
        num_fewshot: examples in the prompt; None for the task's number.
        limit: number of documents that decide, from the first of each task; None for all.
        test_limit: number of documents after these, for the test at the end; None for no test.
        metric: the task's metric; None for its first. ``exact_match,flexible-extract`` also names a filter.
        filter: the task's filter of answers, if it has several; None for the group's, else the first.
        architecture: "causal" or "seq2seq" models.
        aggregate, weights, floors: as in `Several`. By default a group's aggregate_metric_list weighs its
            tasks, and such a group counts as one task beside others.
        apply_chat_template, fewshot_as_multiturn, system_instruction: as in `HarnessTask`.
        gen_kwargs: replaces entries of the tasks' generation_kwargs; a mapping, or ``a=1,b=2``.
        include_path: a folder with more task YAMLs.

    Raises:
        ConfigError: if a task is unknown, or an option out of range.
        MetricError: if the harness is not installed.
    """
    options: dict[str, Any] = {TARGET: target_of(harness_tasks), **locals(), "tasks": list(tasks or ())}
    if isinstance(tasks, str) or not tasks:
        raise ConfigError(f"task.tasks={tasks} should be a list of names or paths, as [arc_easy,hellaswag]")
    if test_limit is not None and limit is None:
        raise ConfigError("task.test_limit needs task.limit: the documents after those that decide")
    metric, comma, named = (metric or "").partition(",")
    if comma and filter not in (None, named):
        raise ConfigError(f"task.metric={metric},{named} and task.filter={filter} name two filters; drop one")
    filter = named if comma else filter
    if fewshot_as_multiturn and not apply_chat_template:
        raise ConfigError("task.fewshot_as_multiturn=true needs task.apply_chat_template")
    if apply_chat_template not in (True, False, "default"):
        log.warning(
            "task.apply_chat_template=%s: the harness uses the tokenizer's default template, "
            "whatever name it is given",
            apply_chat_template,
        )
    generation = _generation(gen_kwargs)
    made: dict[str, HarnessTask] = {}
    counts: dict[str, float] = {}
    rules: dict[str, Any] = {}
    for asked in dict.fromkeys(tasks):
        members, group = _load(asked, include_path)
        if twice := made.keys() & members.keys():
            raise ConfigError(f"task.tasks: {min(twice)} is part of {asked}, and named before; drop one")
        judged, chosen = metric or None, filter
        if rule := _rule(group, metric):
            rules[asked] = rule
            judged, chosen = rule.metric, filter or next(iter(rule.filter_list or ()), None)
            members, chosen = _with_figure(group.name, members, judged, chosen)
        for name, task in members.items():
            _configure(task, num_fewshot, generation)
            prompts = (apply_chat_template, fewshot_as_multiturn, system_instruction)
            judging = (judged, chosen, architecture)
            tree = {**options, "tasks": [asked]}
            made[name] = HarnessTask(name, num_fewshot, limit, test_limit, *judging, *prompts, task, tree)
        by_size = rule is not None and rule.weight_by_size
        sizes = {name: len(made[name].data.load_splits()["heldout"]) if by_size else 1 for name in members}
        whole = sum(sizes.values()) if rule and len(tasks) > 1 else 1
        counts |= {name: size / whole for name, size in sizes.items()}
    if filter is not None and all(filter not in task.filters for task in made.values()):
        known = dict.fromkeys(name for task in made.values() for name in task.filters)
        raise ConfigError(f"task.filter={filter}: {', '.join(made)} has {', '.join(known)}")
    for name, task in made.items():
        if task.filter_name is None and len(task.filters) > 1:
            first, *others = task.filters
            log.info(
                "%s: the filter %s decides; task.filter names another: %s", name, first, ", ".join(others)
            )
    if len(made) == 1:
        if floors:
            raise ConfigError("task.floors are for several tasks, and task.tasks names one; leave them null")
        return replace(next(iter(made.values())), _tree=options)
    if rules and weights is None and aggregate == "mean":
        weights = counts
        log.info("tasks of %s count as its aggregate_metric_list says: %s", ", ".join(rules), counts)
    return HarnessTasks(made, aggregate, weights, options, floors=floors)


def _rule(group: Any, metric: str) -> Any:
    """The entry of a group's aggregate_metric_list for `metric`, its first for ""; None without one."""
    rules = (group and group.aggregate_metric_list) or ()
    return next((rule for rule in rules if metric in ("", rule.metric)), None)


def _with_figure(
    group: str, members: Mapping[str, Any], metric: str, filter: str | None
) -> tuple[Mapping[str, Any], str | None]:
    """The tasks that have a part in a group's figure, as the harness takes them, and the figure's filter."""
    filters = {
        name: [ensemble.name for ensemble in task._filters]
        for name, task in members.items()
        if metric in task.aggregation()
    }
    filter = filter or next((names[0] for names in filters.values()), None)
    kept = {name: members[name] for name, names in filters.items() if filter in names}
    if kept and len(kept) < len(members):
        without = ", ".join(name for name in members if name not in kept)
        log.warning("%s has no part in the score of %s: no %s,%s", without, group, metric, filter)
    return kept or members, filter  # without any, making them says what they have


def _generation(gen_kwargs: str | Mapping[str, Any] | None) -> dict[str, Any]:
    parsed = installed("lm_eval.utils", "lm-eval").simple_parse_args_string
    generation = parsed(gen_kwargs) if isinstance(gen_kwargs, str) else dict(gen_kwargs or {})
    known = {*vars(GenerationConfig()), *_GENERATION}
    for name in generation:
        if name not in known:
            raise ConfigError(f"task.gen_kwargs: there is no {name}{did_you_mean(name, known)}")
    return generation


def _configure(task: Any, num_fewshot: int | None, generation: Mapping[str, Any]) -> None:
    """Sets the options of a task of the harness, as its `simple_evaluate` does."""
    if task.get_config("num_fewshot") is None or (num_fewshot is not None and task.config.num_fewshot != 0):
        task.set_config(key="num_fewshot", value=num_fewshot or 0)
    if task.get_config("output_type") == "generate_until":
        task.set_config(key="generation_kwargs", value=generation, update=True)
        if generation_of(task)["do_sample"]:
            raise ConfigError(
                f"task.gen_kwargs: {task.task_name} draws answers at random, so a model would have another "
                "score each time; {do_sample: false} takes the likeliest tokens"
            )


def _load(name: str, include_path: str | None) -> tuple[Mapping[str, Any], Any]:
    """The harness's tasks by name, and their group, if any."""
    manager = installed("lm_eval.tasks", "lm-eval").TaskManager
    templates = installed("lm_eval.utils", "lm-eval")
    if not isinstance(templates.env, Bounded):
        templates.env = Bounded.like(templates.env)
    path = Path(name).expanduser()
    folders = [] if include_path is None else [Path(include_path).expanduser()]
    if folders and not folders[0].is_dir():
        raise ConfigError(f"task.include_path: there is no folder {include_path}")
    try:
        if path.suffix in (".yaml", ".yml"):
            asked, index = _name_in(path), manager(include_path=[*folders, path.parent])
            other = getattr(index.task_index.get(asked), "yaml_path", None) or path
            if Path(other).resolve() != path.resolve():
                raise ConfigError(f"task.tasks: {path} and {other} are both called {asked}; rename one")
        else:
            asked, index = name, manager(include_path=folders)
        loaded = index.load([asked])
    except SoupkitchenError:
        raise
    except (OSError, ConnectionError) as error:
        raise DataError(f"task.tasks: the data of {name!r} cannot be loaded ({error})") from error
    except Exception as error:  # a YAML and the code that it names lead to errors of any kind
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"task.tasks: the harness cannot load {name!r} ({reason})") from error
    if not loaded["tasks"]:
        raise ConfigError(f"task.tasks: {name!r} is a group without tasks")
    return loaded["tasks"], next(iter(loaded.get("groups", {}).values()), None)


def _name_in(path: Path) -> str:
    if not path.is_file():
        raise ConfigError(f"task.tasks: there is no file {path}")
    tree = installed("lm_eval.tasks._yaml_loader", "lm-eval").load_yaml(path, resolve_func=False)
    name = tree.get("group", tree.get("task"))
    if not isinstance(name, str):
        raise ConfigError(f"task.tasks: {path} has no line 'task: NAME' or 'group: NAME' with one name")
    return name


@dataclass(frozen=True)
class HarnessTasks(Several):
    """Several tasks of the harness."""

    _tree: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def describe(self) -> dict[str, Any]:
        """The options of `harness_tasks`."""
        tree: dict[str, Any] = describe(self._tree)
        return tree

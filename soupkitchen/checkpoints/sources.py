"""Finds the runs that a user names: folders, globs, lists, trackers, Trainer outputs, names on the hub."""

from __future__ import annotations

import difflib
import glob
import json
import logging
import math
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from soupkitchen.checkpoints import mergekit_yaml
from soupkitchen.checkpoints.adapters import is_adapter
from soupkitchen.checkpoints.checkpoint import SUFFIXES, TRAINER_STATE, is_state_dict, stem_of
from soupkitchen.checkpoints.files import has_weights, is_of_training
from soupkitchen.checkpoints.folders import CONFIG_NAME, read_json
from soupkitchen.checkpoints.mergekit_yaml import Config, Named, Reference
from soupkitchen.errors import CheckpointError, ConfigError, first_line
from soupkitchen.options import kinds
from soupkitchen.options.kinds import check

log = logging.getLogger(__name__)

MLFLOW = "mlflow:"
"""The prefix of an MLflow experiment's name."""
OUTPUT_DIR = "output_dir"
"""The Trainer's folder, by its name in all trackers."""
_PREFIXES = ("eval/", "eval_")
Checkpoints = Literal["best", "last", "all"]
_LISTS = (".csv", ".jsonl")
HUB = "hf://"
"""The prefix of a hub name that could be a folder's."""
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


@dataclass(frozen=True)
class Source:
    """A named run, not yet opened; `on` is an adapter's base, if it is not the pool's or its own."""

    folder: Path
    name: str | None = None
    weight: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    on: Path | None = None


def find(
    path: str | Sequence[str],
    exclude: str | Sequence[str] = (),
    checkpoints: Checkpoints | None = None,
    least: int = 2,
) -> dict[str, Source]:
    """The runs that `path` names, with unique names, in pool order.

    Args:
        path, exclude, checkpoints: as for `find_pool`.
        least: the least number of runs.

    Raises:
        CheckpointError: if there are fewer.
        ConfigError: if an option is unknown.
    """
    check("pool.checkpoints", checkpoints, Checkpoints | None)
    patterns = [path] if isinstance(path, str) else [str(pattern) for pattern in path]
    exclude = [exclude] if isinstance(exclude, str) else exclude
    sources: dict[tuple[Path, Path | None], Source] = {}
    for pattern in patterns:
        for source in _named_by(pattern):
            for run in _of_trainer(source, checkpoints):
                sources.setdefault((run.folder, run.on), run)
    named = dict(zip(_unique_names(list(sources.values())), sources.values(), strict=True))
    matches = {p: [name for name in named if name == p or fnmatch(name, p)] for p in exclude}
    kept = {name: named[name] for name in named if not any(name in names for names in matches.values())}
    for pattern, names in matches.items():
        if not names:
            near = (difflib.get_close_matches(pattern, named, n=1) or list(named))[:1]
            how = "" if all(map(kinds.is_plain, named)) else f"; write {kinds.listing('pool.exclude', near)}"
            log.warning("pool.exclude: no run is called %s; there are %s%s", pattern, ", ".join(named), how)
    if len(kept) < least:
        left_out = f" after pool.exclude={list(exclude)}" if len(kept) < len(named) else ""
        raise CheckpointError(
            f"pool.path={_shown(patterns)} gives {len(kept)} run{'s' * (len(kept) != 1)}{left_out}; "
            "a soup needs at least two. A run is a folder with config.json and model.safetensors, or with "
            "adapter_config.json and adapter_model.safetensors, or a file with a state dict."
        )
    return kept


def resolve(name: str, ask_hub: bool = True) -> Path:
    """The folder or state dict file `name`, or a snapshot of the hub's ``org/name@revision``.

    ``hf://`` makes it a hub name even if such a folder exists.

    Args:
        ask_hub: allow a download, if the user gave the name; else only the local cache is used.

    Raises:
        CheckpointError: if there is neither.
    """
    on_hub = name.removeprefix(HUB)
    if on_hub == name and (folder := _here(name)):
        return folder
    if not _HUB_NAME.fullmatch(on_hub):
        raise CheckpointError(f"{name} is no folder (the working directory is {Path.cwd()})")
    snapshot = _snapshot(on_hub, ask_hub)
    if not ask_hub:
        log.info("%s is no folder here: it is taken from the hub's cache on this machine", name)
    return snapshot


def listed(name: str, by: object) -> Path:
    """The folder or file that the list `by` names; the hub is asked only for ``hf://org/name``.

    Otherwise, if a folder is missing, the owner of its name on the hub could plant a run.
    """
    try:
        return resolve(name, ask_hub=name.startswith(HUB))
    except CheckpointError as error:
        raise CheckpointError(f"{by}: {error}") from error


def _here(name: str) -> Path | None:
    try:
        folder = Path(name).expanduser()
        return folder if folder.is_dir() or is_state_dict(folder) else None
    except (OSError, ValueError, RuntimeError):  # no name of a file
        return None


def _named_by(pattern: str) -> Iterable[Source]:
    """The runs that one item of `path` names."""
    if pattern.startswith(HUB):
        return [Source(resolve(pattern), name=pattern.removeprefix(HUB))]
    if pattern.startswith(MLFLOW):
        return of_mlflow(pattern.removeprefix(MLFLOW))
    file = Path(pattern).expanduser()
    if file.suffix in _LISTS and file.is_file():
        return _listed(file)
    if file.suffix in mergekit_yaml.SUFFIXES and file.is_file():
        return _merged_by_mergekit(file)
    there = file.exists()  # a name as it stands comes before what it may mean
    matches = [file] if there else [Path(match) for match in sorted(glob.glob(str(file)))]
    folders = [match for match in matches if match.is_dir() or is_state_dict(match)]
    if not folders and _HUB_NAME.fullmatch(pattern):
        return [Source(_snapshot(pattern), name=pattern)]
    if not folders:
        if matches:
            raise CheckpointError(
                f"{matches[0]} is no run: name its folder, a file with a state dict "
                f"({', '.join(SUFFIXES)}), or a list of runs as .csv or .jsonl"
            )
        raise CheckpointError(
            f"pool.path={pattern!r} names no folder (the working directory is {Path.cwd()})"
        )
    if len(folders) == 1 and not _is_run(folders[0]):
        inside = sorted(folders[0].iterdir())
        folders = [entry for entry in inside if entry.is_dir() and _is_run(entry)]
        folders = folders or [entry for entry in inside if is_state_dict(entry) and not is_of_training(entry)]
    return map(Source, folders)


def _listed(file: Path) -> Iterator[Source]:
    import pandas as pd  # takes longer than opening a pool, and few pools are lists

    try:
        if file.suffix == ".csv":
            texts = dict.fromkeys(("path", "name", "Name", OUTPUT_DIR), str)
            table = as_list(pd.read_csv(file, dtype=texts, skipinitialspace=True))
        else:
            table = pd.DataFrame(map(json.loads, file.read_text(encoding="utf-8").splitlines()))
    except (ValueError, OSError, TypeError) as error:
        raise CheckpointError(f"{file} cannot be read as a table ({error})") from error
    if "path" not in table.columns:
        raise CheckpointError(
            f"{file} has no column 'path'; it has: {', '.join(map(str, table.columns)) or 'none'}"
        )
    if "name" in table.columns and not all(isinstance(name, str) or pd.isna(name) for name in table["name"]):
        raise CheckpointError(f"{file}: the column 'name' should hold text")
    numbers = [column for column in table.columns if pd.api.types.is_numeric_dtype(table[column])]
    if "weight" in table.columns and "weight" not in numbers:
        raise CheckpointError(f"{file}: the column 'weight' should hold numbers")
    if "weight" in numbers and table["weight"].isin([math.inf, -math.inf]).any():
        raise CheckpointError(f"{file}: the column 'weight' should hold finite numbers")
    for row in table.to_dict("records"):
        given = {name: row[name] for name in ("name", *numbers) if name in row and not pd.isna(row[name])}
        path = str(row["path"])
        yield Source(
            _here(str(file.parent / Path(path).expanduser())) or listed(path, file),
            given.get("name"),
            float(given["weight"]) if "weight" in given else None,
            {column: float(given[column]) for column in numbers if column in given and column != "weight"},
        )


def _is_run(folder: Path) -> bool:
    if folder.name.startswith("."):
        return False
    is_model = (folder / CONFIG_NAME).exists() or is_adapter(folder) or has_weights(folder)
    return folder.is_file() or is_model or any(folder.glob("checkpoint-*"))


def _of_trainer(source: Source, wanted: Checkpoints | None) -> list[Source]:
    steps = {}
    for folder in source.folder.glob("checkpoint-*"):
        number = folder.name.removeprefix("checkpoint-")
        if number.isdecimal() and folder.is_dir():
            steps[int(number)] = folder
    has_model = has_weights(source.folder) or has_weights(source.folder, "adapter_model")
    if not steps or (has_model and wanted is None):
        return [source]
    ordered = [steps[number] for number in sorted(steps)]
    name = source.name or source.folder.resolve().name
    if wanted == "all":
        return [replace(source, folder=step, name=f"{name}/{step.name}") for step in ordered]
    chosen = ordered[-1] if wanted == "last" else _best(ordered, must=wanted == "best")
    return [replace(source, folder=chosen, name=name)]


def _best(steps: Sequence[Path], must: bool) -> Path:
    """The best checkpoint by the Trainer's state, else the last, unless a best one is required."""
    states = [step / TRAINER_STATE for step in steps if (step / TRAINER_STATE).exists()]
    try:
        best = read_json(states[-1]).get("best_model_checkpoint") if states else None
    except CheckpointError as error:
        if must:
            raise
        log.warning("%s: the last checkpoint is taken", error)
        return steps[-1]
    by_name = {step.name: step for step in steps}
    if best and (name := re.split(r"[\\/]", str(best))[-1]) in by_name:
        return by_name[name]
    if must:
        raise CheckpointError(
            f"{steps[-1] / TRAINER_STATE} names no best checkpoint that is there (best_model_checkpoint: "
            f"{best}); pool.checkpoints=last or all takes what there is"
        )
    return steps[-1]


def _snapshot(name: str, ask_hub: bool = True) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, _, revision = name.partition("@")
    options: dict[str, Any] = {"revision": revision or None, "ignore_patterns": ["*/*"]}
    options["local_files_only"] = not ask_hub
    texts = ["*.json", "*.txt", "*.model", "*.jinja", "*.py"]
    try:
        folder = Path(snapshot_download(repository, allow_patterns=[*texts, "*.safetensors"], **options))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(repository, allow_patterns=[*texts, "*.bin"], **options))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        if not ask_hub:
            raise CheckpointError(
                f"{name} is no folder here (the working directory is {Path.cwd()}), and it is not in the "
                "hub's cache on this machine; the hub is asked only for what you name yourself, as "
                f"pool.base={name}, as {HUB}{name} in a list, or by: hf download {name}"
            ) from error
        raise CheckpointError(
            f"{name} is no folder here, and as a name on the hub it cannot be had ({first_line(error)})"
        ) from error
    return folder


def _unique_names(sources: Sequence[Source]) -> list[str]:
    resolved = [source.folder.resolve() for source in sources]
    plain = [stem_of(source.folder) if source.folder.is_file() else source.folder.name for source in sources]
    short = [
        source.name or hub_name(source.folder) or name or folder.name
        for source, name, folder in zip(sources, plain, resolved, strict=True)
    ]
    if len(set(short)) == len(short):
        return short
    parent = os.path.commonpath(resolved)
    return [
        folder.relative_to(parent).with_name(name).as_posix()
        for folder, name in zip(resolved, plain, strict=True)
    ]


def hub_name(folder: Path) -> str | None:
    """The hub name of a snapshot in the hub's cache; None for any other folder."""
    repository = folder.parent.parent.name if folder.parent.name == "snapshots" else ""
    if not repository.startswith("models--"):
        return None
    return repository.removeprefix("models--").replace("--", "/")


def _shown(patterns: Sequence[str]) -> str:
    return repr(patterns[0]) if len(patterns) == 1 else str(list(patterns))


# Trackers


def check_store(option: str) -> None:
    """Checks that MLflow can open its database file, since MLflow itself tries for minutes.

    Raises:
        ConfigError: if it cannot.
    """
    from mlflow import get_tracking_uri

    kind, _, rest = get_tracking_uri().partition(":///")
    file = Path(rest.partition("?")[0])
    if kind != "sqlite" or (not file.exists() and file.parent.is_dir()):
        return
    try:
        if not file.is_file():
            raise sqlite3.OperationalError("it is no file" if file.exists() else "its folder is not there")
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True)) as database:
            database.execute("PRAGMA schema_version")
    except sqlite3.Error as error:
        if "locked" not in str(error):
            raise ConfigError(
                f"{option}: {file} cannot be MLflow's database ({error}): move it, or have "
                "MLFLOW_TRACKING_URI say where MLflow's store is"
            ) from error


def of_mlflow(experiment: str) -> Iterator[Source]:
    """The finished runs of an MLflow experiment with a known folder, oldest first.

    The store is ``MLFLOW_TRACKING_URI``, or MLflow's default.

    Raises:
        ConfigError: if MLflow is not installed.
        CheckpointError: if there is no such experiment, or no run has a known folder.
    """
    try:
        from mlflow import MlflowClient, search_runs
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise ConfigError(
            f"pool.path={MLFLOW}{experiment} needs MLflow: pip install 'soupkitchen[mlflow]'"
        ) from error
    check_store(f"pool.path={MLFLOW}{experiment}")
    try:
        client = MlflowClient()
        wanted = client.get_experiment_by_name(experiment)
        if wanted is None:
            there = ", ".join(sorted(other.name for other in client.search_experiments()))
            raise CheckpointError(f"MLflow has no experiment called {experiment}; it has {there}")
        runs: Any = search_runs(
            [wanted.experiment_id],
            "attributes.status = 'FINISHED'",
            order_by=["attributes.start_time ASC"],
            output_format="list",
        )
    except MlflowException as error:
        raise CheckpointError(
            f"pool.path={MLFLOW}{experiment}: MLflow cannot be asked ({first_line(error)}); "
            "MLFLOW_TRACKING_URI says where it is"
        ) from error
    placed = [run for run in runs if run.data.params.get(OUTPUT_DIR)]
    if not placed:
        raise CheckpointError(
            f"none of the {len(runs)} finished runs of {experiment} says where it is (the parameter "
            f"{OUTPUT_DIR}, which the Trainer logs)"
        )
    if len(placed) < len(runs):
        log.warning("%d runs of %s do not say where they are: left out", len(runs) - len(placed), experiment)
    for run in placed:
        scores = {_without_prefix(name): float(value) for name, value in run.data.metrics.items()}
        folder = listed(run.data.params[OUTPUT_DIR], f"{MLFLOW}{experiment}")
        yield Source(folder, str(run.info.run_name), None, scores)


def as_list(table: Any) -> Any:
    """Turns a table exported by W&B into a list of runs; any other table stays."""
    if "path" in table.columns or OUTPUT_DIR not in table.columns:
        return table
    kept = table[table[OUTPUT_DIR].notna()]
    if "State" in table.columns:
        kept = kept[kept["State"] == "finished"]
    if len(kept) < len(table):
        log.warning(
            "%d rows are of no finished run, or have no %s: left out", len(table) - len(kept), OUTPUT_DIR
        )
    return kept.rename(columns={OUTPUT_DIR: "path", "Name": "name"}).rename(columns=_without_prefix)


def _without_prefix(name: Any) -> str:
    """The name of a metric that the Trainer calls ``eval_accuracy``."""
    name = str(name)
    return name.removeprefix(next((prefix for prefix in _PREFIXES if name.startswith(prefix)), ""))


# YAMLs of mergekit


def folder_of(config: Config, name: Named) -> Path:
    """The folder that a mergekit YAML names; as in mergekit, it has no revision."""
    return _here(name.path) or listed(str(name), config.file)


def adapted_folders(config: Config, model: Reference) -> tuple[Path, Path | None]:
    """The folder of a model, and of its adapter if there is one."""
    folder = folder_of(config, model.model)
    if model.lora is None:
        return folder, None
    adapter = folder_of(config, model.lora)
    if not is_adapter(adapter):
        raise CheckpointError(f"{config.file}: {adapter}, the adapter of {model}, has no adapter_config.json")
    return adapter, folder


def base_folder(config: Config) -> Path:
    assert config.base_model is not None
    if config.base_model.lora is not None:
        raise CheckpointError(
            f"{config.file}: base_model={config.base_model} is a model with an adapter; merge the two"
        )
    return folder_of(config, config.base_model.model)


def base_named_by(path: str | Sequence[str]) -> str | None:
    """The base's folder in the first mergekit YAML in `path` with a base."""
    for item in [path] if isinstance(path, str) else path:
        file = Path(item).expanduser()
        if file.suffix in mergekit_yaml.SUFFIXES and file.is_file():
            config = mergekit_yaml.read(file)
            if config.base_model:
                return str(base_folder(config)) if config.merge_method != "slerp" else None
    return None


def _merged_by_mergekit(file: Path) -> Iterator[Source]:
    config = mergekit_yaml.read(file)
    left_out = [key for key in config.keys if key not in ("models", "base_model", "parameters")]
    settings = (config.parameters, *(each.parameters for each in config.inputs))
    left_out += sorted({name for part in settings for name in part or ()} - {"weight"})
    log.warning("%s: only models, weights and base_model are taken, not %s", file, ", ".join(left_out))
    weights: list[float | None] = [None] * len(config.inputs)
    try:
        weights = [config.value("weight", float, None, number) for number in range(len(config.inputs))]
    except CheckpointError as error:
        log.warning("%s: no weight is taken", error)
    for number in config.ingredients:
        folder, on = adapted_folders(config, config.inputs[number].model)
        name = f"{on.name}-{folder.name}" if on else None
        yield Source(folder, name, weights[number], on=on)

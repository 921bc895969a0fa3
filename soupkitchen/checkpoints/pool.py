"""The pool: runs that were found, opened, checked and made comparable."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from soupkitchen.checkpoints import compatibility as compatible
from soupkitchen.checkpoints.adapters import base_of, is_adapter, open_adapter
from soupkitchen.checkpoints.beside import warn_of_differences
from soupkitchen.checkpoints.changes import AdaptedWeights
from soupkitchen.checkpoints.compatibility import Problem
from soupkitchen.checkpoints.files import WeightFiles
from soupkitchen.checkpoints.leftovers import check_whole
from soupkitchen.checkpoints.reader import CONFIG_NAME, Checkpoint
from soupkitchen.checkpoints.sources import Checkpoints, Source, base_named_by, find, resolve
from soupkitchen.checkpoints.strangers import read_json
from soupkitchen.checkpoints.views import Apart, View, aligned
from soupkitchen.errors import CheckpointError, ConfigError, IncompatibleError
from soupkitchen.options.kinds import SomeTexts

log = logging.getLogger(__name__)

T = TypeVar("T")

OnIncompatible = Literal["error", "skip"]

_READERS = 4
"""Runs that are read at once to see whether they are whole."""


@dataclass(frozen=True)
class Pool:
    """The runs to make soup of, in pool order (by path), all of one shape.

    Attributes:
        runs: at least two.
        base: what they were fine-tuned from, where that is known.
        reference: the run that says what the model is: its configuration, labels and tokenizer.
        dtype: that of the runs where theirs differ, or None.
        weights: by run, where a list of runs gave them.
        scores: by run and by column, where a list of runs gave them.
        trust_scores: whether runs are ranked by `scores` and not by scoring them.
        options: what `find_pool` was asked for, as a YAML of `conf/pool` has it.
    """

    runs: tuple[Checkpoint, ...]
    base: Checkpoint | None = None
    reference: Checkpoint = None  # type: ignore[assignment]
    dtype: torch.dtype | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    trust_scores: bool = False
    options: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.reference is None:
            object.__setattr__(self, "reference", self.runs[0])

    def __len__(self) -> int:
        return len(self.runs)

    def __iter__(self) -> Iterator[Checkpoint]:
        return iter(self.runs)

    def __getitem__(self, name: str) -> Checkpoint:
        return next(run for run in self.runs if run.name == name)

    def by_its_names(self, model: Checkpoint) -> Checkpoint | None:
        """A model with its tensors called as the runs' are; None where it has others than they."""
        header = self.reference.header
        names = aligned(model.header, header)
        if names.keys() != header.keys():
            return None
        return replace(model, weights=View(model.weights, names))


def find_pool(
    path: SomeTexts,
    exclude: SomeTexts = (),
    base: str | None = None,
    *,
    checkpoints: Checkpoints | None = None,
    on_incompatible: OnIncompatible = "error",
    trust_scores: bool = False,
    key: str | None = None,
) -> Pool:
    """Opens and checks the runs that `path` names.

    Args:
        path: a folder of runs, a glob of folders or of files with state dicts, a ``.csv`` or ``.jsonl``
            list of runs (columns `path`, and optionally `name`, `weight` and scores by metric), a YAML of
            mergekit's, a hub name as ``org/name@revision``, or a list of those. Each item's runs are sorted
            by path, those of a list file keep its order. In a list or a YAML, a name on the hub begins with
            ``hf://``.
        exclude: names of runs to leave out, or one; globs are allowed.
        base: the model that the runs were fine-tuned from, a folder or a hub name; None for the one
            that the runs' configurations name, if all name the same.
        checkpoints: of a Trainer's output folder, which checkpoints are runs: "best" by its
            `trainer_state.json`, "last" or "all"; None for the model in the folder itself, else
            the best, else the last.
        on_incompatible: "error" refuses a pool with a run that cannot be merged; "skip" leaves
            that run out.
        trust_scores: rank by the scores that the list of runs gives, and don't score every run.
        key: of runs that are files, which of several state dicts in each, as "ema" or "model.module"; with a
            dot at its end, what the names of the tensors begin with, as "ema_model.".

    Raises:
        CheckpointError: where there are fewer than two runs.
        IncompatibleError: where some cannot be read or merged; it names all problems of all runs.
        ConfigError: for an option that there is not.
    """
    if on_incompatible not in ("error", "skip"):
        raise ConfigError(f"pool.on_incompatible={on_incompatible}: choose error or skip")
    sources = find(path, exclude, checkpoints)
    if trust_scores and not any(source.scores for source in sources.values()):
        raise ConfigError("pool.trust_scores=true needs a list of runs with scores (pool.path=runs.csv)")
    pool = pool_of(sources, base or base_named_by(path), skip=on_incompatible == "skip", key=key)
    options = {
        "_target_": "soupkitchen.checkpoints.find_pool",
        "path": str(path) if isinstance(path, (str, Path)) else [str(one) for one in path],
        "exclude": exclude if isinstance(exclude, str) else list(exclude),
        "base": None if base is None else str(base),
        "checkpoints": checkpoints,
        "on_incompatible": on_incompatible,
        "trust_scores": trust_scores,
        "key": key,
    }
    return replace(pool, trust_scores=trust_scores, options=options)


def pool_of(
    sources: Mapping[str, Source],
    base: str | None = None,
    *,
    skip: bool = False,
    key: str | None = None,
    like: str | None = None,
    least: int = 2,
    copies: bool = False,
) -> Pool:
    """Opens and checks the runs at `sources`.

    Args:
        base: as for `find_pool`.
        skip: whether runs that cannot be merged are left out, and no error.
        key: of runs that are files, which of several state dicts in each.
        like: the run that says what the model is; None for the first of those that most are like.
        least: how many have to be left.
        copies: whether runs of the same content stay.

    Raises:
        CheckpointError: where there are fewer.
        IncompatibleError: where some cannot be read or merged.
        ConfigError: for a key where no run is a file.
    """
    if key is not None and not any(source.folder.is_file() for source in sources.values()):
        raise ConfigError(
            f"pool.key={key} is for runs that are files with state dicts, and these are folders"
        )
    problems: list[Problem] = []
    base_run = _base(sources, base, key, problems)
    opened = _opened(sources, base_run, key, problems)
    with ThreadPoolExecutor(_READERS) as readers:
        strange = [problem for found in readers.map(_wrong_with, opened) for problem in found]
    problems += strange
    runs = [run for run in opened if run.name not in {problem.run for problem in strange}]
    if not runs:
        raise IncompatibleError(_told(problems))
    reference = next((run for run in runs if run.name == like), None) or compatible.reference_of(runs)
    if _may_have_twins(runs):
        reference = compatible.without_twins(reference)
    fit = []
    for run in runs:
        looked_at = _look(run.name, problems, partial(compatible.fitted, run, reference))
        if looked_at is not None:
            run, wrong = looked_at
            problems += wrong
            fit += [] if wrong else [run]
    if problems and not skip:
        raise IncompatibleError(_told(problems))
    if problems:
        log.warning("left out (pool.on_incompatible=skip):\n%s", _table(problems))
    fit = fit if copies else _without_copies(fit, reference.name)
    if len(fit) < least:
        raise CheckpointError(
            f"{len(fit)} of {len(sources)} runs can be merged and are no copies; a soup needs at least two"
        )
    dtype = compatible.common_dtype(fit)
    if dtype is not None:
        log.info("the runs differ in dtype: all are taken as %s", dtype)
        fit = [compatible.widened(run, dtype) for run in fit]
    reference = next(run for run in fit if run.name == reference.name)
    warn_of_differences(fit, reference)
    listed = {run.name: sources[run.name] for run in fit}
    fitted_base = _fitted_base(base_run, reference, given=base)
    if fitted_base is not None and base is None:
        log.info("base     %s, which the runs name; pool.base=… takes another", fitted_base.path)
    return Pool(
        tuple(fit),
        fitted_base,
        reference,
        dtype,
        {name: source.weight for name, source in listed.items() if source.weight is not None},
        {name: source.scores for name, source in listed.items() if source.scores},
    )


def _opened(
    sources: Mapping[str, Source], base: Checkpoint | None, key: str | None, problems: list[Problem]
) -> list[Checkpoint]:
    """The runs that can be opened; what cannot joins the `problems`."""
    runs = []
    for name, source in sources.items():
        if any(problem.run == name for problem in problems):
            continue
        run = _look(name, problems, partial(_open, source, name, base, key))
        runs += [run] if run is not None else []
    return runs


def _open(source: Source, name: str, base: Checkpoint | None, key: str | None) -> Checkpoint | None:
    """The run in that folder or file; None for an adapter without a base, which is a problem already."""
    folder, on = source.folder, source.on
    apart = on is not None and (base is None or on.resolve() != base.path.resolve())
    if on is not None and apart:
        base = _once(_open_base(on, f"the model that {folder} is put into"))
    if folder.is_file():
        return Checkpoint.open(folder, name, key)
    if not is_adapter(folder):
        run = Checkpoint.open(folder, name)
        own = run.weights
    elif base is not None:
        run = open_adapter(folder, name, base)
        assert isinstance(run.weights, AdaptedWeights)
        own = run.weights.files
    else:
        return None
    assert isinstance(own, WeightFiles)
    check_whole(folder, own.files)
    return replace(run, weights=Apart(run.weights, {n: n for n in run.header})) if apart else run


def _wrong_with(run: Checkpoint) -> list[Problem]:
    """What is wrong with the run's values, and with what it is compared by."""
    problems: list[Problem] = []
    nan = _look(run.name, problems, partial(compatible.not_finite, run))
    _look(run.name, problems, partial(compatible.kind, run))
    return [*problems, nan] if nan else problems


def _look(run: str, problems: list[Problem], at: Callable[[], T]) -> T | None:
    """What `at` gives; None where it fails, which is a problem of that run and of no other."""
    try:
        return at()
    except (CheckpointError, IncompatibleError) as error:
        problems.append(Problem(run, str(error)))
    except MemoryError:  # it is the machine's
        raise
    except Exception as error:  # a stranger's file can have a library raise anything
        log.debug("looking at %s", run, exc_info=True)
        first_line = (str(error).strip() or "no reason given").split("\n")[0]
        told = f"it cannot be understood ({type(error).__name__}: {first_line[:200]}); copy the run again"
        problems.append(Problem(run, told))
    return None


def _base(
    sources: Mapping[str, Source], given: str | None, key: str | None, problems: list[Problem]
) -> Checkpoint | None:
    """The base model: given, named by the adapters, or by all runs alike."""
    adapters = {
        name: source.folder
        for name, source in sources.items()
        if is_adapter(source.folder) and source.on is None
    }
    if given is not None:
        base = _open_base(resolve(str(given)), f"pool.base={given}", key)
        for name, folder in adapters.items():
            if what := _another_base(folder, base):
                problems.append(Problem(name, what))
        return _once(base)
    if not adapters:
        return _named_by_all([source.folder for source in sources.values()])
    folders: dict[str, Path] = {}
    for name, folder in adapters.items():
        try:
            folders[name] = resolve(base_of(folder), ask_hub=False).resolve()
        except CheckpointError as error:
            problems.append(
                Problem(name, f"its base model is not there: {error}; pool.base=… says where it is")
            )
    if not folders:
        return None
    common = Counter(folders.values()).most_common(1)[0][0]
    for name, folder in folders.items():
        if folder != common:
            problems.append(Problem(name, f"it was trained on {folder}, and others on {common}"))
    try:
        return _once(_open_base(common, "its base model cannot be used"))
    except CheckpointError as error:
        known = {problem.run for problem in problems}
        problems += [
            Problem(name, f"{error}; pool.base=… names another") for name in adapters if name not in known
        ]
        return None


def _open_base(folder: Path, told: str, key: str | None = None) -> Checkpoint:
    problems: list[Problem] = []
    base = _look("base", problems, partial(Checkpoint.open, folder, "base", key))
    if is_adapter(folder):
        raise CheckpointError(f"{told}: {folder} is an adapter itself, and a base has to be a whole model")
    if base is None:
        raise CheckpointError(f"{told}: {problems[0].what}")
    return base


def _once(base: Checkpoint) -> Checkpoint:
    return compatible.without_twins(base) if base.weights.names_twins else base


def _another_base(adapter: Path, base: Checkpoint) -> str | None:
    """What is wrong where the adapter was trained on another model than `base`."""
    try:
        named = resolve(base_of(adapter), ask_hub=False)
    except CheckpointError:
        return None  # it is not here: the user's word is taken
    if named.resolve() == base.path.resolve():
        return None
    if _open_base(named, f"the base that {adapter} names").fingerprint == base.fingerprint:
        return None
    return f"it was trained on {named}, which is another model than pool.base={base.path}"


def _named_by_all(folders: Sequence[Path]) -> Checkpoint | None:
    """The local folder that the configurations of all runs name as their origin, if it is there."""
    configs = [folder / CONFIG_NAME for folder in folders]
    named = set()
    for config in configs:
        try:
            named.add(str(read_json(config).get("_name_or_path") or ""))
        except CheckpointError:
            continue
    origin = Path(named.pop()) if len(named) == 1 else Path()
    try:
        if not origin.is_absolute() or not (origin / CONFIG_NAME).exists():
            return None
        return _open_base(origin, f"the base that {CONFIG_NAME} names")
    except (CheckpointError, OSError, ValueError) as error:  # nobody asked for it
        log.info("no base: %s", error)
        return None


def _fitted_base(base: Checkpoint | None, reference: Checkpoint, given: str | None) -> Checkpoint | None:
    """The base by the runs' names; None for one that files name and that is no model as the runs are.

    Raises:
        IncompatibleError: where the one given shares no tensor with the runs.
    """
    if base is None:
        return None
    names = aligned(base.header, reference.header)
    if given is None and reference.adapted is None:
        alike = base.config.get("model_type") == reference.config.get("model_type")
        same_shape = [n for n, own in names.items() if base.header[own].shape == reference.header[n].shape]
        if not alike or 2 * len(same_shape) < len(reference.header):
            log.info("no base: %s, which all runs name, is another model (pool.base=…)", base.path)
            return None
    if any(base.header[own].shape == reference.header[name].shape for name, own in names.items()):
        same = all(name == own for name, own in names.items())
        return base if same else replace(base, weights=View(base.weights, names))
    if given is None:
        return None
    raise IncompatibleError(
        f"pool.base={given} has no tensor of the name and shape of one of the runs': is it their base?"
    )


def _may_have_twins(runs: Sequence[Checkpoint]) -> bool:
    """Whether tied tensors may be there twice, which only transformers can tell, and not at once."""
    first = runs[0]
    if any(run.weights.names_twins or run.header.keys() != first.header.keys() for run in runs):
        return True
    untied = first.config.get("tie_word_embeddings") is False
    return not untied and any(name.endswith(("lm_head.weight", "decoder.weight")) for name in first.header)


def _without_copies(runs: Sequence[Checkpoint], reference: str) -> list[Checkpoint]:
    """The first run of each content, but the reference before others: it says what the model is."""
    first: dict[str, Checkpoint] = {}
    for run in sorted(runs, key=lambda run: run.name != reference):
        if (same := first.setdefault(run.fingerprint, run)) is not run:
            log.warning("%s has the same content as %s: it is left out", run.name, same.name)
    return [run for run in runs if run in first.values()]


def _told(problems: Sequence[Problem]) -> str:
    return (
        f"{len({p.run for p in problems})} of the runs cannot be merged with the others:\n"
        f"{_table(problems)}\n"
        "Leave them out with pool.exclude=[…] or pool.on_incompatible=skip, or put them right."
    )


def _table(problems: Sequence[Problem]) -> str:
    width = max(len(problem.run) for problem in problems)
    return "\n".join(f"  {problem.run:<{width}}  {problem.what}" for problem in problems)

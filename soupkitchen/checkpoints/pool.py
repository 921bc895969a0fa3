"""Opens the runs of a pool, checks them and makes them comparable."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import torch

from soupkitchen.checkpoints import compatibility
from soupkitchen.checkpoints.adapters import base_of, is_adapter, open_adapter
from soupkitchen.checkpoints.checkpoint import Checkpoint
from soupkitchen.checkpoints.files import WeightFiles, check_whole
from soupkitchen.checkpoints.folders import CONFIG_NAME, read_json
from soupkitchen.checkpoints.sources import Checkpoints, Source, base_named_by, find, resolve
from soupkitchen.checkpoints.weights import AdaptedWeights, View, aligned
from soupkitchen.errors import CheckpointError, ConfigError, IncompatibleError, first_line
from soupkitchen.options.building import TARGET, describe
from soupkitchen.options.kinds import SomeTexts, check

log = logging.getLogger(__name__)

T = TypeVar("T")

OnIncompatible = Literal["error", "skip"]

_READERS = 4


class Problem(NamedTuple):
    run: str
    what: str


@dataclass(frozen=True)
class Pool:
    """The runs to make soup of, sorted by path, all of one shape.

    Attributes:
        runs: at least two.
        base: the model that they were fine-tuned from, if known.
        reference: the run whose configuration, labels and tokenizer the soup gets.
        dtype: the common dtype if the runs' dtypes differ; else None.
        weights: by run, if a list of runs gave them.
        scores: by run and column, if a list of runs gave them.
        trust_scores: rank runs by `scores`, without scoring them.
        options: the arguments of `find_pool`, as in `conf/pool`.
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
        """The model with the names of the runs' tensors; None if it has other tensors."""
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
        path: a folder of runs; a glob of folders or state dict files; a ``.csv`` or ``.jsonl`` list (columns
            `path`, and optionally `name`, `weight` and scores by metric); a mergekit YAML; a hub name as
            ``org/name@revision``; or a list of these. Runs are sorted by path, except those of a list file.
            In a list or a YAML, hub names begin with ``hf://``.
        exclude: names or globs of runs to leave out.
        base: the folder or hub name of the runs' base model; None for the one that all configurations name.
        checkpoints: the checkpoints to use in a Trainer's output folder: "best" (by its
            `trainer_state.json`), "last" or "all"; None for the model in the folder itself, else the best,
            else the last.
        on_incompatible: "error" refuses a pool with a run that cannot be merged; "skip" leaves it out.
        trust_scores: rank runs by the list's scores, without scoring them.
        key: the state dict to use in a file with several, as "ema" or "model.module"; with a final dot, the
            prefix of its tensors' names, as "ema_model.".

    Raises:
        CheckpointError: if there are fewer than two runs.
        IncompatibleError: if runs cannot be read or merged; it names all problems.
        ConfigError: if an option is unknown.
    """
    options = describe({TARGET: "soupkitchen.checkpoints.find_pool", **locals()})
    check("pool.on_incompatible", on_incompatible, OnIncompatible)
    sources = find(path, exclude, checkpoints)
    if trust_scores and not any(source.scores for source in sources.values()):
        raise ConfigError("pool.trust_scores=true needs a list of runs with scores (pool.path=runs.csv)")
    pool = pool_of(sources, base or base_named_by(path), skip=on_incompatible == "skip", key=key)
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
        base, key: as for `find_pool`.
        skip: leave out runs that cannot be merged.
        like: the reference's name; None for the first run of the commonest kind.
        least: the least number of runs.
        copies: keep runs of the same content.

    Raises:
        CheckpointError: if fewer runs are left.
        IncompatibleError: if runs cannot be read or merged.
        ConfigError: if `key` is given and no run is a file.
    """
    if key is not None and not any(source.folder.is_file() for source in sources.values()):
        raise ConfigError(
            f"pool.key={key} is for runs that are files with state dicts, and these are folders"
        )
    problems: list[Problem] = []
    base_run = _base(sources, base, key, problems)
    without_base = {problem.run for problem in problems}
    opened = [
        run
        for name, source in sources.items()
        if name not in without_base
        and (run := _try(name, problems, partial(_open, source, name, base_run, key))) is not None
    ]
    with ThreadPoolExecutor(_READERS) as readers:
        problems += chain.from_iterable(readers.map(_problems_of_values, opened))
    runs = [run for run in opened if run.name not in {problem.run for problem in problems}]
    if not runs:
        raise IncompatibleError(_message(problems))
    reference = next((run for run in runs if run.name == like), None) or compatibility.reference_of(runs)
    if _may_have_twins(runs):
        reference = compatibility.without_twins(reference)
    fit = []
    for run in runs:
        if (fitted := _try(run.name, problems, partial(compatibility.fitted, run, reference))) is not None:
            problems += [Problem(run.name, what) for what in fitted[1]]
            fit += [] if fitted[1] else [fitted[0]]
    if problems and not skip:
        raise IncompatibleError(_message(problems))
    if problems:
        log.warning("left out (pool.on_incompatible=skip):\n%s", _table(problems))
    fit = fit if copies else _without_copies(fit, reference.name)
    if len(fit) < least:
        raise CheckpointError(
            f"{len(fit)} of {len(sources)} runs can be merged and are no copies; a soup needs at least two"
        )
    dtype = compatibility.common_dtype(fit)
    if dtype is not None:
        log.info("the runs differ in dtype: all are taken as %s", dtype)
        fit = [compatibility.widened(run, dtype) for run in fit]
    reference = next(run for run in fit if run.name == reference.name)
    compatibility.warn_of_differences(fit, reference)
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


def _open(source: Source, name: str, base: Checkpoint | None, key: str | None) -> Checkpoint | None:
    """Opens a run; None for an adapter without a base, which is already noted as a problem."""
    folder, on = source.folder, source.on
    other_base = on is not None and (base is None or on.resolve() != base.path.resolve())
    if on is not None and other_base:
        base = _open_base(on, f"the model that {folder} is put into")
    if folder.is_file():
        return Checkpoint.open(folder, name, key)
    if not is_adapter(folder):
        run = Checkpoint.open(folder, name)
        files = run.weights
    elif base is not None:
        run = open_adapter(folder, name, base)
        assert isinstance(run.weights, AdaptedWeights)
        files = run.weights.files
    else:
        return None
    assert isinstance(files, WeightFiles)
    check_whole(folder, files.files)
    return replace(run, weights=View(run.weights, own_base=True)) if other_base else run


def _problems_of_values(run: Checkpoint) -> list[Problem]:
    problems: list[Problem] = []
    not_finite = _try(run.name, problems, partial(compatibility.not_finite, run))
    _try(run.name, problems, partial(compatibility.kind, run))
    return [*problems, Problem(run.name, not_finite)] if not_finite else problems


def _try(run: str, problems: list[Problem], action: Callable[[], T]) -> T | None:
    """Calls `action`; if it fails, notes a problem and returns None."""
    try:
        return action()
    except (CheckpointError, IncompatibleError) as error:
        problems.append(Problem(run, str(error)))
    except MemoryError:  # the machine's problem
        raise
    except Exception as error:  # a stranger's file can have a library raise anything
        log.debug("looking at %s", run, exc_info=True)
        cause = f"{type(error).__name__}: {first_line(error)[:200]}"
        problems.append(Problem(run, f"it cannot be understood ({cause}); copy the run again"))
    return None


def _base(
    sources: Mapping[str, Source], given: str | None, key: str | None, problems: list[Problem]
) -> Checkpoint | None:
    adapters = {
        name: source.folder
        for name, source in sources.items()
        if is_adapter(source.folder) and source.on is None
    }
    if given is not None:
        base = _open_base(resolve(str(given)), f"pool.base={given}", key)
        others = {name: _another_base(folder, base) for name, folder in adapters.items()}
        problems += [Problem(name, what) for name, what in others.items() if what]
        return base
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
    problems += [
        Problem(name, f"it was trained on {folder}, and others on {common}")
        for name, folder in folders.items()
        if folder != common
    ]
    try:
        return _open_base(common, "its base model cannot be used")
    except CheckpointError as error:
        reported = {problem.run for problem in problems}
        problems += [
            Problem(name, f"{error}; pool.base=… names another") for name in adapters if name not in reported
        ]
        return None


def _open_base(folder: Path, what: str, key: str | None = None) -> Checkpoint:
    problems: list[Problem] = []
    base = _try("base", problems, partial(Checkpoint.open, folder, "base", key))
    if is_adapter(folder):
        raise CheckpointError(f"{what}: {folder} is an adapter itself, and a base has to be a whole model")
    if base is None:
        raise CheckpointError(f"{what}: {problems[0].what}")
    return compatibility.without_twins(base) if base.weights.names_twins else base


def _another_base(adapter: Path, base: Checkpoint) -> str | None:
    try:
        named = resolve(base_of(adapter), ask_hub=False)
    except CheckpointError:
        return None  # it is not here: the user is believed
    if named.resolve() == base.path.resolve():
        return None
    if _open_base(named, f"the base that {adapter} names").fingerprint == base.fingerprint:
        return None
    return f"it was trained on {named}, which is another model than pool.base={base.path}"


def _named_by_all(folders: Sequence[Path]) -> Checkpoint | None:
    named = set()
    for folder in folders:
        with suppress(CheckpointError):
            named.add(str(read_json(folder / CONFIG_NAME).get("_name_or_path") or ""))
    origin = Path(named.pop()) if len(named) == 1 else Path()
    try:
        if not origin.is_absolute() or not (origin / CONFIG_NAME).exists():
            return None
        return _open_base(origin, f"the base that {CONFIG_NAME} names")
    except (CheckpointError, OSError, ValueError) as error:  # the user did not ask for it
        log.info("no base: %s", error)
        return None


def _fitted_base(base: Checkpoint | None, reference: Checkpoint, given: str | None) -> Checkpoint | None:
    """The base with the runs' names; None if it is of another kind and only files name it."""
    if base is None:
        return None
    names = aligned(base.header, reference.header)
    same_shape = sum(base.header[there].shape == reference.header[n].shape for n, there in names.items())
    if given is None and reference.adapted is None:
        alike = base.config.get("model_type") == reference.config.get("model_type")
        if not alike or 2 * same_shape < len(reference.header):
            log.info("no base: %s, which all runs name, is another model (pool.base=…)", base.path)
            return None
    if same_shape:
        same_names = all(name == there for name, there in names.items())
        return base if same_names else replace(base, weights=View(base.weights, names))
    if given is None:
        return None
    raise IncompatibleError(
        f"pool.base={given} has no tensor of the name and shape of one of the runs': is it their base?"
    )


def _may_have_twins(runs: Sequence[Checkpoint]) -> bool:
    first = runs[0]
    if any(run.weights.names_twins or run.header.keys() != first.header.keys() for run in runs):
        return True
    untied = first.config.get("tie_word_embeddings") is False
    return not untied and any(name.endswith(("lm_head.weight", "decoder.weight")) for name in first.header)


def _without_copies(runs: Sequence[Checkpoint], reference: str) -> list[Checkpoint]:
    first: dict[str, Checkpoint] = {}
    for run in sorted(runs, key=lambda run: run.name != reference):
        if (same := first.setdefault(run.fingerprint, run)) is not run:
            log.warning("%s has the same content as %s: it is left out", run.name, same.name)
    return [run for run in runs if run in first.values()]


def _message(problems: Sequence[Problem]) -> str:
    return (
        f"{len({p.run for p in problems})} of the runs cannot be merged with the others:\n"
        f"{_table(problems)}\n"
        "Leave them out with pool.exclude=[…] or pool.on_incompatible=skip, or put them right."
    )


def _table(problems: Sequence[Problem]) -> str:
    width = max(len(problem.run) for problem in problems)
    return "\n".join(f"  {problem.run:<{width}}  {problem.what}" for problem in problems)

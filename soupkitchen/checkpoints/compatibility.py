"""Checks that runs can be merged, before any time is spent on them.

Everything here is read from headers and `config.json`. All problems of all runs
are reported at once, so that a pool is put right in one go.
"""

from __future__ import annotations

from collections.abc import Sequence

from soupkitchen.checkpoints.reader import Checkpoint
from soupkitchen.errors import IncompatibleError

_SHOWN = 3


def check_compatible(runs: Sequence[Checkpoint]) -> None:
    """Holds every run against the first one.

    Raises:
        IncompatibleError: naming each run that differs in architecture, tensor
            names, tensor shapes or label names, and how.
    """
    problems = [f"  {run.name}: {problem}" for run in runs[1:] for problem in _differences(run, runs[0])]
    if problems:
        raise IncompatibleError(
            f"These runs cannot be merged with {runs[0].name}:\n"
            + "\n".join(problems)
            + "\nLeave them out with pool.exclude, or point pool.path at runs of one model."
        )


def _differences(run: Checkpoint, first: Checkpoint) -> list[str]:
    ours, theirs = run.config.get("model_type"), first.config.get("model_type")
    if ours != theirs:
        return [f"its model_type is {ours!r}, not {theirs!r}"]
    problems = []
    if missing := sorted(first.header.keys() - run.header.keys()):
        problems.append(f"lacks {_names(missing)}")
    if extra := sorted(run.header.keys() - first.header.keys()):
        problems.append(f"has {_names(extra)} besides")
    for name in sorted(run.header.keys() & first.header.keys()):
        shape, expected = run.header[name].shape, first.header[name].shape
        if shape != expected:
            problems.append(f"{name} has shape {list(shape)}, not {list(expected)}")
    labels, expected_labels = run.config.get("id2label"), first.config.get("id2label")
    if labels != expected_labels:
        problems.append(
            f"its labels (id2label in config.json) are {_labels(labels)}, not {_labels(expected_labels)}: "
            "the rows of the two heads mean different things"
        )
    return problems


def _names(names: list[str]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} tensor{'s' * (len(names) > 1)}: {', '.join(names[:_SHOWN])}{rest}"


def _labels(id2label: dict[str, str] | None) -> str:
    if not id2label:
        return "not given"
    names = [str(name) for name in id2label.values()]
    return f"[{', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''}]"

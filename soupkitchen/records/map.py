"""The pool's map in a report: how alike the runs' task vectors are, made of `map.json`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import MaxLen

from soupkitchen.errors import ConfigError
from soupkitchen.records import charts
from soupkitchen.records.page import Section
from soupkitchen.records.run import Run
from soupkitchen.records.tables import separated
from soupkitchen.store.documents import own, read_json
from soupkitchen.store.layout import MAP

_MOST = 100
"""Runs on a map: each pair of them is a mark on the page."""


@dataclass(frozen=True)
class _Map:
    """`map.json`: inner products of what fine-tuning changed, run by run."""

    names: list[Annotated[str, MaxLen(255)]]
    gram: list[list[float]]
    soup: str | None
    base: bool


def map_section(run: Run) -> Section | None:
    """How alike the runs are, as far as `map.json` says it."""
    file, title = run.folder / MAP, "The pool's map"
    if not os.path.lexists(file):
        return None
    try:
        told = read_json(own(file), _Map)
    except ConfigError as error:
        return Section(title, [str(error)])
    names = told.names
    if len(names) > _MOST:
        return Section(title, [f"{len(names)} runs are more than the {_MOST} that a map can show."])
    if [len(row) for row in told.gram] != [len(names)] * len(names):
        return Section(title, [f"{file} has other rows than names."])
    gram = np.asarray(told.gram, dtype=float)
    if len(names) < 2 or not np.isfinite(gram).all() or (gram.diagonal() < 0).any():
        return None
    lengths = np.sqrt(np.diag(gram))
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = np.nan_to_num(gram / np.outer(lengths, lengths))
    center = np.eye(len(names)) - 1.0 / len(names)
    values, vectors = np.linalg.eigh(center @ gram @ center)
    points = vectors[:, ::-1][:, :2] * np.sqrt(np.maximum(values[::-1][:2], 0.0))
    share = 100 * float(np.maximum(values[::-1][:2], 0).sum() / max(np.maximum(values, 0).sum(), 1e-30))
    inside = separated(run.soup["ingredients"]) if run.soup else ()
    since = "the base" if told.base else "the mean of the runs, as no base is known"
    said = [
        f"How alike the runs' task vectors are: cosines of what fine-tuning changed since {since}. Below, "
        f"the plane in which they differ most, by PCA of task vectors: {share:.0f} % of their variance."
    ]
    plane = charts.plane_figure(names, points, inside, told.soup)
    return Section(title, said, [charts.cosines_figure(names, cosines), plane])

"""Merge methods by name: ``methods.ties(density=0.3)`` is `method=ties` on the command line.

All methods take these options, too:

- `weights`: weight by name of run, 1 for the others, below 0 to subtract a run from a task vector; or
  ``{"by": "score", "temperature": T}``, ``{"by": "step", "decay": NAME}``;
- `recalibrate_batchnorm`: how many training batches to compute batch norm's statistics on, anew for each
  soup; 0 averages them;

and those on task vectors `scale`, λ: of a list, each is tried for each candidate.
"""

from __future__ import annotations

from functools import partial
from typing import Literal, TypedDict

from typing_extensions import Unpack

from soupkitchen.merging import (
    Karcher,
    Linear,
    Magnitude,
    MagnitudeOutliers,
    ModelStock,
    Random,
    RankRandom,
    Slerp,
    TaskVectors,
)
from soupkitchen.merging.sparsifiers import Rescale, Sparsifier
from soupkitchen.merging.weights import Weights
from soupkitchen.options.kinds import AtLeast0, Fraction, Scales, Share

Signs = Literal["mass", "count"]
"""The election of signs: the sign of the sum, or the majority."""


class Shared(TypedDict, total=False):
    """Options that all methods on task vectors have."""

    scale: Scales
    weights: Weights | None
    recalibrate_batchnorm: AtLeast0


linear = Linear
"""The model soup proper: a weighted average. Wortsman et al. 2022, arXiv 2203.05482. See `Linear`."""
model_stock = ModelStock
"""The average, shrunk towards the base by the angle between the runs. See `ModelStock`."""
slerp = Slerp
"""Spherical interpolation of each candidate into the soup. See `Slerp`."""
karcher = Karcher
"""The Karcher mean of the directions, times the mean length. See `Karcher`."""


def task_arithmetic(
    *,
    sparsifier: Sparsifier | None = None,
    consensus: Signs | None = None,
    normalize: bool = False,
    **shared: Unpack[Shared],
) -> TaskVectors:
    """Adds λ times the sum of the task vectors to the base. Ilharco et al. 2023, arXiv 2212.04089.

    Args:
        sparsifier: what stays of each task vector; None for all of it.
        consensus: how signs are elected; None for no election.
        normalize: divide by the sum of the weights.
        shared: see `soupkitchen.methods`.
    """
    return TaskVectors(sparsifier, consensus, normalize, **shared)


def ties(
    *,
    density: Share = 0.2,
    trim: Literal["tensor", "model"] = "tensor",
    consensus: Signs | None = "mass",
    normalize: bool = True,
    **shared: Unpack[Shared],
) -> TaskVectors:
    """Trims small changes, elects a sign for each entry, averages those that agree (TIES).

    Yadav et al. 2023, arXiv 2306.01708.

    Args:
        density: the share of entries that stays.
        trim: "tensor" for that share of each tensor; "model" for that of the whole task vector, as the paper.
        consensus: how signs are elected.
        normalize: divide by the weights of the runs that agree.
        shared: see `soupkitchen.methods`.
    """
    return TaskVectors(Magnitude(density, trim), consensus, normalize, **shared)


def dare_linear(
    *,
    density: Share = 0.5,
    rescale: Rescale | None = "probability",
    seed: int = 0,
    consensus: Signs | None = None,
    normalize: bool = True,
    **shared: Unpack[Shared],
) -> TaskVectors:
    """Drops random changes and scales up the others, then averages (DARE). Yu et al. 2024, arXiv 2311.03099.

    Args:
        density: the probability of staying; the paper's drop rate is p = 1 - density.
        rescale: "probability" multiplies survivors by 1/density; "l1" restores the sum of magnitudes.
        seed: of the masks.
        consensus: how signs are elected; None for no election.
        normalize: divide by the sum of the weights.
        shared: see `soupkitchen.methods`.
    """
    return TaskVectors(Random(density, rescale, seed), consensus, normalize, **shared)


dare_ties = partial(dare_linear, consensus="mass")
"""As `dare_linear`, with the election of signs of `ties`."""


def breadcrumbs(
    *,
    density: Share = 0.9,
    gamma: Fraction = 0.01,
    consensus: Signs | None = None,
    normalize: bool = True,
    **shared: Unpack[Shared],
) -> TaskVectors:
    """Drops the largest changes, as outliers, and the smallest (Model Breadcrumbs).

    Davari and Belilovsky 2023, arXiv 2312.06795.

    Args:
        density: the share of each tensor's entries that stays.
        gamma: the share that is dropped as too large.
        consensus: how signs are elected; None for no election.
        normalize: divide by the weights.
        shared: see `soupkitchen.methods`.
    """
    return TaskVectors(MagnitudeOutliers(density, gamma), consensus, normalize, **shared)


breadcrumbs_ties = partial(breadcrumbs, consensus="mass")
"""As `breadcrumbs`, with the election of signs of `ties`."""


def della(
    *,
    density: Share = 0.5,
    epsilon: Fraction = 0.1,
    rescale: Rescale | None = "probability",
    seed: int = 0,
    consensus: Signs | None = "mass",
    normalize: bool = True,
    **shared: Unpack[Shared],
) -> TaskVectors:
    """Drops random changes, small ones more likely, and scales up the others (DELLA).

    Deep et al. 2024, arXiv 2406.11617.

    Args:
        density: the mean probability of staying.
        epsilon: the probabilities go from density - epsilon to density + epsilon, by magnitude.
        rescale: "probability" multiplies survivors by 1/probability; "l1" restores the sum of magnitudes.
        seed: of the masks.
        consensus: how signs are elected; None for no election.
        normalize: divide by the weights.
        shared: see `soupkitchen.methods`.
    """
    return TaskVectors(RankRandom(density, epsilon, rescale, seed), consensus, normalize, **shared)


della_linear = partial(della, consensus=None)
"""As `della`, without an election of signs."""

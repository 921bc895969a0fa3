"""Merge methods by name: ``methods.ties(density=0.3)`` is `method=ties` on the command line.

All methods also take

- `weights`: weight by run, default 1, below 0 to subtract the run; or ``{"by": "score", "temperature": T}``,
  ``{"by": "step", "decay": NAME}``;
- `recalibrate_batchnorm`: the number of training batches for new batch norm statistics of each soup; 0
  averages the runs' statistics.

Those on task vectors also take `scale`, λ: a number, or a list to try for each candidate.
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
    """Options of all methods on task vectors."""

    scale: Scales
    weights: Weights | None
    recalibrate_batchnorm: AtLeast0


linear = Linear
"""The weighted average, as in the first model soups. Wortsman et al. 2022, arXiv 2203.05482. See `Linear`."""
model_stock = ModelStock
"""The average, shrunk towards the base by the angle between runs. See `ModelStock`."""
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
        sparsifier: selects entries of each task vector; None keeps all.
        consensus: the election of signs; None for none.
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
    """Trims small changes, elects a sign for each entry, and averages those that agree (TIES).

    Yadav et al. 2023, arXiv 2306.01708.

    Args:
        density: the share of entries kept.
        trim: "tensor" keeps that share of each tensor; "model" that of the whole task vector, as in the
            paper.
        consensus: the election of signs.
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
    """Drops random changes, scales up the others, and averages (DARE). Yu et al. 2024, arXiv 2311.03099.

    Args:
        density: the probability of keeping an entry; the paper's drop rate is p = 1 - density.
        rescale: "probability" multiplies kept entries by 1/density; "l1" restores the sum of magnitudes.
        seed: for the masks.
        consensus: the election of signs; None for none.
        normalize: divide by the sum of the weights.
        shared: see `soupkitchen.methods`.
    """
    return TaskVectors(Random(density, rescale, seed), consensus, normalize, **shared)


dare_ties = partial(dare_linear, consensus="mass")
"""`dare_linear` with the election of signs of `ties`."""


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
        density: the share of each tensor's entries kept.
        gamma: the share dropped as too large.
        consensus: the election of signs; None for none.
        normalize: divide by the weights.
        shared: see `soupkitchen.methods`.
    """
    return TaskVectors(MagnitudeOutliers(density, gamma), consensus, normalize, **shared)


breadcrumbs_ties = partial(breadcrumbs, consensus="mass")
"""`breadcrumbs` with the election of signs of `ties`."""


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
        density: the mean probability of keeping an entry.
        epsilon: the probabilities go from density - epsilon to density + epsilon, by magnitude.
        rescale: "probability" multiplies kept entries by 1/probability; "l1" restores the sum of magnitudes.
        seed: for the masks.
        consensus: the election of signs; None for none.
        normalize: divide by the weights.
        shared: see `soupkitchen.methods`.
    """
    return TaskVectors(RankRandom(density, epsilon, rescale, seed), consensus, normalize, **shared)


della_linear = partial(della, consensus=None)
"""`della` without an election of signs."""

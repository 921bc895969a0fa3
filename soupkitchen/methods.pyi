# Written by scripts/write_stubs.py from conf/method/; change it there.

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from soupkitchen.merging.karcher import Karcher
from soupkitchen.merging.linear import Linear
from soupkitchen.merging.model_stock import ModelStock
from soupkitchen.merging.slerp import Slerp
from soupkitchen.merging.sparsifiers import Sparsifier
from soupkitchen.merging.task_vectors import TaskVectors

__all__ = [
    "breadcrumbs",
    "breadcrumbs_ties",
    "dare_linear",
    "dare_ties",
    "della",
    "della_linear",
    "karcher",
    "linear",
    "model_stock",
    "slerp",
    "task_arithmetic",
    "ties",
]

def breadcrumbs(
    *,
    sparsifier: Sparsifier | Mapping[str, Any] | None = ...,
    density: float = 0.9,
    gamma: float = 0.01,
    consensus: Literal["mass", "count"] | None = None,
    normalize: bool = True,
    scale: float | Sequence[float] = 1.0,
    weights: Mapping[str, Any] | None = None,
    recalibrate_batchnorm: int = 0,
) -> TaskVectors:
    """Model Breadcrumbs: drop the largest changes, as outliers, and the smallest.
    Davari and Belilovsky 2023, arXiv 2312.06795

    Args:
        density: the share of each tensor's entries that stays
        gamma: the share that is dropped as too large
        consensus: None: none; mass: the sign of the sum; count: the majority
        normalize: divide by the weights
        scale: λ; of a list, each is tried for each candidate
        weights: weight by name of run, 1 for the others, below 0 to subtract a run; or {by: score,
            temperature: T}, {by: step, decay: NAME}
        recalibrate_batchnorm: training batches to compute batch norm's statistics on, anew for each soup; 0
            to average them
    """

def breadcrumbs_ties(
    *,
    sparsifier: Sparsifier | Mapping[str, Any] | None = ...,
    density: float = 0.9,
    gamma: float = 0.01,
    consensus: Literal["mass", "count"] | None = "mass",
    normalize: bool = True,
    scale: float | Sequence[float] = 1.0,
    weights: Mapping[str, Any] | None = None,
    recalibrate_batchnorm: int = 0,
) -> TaskVectors:
    """Model Breadcrumbs with TIES's sign election: drop the largest changes, as outliers, and the smallest.
    Davari and Belilovsky 2023, arXiv 2312.06795

    Args:
        density: the share of each tensor's entries that stays
        gamma: the share that is dropped as too large
        consensus: None: none; mass: the sign of the sum; count: the majority
        normalize: divide by the weights
        scale: λ; of a list, each is tried for each candidate
        weights: weight by name of run, 1 for the others, below 0 to subtract a run; or {by: score,
            temperature: T}, {by: step, decay: NAME}
        recalibrate_batchnorm: training batches to compute batch norm's statistics on, anew for each soup; 0
            to average them
    """

def dare_linear(
    *,
    sparsifier: Sparsifier | Mapping[str, Any] | None = ...,
    density: float = 0.5,
    rescale: Literal["probability", "l1"] | None = "probability",
    seed: int = 0,
    consensus: Literal["mass", "count"] | None = None,
    normalize: bool = True,
    scale: float | Sequence[float] = 1.0,
    weights: Mapping[str, Any] | None = None,
    recalibrate_batchnorm: int = 0,
) -> TaskVectors:
    """DARE: drop random changes and scale up the others, then task arithmetic.
    Yu et al. 2024, arXiv 2311.03099

    Args:
        density: the probability of staying; the paper's drop rate is p = 1 - density
        rescale: survivors times 1/density; l1 restores the sum of magnitudes; None for neither
        seed: of the masks
        normalize: divide by the sum of the weights
        scale: λ; of a list, each is tried for each candidate
        weights: weight by name of run, 1 for the others, below 0 to subtract a run; or {by: score,
            temperature: T}, {by: step, decay: NAME}
        recalibrate_batchnorm: training batches to compute batch norm's statistics on, anew for each soup; 0
            to average them
    """

def dare_ties(
    *,
    sparsifier: Sparsifier | Mapping[str, Any] | None = ...,
    density: float = 0.5,
    rescale: Literal["probability", "l1"] | None = "probability",
    seed: int = 0,
    consensus: Literal["mass", "count"] | None = "mass",
    normalize: bool = True,
    scale: float | Sequence[float] = 1.0,
    weights: Mapping[str, Any] | None = None,
    recalibrate_batchnorm: int = 0,
) -> TaskVectors:
    """DARE in place of TIES's trimming: drop random changes, scale up the others, elect signs.
    Yu et al. 2024, arXiv 2311.03099

    Args:
        density: the probability of staying; the paper's drop rate is p = 1 - density
        rescale: survivors times 1/density; l1 restores the sum of magnitudes; None for neither
        seed: of the masks
        consensus: mass: the sign of the sum; count: the majority
        normalize: divide by the weights of those that agree
        scale: λ; of a list, each is tried for each candidate
        weights: weight by name of run, 1 for the others, below 0 to subtract a run; or {by: score,
            temperature: T}, {by: step, decay: NAME}
        recalibrate_batchnorm: training batches to compute batch norm's statistics on, anew for each soup; 0
            to average them
    """

def della(
    *,
    sparsifier: Sparsifier | Mapping[str, Any] | None = ...,
    density: float = 0.5,
    epsilon: float = 0.1,
    rescale: Literal["probability", "l1"] | None = "probability",
    seed: int = 0,
    consensus: Literal["mass", "count"] | None = "mass",
    normalize: bool = True,
    scale: float | Sequence[float] = 1.0,
    weights: Mapping[str, Any] | None = None,
    recalibrate_batchnorm: int = 0,
) -> TaskVectors:
    """DELLA: drop random changes, small ones more likely, and scale up the others.
    Deep et al. 2024, arXiv 2406.11617

    Args:
        density: the mean probability of staying
        epsilon: the probabilities go from density - epsilon to density + epsilon, by magnitude
        rescale: survivors times 1/probability; l1 restores the sum of magnitudes; None for neither
        seed: of the masks
        consensus: None: none; mass: the sign of the sum; count: the majority
        normalize: divide by the weights
        scale: λ; of a list, each is tried for each candidate
        weights: weight by name of run, 1 for the others, below 0 to subtract a run; or {by: score,
            temperature: T}, {by: step, decay: NAME}
        recalibrate_batchnorm: training batches to compute batch norm's statistics on, anew for each soup; 0
            to average them
    """

def della_linear(
    *,
    sparsifier: Sparsifier | Mapping[str, Any] | None = ...,
    density: float = 0.5,
    epsilon: float = 0.1,
    rescale: Literal["probability", "l1"] | None = "probability",
    seed: int = 0,
    consensus: Literal["mass", "count"] | None = None,
    normalize: bool = True,
    scale: float | Sequence[float] = 1.0,
    weights: Mapping[str, Any] | None = None,
    recalibrate_batchnorm: int = 0,
) -> TaskVectors:
    """DELLA without sign election: drop random changes, small ones more likely, and scale up the others.
    Deep et al. 2024, arXiv 2406.11617

    Args:
        density: the mean probability of staying
        epsilon: the probabilities go from density - epsilon to density + epsilon, by magnitude
        rescale: survivors times 1/probability; l1 restores the sum of magnitudes; None for neither
        seed: of the masks
        consensus: None: none; mass: the sign of the sum; count: the majority
        normalize: divide by the weights
        scale: λ; of a list, each is tried for each candidate
        weights: weight by name of run, 1 for the others, below 0 to subtract a run; or {by: score,
            temperature: T}, {by: step, decay: NAME}
        recalibrate_batchnorm: training batches to compute batch norm's statistics on, anew for each soup; 0
            to average them
    """

def karcher(
    *,
    iterations: int = 10,
    tolerance: float = 1e-05,
    weights: Mapping[str, Any] | None = None,
    recalibrate_batchnorm: int = 0,
) -> Karcher:
    """The Karcher (Riemannian) mean of the directions, times the mean length. Reads all
    ingredients again for each candidate.
    Karcher 1977, "Riemannian center of mass and mollifier smoothing"

    Args:
        iterations: steps at most
        tolerance: a step shorter than this, in radians, is the last
        weights: weight by name of run, 1 for the others; or {by: score, temperature: T}, {by: step, decay:
            NAME}
        recalibrate_batchnorm: training batches to compute batch norm's statistics on, anew for each soup; 0
            to average them
    """

def linear(
    *,
    normalize: bool = True,
    weights: Mapping[str, Any] | None = None,
    recalibrate_batchnorm: int = 0,
) -> Linear:
    """The model soup proper: a weighted average of weights.
    Wortsman et al. 2022, arXiv 2203.05482

    Args:
        normalize: divide by the sum of the weights
        weights: weight by name of run, as {lr-1e-3: 2}, 1 for the others; or {by: score, temperature: T},
            {by: step, decay: NAME}
        recalibrate_batchnorm: training batches to compute batch norm's statistics on, anew for each soup; 0
            to average them
    """

def model_stock(
    *,
    weights: Mapping[str, Any] | None = None,
    recalibrate_batchnorm: int = 0,
) -> ModelStock:
    """Model Stock: the average, shrunk towards the base by the angle between the fine-tunes.
    Jang et al. 2024, arXiv 2403.19522

    Args:
        weights: has to stay so: all ingredients weigh the same
        recalibrate_batchnorm: training batches to compute batch norm's statistics on, anew for each soup; 0
            to average them
    """

def slerp(
    *,
    t: float | None = None,
    space: Literal["weights", "task_vectors"] = "weights",
    weights: Mapping[str, Any] | None = None,
    recalibrate_batchnorm: int = 0,
) -> Slerp:
    """Spherical interpolation of each candidate into the soup: along the arc, not the chord.
    Shoemake 1985, "Animating Rotation with Quaternion Curves"

    Args:
        t: how far to go towards the candidate; None for its share of the weight
        space: weights, or task_vectors (needs the base), where the arc is not a chord
        weights: weight by name of run, 1 for the others; or {by: score, temperature: T}, {by: step, decay:
            NAME}
        recalibrate_batchnorm: training batches to compute batch norm's statistics on, anew for each soup; 0
            to average them
    """

def task_arithmetic(
    *,
    sparsifier: Sparsifier | None = None,
    consensus: Literal["mass", "count"] | None = None,
    normalize: bool = False,
    scale: float | Sequence[float] = 1.0,
    weights: Mapping[str, Any] | None = None,
    recalibrate_batchnorm: int = 0,
) -> TaskVectors:
    """The base model plus λ times the sum of the task vectors.
    Ilharco et al. 2023, arXiv 2212.04089

    Args:
        normalize: divide by the sum of the weights
        scale: λ; of a list, each is tried for each candidate
        weights: weight by name of run, 1 for the others, below 0 to subtract a run; or {by: score,
            temperature: T}, {by: step, decay: NAME}
        recalibrate_batchnorm: training batches to compute batch norm's statistics on, anew for each soup; 0
            to average them
    """

def ties(
    *,
    sparsifier: Sparsifier | Mapping[str, Any] | None = ...,
    density: float = 0.2,
    trim: Literal["tensor", "model"] = "tensor",
    consensus: Literal["mass", "count"] | None = "mass",
    normalize: bool = True,
    scale: float | Sequence[float] = 1.0,
    weights: Mapping[str, Any] | None = None,
    recalibrate_batchnorm: int = 0,
) -> TaskVectors:
    """TIES: trim small changes, elect a sign for each entry, average those that agree.
    Yadav et al. 2023, arXiv 2306.01708

    Args:
        density: the share of entries that stays
        trim: tensor: that share of each tensor; model: of the whole task vector, as the paper
        consensus: mass: the sign of the sum; count: the majority
        normalize: divide by the weights of those that agree
        scale: λ; of a list, each is tried for each candidate
        weights: weight by name of run, 1 for the others, below 0 to subtract a run; or {by: score,
            temperature: T}, {by: step, decay: NAME}
        recalibrate_batchnorm: training batches to compute batch norm's statistics on, anew for each soup; 0
            to average them
    """

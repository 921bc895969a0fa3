"""Upper confidence limits for the mean of n paired differences, from the first t in random order.

The null hypothesis is that the mean of all n is m or more. A gambler bets a share λᵢ of the capital against
it, which depends on earlier differences. After t examples the capital is

    K_t(m) = Π (1 − λᵢ (xᵢ − mᵢ)),    mᵢ = (n m − Σ_{j<i} xⱼ) / (n − i + 1),

with mᵢ the mean of the i-th example under the null hypothesis, drawn without replacement. If no factor can be
negative, K is a nonnegative supermartingale: it ever reaches 1/α with a probability of at most α (Ville),
however often one looks. Each factor grows with m, so all m above a limit are excluded.
Waudby-Smith and Ramdas 2020, "Confidence sequences for sampling without replacement" (arXiv 2006.04347);
2024, "Estimating means of bounded random variables by betting" (arXiv 2010.09686).

No factor is negative if λᵢ (xᵢ − mᵢ) ≤ 1, which needs an upper bound of the differences:

- *proven*: the largest possible differences. The error is α for all data. If differences are far below the
  bound, as those of a language model's losses are, it needs many examples.
- *sampled*: the largest of `SPREADS` root mean squares of the differences so far, `BEYOND` largest gains, and
  the largest loss. A larger gain is clipped; to make up for that, the null hypothesis is lowered as if one
  gain of that size had been seen beside those t. The error is about α, as with asymptotic confidence
  sequences (Waudby-Smith et al. 2021, arXiv 2103.06476), which skewness misleads more. A few large gains of
  of which no example so far gives a sign are missed.

Examples that say more may be drawn sooner: if the i-th is drawn from those that are left with chances in
proportion to w, then xᵢ = dᵢ·w̄ᵢ/wᵢ, with w̄ᵢ the mean of w over those that are left, has the mean of d over
these, as a uniform draw has. So the same bets hold: Shekhar et al. 2023, "Risk-limiting financial audits via
weighted sampling without replacement" (arXiv 2305.06884).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from soupkitchen.evaluation.prediction import Residuals, residuals

SPREADS, BEYOND = 4.0, 1.5
"""The sampled bound: so many root mean squares, and so many largest gains."""
LEAST_EXAMPLES = 30
"""The sampled bound needs this many examples."""
LEAST_OTHERS = 10
"""It also needs this many differences that are not the commonest one: ties show no spread."""
MOST_SEEN = 0.9
"""It ignores examples after this share of all: if few are left, each weighs too much."""
PROVEN = 0.05
"""The proven bound's share of the error beside a sampled one."""

_LOSES, _LOSES_SAMPLED = 0.8, 0.95  # of the capital, a bet at the most
_TINY = 1e-300
_DOUBLINGS, _HALVINGS = 60, 12


def upper_limit(
    differences: np.ndarray,
    bounds: np.ndarray,
    error: float,
    sample: bool,
    grain: float = 0.0,
    features: np.ndarray | None = None,
    chances: np.ndarray | None = None,
    aim: float = 0.0,
) -> float:
    """Bounds the mean of n differences from above, given the first of them, with an error of `error`.

    Args:
        differences: float64 (t,), those of the first t examples in an order drawn at random.
        bounds: float64 (n,), what each can be at the most, in that order; infinite where nothing is known.
        error: of all looks together, however many.
        sample: whether examples may say how large gains can be, beside `bounds`.
        grain: differences that differ by less are one.
        features: float64 (n, q), which predict differences, in that order.
        chances: float64 (n,), by which examples were drawn, in that order; None for equal ones.
        aim: the mean that the limit should fall below soon; bets are made for it.

    Returns:
        The limit, infinite where nothing is excluded. But for how finely it is computed, more examples
        never raise it.
    """
    every = _bets(differences - aim, bounds - aim, error, sample, grain, features, chances)
    return aim + min((bets.limit() for bets in every), default=np.inf)


def excluded_after(
    differences: np.ndarray,
    bounds: np.ndarray,
    error: float,
    sample: bool,
    grain: float = 0.0,
    mean: float = 0.0,
    features: np.ndarray | None = None,
    chances: np.ndarray | None = None,
) -> int | None:
    """The number of examples after which `upper_limit` is below `mean` for good; None if never."""
    every = _bets(differences - mean, bounds - mean, error, sample, grain, features, chances)
    found = [bets.excluded_after(0.0) for bets in every]
    return min((number for number in found if number is not None), default=None)


def _bets(
    differences: np.ndarray,
    bounds: np.ndarray,
    error: float,
    sample: bool,
    grain: float,
    features: np.ndarray | None,
    chances: np.ndarray | None,
) -> Iterator[Bets]:
    if not (len(differences) and np.isfinite(differences).all()):
        return
    bounded = bool(np.isfinite(bounds).all())
    if bounded:
        left = residuals(differences, bounds, features, chances)
        yield proven(differences, bounds, error * PROVEN if sample else error, left)
    seen = differences[: int(MOST_SEEN * len(bounds))]
    if sample and len(seen) >= LEAST_EXAMPLES:
        left = residuals(seen, bounds, features, chances)
        yield sampled(seen, len(bounds), error * (1 - PROVEN) if bounded else error, grain, left)


@dataclass(frozen=True)
class Bets:
    """Bets on each of t differences. Arrays are float64 (t,) and depend on what came before each.

    Attributes:
        differences: d, from which follows what the null hypothesis expects.
        residuals: x, the differences less what was predicted, undone of unequal chances.
        total: n.
        error: α.
        shares: λ.
        lowered: how much less than mᵢ is expected.
        cut: what xᵢ − mᵢ counts at the most.
        bounds: what xᵢ can be at the most, to which λ is lowered; None where that is done.
        silent: examples of which nothing is said.
    """

    differences: np.ndarray
    residuals: np.ndarray
    total: int
    error: float
    shares: np.ndarray
    lowered: np.ndarray | float = 0.0
    cut: np.ndarray | float = np.inf
    bounds: np.ndarray | None = None
    silent: int = 0

    def log_capital(self, mean: float) -> np.ndarray:
        """log K_t(mean) after each example."""
        x, shares = self.residuals, self.shares
        left = self.total - np.arange(len(x))
        expected = (self.total * mean - _before(self.differences)) / left - self.lowered
        if self.bounds is not None:
            shares = np.minimum(shares, _LOSES / np.maximum(self.bounds - expected, _TINY))
        return np.cumsum(np.log1p(-shares * np.minimum(x - expected, self.cut)))

    def excluded_after(self, mean: float) -> int | None:
        enough = self.log_capital(mean) >= -np.log(self.error)
        enough[: self.silent] = False
        return int(enough.argmax()) + 1 if enough.any() else None

    def limit(self) -> float:
        """The least excluded mean, by bisection."""
        step = float(np.sqrt(np.mean(np.square(self.differences)))) or 1.0
        low = high = 0.0
        excluded = self.excluded_after(0.0) is not None
        for _ in range(_DOUBLINGS):
            if excluded:
                low, step = high - step, 2 * step
                if self.excluded_after(low) is None:
                    break
                high = low
            else:
                high, step = low + step, 2 * step
                if self.excluded_after(high) is not None:
                    break
                low = high
        else:
            return high if excluded else np.inf
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.excluded_after(middle) is None else (low, middle)
        return high


def proven(differences: np.ndarray, bounds: np.ndarray, error: float, left: Residuals | None = None) -> Bets:
    """Bets that lose no more than there is, as long as no difference is above its bound.

    Args:
        left: what features do not predict; by default nothing is predicted.
    """
    left = left or residuals(differences, bounds)
    x, seen = left.values, np.arange(len(differences))
    mean = _before(x) / (seen + 1)  # as if a difference of 0 had been seen before
    square = (_before(np.square(x)) + np.square(left.most[0] / 2)) / (seen + 1)
    drift = -_before(differences) / (len(bounds) - seen) - mean
    shares = _shares(drift, square - np.square(mean))
    return Bets(differences, x, len(bounds), error, shares, bounds=left.most)


def sampled(
    differences: np.ndarray, total: int, error: float, grain: float = 0.0, left: Residuals | None = None
) -> Bets:
    """Bets that lose no more than there is, as long as gains are not far larger than the examples say.

    Args:
        left: as for `proven`.
    """
    left = left or residuals(differences, np.full(total, np.inf))
    x, seen = left.values, np.arange(len(differences))
    count = np.maximum(seen, 1)
    mean, square = _before(x) / count, _before(np.square(x)) / count
    variance = np.maximum(square - np.square(mean), 0.0)
    deviation = np.sqrt(variance * count / np.maximum(count - 1, 1))
    others = seen - _most_before(_which_alike(differences, grain))
    wide = SPREADS * (1 + 0.5 * LEAST_OTHERS / np.maximum(others, 1))  # while little is known
    cut = np.maximum.reduce(
        [wide * np.sqrt(square), BEYOND * _most_before(x), _most_before(-x), left.largest]
    )
    cut += _TINY
    lowered = cut / count
    drift = -_before(differences) / (total - seen) - lowered - mean
    shares = _shares(drift + deviation / np.sqrt(count), np.square(deviation))  # hoping for one error more
    shares = np.minimum(shares, _LOSES_SAMPLED / cut)
    shares[(others < LEAST_OTHERS) | (deviation <= grain)] = 0.0
    return Bets(differences, x, total, error, shares, lowered, cut, silent=LEAST_EXAMPLES - 1)


def _shares(drift: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Approximate Kelly shares if differences are lower than expected by `drift`."""
    drift = np.maximum(drift, 0.0)
    shares: np.ndarray = drift / np.maximum(variance + np.square(drift), _TINY)
    return shares


def _before(x: np.ndarray) -> np.ndarray:
    """Sums of earlier entries."""
    return np.concatenate([[0.0], np.cumsum(x[:-1])])


def _most_before(x: np.ndarray) -> np.ndarray:
    """The largest earlier entry, at least 0."""
    return np.maximum.accumulate(np.concatenate([[0.0], x[:-1]]))


def _which_alike(x: np.ndarray, grain: float) -> np.ndarray:
    """Counts equal values: int (t,), 1 for the first of each."""
    values = np.round(x / grain) if grain > 0 else x
    order, place = np.argsort(values, kind="stable"), np.arange(len(x))
    ordered = values[order]
    is_first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    number = np.empty(len(x), int)
    number[order] = place - np.maximum.accumulate(np.where(is_first, place, 0)) + 1
    return number

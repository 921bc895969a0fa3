"""What a search would have gained by chance alone: candidates that are no better, told better by luck.

For each candidate the paired outcomes are permuted: of the examples on which it and the soup differ, a fair
coin says which of the two is right. If examples are not right or wrong, the interval of the gain says how
far it goes. A search that keeps whatever seems better adds up what such candidates seem to gain; of those of
which it takes the best, the largest gain counts once. All together is no more than there is left to gain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

_DRAWS = 2000


@dataclass(frozen=True)
class Chance:
    """Gains by chance, as the metric counts them.

    Attributes:
        mean: on average.
        high: that which one of twenty exceeds.
        candidates: how many were tried.
        share: how often chance gives at least what was gained.
    """

    mean: float
    high: float
    candidates: int
    share: float


def by_chance(
    steps: pd.DataFrame, gained: float, binary: bool, left: float = math.inf, seed: int = 0
) -> Chance | None:
    """What the candidates of a trajectory would have gained if none were better than the soup.

    Those that were not scored in full are taken to differ from the soup as the others do on average.

    Args:
        steps: the trajectory's rows; with a column `choice`, candidates that share one are alternatives.
        gained: by the soup over the best single run.
        binary: whether examples are right or wrong.
        left: the most that could be gained.

    Returns:
        None where no candidate was scored in full.
    """
    tried = steps[(steps["stage"] == "merge") & steps["decision"].isin(["keep", "discard"])]
    in_full = tried["gain_low"].notna() & tried["gain_high"].notna()
    known = tried[in_full]
    if known.empty:
        return None
    random = np.random.default_rng(seed)
    columns: Sequence[np.ndarray] = [_gains(row, binary, random) for row in known.to_dict("records")]
    others = len(tried) - len(known)
    borrowed = [random.permutation(columns[number % len(columns)]) for number in range(others)]
    every = pd.concat([known, tried[~in_full]])
    gains = pd.DataFrame(np.column_stack([*columns, *borrowed])).clip(lower=0.0)
    choices = every["choice"].to_numpy() if "choice" in every else np.arange(len(every))
    totals = gains.T.groupby(choices).max().sum().clip(upper=max(left, 0.0)).to_numpy()
    share = float((totals >= gained - 1e-12).mean())
    return Chance(float(totals.mean()), float(np.quantile(totals, 0.95)), len(tried), share)


def _gains(row: Mapping[Any, Any], binary: bool, random: np.random.Generator) -> np.ndarray:
    """Gains of a candidate that is as good as the soup."""
    fixed, broken, total = (_number(row[name]) for name in ("fixed", "broken", "examples_total"))
    if binary and total:
        differ = int(fixed + broken)
        return (2.0 * random.binomial(differ, 0.5, _DRAWS) - differ) / total
    spread = (_number(row["gain_high"]) - _number(row["gain_low"])) / (2 * 1.96)
    return random.normal(0.0, max(spread, 0.0), _DRAWS)


def _number(value: object) -> float:
    number = float(value) if isinstance(value, (int, float, np.number)) else 0.0
    return number if math.isfinite(number) else 0.0

"""Estimates the gain of a search by chance alone, if no candidate were better than the soup.

Each candidate's paired outcomes are permuted: where it and the soup differ, a fair coin decides which is
right. If examples are not right or wrong, the gain's interval gives the distribution's width. The gains of
candidates that seem better are summed; of alternatives only the largest counts. The sum is limited to the
possible gain.
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
    """Gains by chance, in units of the metric: mean and 95th percentile, number of candidates, and the
    share of samples with at least the actual gain.
    """

    mean: float
    high: float
    candidates: int
    share: float


def by_chance(
    steps: pd.DataFrame, gained: float, binary: bool, left: float = math.inf, seed: int = 0
) -> Chance | None:
    """The gain of a trajectory's candidates if none were better than the soup; None if none was scored in
    full.

    Candidates not scored in full are assumed to differ from the soup as the others do on average.

    Args:
        steps: the trajectory's rows; candidates with the same `choice` are alternatives.
        gained: the soup's gain over the best single run.
        binary: examples are right or wrong.
        left: the largest possible gain.
    """
    tried = steps[(steps["stage"] == "merge") & steps["decision"].isin(["keep", "discard"])]
    in_full = tried["gain_low"].notna() & tried["gain_high"].notna()
    whole = tried[in_full]
    if whole.empty:
        return None
    random = np.random.default_rng(seed)
    columns: Sequence[np.ndarray] = [_gains(row, binary, random) for row in whole.to_dict("records")]
    others = len(tried) - len(whole)
    borrowed = [random.permutation(columns[number % len(columns)]) for number in range(others)]
    every = pd.concat([whole, tried[~in_full]])
    gains = pd.DataFrame(np.column_stack([*columns, *borrowed])).clip(lower=0.0)
    choices = every["choice"].to_numpy() if "choice" in every else np.arange(len(every))
    totals = gains.T.groupby(choices).max().sum().clip(upper=max(left, 0.0)).to_numpy()
    share = float((totals >= gained - 1e-12).mean())
    return Chance(float(totals.mean()), float(np.quantile(totals, 0.95)), len(tried), share)


def _gains(row: Mapping[Any, Any], binary: bool, random: np.random.Generator) -> np.ndarray:
    fixed, broken, total = (_number(row[name]) for name in ("fixed", "broken", "examples_total"))
    if binary and total:
        differ = int(fixed + broken)
        return (2.0 * random.binomial(differ, 0.5, _DRAWS) - differ) / total
    spread = (_number(row["gain_high"]) - _number(row["gain_low"])) / (2 * 1.96)
    return random.normal(0.0, max(spread, 0.0), _DRAWS)


def _number(value: object) -> float:
    number = float(value) if isinstance(value, (int, float, np.number)) else 0.0
    return number if math.isfinite(number) else 0.0

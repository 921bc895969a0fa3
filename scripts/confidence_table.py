#!/usr/bin/env python
"""Simulates what `evaluation.early_stopping={confidence: p}` gets wrong, and how many examples it needs.

    python scripts/confidence_table.py            (4 minutes)
    python scripts/confidence_table.py --features (an hour)
    python scripts/confidence_table.py --decisions 2000 --repeats 100

No models: differences between a candidate and the soup are drawn from distributions. At the boundary, the
candidate is better by a hair, so that full evaluation would keep it, and each discard is wrong. Worse by
0.35 of the differences' standard deviation, it should be discarded soon. Each decision is looked at after
every one of 1,000 examples.

With `--features`, something is known of all examples beforehand: two features that explain 80 % of the
differences' variance; two that say nothing; two that say the opposite of every second example; and two that
explain 80 % of the first half of the order and nothing of the second, which no random order does: there, what
is promised need not hold. And without features, examples are drawn with unequal chances: more where the
difference is large; anywhere; more where it is small. Prints Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

from soupkitchen.evaluation.bets import excluded_after

EXAMPLES, WORSE, ERROR = 1000, 0.35, 0.001
Draw = Callable[[np.random.Generator, int], np.ndarray]

LOSSES: dict[str, Draw] = {
    "normal": lambda random, n: random.normal(size=n),
    "Student's t, 3 degrees of freedom": lambda random, n: random.standard_t(3, size=n),
    "Laplace": lambda random, n: random.laplace(size=n),
    "exponential, large losses": lambda random, n: -random.exponential(size=n),
    "exponential, large gains": lambda random, n: random.exponential(size=n),
    "log-normal, large losses": lambda random, n: -np.exp(random.normal(size=n)),
    "log-normal, large gains": lambda random, n: np.exp(random.normal(size=n)),
    "normal, 90 % ties": lambda random, n: random.normal(size=n) * (random.random(n) < 0.1),
    "normal, and 1 % gain 10 more": lambda random, n: random.normal(size=n) + 10 * (random.random(n) < 0.01),
    "normal, and 5 % gain 10 more": lambda random, n: random.normal(size=n) + 10 * (random.random(n) < 0.05),
}

FEATURES: dict[str, Callable[[np.random.Generator, np.ndarray], np.ndarray]] = {
    "informative": lambda random, told: _telling(random, told),
    "useless": lambda random, told: random.normal(size=(len(told), 2)),
    "misleading": lambda random, told: _telling(random, told) * random.choice([-1, 1], len(told))[:, None],
    "of the first half": lambda random, told: np.concatenate(
        [_telling(random, told)[: EXAMPLES // 2], _telling(random, random.permutation(told))[EXAMPLES // 2 :]]
    ),
}

CHANCES: dict[str, Callable[[np.random.Generator, np.ndarray], np.ndarray]] = {
    "drawn where large": lambda random, told: _within(np.abs(told) * np.exp(random.normal(size=len(told)))),
    "anywhere": lambda random, told: _within(np.exp(random.normal(size=len(told)))),
    "where small": lambda random, told: _within(1 / (np.abs(told) + told.std() / 2)),
}

ACCURACY = ((0.6, 0.2, 0.14), (0.8, 0.2, 0.14), (0.8, 0.12, 0.06), (0.8, 0.08, 0.06), (0.95, 0.05, 0.01))
"""Accuracy of the soup; share of all examples that a candidate breaks, and that it fixes."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--decisions", type=int, default=20_000, help="at the boundary, by distribution")
    options.add_argument("--repeats", type=int, default=400, help="for medians")
    options.add_argument("--features", action="store_true", help="with features, a table by kind")
    chosen = options.parse_args()
    if chosen.features:
        with_features(chosen.decisions, chosen.repeats)
        return
    print("| differences | wrong discards at 0.95 | 0.99 | 0.999 | 0.35 σ worse: examples, 0.999 |")
    print("|---|---|---|---|---|")
    for name, draw in LOSSES.items():
        wrong = [f"{100 * rate:.2f} %" for rate in wrong_discards(draw, chosen.decisions)]
        random, after = np.random.default_rng(1), []
        for _ in range(chosen.repeats):
            differences = centred(draw, random)
            after.append(share_needed(differences - WORSE * differences.std(), ERROR))
        print(f"| {name} | {' | '.join(wrong)} | {100 * np.median(after):.0f} % |", flush=True)
    print()
    print("| accuracy | candidate breaks, fixes | wrong at 0.99 if as many | exact bound | 0.999 | 0.95 |")
    print("|---|---|---|---|---|---|")
    for right, broken, fixed in ACCURACY:
        random = np.random.default_rng(2)
        needed = np.array([needed_of_accuracy(random, right, broken, fixed) for _ in range(chosen.repeats)])
        shares = [f"{100 * share:.0f} %" for share in np.median(needed, axis=0)]
        wrong_rate = wrong_of_accuracy(random, right, min(broken, 0.9 * (1 - right)), chosen.decisions // 4)
        cells = f"{100 * right:.0f} % | {100 * broken:.0f} %, {100 * fixed:.0f} % | {100 * wrong_rate:.2f} %"
        print(f"| {cells} | {' | '.join(shares)} |", flush=True)


def with_features(decisions: int, repeats: int) -> None:
    """Wrong discards at 0.99, and the median of examples until 0.999, by kind of features and of chances."""
    kinds = {
        **{name: (kind, _equal) for name, kind in FEATURES.items()},
        **{name: (_nothing, kind) for name, kind in CHANCES.items()},
    }
    print(f"| differences | {' | '.join(kinds)} |\n|{'---|' * (1 + len(kinds))}")
    for name, draw in LOSSES.items():
        cells = []
        for features_of, chances_of in kinds.values():
            random, wrong, after = np.random.default_rng(0), 0, []
            for number in range(decisions + repeats):
                differences = centred(draw, random)
                chances = chances_of(random, differences)
                order = np.argsort(random.exponential(size=EXAMPLES) / chances)
                differences, chances = differences[order], chances[order]
                told = features_of(random, differences), chances
                if number < decisions:
                    wrong += share_needed(differences, 0.01, *told) < 1
                else:
                    after.append(share_needed(differences - WORSE * differences.std(), ERROR, *told))
            cells.append(f"{100 * wrong / decisions:.2f} %, {100 * np.median(after):.0f} %")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _telling(random: np.random.Generator, told: np.ndarray) -> np.ndarray:
    """Two features, each of which explains two thirds of the variance of what is `told`, both 80 %."""
    return told[:, None] + random.normal(size=(len(told), 2)) * told.std() / np.sqrt(2)


def _nothing(random: np.random.Generator, told: np.ndarray) -> np.ndarray:
    return np.zeros((len(told), 0))


def _equal(random: np.random.Generator, told: np.ndarray) -> np.ndarray:
    return np.ones(len(told))


def _within(chances: np.ndarray) -> np.ndarray:
    """Two thirds of the mean at the least, as in a search."""
    least: np.ndarray = np.maximum(chances, 2 / 3 * chances.mean())
    return least


def centred(draw: Draw, random: np.random.Generator) -> np.ndarray:
    """Differences whose mean is a hair above 0: the candidate would be kept."""
    drawn = draw(random, EXAMPLES)
    drawn = drawn - drawn.mean()
    return drawn + 1e-9 * float(np.abs(drawn).max())


def wrong_discards(draw: Draw, decisions: int) -> list[float]:
    """The rate at errors of 5 %, 1 % and 0.1 %."""
    random, errors = np.random.default_rng(0), (0.05, 0.01, 0.001)
    wrong = dict.fromkeys(errors, 0)
    for _ in range(decisions):
        differences = centred(draw, random)
        for error in errors:  # what is not discarded at one is not at the next
            if share_needed(differences, error) == 1:
                break
            wrong[error] += 1
    return [wrong[error] / decisions for error in errors]


def share_needed(
    differences: np.ndarray,
    error: float,
    features: np.ndarray | None = None,
    chances: np.ndarray | None = None,
) -> float:
    """Returns the share of examples that is scored until the candidate is discarded; 1 if it is not."""
    unknown = np.full(EXAMPLES, np.inf)
    found = excluded_after(differences[:-1], unknown, error, True, 1e-6, 0.0, features, chances)
    return (found or EXAMPLES) / EXAMPLES


def answers(
    random: np.random.Generator, right: float, broken: float, fixed: float
) -> tuple[np.ndarray, np.ndarray]:
    """0 or 1 of the soup and of the candidate, by example, in random order."""
    soup = (np.arange(EXAMPLES) < right * EXAMPLES).astype(float)
    candidate, size = soup.copy(), round(right * EXAMPLES)
    candidate[random.choice(size, round(broken * EXAMPLES), replace=False)] = 0
    candidate[size + random.choice(EXAMPLES - size, round(fixed * EXAMPLES), replace=False)] = 1
    order = random.permutation(EXAMPLES)
    return soup[order], candidate[order]


def needed_of_accuracy(
    random: np.random.Generator, right: float, broken: float, fixed: float
) -> tuple[float, float, float]:
    """Returns two shares of examples: scored until the exact bound stops, and until bets stop."""
    soup, candidate = answers(random, right, broken, fixed)
    hardest = np.argsort(soup, kind="stable")
    gained = np.cumsum((candidate - soup)[hardest]) + (1 - soup).sum() - np.cumsum((1 - soup)[hardest])
    exact = (int(np.argmax(gained <= 0)) + 1) / EXAMPLES
    found = [
        (excluded_after((candidate - soup)[:-1], 1 - soup, error, sample=False) or EXAMPLES) / EXAMPLES
        for error in (ERROR, 0.05)
    ]
    return exact, found[0], found[1]


def wrong_of_accuracy(random: np.random.Generator, right: float, broken: float, decisions: int) -> float:
    """Returns how often a candidate that fixes one more than it breaks is discarded, at an error of 1 %."""
    wrong = 0
    for _ in range(decisions):
        soup, candidate = answers(random, right, broken, broken + 1 / EXAMPLES)
        wrong += excluded_after((candidate - soup)[:-1], 1 - soup, 0.01, sample=False) is not None
    return wrong / decisions


if __name__ == "__main__":
    main()

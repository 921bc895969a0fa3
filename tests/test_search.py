"""Which run is tried next, and which stays."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soupkitchen.errors import ConfigError
from soupkitchen.search import Greedy, Mixture, Ranked, Search, Trial, Uniform, rank

scores = st.integers(0, 12).map(lambda n: n / 12)  # coarse, so that ties are common


def run_search(search: Search, pool: list[Ranked], score_of) -> tuple[tuple[str, ...], float, list[Trial]]:
    """Drives a strategy as the experiment does; `score_of` scores a tuple of ingredients."""
    soup = search.start(pool)
    best = next(run.score for run in pool if run.name == soup.ingredients[0])
    trials: list[Trial] = []
    while proposals := search.propose(pool, soup, trials):
        for proposal in proposals:
            score = score_of(proposal.mixture.ingredients)
            kept = search.rule.accepts(score - best, lambda: None)
            trials.append(Trial(proposal, score, kept))
            if kept:
                soup, best = proposal.mixture, score
                break
    return soup.ingredients, best, trials


def paper(pool: list[Ranked], score_of, accept_equal: bool = False) -> tuple[list[str], float]:
    """Recipe 1 of Wortsman et al. 2022, written down from the paper."""
    queue = sorted(range(len(pool)), key=lambda i: (-pool[i].score, i))
    ingredients = [pool[queue[0]].name]
    best = pool[queue[0]].score
    for i in queue[1:]:
        score = score_of((*ingredients, pool[i].name))
        if score > best or (accept_equal and score == best):
            ingredients.append(pool[i].name)
            best = score
    return ingredients, best


@st.composite
def tables(draw: st.DrawFn):
    pool = [Ranked(f"run{i}", s) for i, s in enumerate(draw(st.lists(scores, min_size=1, max_size=8)))]
    seed = draw(st.integers(0, 2**32))

    def score_of(ingredients: tuple[str, ...]) -> float:
        return random.Random(f"{seed}{ingredients}").randint(0, 12) / 12

    return pool, score_of


@given(tables(), st.booleans())
def test_greedy_decides_as_the_paper_does(table, accept_equal: bool) -> None:
    pool, score_of = table
    soup, best, trials = run_search(Greedy("not_worse" if accept_equal else "better"), pool, score_of)
    expected, score = paper(pool, score_of, accept_equal)
    assert (soup, best) == (tuple(expected), score)
    assert len(trials) == len(pool) - 1


@given(tables(), scores)
def test_greedy_is_never_worse_than_the_best_single_run(table, min_gain: float) -> None:
    pool, score_of = table
    _, best, _ = run_search(Greedy({"margin": min_gain}), pool, score_of)
    assert best >= max(run.score for run in pool)


@given(tables(), scores.filter(bool))
def test_each_kept_candidate_gains_more_than_min_gain(table, min_gain: float) -> None:
    pool, score_of = table
    _, _, trials = run_search(Greedy({"margin": min_gain}), pool, score_of)
    kept = [rank(pool)[0].score, *(trial.score for trial in trials if trial.kept)]
    assert all(after - before > min_gain for before, after in itertools.pairwise(kept))


@given(tables())
def test_uniform_takes_all_runs_in_pool_order(table) -> None:
    pool, score_of = table
    soup, _, trials = run_search(Uniform(), pool, score_of)
    assert soup == tuple(run.name for run in pool)
    assert len(trials) == min(1, len(pool) - 1)


def test_ties_are_ranked_in_pool_order_and_nan_last() -> None:
    pool = [Ranked("a", 0.5), Ranked("broken", math.nan), Ranked("b", 0.7), Ranked("c", 0.5)]
    assert [run.name for run in rank(pool)] == ["b", "a", "c", "broken"]


RULES = ["better", "not_worse", {"margin": 0.0}, {"margin": 0.1}, {"significant": 0.05}]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_nan_score_is_never_kept(rule) -> None:
    assert not Greedy(rule).rule.accepts(math.nan, lambda: 0.0)


@pytest.mark.parametrize("rule", RULES, ids=str)
@given(st.floats(-1, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_gain_and_a_smaller_p_value_are_never_refused_where_less_is_taken(
    rule, gain: float, more: float, p: float, share: float
) -> None:
    if Greedy(rule).rule.accepts(gain, lambda: p):
        assert Greedy(rule).rule.accepts(gain + more, lambda: p * share)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_no_rule_takes_a_worse_soup(rule) -> None:
    assert not Greedy(rule).rule.accepts(-1e-9, lambda: 0.0)


def test_equal_scores_are_discarded_unless_asked_for() -> None:
    assert not Greedy().rule.accepts(0.0, lambda: 0.0)
    assert Greedy("not_worse").rule.accepts(0.0, lambda: 1.0)


def test_a_margin_has_to_be_exceeded() -> None:
    rule = Greedy({"margin": 0.25}).rule
    assert not rule.accepts(0.25, lambda: 0.0)
    assert rule.accepts(0.26, lambda: 1.0)


def test_significance_asks_for_both_a_gain_and_a_small_p_value() -> None:
    rule = Greedy({"significant": 0.05}).rule
    assert rule.accepts(0.1, lambda: 0.05)
    assert not rule.accepts(0.1, lambda: 0.051)
    with pytest.raises(ConfigError, match="values for examples"):
        rule.accepts(0.1, lambda: None)


@pytest.mark.parametrize(
    "accept",
    ["best", "significant", {"margin": -0.1}, {"margin": math.nan}, {"significant": 1.0},
     {"significant": "x"}, {"margin": 0.1, "significant": 0.1}, {"gain": 1}],
    ids=str,
)  # fmt: skip
def test_other_rules_are_refused(accept) -> None:
    with pytest.raises(ConfigError, match=r"search\.accept"):
        Greedy(accept)

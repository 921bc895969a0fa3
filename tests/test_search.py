"""Which run is tried next, and which stays."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soupkitchen.errors import ConfigError
from soupkitchen.search import (
    Choice,
    Evolve,
    Exhaustive,
    Facts,
    Greedy,
    Mixture,
    Pruned,
    Ranked,
    Search,
    Trial,
    Uniform,
    rank,
)

scores = st.integers(0, 12).map(lambda n: n / 12)  # coarse, so that ties are common


def run_search(search: Search, pool: list[Ranked], score_of) -> tuple[tuple[str, ...], float, list[Trial]]:
    """Drives a strategy by hand; `score_of` scores a tuple of ingredients."""
    soup, best, trials = run_mixtures(search, pool, lambda mixture: score_of(mixture.ingredients))
    return soup.ingredients, best, trials


def run_mixtures(search: Search, pool: list[Ranked], score_of) -> tuple[Mixture, float, list[Trial]]:
    """The same for mixtures of any kind, all of which are scored in full."""
    soup = search.start(pool)
    single = max((run for run in pool if run.score == run.score), key=lambda run: run.score)
    own = {run.name: run.score for run in pool}
    best = own[soup.ingredients[0]] if len(soup.ingredients) == 1 else score_of(soup)
    trials: list[Trial] = []
    while proposed := search.propose(pool, soup, trials):
        for entry in proposed:
            group = entry.proposals if isinstance(entry, Choice) else (entry,)
            found = [own[g.mixture.ingredients[0]] if len(g.mixture.ingredients) == 1 else score_of(g.mixture)
                     for g in group]  # fmt: skip
            accepted = [n for n, score in enumerate(found) if search.rule.accepts(score - best, lambda: None)]
            kept = max(accepted, key=lambda n: found[n], default=None)
            trials += [
                Trial(one, score, n == kept) for n, (one, score) in enumerate(zip(group, found, strict=True))
            ]
            if kept is not None:
                soup, best = group[kept].mixture, found[kept]
                break
    if search.guaranteed and best < single.score:
        return Mixture((single.name,)), single.score, trials
    return soup, best, trials


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
def test_greedy_decides_as_the_paper_does(table, accept_equal):
    pool, score_of = table
    soup, best, trials = run_search(Greedy("not_worse" if accept_equal else "better"), pool, score_of)
    expected, score = paper(pool, score_of, accept_equal)
    assert (soup, best) == (tuple(expected), score)
    assert len(trials) == len(pool) - 1


@given(tables(), scores.filter(bool))
def test_each_kept_candidate_gains_more_than_min_gain(table, min_gain):
    pool, score_of = table
    _, _, trials = run_search(Greedy({"margin": min_gain}), pool, score_of)
    kept = [rank(pool)[0].score, *(trial.score for trial in trials if trial.kept)]
    assert all(after - before > min_gain for before, after in itertools.pairwise(kept))


@given(tables())
def test_uniform_takes_all_runs_in_pool_order(table):
    pool, score_of = table
    soup, _, trials = run_search(Uniform(), pool, score_of)
    assert soup == tuple(run.name for run in pool)
    assert len(trials) == min(1, len(pool) - 1)


def test_ties_are_ranked_in_pool_order_and_nan_last():
    pool = [Ranked("a", 0.5), Ranked("broken", math.nan), Ranked("b", 0.7), Ranked("c", 0.5)]
    assert [run.name for run in rank(pool)] == ["b", "a", "c", "broken"]


RULES = ["better", "not_worse", {"margin": 0.0}, {"margin": 0.1}, {"significant": 0.05}]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_nan_score_is_never_kept(rule):
    assert not Greedy(rule).rule.accepts(math.nan, lambda: 0.0)


@pytest.mark.parametrize("rule", RULES, ids=str)
@given(st.floats(-1, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_gain_and_a_smaller_p_value_are_never_refused_where_less_is_taken(
    rule, gain, more, p, share
):
    if Greedy(rule).rule.accepts(gain, lambda: p):
        assert Greedy(rule).rule.accepts(gain + more, lambda: p * share)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_no_rule_takes_a_worse_soup(rule):
    assert not Greedy(rule).rule.accepts(-1e-9, lambda: 0.0)


def test_equal_scores_are_discarded_unless_asked_for():
    assert not Greedy().rule.accepts(0.0, lambda: 0.0)
    assert Greedy("not_worse").rule.accepts(0.0, lambda: 1.0)


def test_a_margin_has_to_be_exceeded():
    rule = Greedy({"margin": 0.25}).rule
    assert not rule.accepts(0.25, lambda: 0.0)
    assert rule.accepts(0.26, lambda: 1.0)


def test_significance_asks_for_both_a_gain_and_a_small_p_value():
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
def test_other_rules_are_refused(accept):
    with pytest.raises(ConfigError, match=r"search\.accept"):
        Greedy(accept)


# More searches


def optimum(pool: list[Ranked], score_of) -> float:
    """The best score of any subset, found naively."""
    best = max(run.score for run in pool)
    names = [run.name for run in rank(pool)]
    for size in range(2, len(names) + 1):
        for some in itertools.combinations(names, size):
            best = max(best, score_of(some))
    return best


def symmetric(score_of):
    """Scores that do not hang on the order of the ingredients."""
    return lambda ingredients: score_of(tuple(sorted(ingredients)))


@st.composite
def symmetric_tables(draw: st.DrawFn):
    pool, score_of = draw(tables())
    return pool[:6], symmetric(score_of)


@given(symmetric_tables())
def test_exhaustive_finds_the_optimum_and_no_search_finds_more(table):
    pool, score_of = table
    _, best, trials = run_search(Exhaustive(), pool, score_of)
    assert best == optimum(pool, score_of)
    assert len(trials) == 2 ** len(pool) - len(pool) - 1
    assert len({trial.proposal.mixture.ingredients for trial in trials}) == len(trials)
    single = max(run.score for run in pool)
    for search in (Greedy(), Greedy(passes=3, prune=True), Pruned(), Greedy(candidates=2)):
        _, found, _ = run_search(search, pool, score_of)
        assert single <= found <= best


@given(symmetric_tables())
def test_pruning_ends_where_no_ingredient_can_be_left_out_with_a_gain(table):
    pool, score_of = table
    for search in (Pruned(), Greedy(passes=2, prune=True)):
        soup, best, trials = run_search(search, pool, score_of)
        own = {run.name: run.score for run in pool}
        if len(soup) > 1:
            for name in soup:
                fewer = tuple(one for one in soup if one != name)
                assert (own[fewer[0]] if len(fewer) == 1 else score_of(fewer)) <= best
        kept = [trial.score for trial in trials if trial.kept]
        assert all(after > before for before, after in itertools.pairwise(kept))


@given(symmetric_tables(), st.integers(2, 4))
def test_more_passes_try_the_discarded_again_until_none_of_them_helps(table, passes):
    pool, score_of = table
    names = [run.name for run in rank(pool)]
    inside, best, tried = [names[0]], rank(pool)[0].score, []
    for _ in range(passes):  # naively; what was tried beside this very soup already is not tried again
        before = len(inside)
        for name in [name for name in names if name not in inside]:
            if (name, len(inside)) in tried:
                continue
            tried.append((name, len(inside)))
            if (score := score_of((*inside, name))) > best:
                inside, best = [*inside, name], score
        if len(inside) == before:
            break
    soup, found, trials = run_search(Greedy(passes=passes), pool, score_of)
    assert (list(soup), found) == (inside, best)
    assert [trial.proposal.candidate for trial in trials] == [name for name, _ in tried]


@given(symmetric_tables())
def test_with_replacement_the_run_that_helps_most_enters_and_may_enter_again(table):
    """Caruana et al. 2004, section 2, written naively."""
    pool, score_of = table
    names = [run.name for run in rank(pool)]
    soup, best, rounds = (names[0],), rank(pool)[0].score, 0
    own = {run.name: run.score for run in pool}
    while rounds < len(names):
        found = {name: score_of((*soup, name)) for name in names}
        rounds += 1
        entering = max(names, key=lambda name: found[name])
        if not found[entering] > best:
            break
        soup, best = (*soup, entering), found[entering]
    assert own
    result = run_search(Greedy(replacement=True), pool, score_of)
    assert result[:2] == (soup, best)
    assert len(result[2]) == rounds * len(names)


def test_a_line_search_takes_the_best_of_the_coefficients_that_a_candidate_may_have():
    pool = [Ranked("a", -1.0), Ranked("b", -2.0), Ranked("c", -3.0)]
    seen = []

    def score_of(mixture: Mixture) -> float:
        seen.append((mixture.ingredients, mixture.coefficients))
        wanted = {"a": 1.0, "b": 0.25, "c": 0.5}
        return -sum(abs(c - wanted[n]) for n, c in zip(mixture.ingredients, mixture.shares, strict=True))

    soup, best, trials = run_mixtures(Greedy(candidate_scale=[0.25, 0.5, 1]), pool, score_of)
    assert soup == Mixture(("a", "b"), (1.0, 0.25))  # c can only equal that, and has to better it
    assert [trial.proposal.variant for trial in trials] == ["×0.25", "×0.5", "×1"] * 2
    assert best == 0
    assert seen[0] == (("a", "b"), (1.0, 0.25))
    assert seen[2] == (("a", "b"), None)  # a coefficient of 1 is no other than the method's


@given(symmetric_tables(), st.integers(1, 6))
def test_only_the_best_k_candidates_are_tried(table, most):
    pool, score_of = table
    best = {run.name for run in rank(pool)[:most]}
    for search in (Greedy(candidates=most, passes=2), Uniform(candidates=most), Exhaustive(candidates=most)):
        soup, _, trials = run_search(search, pool, score_of)
        assert {name for trial in trials for name in trial.proposal.mixture.ingredients} | set(soup) <= best


@given(symmetric_tables(), st.data())
def test_a_search_asked_again_amid_its_proposals_proposes_what_is_left(table, data):
    """So that it does not matter how many of them were tried before it was asked."""
    pool, score_of = table
    search = data.draw(st.sampled_from([Greedy(passes=2, prune=True), Pruned(), Exhaustive()]))
    _, _, trials = run_search(search, pool, score_of)
    cut = data.draw(st.integers(0, len(trials)))
    soup = next((t.proposal.mixture for t in reversed(trials[:cut]) if t.kept), search.start(pool))
    proposed = search.propose(pool, soup, trials[:cut])
    following = trials[cut : cut + len(proposed)]
    for trial, entry in zip(following, proposed, strict=False):
        assert trial.proposal == entry
        if trial.kept:
            break
    if cut == len(trials):
        assert not proposed


# Evolution


def quadratic(optimum_: list[float], names: list[str]):
    """Higher better, 0 at the optimum; of coefficients relative to each other."""

    def score_of(mixture: Mixture) -> float:
        counts = dict.fromkeys(names, 0.0)
        for name, coefficient in zip(mixture.ingredients, mixture.shares, strict=True):
            counts[name] += coefficient
        total = sum(counts.values())
        return -sum((counts[n] / total - o) ** 2 for n, o in zip(names, optimum_, strict=True))

    return score_of


NAMES = ["a", "b", "c", "d"]
QUADRATIC = quadratic([0.5, 0.3, 0.0, 0.2], NAMES)
QUADRATIC_POOL = [Ranked(name, QUADRATIC(Mixture((name,)))) for name in NAMES]


@pytest.mark.slow
@pytest.mark.parametrize("initial", ["greedy", "uniform", "best"])
def test_evolution_finds_the_optimum_of_a_quadratic(initial):
    search = Evolve(initial=initial, evaluations=600, sigma=0.3)
    soup, best, _ = run_mixtures(search, QUADRATIC_POOL, QUADRATIC)
    assert best > -1e-4
    greedy = run_mixtures(Greedy(), QUADRATIC_POOL, QUADRATIC)[1]
    assert best > greedy
    total = sum(soup.shares)
    shares = {name: share / total for name, share in zip(soup.ingredients, soup.shares, strict=True)}
    assert shares["a"] == pytest.approx(0.5, abs=0.02)
    assert shares.get("c", 0.0) == pytest.approx(0.0, abs=0.02)


@pytest.mark.slow
def test_evolution_searches_options_and_parts_of_the_depth():
    def score_of(mixture: Mixture) -> float:
        if not mixture.options:
            return -10.0
        parts = np.array(mixture.shares)
        wanted = {"a": [1, 0.2], "b": [0.2, 1]}
        misses = sum(abs(parts[i] - wanted[n]).sum() for i, n in enumerate(mixture.ingredients))
        density = mixture.options["sparsifier.density"]
        return -misses - abs(math.log(mixture.options["scale"] / 0.5)) - abs(density - 0.7)

    search = Evolve(
        initial="best", evaluations=1500, layers=2, options={"scale": [0.1, 2], "sparsifier.density": [0, 1]}
    ).knowing(Facts({"scale": 1.0, "sparsifier.density": 0.2}, layers=2))
    soup, best, trials = run_mixtures(search, [Ranked("a", -10.0), Ranked("b", -11.0)], score_of)
    assert best > -0.2
    assert soup.options["scale"] == pytest.approx(0.5, rel=0.1)
    assert soup.options["sparsifier.density"] == pytest.approx(0.7, abs=0.1)
    assert all(0.1 <= trial.proposal.mixture.options["scale"] <= 2 for trial in trials)
    assert "scale=" in trials[0].proposal.variant


def test_coefficients_below_0_only_where_they_are_allowed():
    wanted = {"a": 1.0, "b": -0.5, "c": 0.1}

    def score_of(mixture: Mixture) -> float:
        counts = dict(zip(mixture.ingredients, mixture.shares, strict=True))
        return -sum(abs(counts.get(name, 0.0) - wanted[name]) for name in wanted)

    pool = [Ranked(name, score_of(Mixture((name,)))) for name in wanted]
    _, best, trials = run_mixtures(Evolve(evaluations=300, initial="best"), pool, score_of)
    assert all(c >= 0 for trial in trials for c in trial.proposal.mixture.shares)
    assert best <= -0.5
    search = Evolve(evaluations=300, initial="best", negative=True)
    _, best, _ = run_mixtures(search.knowing(Facts(subtracts=True)), pool, score_of)
    assert best > -0.1
    with pytest.raises(ConfigError, match="negative"):
        search.knowing(Facts())


@given(st.integers(0, 2**32 - 1), st.integers(6, 12), st.integers(1, 60), st.data())
@settings(max_examples=25, deadline=None)
def test_evolution_told_anew_from_its_trials_goes_on_to_the_bit(seed, population, budget, data):
    """Cut off after any number of trials of whole generations, and continued in another process."""
    search = Evolve(seed=seed, population=population, evaluations=budget)
    _, _, trials = run_mixtures(search, QUADRATIC_POOL, QUADRATIC)
    groups = [0]
    generations = [t.proposal.candidate.split(",")[0] for t in trials]
    for index in range(1, len(trials)):
        if generations[index] != generations[index - 1]:
            groups.append(index)
    cut = data.draw(st.sampled_from(groups))
    soup = next((t.proposal.mixture for t in reversed(trials[:cut]) if t.kept), search.start(QUADRATIC_POOL))
    np.random.seed(data.draw(st.integers(0, 1000)))
    entries = search.propose(QUADRATIC_POOL, soup, trials[:cut])
    if not trials:
        return
    following = [
        one for entry in entries for one in (entry.proposals if isinstance(entry, Choice) else [entry])
    ]
    assert following[0] == trials[cut].proposal
    assert [trial.proposal.mixture for trial in trials[cut : cut + 1]] == [following[0].mixture]


def test_only_the_ranks_of_parents_are_used():
    """Others' scores, and by how much parents are better, change nothing."""
    search = Evolve(initial="best", evaluations=40, population=8)
    _, _, trials = run_mixtures(search, QUADRATIC_POOL, QUADRATIC)
    told = []
    for start in range(0, len(trials), 8):
        generation = trials[start : start + 8]
        best_first = sorted(range(8), key=lambda i: -generation[i].score)
        for place, trial in enumerate(generation):
            rank_ = best_first.index(place)
            score = 1000.0 - 7 * rank_ if rank_ < 4 else None
            told.append(Trial(trial.proposal, score, trial.kept))
    for cut in range(8, 40, 8):
        soup = next(
            (t.proposal.mixture for t in reversed(told[:cut]) if t.kept), search.start(QUADRATIC_POOL)
        )
        (choice,) = search.propose(QUADRATIC_POOL, soup, told[:cut])
        assert [p.mixture for p in choice.proposals] == [t.proposal.mixture for t in trials[cut : cut + 8]]
        assert choice.exact == 4


def test_the_budget_of_evolution_is_kept():
    for budget in (1, 7, 10, 25):
        _, _, trials = run_mixtures(Evolve(initial="best", evaluations=budget), QUADRATIC_POOL, QUADRATIC)
        assert len(trials) == budget
    search = Evolve(initial="best", evaluations=100, examples=200, population=6)
    trials = []
    soup = search.start(QUADRATIC_POOL)
    while entries := search.propose(QUADRATIC_POOL, soup, trials):
        trials += [Trial(one, -1.0, False, examples=20) for one in entries[0].proposals]
    assert len(trials) == 12  # 120 examples after one generation, 240 after two


def test_no_mixture_is_of_nothing():
    search = Evolve(initial="best", evaluations=200, sigma=5.0, layers=3)
    _, _, trials = run_mixtures(search, QUADRATIC_POOL, lambda mixture: 0.0)
    for trial in trials:
        shares = np.array(trial.proposal.mixture.shares)
        assert len(shares) >= 2
        assert (shares.max(axis=0) > 0).all()


@pytest.mark.parametrize(
    ("options", "told"),
    [({"options": {"scale": [0.1, 1]}}, "no number called scale"), ({}, "one value, not a list")],
)
def test_evolution_needs_options_that_the_method_has(options, told):
    method = {"scale": [0.5, 1.0]} if not options else {"normalize": True}
    with pytest.raises(ConfigError, match=told):
        Evolve(**options).knowing(Facts(method))


def test_too_many_subsets_are_refused():
    pool = [Ranked(f"run{i}", math.nan) for i in range(13)]
    with pytest.raises(ConfigError, match=r"search\.candidates=12"):
        Exhaustive().check(pool)
    Exhaustive(candidates=12).check(pool)
    Exhaustive().check(pool[:12])


def test_searches_of_coefficients_need_a_method_that_looks_at_them_and_as_many_layers():
    for search in (Evolve(), Greedy(candidate_scale=[0.5, 1])):
        with pytest.raises(ConfigError, match="not look at"):
            search.knowing(Facts(weighs=False))
        search.knowing(Facts())
    assert Greedy().knowing(Facts(weighs=False)) == Greedy()
    with pytest.raises(ConfigError, match=r"search\.layers=5: the model has 4 layers"):
        Evolve(layers=5).knowing(Facts(layers=4))
    Evolve(layers=4).knowing(Facts(layers=4))

"""The re-ranker: against enumeration, and its promises on random problems."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duality.retrieval.balancing import balance
from duality.retrieval.balancing_problem import Prices, Problem, bound_at, reachable


def problem_of(
    value: np.ndarray, k: int, provider: np.ndarray, floor: np.ndarray, ceiling: np.ndarray
) -> Problem:
    """All pairs of a dense value matrix [Q, I]; NaN is no candidate."""
    query, item = np.nonzero(~np.isnan(value))
    slots = np.full(len(value), k)
    return Problem(query, item, value[query, item], slots, provider, floor, ceiling)


@st.composite
def small(draw: st.DrawFn) -> Problem:
    queries, items, groups = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 2))
    seed = draw(st.integers(0, 10_000))
    rng = np.random.default_rng(seed)
    value = rng.normal(size=(queries, items)).round(2)
    value[rng.random(value.shape) < 0.2] = np.nan
    provider = rng.integers(-1, groups, items)
    floor, ceiling = rng.integers(0, 3, groups), rng.integers(0, 4, items)
    return problem_of(value, draw(st.integers(1, 2)), provider, floor, ceiling)


def enumerated(problem: Problem) -> tuple[int, int, float]:
    """Best (filled slots, -missing, value) over every choice of pairs."""
    best = (-1, 0, 0.0)
    for bits in itertools.product((False, True), repeat=len(problem.query)):
        chosen = np.array(bits, dtype=bool)
        per_query = np.bincount(problem.query[chosen], minlength=len(problem.slots))
        if (per_query > problem.slots).any() or (problem.listed(chosen) > problem.ceiling).any():
            continue
        missing = int(np.maximum(problem.floor - problem.held(chosen), 0).sum())
        key = (int(chosen.sum()), -missing, round(float(problem.value[chosen].sum()), 9))
        best = max(best, key)
    return best


@given(small())
@settings(max_examples=80, deadline=None)
def test_exact_is_the_best_of_all_choices(problem: Problem) -> None:
    found = balance(problem)
    filled, missing, value = enumerated(problem)
    assert int(found.chosen.sum()) == filled
    assert int(found.short.sum()) == -missing
    assert found.unfilled == problem.slots.sum() - filled
    # Which floors are missed is not unique when some must be, and the value depends on it.
    if missing == 0:
        assert found.value == pytest.approx(value, abs=1e-7)
    assert found.bound >= found.value - 1e-7
    assert found.bound == pytest.approx(found.value, abs=1e-6)


def random_problem(seed: int, queries: int = 150, items: int = 60, k: int = 5) -> Problem:
    rng = np.random.default_rng(seed)
    value = rng.gumbel(size=(queries, items)) + 2 * rng.gumbel(size=items)
    provider = np.arange(items) % 15
    floor = np.full(15, queries * k // 30)
    return problem_of(value, k, provider, floor, np.full(items, queries // 4))


@pytest.mark.parametrize("seed", range(4))
def test_prices_keep_the_constraints_and_come_close_to_the_optimum(seed: int) -> None:
    problem = random_problem(seed)
    exact, fast = balance(problem, exact_pairs=10**9), balance(problem, exact_pairs=1200)
    assert exact.exact
    assert not fast.exact
    for found in (exact, fast):
        assert (problem.listed(found.chosen) <= problem.ceiling).all()
        assert (problem.held(found.chosen) >= problem.floor).all()
        assert (np.bincount(problem.query[found.chosen]) == problem.slots).all()
        assert not found.short.any()
        assert found.unfilled == 0
    assert fast.value <= exact.value + 1e-7 <= fast.bound + 2e-7
    assert (fast.bound - exact.value) / abs(exact.value) < 0.02
    assert fast.gap < 0.02


def test_any_prices_bound_the_optimum() -> None:
    problem, rng = random_problem(9), np.random.default_rng(0)
    optimum = balance(problem, exact_pairs=10**9).value
    for scale in (0.0, 0.1, 1.0, 5.0):
        prices = Prices(rng.random(15) * scale, rng.random(60) * scale)
        assert bound_at(problem, prices) >= optimum


def test_without_constraints_the_best_of_each_query_are_chosen() -> None:
    value = np.random.default_rng(0).normal(size=(40, 30))
    problem = problem_of(value, 3, np.full(30, -1), np.zeros(0, int), np.full(30, 40))
    for size in (200, 10**9):
        chosen = balance(problem, exact_pairs=size).chosen.reshape(40, 30)
        best = np.argsort(-value, axis=1)[:, :3]
        assert (np.sort(np.nonzero(chosen)[1].reshape(40, 3)) == np.sort(best)).all()


def test_what_cannot_hold_is_named() -> None:
    value = np.array([[1.0, 2.0, np.nan], [3.0, 1.0, np.nan]])
    problem = problem_of(value, 1, np.array([0, 1, 2]), np.array([0, 1, 1]), np.array([2, 2, 2]))
    found = balance(problem)
    assert found.short.tolist() == [0, 0, 1]
    assert found.unfilled == 0
    assert found.chosen.tolist() == [False, True, True, False]


def test_a_ceiling_that_starves_lists_leaves_slots_open_and_says_so() -> None:
    problem = problem_of(np.ones((4, 2)), 2, np.array([-1, -1]), np.zeros(0, int), np.array([1, 3]))
    found = balance(problem)
    assert found.unfilled == 4
    assert reachable(problem).total == 4


def test_mirrored_no_user_is_targeted_by_everything() -> None:
    rng = np.random.default_rng(0)
    value = rng.normal(size=(50, 40)) + 5 * (np.arange(40) == 0)  # 50 items all want user 0
    problem = problem_of(value, 4, np.full(40, -1), np.zeros(0, int), np.full(40, 8))
    found = balance(problem)
    assert problem.listed(found.chosen).max() == 8
    assert found.unfilled == 0


@pytest.mark.parametrize("change", [{"value": np.array([np.nan])}, {"floor": np.array([-1])}])
def test_a_problem_that_makes_no_sense_is_refused(change: dict) -> None:
    fields = {
        "query": np.zeros(1, int),
        "item": np.zeros(1, int),
        "value": np.ones(1),
        "slots": np.ones(1, int),
    } | {"provider": np.zeros(1, int), "floor": np.zeros(1, int), "ceiling": np.ones(1, int)}
    with pytest.raises(ValueError):
        Problem(**{**fields, **change})


def test_a_pair_twice_is_refused() -> None:
    twice, one = np.zeros(2, int), np.ones(1, int)
    with pytest.raises(ValueError, match="twice"):
        Problem(twice, twice, np.ones(2), one, np.zeros(1, int), np.zeros(1, int), one)

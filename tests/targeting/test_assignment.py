"""Assignment against exhaustive search, and its certificate."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from duality.targeting import assignment
from duality.targeting.assignment import Assignment, greedy, total_value
from duality.targeting.plan import needed
from duality.targeting.prices import Pairs

Cap = int | np.ndarray


def pairs_of(values: np.ndarray, sizes: list[int], cap: Cap, depth: int | None = None) -> Pairs:
    """As many pairs as an exact assignment needs, or fewer: the best of the finite ones of users with room."""
    room = np.broadcast_to(cap, values.shape[1])
    values = np.where(room > 0, values, -np.inf)
    limits = (
        needed(np.array(sizes), int(room[room > 0].min(initial=1))) if depth is None else [depth] * len(sizes)
    )
    campaign, user, cuts = [], [], []
    for row, limit in enumerate(limits):
        order = [u for u in np.argsort(-values[row], kind="stable") if np.isfinite(values[row, u])]
        best = order[:limit]
        cuts.append(values[row, best[-1]] if len(best) < len(order) else -np.inf)
        campaign += [row] * len(best)
        user += best
    places = np.array(campaign, np.int32), np.array(user, np.int32)
    return Pairs(*places, values[places], np.array(cuts), values.shape[1])


class Solved:
    """An assignment with its users."""

    def __init__(self, pairs: Pairs, result: Assignment) -> None:
        self.objective, self.bound, self.gap, self.prices = (
            result.objective,
            result.bound,
            result.gap,
            result.prices,
        )
        self.rows = [pairs.user[mine] for mine in result.pairs]
        self.filled = [len(users) for users in self.rows]


def assign(
    values: np.ndarray,
    sizes: list[int],
    cap: Cap = 1,
    least: list[int] | None = None,
    depth: int | None = None,
) -> Solved:
    """Assign users with values [C, U]; -inf where one may not be had."""
    pairs, room = pairs_of(values, sizes, cap, depth), np.broadcast_to(cap, values.shape[1])
    result = assignment.assign(pairs, np.array(sizes), room, least, whole=depth is None)
    return Solved(pairs, result)


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, list[int], Cap]:
    """Up to 3 campaigns and 5 users, many ties, negative values, ineligible pairs, one cap or each user's own."""
    num_campaigns, num_users = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    cell = st.one_of(st.just(-np.inf), st.integers(-5, 3).map(float))
    cells = draw(st.lists(cell, min_size=num_campaigns * num_users, max_size=num_campaigns * num_users))
    sizes = draw(st.lists(st.integers(1, 3), min_size=num_campaigns, max_size=num_campaigns))
    own = st.lists(st.integers(0, 2), min_size=num_users, max_size=num_users).map(np.array)
    return np.array(cells).reshape(num_campaigns, num_users), sizes, draw(st.integers(1, 3) | own)


def best_by_search(
    values: np.ndarray, sizes: list[int], cap: Cap, least: list[int] | None = None
) -> tuple[int, float] | None:
    """(filled, total) of the best assignment, campaign by campaign over states of user loads; None if minima leave none."""
    states: dict[tuple[int, ...], tuple[int, float]] = {(0,) * values.shape[1]: (0, 0.0)}
    for row, size, fewest in zip(values, sizes, least or [0] * len(sizes), strict=True):
        eligible = np.flatnonzero(np.isfinite(row)).tolist()
        choices = [c for n in range(fewest, size + 1) for c in itertools.combinations(eligible, n)]
        following: dict[tuple[int, ...], tuple[int, float]] = {}
        for (load, (filled, total)), users in itertools.product(states.items(), choices):
            taken = tuple(n + (u in users) for u, n in enumerate(load))
            if (np.array(taken) <= cap).all():
                reached = (filled + len(users), total + float(sum(row[u] for u in users)))
                following[taken] = max(following.get(taken, (-1, 0.0)), reached)
        states = following
    return max(states.values(), default=None)


@pytest.fixture(params=["linear programme", "flow"])
def solver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every problem by both solvers."""
    if request.param == "flow":
        pytest.importorskip("ortools", reason="the extra `targeting` is not installed")
        monkeypatch.setattr(assignment, "LINEAR", -1)


BOTH = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(problems())
@BOTH
def test_assignment_equals_exhaustive_search(
    solver: None, problem: tuple[np.ndarray, list[int], Cap]
) -> None:
    values, sizes, cap = problem
    result = assign(values, sizes, cap)
    filled, total = best_by_search(values, sizes, cap)
    assert sum(result.filled) == filled
    assert result.objective == pytest.approx(total, abs=1e-9)
    assert result.gap == pytest.approx(0.0, abs=1e-6)
    check_feasible(values, sizes, cap, result.rows)


@given(problems(), st.data())
@BOTH
def test_minima_hold_where_all_can_and_cost_no_slots(
    solver: None, problem: tuple[np.ndarray, list[int], Cap], data: st.DataObject
) -> None:
    values, sizes, cap = problem
    least = [data.draw(st.integers(0, size)) for size in sizes]
    result = assign(values, sizes, cap, least)
    possible = best_by_search(values, sizes, cap, least)
    filled, total = possible or best_by_search(values, sizes, cap)
    assert sum(result.filled) == filled == best_by_search(values, sizes, cap)[0]
    assert result.objective == pytest.approx(total, abs=1e-9)
    assert result.gap == pytest.approx(0.0, abs=1e-6)
    if possible:
        assert all(found >= wanted for found, wanted in zip(result.filled, least, strict=True))
    check_feasible(values, sizes, cap, result.rows)


@given(problems())
@settings(max_examples=100, deadline=None)
def test_greedy_equals_a_walk_over_all_pairs(problem: tuple[np.ndarray, list[int], Cap]) -> None:
    values, sizes, cap = problem
    room = np.broadcast_to(cap, values.shape[1])
    pairs = sorted(((-values[c, u], c, u) for c, u in np.ndindex(values.shape) if np.isfinite(values[c, u])))
    rows: list[list[int]] = [[] for _ in sizes]
    for _, campaign, user in pairs:
        if len(rows[campaign]) < sizes[campaign] and sum(user in r for r in rows) < room[user]:
            rows[campaign].append(user)
    possible = pairs_of(values, sizes, cap)
    found = [possible.user[mine] for mine in greedy(possible, np.array(sizes), room)]
    assert [r.tolist() for r in found] == rows
    check_feasible(values, sizes, cap, found)


def check_feasible(values: np.ndarray, sizes: list[int], cap: Cap, rows: list[np.ndarray]) -> None:
    load = np.zeros(values.shape[1], dtype=int)
    for campaign, users in enumerate(rows):
        assert len(users) <= sizes[campaign]
        assert np.isfinite(values[campaign, users]).all()
        assert (np.diff(values[campaign, users]) <= 0).all()
        np.add.at(load, users, 1)
        assert len(set(users.tolist())) == len(users)
    assert (load <= cap).all()


@pytest.mark.parametrize("cap", [1, 2])
def test_a_larger_problem_closes_its_gap_and_beats_greedy(solver: None, cap: int) -> None:
    random = np.random.default_rng(3)
    values = -8 + 0.9 * random.normal(size=400) + 0.3 * random.normal(size=(6, 400))
    values[random.random(values.shape) < 0.3] = -np.inf
    sizes = [40, 10, 25, 60, 30, 5]
    result, pairs = assign(values, sizes, cap), pairs_of(values, sizes, cap)
    by_greed = greedy(pairs, np.array(sizes), np.full(400, cap))
    assert result.filled == sizes
    assert abs(result.gap) < 1e-9
    assert result.objective > total_value(pairs, by_greed)
    check_feasible(values, sizes, cap, result.rows)


def test_a_price_is_what_the_next_user_has_to_be_worth(solver: None) -> None:
    values = np.array([[9.0, 1.0, 0.0], [8.0, 3.0, 0.0]])
    result = assign(values, [1, 1])
    assert result.objective == 12.0
    assert result.prices[1] <= 3.0
    better = result.prices[1] + 0.5
    with_another = assign(np.hstack([values, [[-99.0], [better]]]), [1, 1])
    assert with_another.objective > result.objective
    worse = assign(np.hstack([values, [[-99.0], [result.prices[1] - 0.5]]]), [1, 1])
    assert worse.objective == result.objective


def test_filling_comes_before_value(solver: None) -> None:
    result = assign(np.array([[-1.0, -9.0], [-2.0, -np.inf]]), [1, 1])
    assert [rows.tolist() for rows in result.rows] == [[1], [0]]


def test_nobody_eligible_leaves_slots_empty() -> None:
    result = assign(np.full((2, 3), -np.inf), [2, 2])
    assert result.filled == [0, 0]
    assert result.objective == result.bound == result.gap == 0.0


@given(problems(), st.data())
@settings(max_examples=300, deadline=None)
def test_prices_never_break_a_cap_nor_promise_too_little(
    problem: tuple[np.ndarray, list[int], Cap], data: st.DataObject
) -> None:
    values, sizes, cap = problem
    result = assign(values, sizes, cap, depth=data.draw(st.integers(1, 5)))
    check_feasible(values, sizes, cap, result.rows)
    filled, total = best_by_search(values, sizes, cap)
    assert result.objective <= result.bound + 1e-9
    if sum(result.filled) == filled:
        assert result.objective <= total + 1e-9 <= result.bound + 2e-9


@pytest.mark.parametrize(
    ("cap", "size", "depth"), [(1, 60, 340), (2, 120, 580), (3, 40, 260), (1, 150, 2_000)]
)
def test_prices_come_near_the_optimum_of_a_larger_problem(cap: int, size: int, depth: int) -> None:
    random = np.random.default_rng(size)
    points, users = random.normal(size=(12, 8)) + random.normal(size=8), random.normal(size=(2_000, 8))
    values, sizes = points @ users.T / 3 - 9, [size] * 12
    exact = assign(values, sizes, cap)
    by_price = assign(values, sizes, cap, depth=depth)
    assert by_price.filled == sizes
    assert exact.objective <= by_price.bound
    assert exact.objective - by_price.objective < 2e-4 * abs(exact.objective)
    assert by_price.bound - exact.objective < 2e-4 * abs(exact.objective)
    check_feasible(values, sizes, cap, by_price.rows)


def test_both_solvers_agree_on_a_larger_problem_and_flow_proves_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("ortools", reason="the extra `targeting` is not installed")
    random = np.random.default_rng(5)
    values = -8 + 0.9 * random.normal(size=3_000) + 0.3 * random.normal(size=(12, 3_000))
    values[random.random(values.shape) < 0.2] = -np.inf
    sizes, room = random.integers(20, 120, 12).tolist(), random.integers(0, 3, 3_000)
    least = [size // 2 for size in sizes]
    linear = assign(values, sizes, room, least)
    monkeypatch.setattr(assignment, "LINEAR", -1)
    flow = assign(values, sizes, room, least)
    assert flow.objective == pytest.approx(linear.objective, abs=1e-6)
    assert 0 <= flow.gap + 1e-12 < 1e-9
    check_feasible(values, sizes, room, flow.rows)

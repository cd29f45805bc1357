"""Assignment against exhaustive search, and its certificate."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from duality.targeting import assignment
from duality.targeting.assignment import assign, greedy, total_value

Cap = int | np.ndarray


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
    found = greedy(values, sizes, cap)
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
    result, rows = assign(values, sizes, cap), greedy(values, sizes, cap)
    assert result.filled == sizes
    assert abs(result.gap) < 1e-9
    assert result.objective > total_value(values, rows)
    check_feasible(values, sizes, cap, result.rows)


def test_price_is_what_a_second_copy_of_the_user_adds(solver: None) -> None:
    values = np.array([[9.0, 1.0, 0.0], [8.0, 3.0, 0.0]])
    result = assign(values, [1, 1])
    assert result.objective == 12.0
    with_copy = assign(np.hstack([values, values[:, :1]]), [1, 1])
    assert result.prices[0] == pytest.approx(with_copy.objective - result.objective)


def test_filling_comes_before_value(solver: None) -> None:
    result = assign(np.array([[-1.0, -9.0], [-2.0, -np.inf]]), [1, 1])
    assert [rows.tolist() for rows in result.rows] == [[1], [0]]


def test_nobody_eligible_leaves_slots_empty() -> None:
    result = assign(np.full((2, 3), -np.inf), [2, 2])
    assert result.filled == [0, 0]
    assert result.objective == result.bound == result.gap == 0.0


@pytest.mark.parametrize(
    ("values", "sizes", "cap"),
    [
        ([[np.nan]], [1], 1),
        ([[np.inf]], [1], 1),
        ([[1.0]], [0], 1),
        ([[1.0]], [1], 0),
        ([[1.0]], [1, 1], 1),
    ],
)
def test_impossible_problems_are_refused(values: list[list[float]], sizes: list[int], cap: int) -> None:
    with pytest.raises(ValueError):
        assign(np.array(values), sizes, cap)


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

"""Calibration maps and their errors, on populations whose probabilities are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special

from duality.calibration import (
    Isotonic,
    Platt,
    choose,
    fit_isotonic,
    fit_platt,
    fit_platt_history,
    log_loss,
    map_from,
)
from duality.errors import InputError
from duality.evaluation.reliability import (
    bins_of,
    ece,
    ece_floor,
    ece_interval,
    group_error,
    reliability,
    user_gap,
)

N = 20_000


def population(
    slope: float, bias: float, rows: int = N, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    scores = random.normal(-6, 2, rows)
    p = special.expit(slope * scores + bias)
    return scores, (random.random(rows) < p).astype(float), p


def test_platt_finds_the_truth() -> None:
    scores, outcomes, p = population(0.8, 4.0)
    fitted = fit_platt(scores, outcomes)
    assert fitted.slope == pytest.approx(0.8, abs=0.05)
    assert fitted.bias == pytest.approx(4.0, abs=0.3)
    assert np.abs(fitted(scores) - p).max() < 0.03


def test_platt_is_the_optimum_and_never_falls() -> None:
    scores, outcomes, _ = population(0.5, 2.0, 500)
    high, low = (outcomes.sum() + 1) / (outcomes.sum() + 2), 1 / (len(outcomes) - outcomes.sum() + 2)
    wanted = np.where(outcomes > 0, high, low)

    def loss(x: np.ndarray) -> float:
        z = x[0] * scores + x[1]
        return float(np.mean(np.logaddexp(0, z) - wanted * z))

    brute = optimize.minimize(loss, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-12})
    fitted = fit_platt(scores, outcomes)
    assert loss(np.array([fitted.slope, fitted.bias])) <= brute.fun + 1e-9
    falling = fit_platt(scores, 1 - outcomes)
    assert falling.kind == "constant"
    assert np.ptp(falling(scores)) == 0


def test_history_tells_users_apart_that_the_score_does_not() -> None:
    random = np.random.default_rng(1)
    known = random.integers(0, 40, N)
    scores = random.normal(-6, 1, N)
    p = special.expit(0.4 * scores + 0.7 * np.log1p(known) + 1)
    outcomes = (random.random(N) < p).astype(float)
    users = np.arange(N) // 4
    fitted, losses = choose(scores, outcomes, users, known=known)
    assert fitted.kind == "platt-history"
    assert fitted.uses_history
    assert losses["platt-history"] < losses["isotonic"]
    assert (fitted.slope, fitted.history) == pytest.approx((0.4, 0.7), abs=0.06)
    by_score = fit_platt(scores, outcomes)
    group = np.searchsorted([1, 5, 15], known, side="right")
    assert group_error(fitted(scores, known), outcomes, group) < 0.02
    assert group_error(by_score(scores), outcomes, group) > 0.08
    with pytest.raises(ValueError, match="how many events"):
        fitted(scores)


def test_without_a_rising_score_history_still_counts() -> None:
    random = np.random.default_rng(2)
    known, scores = random.integers(0, 9, 4000), random.normal(3, 1, 4000)
    p = special.expit(-0.8 * (scores - 3) + np.log1p(known) - 1)
    outcomes = (random.random(4000) < p).astype(float)
    fitted = fit_platt_history(scores, outcomes, known)
    assert fitted(scores, known).mean() == pytest.approx(outcomes.mean(), abs=1e-3)
    assert fitted.slope == 0
    assert fitted.history > 0.5


def test_isotonic_wins_where_the_truth_is_a_staircase_and_platt_where_it_is_a_sigmoid() -> None:
    random = np.random.default_rng(3)
    scores = random.uniform(0, 3, N)
    stairs = np.array([0.1, 0.12, 0.9])[scores.astype(int)]
    users = np.arange(N) // 5
    staircase, _ = choose(scores, (random.random(N) < stairs).astype(float), users)
    assert staircase.kind == "isotonic"
    assert np.abs(staircase(np.array([0.5, 1.5, 2.5])) - [0.1, 0.12, 0.9]).max() < 0.03
    s, y, _ = population(0.8, 4.0)
    assert choose(s, y, np.arange(N) // 5)[0].kind == "platt"
    noise = choose(s, random.permutation(y), np.arange(N) // 5)[1]
    assert noise["constant"] < noise["isotonic"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 1)), min_size=1, max_size=40),
)
def test_isotonic_is_the_least_squares_rising_map(rows: list[tuple[int, int]]) -> None:
    scores, outcomes = np.array(rows, dtype=float).T
    fitted = fit_isotonic(scores, outcomes)
    values = np.unique(scores)
    assert (np.diff(fitted(np.linspace(-6, 6, 50))) >= 0).all()
    margin = 1 / (len(rows) + 2)
    # Minimax formula: max over starts of the min over ends of the mean between them.
    truth = [
        max(
            min(outcomes[(scores >= a) & (scores <= b)].mean() for b in values[values >= v])
            for a in values[values <= v]
        )
        for v in values
    ]
    np.testing.assert_allclose(fitted(values), np.clip(truth, margin, 1 - margin), atol=1e-9)


@pytest.mark.parametrize(
    "made",
    [
        Platt(0.3, -1.0),
        Platt(0.0, 0.2),
        Platt(0.3, -1.0, 0.5),
        Isotonic(np.array([0.0, 1.0]), np.array([0.2, 0.7])),
    ],
)
def test_maps_survive_storage(made: Platt | Isotonic) -> None:
    again = map_from(made.as_dict())
    scores = np.linspace(-3, 3, 9)
    np.testing.assert_array_equal(again(scores, np.arange(9)), made(scores, np.arange(9)))
    assert again.kind == made.kind


@pytest.mark.parametrize(
    "bad",
    [
        {"kind": "magic"},
        {"kind": "platt", "slope": -1, "bias": 0, "history": 0},
        {"kind": "platt", "slope": 1, "bias": float("nan"), "history": 0},
        {"kind": "isotonic", "scores": [1, 0], "probabilities": [0.1, 0.2]},
        {"kind": "isotonic", "scores": [0, 1], "probabilities": [0.2, 0.1]},
        {"kind": "isotonic", "scores": [0, 1], "probabilities": [0.0, 1.0]},
        {"kind": "isotonic", "scores": [], "probabilities": []},
    ],
)
def test_a_map_that_would_lie_is_refused(bad: dict) -> None:
    with pytest.raises(ValueError):
        map_from(bad)


def test_ece_by_hand() -> None:
    p, y = np.array([0.1] * 10 + [0.8] * 10), np.array([0.0] * 8 + [1.0] * 2 + [1.0] * 6 + [0.0] * 4)
    assert ece(p, y) == pytest.approx(0.5 * 0.1 + 0.5 * 0.2)
    table = reliability(p, y)
    np.testing.assert_allclose(table.predicted, [0.1, 0.8])
    np.testing.assert_allclose(table.observed, [0.2, 0.6])
    assert group_error(p, y, np.zeros(20)) == pytest.approx(abs(p.mean() - y.mean()))


def test_ece_of_the_truth_is_the_floor_and_of_an_error_is_that_error() -> None:
    _, y, p = population(0.8, 4.0)
    assert ece(p, y) == pytest.approx(ece_floor(p), rel=0.6)
    wrong = np.clip(p + 0.1, 0, 0.999)
    low, high = ece_interval(wrong, y, np.arange(N))
    assert low <= ece(wrong, y) <= high
    assert high - low < 0.03
    assert ece(wrong, y) == pytest.approx(np.mean(wrong - p), abs=0.01)
    assert np.isnan(ece_interval(p, y, np.zeros(N))[0])


def test_bins_hold_equally_many_and_never_split_a_value() -> None:
    p = np.random.default_rng(0).random(3000)
    assert np.bincount(bins_of(p, 10)).tolist() == [300] * 10
    assert len(np.unique(bins_of(np.full(50, 0.3)))) == 1


def test_user_gap_is_the_spread_of_users_without_chance() -> None:
    random = np.random.default_rng(5)
    users = np.repeat(np.arange(1000), 20)
    shift = np.where(np.arange(1000) % 2, 0.15, -0.15)[users]
    even = (random.random(len(users)) < 0.5).astype(float)
    uneven = (random.random(len(users)) < 0.5 + shift).astype(float)
    half = np.full(len(users), 0.5)
    assert user_gap(half, even, users)[0] < 0.03
    assert user_gap(half, uneven, users)[0] == pytest.approx(0.15, abs=0.01)
    assert user_gap(half, uneven, np.arange(len(users)))[1] == 0


def test_what_cannot_be_calibrated_is_refused() -> None:
    scores, users = np.zeros(6), np.array([0, 0, 1, 1, 2, 2])
    with pytest.raises(InputError, match="both kinds"):
        choose(scores, np.ones(6), users)
    with pytest.raises(InputError, match="two users"):
        choose(scores, np.array([0, 1, 0, 1, 0, 1]), np.zeros(6))
    with pytest.raises(InputError, match="row 2: score nan"):
        choose(np.array([0, np.nan, 0, 0, 0, 0]), np.array([0, 1, 0, 1, 0, 1]), users)
    with pytest.raises(InputError, match="row 1: outcome 2"):
        choose(scores, np.array([2, 1, 0, 1, 0, 1]), users)
    assert log_loss(np.array([0.0, 1.0]), np.array([0, 1])) == pytest.approx(0, abs=1e-9)

"""Fading counts against their definition, and what makes them fit for an index: all fade alike."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from duality.intensity import FLOOR, FadingCounts

SECOND = 1_000_000


def by_definition(owner: np.ndarray, time: np.ndarray, row: int, moment: int, seconds: float) -> float:
    past = time[(owner == row) & (time < moment)]
    if not len(past):
        return FLOOR
    return max(FLOOR, float(np.log(np.exp(-(moment - past) / SECOND / seconds).sum())))


@given(st.integers(0, 1000), st.sampled_from([0.5, 20.0, 5000.0]))
@settings(max_examples=60, deadline=None)
def test_counts_are_those_of_the_definition(seed: int, seconds: float) -> None:
    rng = np.random.default_rng(seed)
    owner, time = rng.integers(6, size=40), rng.integers(100, size=40) * SECOND
    counts = FadingCounts(owner, time, 7, seconds)
    rows, moments = rng.integers(7, size=25), rng.integers(110, size=25) * SECOND
    expected = [by_definition(owner, time, r, m, seconds) for r, m in zip(rows, moments, strict=True)]
    np.testing.assert_allclose(counts.of(rows, moments), expected, rtol=1e-5, atol=1e-5)
    before = (time[None, :, None] < moments[:, None, None]) & (owner[None, :, None] == np.arange(7))
    table = counts.at(moments, before.sum(axis=1))
    np.testing.assert_allclose(table[np.arange(25), rows], expected, rtol=1e-5, atol=1e-5)


def test_as_time_goes_by_everybody_falls_by_the_same() -> None:
    owner, time = np.array([0, 0, 1, 2]), np.array([1, 5, 9, 2]) * SECOND
    counts = FadingCounts(owner, time, 4, 10.0)
    early, late = counts.now(9 * SECOND), counts.now(59 * SECOND)
    np.testing.assert_allclose((early - late)[:3], 5.0, rtol=1e-6)
    assert early[3] == late[3] == FLOOR
    assert early[0] > early[1] > early[2]


def test_many_owners_and_years_do_not_cost_precision() -> None:
    rng = np.random.default_rng(0)
    owner, time = rng.integers(50_000, size=200_000), rng.integers(7 * 10**7, size=200_000) * SECOND
    counts = FadingCounts(owner, time, 50_000, 3600.0)
    end = int(time.max())
    found = counts.now(end)
    for row in (0, 25_000, 49_999, int(owner[time.argmax()])):
        mine = time[owner == row]
        exact = max(FLOOR, float(np.log(np.exp(-(end - mine) / SECOND / 3600.0).sum() + 1e-300)))
        assert abs(found[row] - exact) < 1e-4


def test_nobody_has_a_count_in_an_empty_log() -> None:
    none = np.zeros(0, np.int64)
    np.testing.assert_array_equal(FadingCounts(none, none, 3, 1.0).now(5), [FLOOR] * 3)

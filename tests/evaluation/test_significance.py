"""Randomisation tests: oracles, size and power on populations whose truth is known."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import permutation_test

from duality.evaluation.significance import holm, method_test, sign_flip_test, smallest_p


def brute_force(sums: np.ndarray) -> float:
    """Two-sided p over all sign patterns."""
    totals = [abs(np.dot(signs, sums)) for signs in product((-1, 1), repeat=len(sums))]
    return float(np.mean(np.array(totals) >= abs(sums.sum()) - 1e-9))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=9), st.integers(0, 2**32 - 1))
def test_few_clusters_are_enumerated(sums: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(len(sums)), 2)
    noise = random.normal(size=len(sums))
    values = np.stack((np.array(sums) + noise, -noise), axis=1).ravel()  # a cluster's two queries
    p = sign_flip_test(values[:, None], cluster)
    assert p[0] == pytest.approx(brute_force(np.array(sums, dtype=float)))


def test_many_clusters_agree_with_scipy() -> None:
    random = np.random.default_rng(0)
    values = random.normal(0.15, 1.0, size=(120, 1))
    p = sign_flip_test(values, np.arange(120))[0]
    wanted = permutation_test(
        (values[:, 0],),
        np.mean,
        permutation_type="samples",
        n_resamples=9999,
        rng=np.random.default_rng(1),
    )
    assert p == pytest.approx(wanted.pvalue, abs=0.015)


def test_p_is_never_zero_and_one_without_a_difference() -> None:
    values = np.stack((np.ones(80), np.zeros(80)), axis=1)
    p = sign_flip_test(values, np.arange(80), draws=499)
    assert p.tolist() == [1 / 500, 1.0]
    assert sign_flip_test(np.ones((5, 1)), np.zeros(5)).tolist() == [1.0]


def test_size_and_power_of_the_sign_flip() -> None:
    random = np.random.default_rng(2)
    sizes = random.integers(1, 9, 150)
    clusters = np.repeat(np.arange(150), sizes)
    effect = np.repeat(random.normal(size=(150, 600)), sizes, axis=0)  # shared by a cluster's queries
    noise = 0.3 * random.normal(size=effect.shape)
    null = sign_flip_test(effect + noise, clusters, draws=999)
    assert 0.03 <= np.mean(null <= 0.05) <= 0.075
    shifted = sign_flip_test(effect + noise + 0.3, clusters, draws=999)
    assert np.mean(shifted <= 0.05) > 0.75
    wrong = sign_flip_test(effect + noise, np.arange(len(clusters)), draws=299)
    assert np.mean(wrong <= 0.05) > 0.2  # what ignoring the clusters would claim


def two_methods(
    random: np.random.Generator, *, seeds: int, source: float, run: float, effect: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """300 populations of 60 sources: method-by-source and run-to-run variation as given."""
    likes = random.normal(0, source / 2, (1, 60, 300))
    parts = [
        sign * likes + random.normal(0, run, (seeds, 1, 300)) + 0.3 * random.normal(size=(seeds, 60, 300))
        for sign in (1, -1)
    ]
    return parts[0] + effect, parts[1]


@pytest.mark.parametrize(("source", "run"), [(1.0, 0.0), (1.0, 0.2), (0.3, 0.3), (0.0, 0.3)])
def test_size_of_the_method_test(source: float, run: float) -> None:
    random = np.random.default_rng(3)
    first, second = two_methods(random, seeds=5, source=source, run=run)
    p = method_test(first, second, np.arange(60), draws=999)
    assert np.mean(p <= 0.05) <= 0.075
    if run >= 0.3:
        naive = sign_flip_test(first.mean(axis=0) - second.mean(axis=0), np.arange(60), draws=999)
        assert np.mean(naive <= 0.05) > 0.5  # why averaging the seeds is not enough


def test_power_of_the_method_test() -> None:
    first, second = two_methods(np.random.default_rng(4), seeds=5, source=0.3, run=0.1, effect=0.4)
    assert np.mean(method_test(first, second, np.arange(60), draws=999) <= 0.05) > 0.9


def test_few_seeds_bound_the_p_value() -> None:
    first, second = np.ones((4, 30, 1)), np.zeros((4, 30, 1))
    p = method_test(first, second, np.arange(30))
    assert p[0] == smallest_p(4, 4) == pytest.approx(2 / 70)
    with pytest.raises(ValueError, match="two seeds"):
        method_test(first[:1], second, np.arange(30))


def test_holm_by_hand() -> None:
    adjusted = holm(np.array([[0.04, 0.01], [0.03, 0.5]]))
    np.testing.assert_allclose(adjusted, [[0.09, 0.04], [0.09, 0.5]])
    assert holm(np.array([0.6, 0.7])).tolist() == [1.0, 1.0]
    assert holm(np.zeros(0)).shape == (0,)


def test_holm_keeps_the_family_at_its_level() -> None:
    p = np.random.default_rng(5).random((4000, 8))
    any_claim = np.array([holm(row).min() <= 0.05 for row in p])
    assert any_claim.mean() == pytest.approx(0.05, abs=0.012)

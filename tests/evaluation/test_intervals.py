"""Bootstrap intervals: known distributions, clusters, pairing."""

from __future__ import annotations

import numpy as np
import pytest

from duality.evaluation.intervals import cluster_bootstrap, paired_difference


def test_coverage_of_a_known_mean() -> None:
    random = np.random.default_rng(0)
    values = random.binomial(1, 0.3, size=(150, 300)).astype(float)
    interval = cluster_bootstrap(values, np.arange(150), resamples=400)
    covered = np.mean((interval.low <= 0.3) & (interval.high >= 0.3))
    assert 0.90 <= covered <= 0.98


def test_clusters_widen_the_interval_as_theory_says() -> None:
    random = np.random.default_rng(1)
    per_cluster = random.normal(size=(200, 1))
    values, clusters = np.repeat(per_cluster, 25, axis=0), np.repeat(np.arange(200), 25)
    clustered = cluster_bootstrap(values, clusters)
    naive = cluster_bootstrap(values, np.arange(len(values)))
    width = float((clustered.high - clustered.low)[0])
    assert width == pytest.approx(2 * 1.96 * per_cluster.std() / np.sqrt(200), rel=0.1)
    assert width / float((naive.high - naive.low)[0]) == pytest.approx(5.0, rel=0.15)


def test_value_is_the_mean_over_queries_not_over_clusters() -> None:
    interval = cluster_bootstrap(np.array([[1.0], [0.0], [0.0], [0.0]]), np.array([7, 3, 3, 3]))
    assert interval.value[0] == 0.25


def test_paired_difference_is_narrower_than_its_parts() -> None:
    random = np.random.default_rng(2)
    common = random.normal(size=(500, 1))
    better = common + 0.1 + random.normal(scale=0.05, size=(500, 1))
    clusters = np.arange(500)
    difference = paired_difference(better, common, clusters)
    alone = cluster_bootstrap(better, clusters)
    assert difference.low[0] > 0.09
    assert difference.high[0] < 0.11
    assert difference.high[0] - difference.low[0] < 0.2 * (alone.high[0] - alone.low[0])


def test_same_seed_same_interval() -> None:
    values, clusters = np.random.default_rng(3).random((40, 2)), np.arange(40) // 2
    first, again, other = (cluster_bootstrap(values, clusters, seed=s) for s in (5, 5, 6))
    np.testing.assert_array_equal([first.low, first.high], [again.low, again.high])
    assert (first.low != other.low).any()


def test_one_cluster_has_no_bounds() -> None:
    interval = cluster_bootstrap(np.ones((3, 1)), np.zeros(3))
    assert interval.value[0] == 1.0
    assert np.isnan(interval.low[0])
    assert np.isnan(interval.high[0])


def test_nothing_to_resample_is_refused() -> None:
    with pytest.raises(ValueError, match="Q >= 1"):
        cluster_bootstrap(np.zeros((0, 2)), np.zeros(0))

"""Bootstrap intervals: known distributions, clusters, pairing, agreement with plain resampling."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, chisquare, ks_2samp, multinomial

from duality.evaluation.intervals import DrawCounts, cluster_bootstrap, paired_difference, resampled_means


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


@pytest.mark.parametrize("clusters", [2, 3])
def test_counts_have_the_multinomial_distribution(clusters: int) -> None:
    random, drawn = np.random.default_rng(4), DrawCounts(clusters)
    counts = np.stack([drawn.draw(random) for _ in range(6000)]).astype(int)
    outcomes, seen = np.unique(counts, axis=0, return_counts=True)
    law = multinomial(clusters, np.full(clusters, 1 / clusters))
    expected = 6000 * law.pmf(outcomes)
    assert expected.sum() == pytest.approx(6000)  # every outcome occurred
    assert chisquare(seen, expected).pvalue > 1e-3


def test_poisson_part_is_exact_not_rounded_to_its_table() -> None:
    """Many clusters: most counts come from the table; one cluster's count is binomial(C, 1/C)."""
    clusters = 40_000
    random, drawn = np.random.default_rng(5), DrawCounts(clusters)
    draws = [drawn.draw(random) for _ in range(100)]
    assert all(counts.sum() == clusters and counts.min() >= 0 for counts in draws)
    seen = np.bincount(np.concatenate(draws).astype(int), minlength=8)
    seen = np.append(seen[:7], seen[7:].sum())
    law = binom(clusters, 1 / clusters)
    expected = 100 * clusters * np.append(law.pmf(np.arange(7)), law.sf(6))
    # The fixed total makes counts correlate by -1/C only, so the chi-square law holds.
    assert chisquare(seen, expected * seen.sum() / expected.sum()).pvalue > 1e-3
    ambiguous = drawn.table < 0
    assert 5 <= ambiguous.sum() <= 20


def test_open_cells_are_decided_by_more_bits() -> None:
    """With a table that decides nothing, inversion alone must give the same distribution."""
    drawn = DrawCounts(10_000)
    drawn.table = np.full_like(drawn.table, -1.0)
    counts = np.concatenate([drawn.draw(np.random.default_rng(n)) for n in range(40)]).astype(int)
    seen = np.append(np.bincount(counts)[:5], (counts >= 5).sum())
    law = binom(10_000, 1e-4)
    expected = len(counts) * np.append(law.pmf(np.arange(5)), law.sf(4))
    assert chisquare(seen, expected * seen.sum() / expected.sum()).pvalue > 1e-3


@pytest.mark.parametrize("clusters", [7, 900, 20_000])
def test_intervals_agree_with_plain_resampling(clusters: int) -> None:
    random = np.random.default_rng(6)
    queries = np.concatenate((np.arange(clusters), random.integers(0, clusters, clusters // 2)))
    values = random.gamma(0.5, size=(len(queries), 2))
    plain = np.empty((2000, 2))
    for replicate in range(len(plain)):
        times = np.bincount(random.integers(0, clusters, clusters), minlength=clusters)[queries]
        plain[replicate] = times @ values / times.sum()
    fast = resampled_means(values, queries, resamples=2000, seed=1)
    for column in range(2):
        assert ks_2samp(plain[:, column], fast[:, column]).pvalue > 1e-3


def test_threads_do_not_change_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(7).random((60_000, 3))
    found = []
    for threads in ("1", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        found.append(resampled_means(values, np.arange(60_000), resamples=12, seed=3))
    np.testing.assert_array_equal(*found)


def test_columns_share_their_draws() -> None:
    values = np.random.default_rng(8).random((300, 1))
    means = resampled_means(np.hstack((values, 2 * values + 1)), np.arange(300) // 3, resamples=50)
    np.testing.assert_allclose(means[:, 1], 2 * means[:, 0] + 1, rtol=1e-12)


def test_a_common_offset_costs_no_digits() -> None:
    values, clusters = np.random.default_rng(9).random((500, 1)), np.arange(500)
    near, far = (resampled_means(values + shift, clusters) - shift for shift in (0.0, 1e6))
    np.testing.assert_allclose(near, far, atol=1e-8)


def test_missing_values_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        cluster_bootstrap(np.array([[1.0], [np.nan]]), np.arange(2))

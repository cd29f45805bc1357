"""Estimators of full-ranking metrics against exact enumeration and populations whose truth is known."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from duality.errors import InputError
from duality.evaluation.intervals import cluster_bootstrap
from duality.evaluation.least_squares import bias_variance, bias_variance_table
from duality.evaluation.rank_laws import rank_bins, rank_distribution, sampling_law
from duality.evaluation.sampled import ESTIMATORS, corrected
from duality.metrics import parse_metric, per_query

N = 2000
METRICS = ("ndcg@10", "recall@10", "mrr@5", "auc", "lift@1%")


@cache
def population() -> np.ndarray:
    """Full ranks of 6,000 queries among N: a head of found targets and a long tail."""
    rng = np.random.default_rng(0)
    return np.minimum(N, np.exp(rng.uniform(0, np.log(N), 6000)) + rng.integers(0, 2, 6000)).astype(np.int64)


def redraw(ranks: np.ndarray, n: np.ndarray | int, m: int, seed: int, *, replacement: bool) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if replacement:
        return 1 + rng.binomial(m, (ranks - 1) / (np.asarray(n) - 1))
    return 1 + rng.hypergeometric(ranks - 1, n - ranks, m)


@given(st.integers(2, 60), st.data())
@settings(max_examples=60, deadline=None)
def test_the_sampling_laws_are_scipys(n: int, data: st.DataObject) -> None:
    m = data.draw(st.integers(1, n - 1))
    ranks, ahead = np.arange(1, n + 1)[:, None], np.arange(m + 1)
    without = sampling_law(ranks, ahead, n, m, replacement=False)
    np.testing.assert_allclose(without, stats.hypergeom.pmf(ahead, n - 1, ranks - 1, m), atol=1e-10)
    drawn_with = sampling_law(ranks, ahead, n, m, replacement=True)
    np.testing.assert_allclose(drawn_with, stats.binom.pmf(ahead, m, (ranks - 1) / (n - 1)), atol=1e-10)


def test_sampled_ranks_of_real_draws_follow_the_hypergeometric_law() -> None:
    n, m, rank = 30, 8, 11
    rng = np.random.default_rng(0)
    drawn = np.argsort(rng.random((20_000, n - 1)), axis=1)[:, :m]
    ahead = np.bincount((drawn < rank - 1).sum(axis=1), minlength=m + 1)
    law = sampling_law(np.array(rank), np.arange(m + 1), n, m, replacement=False)
    assert stats.chisquare(ahead, law * 20_000).pvalue > 1e-3


@given(st.integers(1, 300_000))
@settings(max_examples=40, deadline=None)
def test_bins_cover_every_rank_once(n: int) -> None:
    bins = rank_bins(n)
    assert bins.width.sum() == n
    assert bins.start[0] == 1
    np.testing.assert_array_equal(bins.start[1:], np.cumsum(bins.width)[:-1] + 1)
    assert (bins.width[bins.start <= 128] <= 3).all()
    np.testing.assert_allclose(
        bins.means(np.arange(1.0, n + 1)), bins.start + (bins.width - 1) / 2, rtol=1e-12
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("metric", METRICS)
def test_where_every_candidate_was_drawn_the_metric_is_exact(estimator: str, metric: str) -> None:
    n = np.array([1, 2, 5, 40, 40])
    ranks = np.array([1, 2, 3, 1, 33])
    values = corrected(metric, ranks, n - 1, n, estimator=estimator)
    np.testing.assert_allclose(values, per_query(metric, ranks, n))


@pytest.mark.parametrize("metric", ["ndcg@3", "recall@2", "auc"])
def test_least_squares_is_unbiased_at_every_rank_where_that_is_possible(metric: str) -> None:
    n = m = 7  # with replacement: as many sampled ranks as full ones and one more
    table = corrected(metric, np.arange(1, m + 2), m, n, estimator="least-squares", replacement=True)
    for rank in range(1, n + 1):
        law = stats.binom.pmf(np.arange(m + 1), m, (rank - 1) / (n - 1))
        assert law @ table == pytest.approx(per_query(metric, np.array([rank]), np.array([n]))[0], abs=1e-6)


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("gamma", [0.01, 0.1, 1.0])
def test_bias_variance_minimises_its_criterion(gamma: float, replacement: bool) -> None:
    n, m, metric = 50, 9, parse_metric("ndcg@10")
    ranks = np.arange(1, n + 1)
    aims = per_query(metric, ranks, np.full(n, n))
    law = sampling_law(ranks[:, None], np.arange(m + 1), n, m, replacement=replacement)

    def criterion(table: np.ndarray) -> float:
        mean, square = law @ table, law @ table**2
        return float(((mean - aims) ** 2 + gamma * (square - mean**2)).mean())

    best = bias_variance_table(metric, n, m, gamma, replacement)
    rng = np.random.default_rng(0)
    for size in (1e-1, 1e-2, 1e-3):
        for _ in range(50):
            assert criterion(best) < criterion(best + rng.normal(scale=size, size=m + 1))


def test_the_constrained_table_falls_within_range_and_beats_other_such_tables() -> None:
    n, m = 60, 10
    ranks = np.arange(1, n + 1)
    aims = per_query("ndcg@10", ranks, np.full(n, n))
    law = sampling_law(ranks[:, None], np.arange(m + 1), n, m, replacement=False)
    table = corrected("ndcg@10", np.arange(1, m + 2), m, n, estimator="constrained")
    assert (np.diff(table) <= 1e-12).all()
    assert table[0] <= 1 + 1e-6
    assert table[-1] >= 0
    rng = np.random.default_rng(0)
    least = ((law @ table - aims) ** 2).sum()
    for _ in range(300):
        other = -np.sort(-np.clip(table + rng.normal(scale=0.05, size=m + 1), 0, 1))
        assert least <= ((law @ other - aims) ** 2).sum() + 1e-9


def test_the_rank_estimate_is_unbiased_before_it_is_rounded() -> None:
    n, m = 101, 10  # (n - 1) / m is whole, so that nothing is rounded; auc is linear in the rank
    for rank in (1, 17, 60, 101):
        law = stats.hypergeom.pmf(np.arange(m + 1), n - 1, rank - 1, m)
        values = corrected("auc", np.arange(1, m + 2), m, n, estimator="rank")
        assert law @ values == pytest.approx((n - rank) / (n - 1))


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize(
    ("estimator", "m", "tolerance"),
    [
        ("constrained", 300, 0.12),
        ("bias-variance", 300, 0.15),
        ("bias-variance", 1000, 0.05),
        ("mle", 300, 0.15),
        ("bias-variance-mle", 300, 0.10),
    ],
)
@pytest.mark.parametrize("metric", ["ndcg@10", "recall@10"])
def test_estimates_of_a_known_population_come_near_where_naive_does_not(
    metric: str, estimator: str, m: int, tolerance: float, replacement: bool
) -> None:
    ranks = population()
    full = per_query(metric, ranks, np.full(len(ranks), N)).mean()
    samples = [redraw(ranks, N, m, seed, replacement=replacement) for seed in range(4)]
    found = [
        corrected(metric, sample, m, N, estimator=estimator, replacement=replacement).mean()
        for sample in samples
    ]
    assert abs(np.mean(found) / full - 1) < tolerance
    naive = np.mean([corrected(metric, sample, m, N, estimator="naive").mean() for sample in samples])
    assert abs(naive - full) > 2 * abs(np.mean(found) - full)


@pytest.mark.parametrize("power", [0.2, 0.5, 1.0])
def test_mapping_recovers_populations_of_its_own_family(power: float) -> None:
    ranks = np.ceil(N * np.random.default_rng(0).random(20_000) ** (1 / power)).astype(np.int64).clip(1)
    sample = redraw(ranks, N, 300, 1, replacement=False)
    full = per_query("recall@100", ranks, np.full(len(ranks), N)).mean()
    values = corrected("recall@100", sample, 300, N, estimator="mapping")
    assert values.mean() == pytest.approx(full, rel=0.04)


def test_auc_needs_no_correction() -> None:
    ranks = population()
    full = per_query("auc", ranks, np.full(len(ranks), N)).mean()
    sample = redraw(ranks, N, 50, 0, replacement=False)
    assert corrected("auc", sample, 50, N, estimator="naive").mean() == pytest.approx(full, abs=0.003)


def test_assuming_the_wrong_law_of_draws_shows() -> None:
    """With 500 of 600 drawn, the two laws differ by a factor in variance, and so must the tables."""
    tables = [corrected("ndcg@10", np.arange(1, 502), 500, 600, replacement=r) for r in (False, True)]
    law = sampling_law(np.array(4), np.arange(501), 600, 500, replacement=False)
    exact = per_query("ndcg@10", np.array([4]), np.array([600]))[0]
    right, wrong = (abs(law @ table - exact) for table in tables)
    assert right < 0.02
    assert wrong > 3 * right


def test_maximum_likelihood_recovers_a_distribution_that_the_draws_can_tell_apart() -> None:
    laws = stats.binom.pmf(np.arange(21), 20, np.array([0.1, 0.5, 0.9])[:, None]).T
    times = np.round(laws @ [0.2, 0.5, 0.3] * 100_000).astype(np.int64)
    np.testing.assert_allclose(rank_distribution(laws, times), [0.2, 0.5, 0.3], atol=1e-3)


def test_candidates_may_differ_between_queries() -> None:
    rng = np.random.default_rng(1)
    ranks = population()
    n = rng.integers(ranks, N + 1).clip(min=400)
    sample = redraw(ranks, n, 300, 2, replacement=False)
    full = per_query("ndcg@10", ranks, n).mean()
    for estimator in ("constrained", "bias-variance", "mapping", "mle", "bias-variance-mle"):
        values = corrected("ndcg@10", sample, 300, n, estimator=estimator)
        assert values.mean() == pytest.approx(full, rel=0.15), estimator


@pytest.mark.parametrize("estimator", ["rank", "bias-variance", "constrained"])
def test_a_value_depends_on_its_own_query_alone(estimator: str) -> None:
    sample = redraw(population(), N, 100, 0, replacement=False)
    together = corrected("ndcg@10", sample, 100, N, estimator=estimator)
    alone = corrected("ndcg@10", sample[:1], 100, N, estimator=estimator)
    assert together[0] == alone[0]


def test_bootstrap_intervals_of_the_corrected_values_cover_their_expectation() -> None:
    rng, n, m, covered = np.random.default_rng(0), 500, 100, 0
    ranks = np.minimum(n, np.exp(rng.uniform(0, np.log(n), 100_000))).astype(np.int64)
    table = corrected("ndcg@10", np.arange(1, m + 2), m, n)
    expected = table[redraw(ranks, n, m, 1, replacement=False) - 1].mean()
    for seed in range(100):
        some = ranks[rng.integers(len(ranks), size=300)]
        values = corrected("ndcg@10", redraw(some, n, m, seed + 2, replacement=False), m, n)
        found = cluster_bootstrap(values[:, None], np.arange(300), resamples=200, seed=seed)
        covered += int(found.low[0] <= expected <= found.high[0])
    assert 88 <= covered <= 100


def test_a_prior_that_is_known_lowers_the_error() -> None:
    n, m, metric = 400, 20, parse_metric("ndcg@10")
    ranks = np.arange(1, n + 1)
    law = sampling_law(ranks[:, None], np.arange(m + 1), n, m, replacement=False)
    aims = per_query(metric, ranks, np.full(n, n))
    prior = 1.0 / ranks / (1.0 / ranks).sum()
    informed = bias_variance(law, prior, aims, 0.1)
    flat = bias_variance(law, np.full(n, 1.0 / n), aims, 0.1)
    bias = [abs(prior @ (law @ table - aims)) for table in (informed, flat)]
    assert bias[0] < 0.5 * bias[1]


@pytest.mark.parametrize(
    ("ranks", "m", "n"), [([0], 5, 10), ([7], 5, 10), ([1], 0, 10), ([1], 10, 10), ([1], 5, 0), ([[1]], 5, 9)]
)
def test_counts_that_cannot_be_are_refused(ranks: list[int], m: int, n: int) -> None:
    with pytest.raises(ValueError, match=r"sampled ranks|negative"):
        corrected("ndcg@10", np.array(ranks), m, n)


def test_unknown_names_and_weights_are_refused() -> None:
    ranks = np.array([1])
    with pytest.raises(InputError, match="did you mean bias-variance"):
        corrected("ndcg@10", ranks, 5, 10, estimator="bias-varience")
    with pytest.raises(InputError, match="gamma 2"):
        corrected("ndcg@10", ranks, 5, 10, gamma=2)
    with pytest.raises(InputError, match="unknown metric"):
        corrected("ndgc@10", ranks, 5, 10)

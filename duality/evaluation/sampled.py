"""Full-ranking metrics from ranks among sampled candidates.

A rank among a few uniform candidates is a noisy, shrunken full rank, and a metric computed on it
answers another question: ndcg@10 among 100 candidates looks at the first tenth of the catalogue.
The estimators here give a value per query whose mean aims at the metric of the full ranking.

| Estimator           | Value of a query                                                              |
|---------------------|-------------------------------------------------------------------------------|
| `naive`             | the metric of the sampled rank itself                                         |
| `rank`              | the metric of the unbiased rank estimate 1 + floor((n - 1)(rank - 1) / m)     |
| `least-squares`     | least squared bias over all full ranks; unbounded values, wild for large m     |
| `constrained`       | the same among values that fall with the rank and stay within the metric's range |
| `bias-variance`     | squared bias + gamma x variance, least over all full ranks                    |
| `mapping`           | the metric over the full ranks that the sampled rank maps to                  |
| `mle`               | its expectation given the sampled rank, under the likeliest rank distribution  |
| `bias-variance-mle` | bias-variance, weighted by that distribution instead of all ranks alike       |

Sources: Krichene & Rendle 2020, "On Sampled Metrics for Item Recommendation", section 5 (the first five);
Li et al. 2020, "On Sampling Top-K Recommendation Evaluation" (mapping); Jin et al. 2021, "On Estimating
Recommendation Evaluation Metrics under Sampling" (the last two).

Trades: values of `mapping`, `mle` and `bias-variance-mle` share what was fitted on all queries, so a
bootstrap of them is too narrow; the others are functions of one query's rank and may be bootstrapped.
Only uniform candidates can be corrected: ranks among popular ones do not say who the others were.

Shapes: Q queries, R rank bins, m negatives, n candidates.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import optimize
from scipy.special import betaln

from duality.errors import InputError, suggestion
from duality.evaluation.least_squares import (
    bias_variance,
    bias_variance_table,
    bin_means,
    constrained_table,
    law_of_all,
    least_squares_table,
)
from duality.evaluation.rank_laws import (
    Floats,
    Ints,
    log_choose,
    rank_bins,
    rank_distribution,
    sampling_law,
)
from duality.metrics import Metric, parse_metric, per_query

GAMMA = 0.1
FEW, LEVEL = 64, 0.01  # more distinct n than FEW are rounded to levels of 1%
Table = Callable[[int, int], Floats]


def corrected(
    metric: Metric | str,
    sampled_ranks: Ints,
    num_sampled: int | Ints,
    num_candidates: int | Ints,
    *,
    estimator: str = "bias-variance",
    gamma: float = GAMMA,
    replacement: bool = False,
) -> Floats:
    """Per-query values whose mean estimates a metric of the full ranking.

    Args:
        metric: a metric or its name.
        sampled_ranks: int64 [Q], rank among the sampled candidates, 1 = best, at most num_sampled + 1.
        num_sampled: int or int64 [Q], uniformly drawn negatives, the target not counted.
        num_candidates: int or int64 [Q], size of the full ranking, the target included.
        estimator: see the module.
        gamma: weight of the variance, 0 to 1; read by the two bias-variance estimators.
        replacement: whether negatives were drawn with replacement.

    Returns:
        float64 [Q]. Values of single queries may lie outside the metric's range. Where every candidate
        was drawn, all estimators return the metric itself.

    Raises:
        InputError: unknown metric or estimator, gamma out of range.
        ValueError: shapes differ, or a rank or count is out of range.
    """
    metric = parse_metric(metric) if isinstance(metric, str) else metric
    ranks, m, n = _checked(sampled_ranks, num_sampled, num_candidates, replacement)
    if estimator not in ESTIMATORS:
        near = suggestion(estimator, ESTIMATORS)
        raise InputError(f"unknown estimator '{estimator}'{near}: choose {', '.join(ESTIMATORS)}")
    if not 0 <= gamma <= 1:
        raise InputError(f"gamma {gamma}: give a number from 0 to 1")
    if estimator == "bias-variance" and gamma == 0:
        estimator = "least-squares"
    values = np.empty(len(ranks))
    complete = (m == n - 1) & (not replacement) | (n == 1)
    values[complete] = per_query(metric, ranks[complete], n[complete])
    rest = ~complete
    if rest.any():
        sample = ranks[rest], m[rest], n[rest]
        values[rest] = ESTIMATORS[estimator](metric, *sample, gamma, replacement)
    return values


def _checked(
    ranks: Ints, num_sampled: int | Ints, num_candidates: int | Ints, replacement: bool
) -> tuple[Ints, Ints, Ints]:
    ranks = np.asarray(ranks, dtype=np.int64)
    m, n = (
        np.broadcast_to(np.asarray(x, dtype=np.int64), ranks.shape) for x in (num_sampled, num_candidates)
    )
    if ranks.ndim != 1 or (ranks < 1).any() or (ranks > m + 1).any():
        raise ValueError("sampled ranks must be [Q] and lie between 1 and num_sampled + 1")
    if (m < np.minimum(n - 1, 1)).any() or (n < 1).any() or (not replacement and (m > n - 1).any()):
        raise ValueError("a query needs 1 negative or more, and no more than its other candidates")
    return ranks, m, n


def _naive(metric: Metric, ranks: Ints, m: Ints, n: Ints, gamma: float, replacement: bool) -> Floats:
    return per_query(metric, ranks, m + 1)


def _by_rank(metric: Metric, ranks: Ints, m: Ints, n: Ints, gamma: float, replacement: bool) -> Floats:
    return per_query(metric, 1 + (n - 1) * (ranks - 1) // m, n)


def _by_least_squares(
    metric: Metric, ranks: Ints, m: Ints, n: Ints, gamma: float, replacement: bool
) -> Floats:
    return _looked_up(lambda n, m: least_squares_table(metric, n, m, replacement), ranks, m, n)


def _by_constrained(metric: Metric, ranks: Ints, m: Ints, n: Ints, gamma: float, replacement: bool) -> Floats:
    return _looked_up(lambda n, m: constrained_table(metric, n, m, replacement), ranks, m, n)


def _by_bias_variance(
    metric: Metric, ranks: Ints, m: Ints, n: Ints, gamma: float, replacement: bool
) -> Floats:
    return _looked_up(lambda n, m: bias_variance_table(metric, n, m, gamma, replacement), ranks, m, n)


def _looked_up(table: Table, ranks: Ints, m: Ints, n: Ints) -> Floats:
    """Values of a table [m + 1] per distinct (n, m)."""
    pairs, place = np.unique(np.stack([_levels(n, m), m]), axis=1, return_inverse=True)
    values = np.empty(len(ranks))
    order = np.argsort(place, kind="stable")
    bounds = np.cumsum(np.bincount(place))[:-1]
    for (size, drawn), queries in zip(pairs.T.tolist(), np.split(order, bounds), strict=True):
        values[queries] = table(size, drawn)[ranks[queries] - 1]
    return values


def _levels(n: Ints, m: Ints) -> Ints:
    """n itself, or rounded to levels 1% apart where there are many: a table each would be slow."""
    if len(np.unique(n)) <= FEW:
        return n
    step = np.log1p(LEVEL)
    return np.maximum(np.exp(np.round(np.log(n) / step) * step).round().astype(np.int64), m + 1)


def _by_mapping(metric: Metric, ranks: Ints, m: Ints, n: Ints, gamma: float, replacement: bool) -> Floats:
    power = _power(ranks, m)
    return _looked_up(lambda n, m: _mapping_table(metric, n, m, power), ranks, m, n)


def _power(ranks: Ints, m: Ints) -> float:
    """The likeliest a when the share of ranks up to x n is x^a: sampled ranks are then beta-binomial."""
    pairs, times = np.unique(np.stack([ranks - 1, m]), axis=1, return_counts=True)
    ahead, drawn = pairs

    def cost(log_a: float) -> float:
        a = np.exp(log_a)
        log = log_choose(drawn, ahead) + betaln(ahead + a, drawn - ahead + 1.0) + log_a
        return -float(times @ log)

    return float(np.exp(optimize.minimize_scalar(cost, bounds=(-6.0, 3.0), method="bounded").x))


def _mapping_table(metric: Metric, n: int, m: int, power: float) -> Floats:
    """Mean metric over the full ranks (edge[i], edge[i + 1]] that sampled rank i + 1 stands for.

    The edge is where recall of the full ranking equals that of the sampled one: n times the share of
    queries at sampled rank i or better, to the power 1 / a.
    """
    ahead = np.arange(m + 1)
    log = log_choose(m, ahead) + betaln(ahead + power, m - ahead + 1.0) + np.log(power)
    shares = np.append(0.0, np.minimum(np.cumsum(np.exp(log)), 1.0))
    edges = n * shares ** (1.0 / power)
    sums = np.append(0.0, np.cumsum(per_query(metric, np.arange(1, n + 1), np.full(n, n))))
    width = np.maximum(np.diff(edges), 1e-9)
    return np.diff(np.interp(edges, np.arange(n + 1), sums)) / width


def _by_mle(metric: Metric, ranks: Ints, m: Ints, n: Ints, gamma: float, replacement: bool) -> Floats:
    n = _levels(n, m)
    cells, place, times = np.unique(np.stack([ranks, m, n]), axis=1, return_inverse=True, return_counts=True)
    laws = _laws_of_cells(cells, replacement)
    weights = rank_distribution(laws, times)
    sizes, which = np.unique(cells[2], return_inverse=True)
    aims = np.zeros((len(sizes), len(weights)))
    for row, size in enumerate(sizes.tolist()):
        own = rank_bins(size)
        aims[row, : len(own.start)] = bin_means(metric, own, size)
    values = np.einsum("cr,cr,r->c", laws, aims[which], weights) / np.maximum(laws @ weights, 1e-300)
    return values[place]


def _by_bias_variance_mle(
    metric: Metric, ranks: Ints, m: Ints, n: Ints, gamma: float, replacement: bool
) -> Floats:
    n = _levels(n, m)
    cells, times = np.unique(np.stack([ranks, m, n]), axis=1, return_counts=True)
    laws = _laws_of_cells(cells, replacement)
    weights = rank_distribution(laws, times)

    def table(size: int, drawn: int) -> Floats:
        bins, law = law_of_all(size, drawn, replacement)
        prior = weights[: len(bins.start)] / weights[: len(bins.start)].sum()
        return bias_variance(law, prior, bin_means(metric, bins, size), max(gamma, 1e-9))

    return _looked_up(table, ranks, m, n)


def _laws_of_cells(cells: Ints, replacement: bool) -> Floats:
    """Law of each cell (rank, m, n) given each bin of the largest n: float64 [C, R].

    Cost: C x R doubles; C is at most Q, and at most the number of levels of n times m + 1.
    """
    ranks, m, n = cells[:, :, None]
    bins = rank_bins(int(n.max()))
    inside = bins.start <= n
    # The last bin of a smaller n ends there.
    stop = np.minimum(bins.start + bins.width - 1, n)
    middle = np.where(inside, bins.start + (stop - bins.start) // 2, 1)
    return np.where(inside, sampling_law(middle, ranks - 1, n, m, replacement=replacement), 0.0)


ESTIMATORS = {
    "naive": _naive,
    "rank": _by_rank,
    "least-squares": _by_least_squares,
    "constrained": _by_constrained,
    "bias-variance": _by_bias_variance,
    "mapping": _by_mapping,
    "mle": _by_mle,
    "bias-variance-mle": _by_bias_variance_mle,
}

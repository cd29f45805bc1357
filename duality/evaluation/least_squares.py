"""Values of sampled ranks that come closest to a metric of full ranks, in the least-squares sense.

For a function f of the full rank (a metric) and the law p(sampled | full) of the draws, a table x over
sampled ranks has the bias sum_s p(s | r) x(s) - f(r) at full rank r. The tables here make its square
small over all full ranks: alone, under constraints, or together with the variance.

Source: Krichene & Rendle 2020, "On Sampled Metrics for Item Recommendation", section 5.

Cost:   a table takes one [R, m + 1] law and one factorisation of [R, R]; tables are kept.
Shapes: R rank bins, m negatives, n candidates.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import linalg, optimize

from duality.evaluation.rank_laws import Bins, Floats, rank_bins, sampling_law
from duality.metrics import Metric, per_query


def bin_means(metric: Metric, bins: Bins, n: int) -> Floats:
    """Mean of the metric over each bin of full ranks among n, float64 [R]."""
    return bins.means(per_query(metric, np.arange(1, n + 1), np.full(n, n)))


@lru_cache(maxsize=8)
def law_of_all(n: int, m: int, replacement: bool) -> tuple[Bins, Floats]:
    """Bins of 1..n, and the law of every sampled rank given each: float64 [R, m + 1]."""
    bins = rank_bins(n)
    return bins, sampling_law(bins.middle[:, None], np.arange(m + 1), n, m, replacement=replacement)


def _weighted(metric: Metric, n: int, m: int, replacement: bool) -> tuple[Floats, Floats]:
    """Rows of the least-squares problem, every full rank alike: [R, m + 1] and [R]."""
    bins, law = law_of_all(n, m, replacement)
    root = np.sqrt(bins.width / n)
    return law * root[:, None], bin_means(metric, bins, n) * root


@lru_cache(maxsize=4096)
def least_squares_table(metric: Metric, n: int, m: int, replacement: bool) -> Floats:
    return linalg.lstsq(*_weighted(metric, n, m, replacement))[0]


@lru_cache(maxsize=4096)
def constrained_table(metric: Metric, n: int, m: int, replacement: bool) -> Floats:
    """Falling steps: value[i] = top x (share[i] + share[i + 1] + ...), shares >= 0, sum at most 1."""
    rows, aims = _weighted(metric, n, m, replacement)
    top = float(per_query(metric, np.array([1]), np.array([n]))[0])
    steps = np.column_stack((np.cumsum(rows, axis=1) * top, np.zeros(len(rows))))
    heavy = 1e3 * max(top, 1.0)  # the row that makes shares and slack sum to one
    shares = optimize.nnls(
        np.vstack((steps, np.full(m + 2, heavy))), np.append(aims, heavy), maxiter=50 * (m + 2)
    )[0][:-1]
    return top * np.cumsum(shares[::-1])[::-1]


@lru_cache(maxsize=4096)
def bias_variance_table(metric: Metric, n: int, m: int, gamma: float, replacement: bool) -> Floats:
    bins, law = law_of_all(n, m, replacement)
    return bias_variance(law, bins.width / n, bin_means(metric, bins, n), gamma)


def bias_variance(law: Floats, prior: Floats, aims: Floats, gamma: float) -> Floats:
    """Values [m + 1] with the least expected squared bias + gamma x variance.

    Solves ((1 - gamma) A'A + gamma diag(c)) x = A'b with A = sqrt(prior) law, b = sqrt(prior) aims and
    c the probability of each sampled rank; through the [R, R] system, since m may be large.
    """
    root = np.sqrt(prior)[:, None]
    rows = law * root
    inverse = 1.0 / np.maximum(gamma * (prior @ law), 1e-300)
    inverse[prior @ law < 1e-200] = 0.0  # a rank that never occurs needs no value
    system = np.eye(len(rows)) + (1.0 - gamma) * (rows * inverse) @ rows.T
    return inverse * (rows.T @ linalg.solve(system, root[:, 0] * aims, assume_a="pos"))

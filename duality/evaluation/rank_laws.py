"""How a sampled rank depends on the full rank, and what a population of them says about full ranks.

A target of full rank r among n candidates has r - 1 of the other n - 1 ahead of it. Of m candidates
drawn uniformly, the number ahead is hypergeometric (without replacement) or binomial (with):

    ahead ~ Hypergeometric(r - 1 good, n - r bad, m drawn)      ahead ~ Binomial(m, (r - 1) / (n - 1))

and the sampled rank is 1 + ahead. Full ranks are kept in bins: single up to 128, then 2% wide. A bin
is narrower than what m draws can tell apart, and a million ranks are 500 bins.

Shapes: R bins, C cells (distinct sampled rank, n and m), m negatives.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, xlog1py, xlogy

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SINGLE, RATIO = 128, 1.02
ROUNDS = 100  # of EM; stopping early keeps the estimated distribution smooth: 30 biases it, 300 doubles its variance


@dataclass(frozen=True, eq=False)
class Bins:
    """Bins of full ranks 1..n: bin b holds ranks start[b] to start[b] + width[b] - 1, int64 [R] each."""

    start: Ints
    width: Ints

    @property
    def middle(self) -> Ints:
        """The rank that stands for each bin."""
        return self.start + (self.width - 1) // 2

    def means(self, values: Floats) -> Floats:
        """Mean over each bin of float64 [n] values of the ranks 1..n."""
        return np.add.reduceat(values, self.start - 1) / self.width


def rank_bins(n: int) -> Bins:
    """Bins of the ranks 1..n."""
    steps = max(0, int(np.ceil(np.log(max(n, 1) / SINGLE) / np.log(RATIO))))
    wide = np.round(SINGLE * RATIO ** np.arange(1, steps + 1)).astype(np.int64)
    start = np.unique(np.concatenate((np.arange(1, SINGLE + 1), wide)))
    start = start[start <= n]
    return Bins(start, np.diff(np.append(start, n + 1)))


def sampling_law(ranks: Ints, ahead: Ints, n: Ints | int, m: Ints | int, *, replacement: bool) -> Floats:
    """Probability that `ahead` of m uniform candidates beat a target of full rank `ranks`.

    Args:
        ranks, ahead, n, m: broadcast; n counts the target, ranks <= n, m <= n - 1 without replacement.

    Returns:
        float64 of the broadcast shape; 0 for what cannot happen.
    """
    good, bad = ranks - 1, n - ranks
    if replacement:
        share = good / np.maximum(np.asarray(n) - 1, 1)
        log = log_choose(m, ahead) + xlogy(ahead, share) + xlog1py(m - ahead, -share)
        return np.exp(log)
    possible = (ahead <= good) & (m - ahead <= bad)
    log = log_choose(good, ahead) + log_choose(bad, m - ahead) - log_choose(np.asarray(n) - 1, m)
    return np.where(possible, np.exp(np.where(possible, log, -np.inf)), 0.0)


def log_choose(n: Ints | int, k: Ints | int) -> Floats:
    """log of n over k; meaningless, but finite or +-inf without warning, where k > n."""
    return gammaln(np.add(n, 1.0)) - gammaln(np.add(k, 1.0)) - gammaln(np.maximum(np.subtract(n, k), 0) + 1.0)


def rank_distribution(laws: Floats, times: Ints) -> Floats:
    """Maximum-likelihood distribution over rank bins, by expectation-maximisation.

    Args:
        laws: float64 [C, R], probability of each cell given each bin.
        times: int64 [C], queries per cell.

    Returns:
        float64 [R], sums to one. It starts at odds 1 / rank bin number, not at a point mass, and takes
        ROUNDS steps.

    Source: Jin et al. 2021, "On Estimating Recommendation Evaluation Metrics under Sampling", section 4.
    """
    weights = np.full(laws.shape[1], 1.0 / laws.shape[1])
    for _ in range(ROUNDS):
        total = np.maximum(laws @ weights, 1e-300)
        weights = weights * (laws.T @ (times / total)) / times.sum()
    return weights / weights.sum()

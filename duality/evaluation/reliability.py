"""How far probabilities are from what happened: reliability diagram, expected calibration error, users.

Sources: Guo et al., "On Calibration of Modern Neural Networks", arXiv 1706.04599 (expected
calibration error); Wilson, 1927 (interval of a share).

Shapes: N rows (one probability, one outcome each), B bins, C clusters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from duality.calibration import checked

Array = np.ndarray

BINS = 15
_RESAMPLES_AT_ONCE = 32


def bins_of(probabilities: Array, bins: int = BINS) -> Array:
    """Bin of each row, int64 [N]: equally many rows in each, equal probabilities together."""
    edges = np.quantile(probabilities, np.arange(1, bins) / bins, method="lower")
    return np.searchsorted(np.unique(edges), probabilities, side="left")


@dataclass(frozen=True, eq=False)
class Reliability:
    """The reliability diagram: float64 [B] each, bins in rising order of probability.

    `predicted` and `observed` are means of a bin, `low` and `high` the 95% interval of what was
    observed (Wilson), `rows` how many rows it holds.
    """

    predicted: Array
    observed: Array
    low: Array
    high: Array
    rows: Array


def reliability(probabilities: Array, outcomes: Array, bins: int = BINS) -> Reliability:
    """Predicted against observed, by bin of the prediction."""
    probabilities, outcomes = checked(probabilities, outcomes)
    place = np.unique(bins_of(probabilities, bins), return_inverse=True)[1]
    rows = np.bincount(place).astype(np.float64)
    predicted, observed = (np.bincount(place, weights=v) / rows for v in (probabilities, outcomes))
    low, high = wilson(observed, rows)
    return Reliability(predicted, observed, low, high, rows)


def wilson(share: Array, rows: Array, z: float = 1.959964) -> tuple[Array, Array]:
    """95% interval of a share (Wilson, 1927): float64 bounds like `share`."""
    centre = (share + z**2 / (2 * rows)) / (1 + z**2 / rows)
    half = z * np.sqrt(share * (1 - share) / rows + z**2 / (4 * rows**2)) / (1 + z**2 / rows)
    return centre - half, centre + half


def ece(probabilities: Array, outcomes: Array, bins: int = BINS) -> float:
    """Expected calibration error: mean over rows of |predicted - observed| of the row's bin."""
    table = reliability(probabilities, outcomes, bins)
    return float(np.sum(table.rows * np.abs(table.predicted - table.observed)) / table.rows.sum())


def ece_floor(probabilities: Array, *, bins: int = BINS, draws: int = 50, seed: int = 0) -> float:
    """Mean `ece` of outcomes drawn from the probabilities themselves: what chance alone leaves."""
    random = np.random.default_rng(seed)
    p = np.asarray(probabilities, dtype=np.float64)
    place = np.unique(bins_of(p, bins), return_inverse=True)[1]
    gaps = [np.bincount(place, weights=(random.random(len(p)) < p) - p) for _ in range(draws)]
    return float(np.abs(gaps).sum(axis=1).mean() / len(p))


def ece_interval(
    probabilities: Array,
    outcomes: Array,
    clusters: Array,
    *,
    bins: int = BINS,
    resamples: int = 500,
    seed: int = 0,
) -> tuple[float, float]:
    """95% interval of `ece`, bins fixed, whole clusters resampled; NaN with one cluster.

    Resampling adds noise to every bin, and an absolute value turns noise into error, so the plain
    percentiles would sit too high: the interval is the basic one (2 * value - percentile), cut at 0.
    """
    p, y = checked(probabilities, outcomes)
    labels = np.unique(clusters, return_inverse=True)[1]
    place = np.unique(bins_of(p, bins), return_inverse=True)[1]
    count, width = int(labels.max()) + 1, int(place.max()) + 1
    if count < 2:
        return float("nan"), float("nan")
    gaps = np.bincount(labels * width + place, weights=p - y, minlength=count * width).reshape(count, width)
    rows = np.bincount(labels, minlength=count).astype(np.float64)
    found = _resampled_gaps(gaps, rows, resamples, np.random.default_rng(seed))
    value = np.abs(gaps.sum(axis=0)).sum() / rows.sum()
    high, low = 2 * value - np.quantile(found, [0.025, 0.975])
    return max(float(low), 0.0), max(float(high), float(value))


def _resampled_gaps(gaps: Array, rows: Array, resamples: int, random: np.random.Generator) -> Array:
    count, found = len(rows), np.empty(resamples)
    for start in range(0, resamples, _RESAMPLES_AT_ONCE):
        size = min(_RESAMPLES_AT_ONCE, resamples - start)
        times = random.multinomial(count, np.full(count, 1 / count), size=size).astype(np.float64)
        found[start : start + size] = np.abs(times @ gaps).sum(axis=1) / (times @ rows)
    return found


def group_error(probabilities: Array, outcomes: Array, groups: Array) -> float:
    """Mean over rows of |predicted - observed| of the row's group: 0 when no group is misjudged."""
    p, y = checked(probabilities, outcomes)
    labels = np.unique(groups, return_inverse=True)[1]
    return float(np.abs(np.bincount(labels, weights=p - y)).sum() / len(p))


def user_gap(probabilities: Array, outcomes: Array, users: Array, *, least: int = 10) -> tuple[float, int]:
    """How far single users are from their predictions, after what chance explains is taken off.

    Args:
        least: users with fewer rows are left out.

    Returns:
        Root mean square over users of observed minus predicted share, the variance
        sum p (1 - p) / rows^2 subtracted, 0 when chance explains all of it, NaN without a user;
        and the number of users.
    """
    p, y = checked(probabilities, outcomes)
    labels = np.unique(users, return_inverse=True)[1]
    rows = np.bincount(labels)
    kept = rows >= least
    gap, chance = (np.bincount(labels, weights=v)[kept] for v in (y - p, p * (1 - p)))
    if not kept.any():
        return float("nan"), 0
    excess = float(np.mean((gap**2 - chance) / rows[kept].astype(np.float64) ** 2))
    return float(np.sqrt(max(excess, 0.0))), int(kept.sum())

"""What another policy would have earned, from a log of what one policy showed.

    w_i  = target probability / logging propensity of the thing shown in row i
    IPS    mean of w r                                  unbiased, may vary wildly
    SNIPS  sum of w r / sum of w                        slightly biased, steadier
    DR     mean of  sum_a pi(a) m(a)  +  w (r - m)      unbiased whatever the reward model m

Rows of one draw (several things shown at once) are added up before averaging, so a draw without
replacement with its inclusion probabilities as propensities is one observation.

All estimates assume that whatever the policy may show, the log could have shown. `mean_weight`
estimates the share of the policy that the log covers: far from 1 it says that this fails.

Sources: Horvitz and Thompson, 1952 (IPS); Swaminathan and Joachims, "The Self-Normalized Estimator
for Counterfactual Learning", NeurIPS 2015; Dudík, Langford and Li, "Doubly Robust Policy Evaluation
and Learning", arXiv 1103.4601; effective sample size: Kong, 1992.

Shapes: N rows, D draws (N when each row is its own), A arms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from duality.errors import InputError

Array = np.ndarray

LEAST_ESS = 100.0
Z = 1.959964


@dataclass(frozen=True)
class Estimate:
    """A value per draw and its 95% interval (normal, from the draws' influence on the value)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Log:
    """Rows of a log, weighed for the policy in question.

    Attributes:
        reward: float64 [N].
        weight: float64 [N], target probability / propensity.
        draw: int64 [N], 0..D-1, which draw each row belongs to.
        cluster: int64 [D], draws of one cluster are not independent; by default each is its own.
    """

    reward: Array
    weight: Array
    draw: Array
    cluster: Array

    @property
    def num_draws(self) -> int:
        return len(self.cluster)

    def per_draw(self, values: Array) -> Array:
        """Sums over the rows of each draw: float64 [D]."""
        return np.bincount(self.draw, weights=values, minlength=self.num_draws)


def make_log(
    reward: Array, propensity: Array, target: Array, draw: Array | None = None, cluster: Array | None = None
) -> Log:
    """Check and weigh a log.

    Args:
        reward: float [N], finite.
        propensity: float [N], chance that the logging policy had of showing what row i shows.
        target: float [N], the chance of the same under the policy in question.
        draw: int [N], any labels; None when each row is a draw of its own.
        cluster: int [N], any labels (users, sessions), the same within a draw.

    Raises:
        InputError: a propensity that is 0, negative, NaN or above 1, a target outside 0..1, or a
            reward that is not finite; the row is named.
        ValueError: lengths differ, or there is no row.
    """
    reward, propensity, target = (np.asarray(v, dtype=np.float64) for v in (reward, propensity, target))
    if not len(reward) or not reward.shape == propensity.shape == target.shape:
        raise ValueError("one reward, propensity and target per row, and at least one row")
    _refuse(~((propensity > 0) & (propensity <= 1)), propensity, "propensity", "above 0 and at most 1")
    _refuse(~((target >= 0) & (target <= 1)), target, "target probability", "0 to 1")
    _refuse(~np.isfinite(reward), reward, "reward", "a finite number")
    labels = np.arange(len(reward)) if draw is None else np.unique(draw, return_inverse=True)[1]
    own = np.arange(int(labels.max()) + 1)
    if cluster is not None:
        own = np.zeros_like(own)
        own[labels] = np.unique(cluster, return_inverse=True)[1]
    return Log(reward, target / propensity, labels, own)


def _refuse(bad: Array, values: Array, what: str, wanted: str) -> None:
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise InputError(
            f"row {row + 1}: {what} {values[row]}: must be {wanted} ({int(bad.sum())} such rows)"
        )


def effective_sample_size(log: Log) -> float:
    """(sum W)^2 / sum W^2 over the draws' weights W; D when all weigh alike, 0 when none weighs."""
    weight = log.per_draw(log.weight)
    square = float(np.sum(weight**2))
    return float(np.sum(weight)) ** 2 / square if square else 0.0


def mean_weight(log: Log) -> Estimate:
    """Mean over the draws of their weight: 1 in expectation where the log covers the policy.

    In a draw without replacement each draw's weights sum to 1 in expectation as well.
    """
    weight = log.per_draw(log.weight)
    return _interval(float(weight.mean()), weight - weight.mean(), log)


def ips(log: Log) -> Estimate:
    """Inverse propensity score estimate of the reward per draw."""
    terms = log.per_draw(log.weight * log.reward)
    return _interval(float(terms.mean()), terms - terms.mean(), log)


def snips(log: Log) -> Estimate:
    """Self-normalised IPS; the interval is that of a ratio (delta method)."""
    weight, gain = log.per_draw(log.weight), log.per_draw(log.weight * log.reward)
    value = float(gain.sum() / weight.sum()) if weight.sum() else float("nan")
    return _interval(value, (gain - value * weight) / weight.mean() if weight.sum() else gain, log)


def doubly_robust(log: Log, shown: Array, expected: Array) -> Estimate:
    """Doubly robust estimate.

    Args:
        shown: float [N], the reward model's prediction for what each row shows, made without that
            row's own reward (out of fold).
        expected: float [D], the model's expected reward under the policy, sum_a pi(a) m(a), made
            by the same folds.
    """
    terms = np.asarray(expected, np.float64) + log.per_draw(log.weight * (log.reward - shown))
    return _interval(float(terms.mean()), terms - terms.mean(), log)


def _interval(value: float, influence: Array, log: Log) -> Estimate:
    """Value +- 1.96 standard errors; influences of one cluster add up before they are squared."""
    clusters = int(log.cluster.max()) + 1
    if clusters < 2:
        return Estimate(value, float("nan"), float("nan"))
    sums = np.bincount(log.cluster, weights=influence, minlength=clusters)
    half = Z * float(np.sqrt(np.sum(sums**2) * clusters / (clusters - 1))) / log.num_draws
    return Estimate(value, value - half, value + half)


def arm_means(
    arm: Array,
    reward: Array,
    num_arms: int,
    cluster: Array,
    *,
    folds: int = 5,
    prior: float = 10.0,
    seed: int = 0,
) -> tuple[Array, Array]:
    """The simplest reward model, out of fold: an arm's mean reward, drawn towards the mean of all.

    Args:
        arm: int64 [N].
        reward: float64 [N].
        cluster: int64 [N]; rows of one cluster share a fold.
        prior: rows that the mean of all counts for.

    Returns:
        float64 [F, A], predictions of every arm made without fold f; int64 [N], each row's fold.
    """
    labels = np.unique(cluster, return_inverse=True)[1]
    count = int(labels.max()) + 1
    fold = (np.random.default_rng(seed).permutation(count) % min(folds, count))[labels]
    parts = int(fold.max()) + 1
    key = fold * num_arms + arm
    sums = np.bincount(key, weights=reward, minlength=parts * num_arms).reshape(parts, num_arms)
    rows = np.bincount(key, minlength=parts * num_arms).reshape(parts, num_arms)
    sums, rows = sums.sum(axis=0) - sums, rows.sum(axis=0) - rows
    overall = sums.sum(axis=1, keepdims=True) / np.maximum(rows.sum(axis=1, keepdims=True), 1)
    return (sums + prior * overall) / (rows + prior), fold


def report(log: Log, modelled: tuple[Array, Array] | None = None) -> dict[str, Any]:
    """Every estimate, or the reason why there is none.

    Args:
        modelled: `shown` and `expected` of `doubly_robust`; None leaves that estimate out.

    Returns:
        `draws`, `rows`, `rewards` (rows with a reward other than 0), `ess`, `largest_weight_share`,
        `mean_weight`, `logged` (what the log itself earned per draw), and `estimates`
        {name: {value, low, high}}. With an ESS under 100 `estimates` is None and `not_estimable`
        says why.
    """
    ess = effective_sample_size(log)
    weight = log.per_draw(log.weight)
    logged = Log(log.reward, np.ones_like(log.weight), log.draw, log.cluster)
    document: dict[str, Any] = {
        "draws": log.num_draws,
        "rows": len(log.reward),
        "rewards": int(np.count_nonzero(log.reward)),
        "ess": ess,
        "largest_weight_share": float(weight.max() / weight.sum()) if weight.sum() else None,
        "mean_weight": _as_dict(mean_weight(log)),
        "logged": _as_dict(ips(logged)),
        "estimates": None,
    }
    if ess < LEAST_ESS:
        document["not_estimable"] = (
            f"effective sample size {ess:.1f} is under {LEAST_ESS:.0f}: a few rows would decide the answer"
        )
        return document
    found = {"ips": ips(log), "snips": snips(log)}
    if modelled is not None:
        found["doubly_robust"] = doubly_robust(log, *modelled)
    document["estimates"] = {name: _as_dict(estimate) for name, estimate in found.items()}
    return document


def _as_dict(estimate: Estimate) -> dict[str, float | None]:
    pairs = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    return {name: float(v) if np.isfinite(v) else None for name, v in pairs.items()}

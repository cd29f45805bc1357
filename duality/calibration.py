"""Score calibration: maps from scores to probabilities.

    constant        the share of positives, whatever the score
    platt           sigmoid(slope * score + bias), slope >= 0; 1 / slope is a temperature
    isotonic        the best non-decreasing map (pool adjacent violators), straight between its blocks
    platt-history   sigmoid(slope * score + history * log(1 + events of the user so far) + bias)

No map decreases with the score, so none changes the ranking of one user's items. Only the last tells
users apart whose scores are equal: a score says what a user takes up, not how readily. Which map to
use is decided by log loss on rows that it was not fitted on.

Sources: Platt, "Probabilistic Outputs for Support Vector Machines", 1999; Zadrozny and Elkan,
"Transforming Classifier Scores into Accurate Multiclass Probability Estimates", KDD 2002.

Not here: how good probabilities are (evaluation/reliability.py).
Cost:   scipy.optimize is imported when a map is fitted, so that queries do not pay for it.
Shapes: N rows (one score, one outcome each).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy import special

from duality.errors import InputError

Array = np.ndarray

FOLDS = 5


class Map(Protocol):
    """A map from scores to probabilities that never decreases with the score."""

    @property
    def kind(self) -> str:
        """One of the kinds above."""

    @property
    def uses_history(self) -> bool:
        """Whether it must be told how many events the users had."""

    def __call__(self, scores: Array, known: Array | None = None) -> Array:
        """Probabilities float64, each strictly between 0 and 1.

        Args:
            scores: float, any shape.
            known: int, events of each row's user so far; broadcast against `scores`.

        Raises:
            ValueError: the map uses histories and `known` is None.
        """

    def as_dict(self) -> dict[str, Any]:
        """Everything that `map_from` needs, as JSON values."""


@dataclass(frozen=True)
class Platt:
    """sigmoid(slope * score + history * log(1 + known) + bias); both factors 0: a constant."""

    slope: float
    bias: float
    history: float = 0.0

    @property
    def kind(self) -> str:
        return "platt-history" if self.history else "platt" if self.slope else "constant"

    @property
    def uses_history(self) -> bool:
        return self.history != 0

    def __call__(self, scores: Array, known: Array | None = None) -> Array:
        logits = np.full(np.shape(scores), self.bias)
        if self.slope:  # a slope of 0 must hold for a score of -inf too
            logits = logits + self.slope * np.asarray(scores, dtype=np.float64)
        if self.history:
            if known is None:
                raise ValueError("this map needs to know how many events the users had")
            logits = logits + self.history * np.log1p(known)
        return special.expit(logits).clip(1e-12, 1 - 1e-12)

    def as_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "slope": self.slope, "bias": self.bias, "history": self.history}


@dataclass(frozen=True, eq=False)
class Isotonic:
    """Straight lines between the ends of pooled blocks, level outside: float64 [2 per block]."""

    scores: Array
    probabilities: Array

    @property
    def kind(self) -> str:
        return "isotonic"

    @property
    def uses_history(self) -> bool:
        return False

    def __call__(self, scores: Array, known: Array | None = None) -> Array:
        return np.interp(np.asarray(scores, dtype=np.float64), self.scores, self.probabilities)

    def as_dict(self) -> dict[str, Any]:
        knots = {"scores": self.scores.tolist(), "probabilities": self.probabilities.tolist()}
        return {"kind": self.kind, **knots}


def map_from(values: Mapping[str, Any]) -> Map:
    """The map that `as_dict` described.

    Raises:
        ValueError: it is no such description, or the map would decrease or leave 0 to 1.
    """
    if values.get("kind") in ("platt", "constant", "platt-history"):
        found = Platt(float(values["slope"]), float(values["bias"]), float(values["history"]))
        if not (np.isfinite([found.bias, found.history]).all() and 0 <= found.slope < np.inf):
            raise ValueError("slope, bias and history must be numbers, the slope at least 0")
        return found
    if values.get("kind") != "isotonic":
        raise ValueError(f"no map of kind {values.get('kind')!r}")
    scores, probabilities = (np.asarray(values[name], np.float64) for name in ("scores", "probabilities"))
    rising = (np.diff(scores) >= 0).all() and (np.diff(probabilities) >= 0).all()
    inside = ((probabilities > 0) & (probabilities < 1)).all() and np.isfinite(scores).all()
    if scores.shape != probabilities.shape or scores.ndim != 1 or not len(scores) or not (rising and inside):
        raise ValueError("an isotonic map needs rising scores and probabilities strictly between 0 and 1")
    return Isotonic(scores, probabilities)


def fit_constant(scores: Array, outcomes: Array, known: Array | None = None) -> Platt:
    """The share of positives, with half a positive and half a negative added."""
    share = (np.sum(outcomes) + 0.5) / (len(outcomes) + 1)
    return Platt(0.0, float(special.logit(share)))


def fit_platt(scores: Array, outcomes: Array, known: Array | None = None) -> Platt:
    """Slope and bias of least log loss with slope >= 0, labels smoothed as Platt advises.

    The loss is convex, so where the best slope is negative the best admissible one is 0.
    """
    (slope,), bias = _logistic(np.asarray(scores, dtype=np.float64)[:, None], outcomes)
    return Platt(slope, bias) if slope > 0 else fit_constant(scores, outcomes)


def fit_platt_history(scores: Array, outcomes: Array, known: Array | None = None) -> Platt:
    """As `fit_platt`, with log(1 + known) beside the score."""
    if known is None:
        raise ValueError("platt-history needs to know how many events the users had")
    events = np.log1p(np.asarray(known, dtype=np.float64))
    (slope, history), bias = _logistic(np.stack((scores, events), axis=1), outcomes)
    if slope <= 0:
        (history,), bias = _logistic(events[:, None], outcomes)
    return Platt(max(slope, 0.0), bias, history)


def _logistic(columns: Array, outcomes: Array) -> tuple[list[float], float]:
    """Factors and bias of least log loss, columns float64 [N, F]; a column without spread gets 0."""
    from scipy import optimize

    positives = float(np.sum(outcomes))
    high, low = (positives + 1) / (positives + 2), 1 / (len(outcomes) - positives + 2)
    wanted = np.where(outcomes > 0, high, low)
    centre, spread = columns.mean(axis=0), columns.std(axis=0)
    moving = spread > 0
    unit = np.where(moving, (columns - centre) / np.where(moving, spread, 1.0), 0.0)

    def loss(parameters: Array) -> tuple[float, Array]:
        logits = unit @ parameters[:-1] + parameters[-1]
        error = special.expit(logits) - wanted
        value = np.mean(np.logaddexp(0.0, logits) - wanted * logits)
        return float(value), np.append(error @ unit / len(error), np.mean(error))

    start = np.append(np.zeros(columns.shape[1]), special.logit(np.mean(wanted)))
    found = optimize.minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-9}).x
    factors = np.where(moving, found[:-1] / np.where(moving, spread, 1.0), 0.0)
    return factors.tolist(), float(found[-1] - factors @ centre)


def fit_isotonic(scores: Array, outcomes: Array, known: Array | None = None) -> Isotonic:
    """Least squares among non-decreasing maps; kept 1 / (N + 2) away from 0 and 1.

    Rows of one score share one value.
    """
    from scipy import optimize

    values, place = np.unique(np.asarray(scores, dtype=np.float64), return_inverse=True)
    weights = np.bincount(place).astype(np.float64)
    means = np.bincount(place, weights=np.asarray(outcomes, dtype=np.float64)) / weights
    pooled = optimize.isotonic_regression(means, weights=weights)
    first, last = pooled.blocks[:-1], pooled.blocks[1:] - 1
    margin = 1.0 / (len(outcomes) + 2)
    levels = np.asarray(pooled.x)[first].clip(margin, 1 - margin)
    knots = np.stack((values[first], values[last]), axis=1).ravel()
    return Isotonic(knots, np.repeat(levels, 2))


Fit = Callable[[Array, Array, Array | None], Map]
FITS: dict[str, Fit] = {
    "constant": fit_constant,
    "platt": fit_platt,
    "isotonic": fit_isotonic,
    "platt-history": fit_platt_history,
}


def choose(
    scores: Array, outcomes: Array, groups: Array, *, known: Array | None = None, seed: int = 0
) -> tuple[Map, dict[str, float]]:
    """The map with the least out-of-fold log loss, fitted again on all rows.

    Args:
        scores: float [N], finite.
        outcomes: [N] of 0 and 1.
        groups: int [N]; rows of one group (one user) are never on both sides of a fold.
        known: int [N], events of each row's user so far; None leaves platt-history out.

    Returns:
        The map, and the out-of-fold log loss of each kind, in nats per row.

    Raises:
        InputError: fewer than two groups, or only one kind of outcome: nothing can be fitted.
    """
    scores, outcomes = checked(scores, outcomes)
    labels = np.unique(groups, return_inverse=True)[1]
    count = int(labels.max(initial=-1)) + 1
    if count < 2 or outcomes.min() == outcomes.max():
        raise InputError(
            f"cannot calibrate on {len(outcomes)} rows of {count} users with {int(outcomes.sum())} positives: "
            "give outcomes of both kinds and of at least two users"
        )
    fold = (np.random.default_rng(seed).permutation(count) % min(FOLDS, count))[labels]
    kinds = [kind for kind in FITS if known is not None or kind != "platt-history"]
    losses = {kind: _out_of_fold(FITS[kind], scores, outcomes, known, fold) for kind in kinds}
    best = min(losses, key=losses.__getitem__)
    return FITS[best](scores, outcomes, known), losses


def _out_of_fold(fit: Fit, scores: Array, outcomes: Array, known: Array | None, fold: Array) -> float:
    predicted = np.empty(len(scores))
    for part in range(int(fold.max()) + 1):
        out = fold == part
        inside, outside = (None, None) if known is None else (known[out], known[~out])
        predicted[out] = fit(scores[~out], outcomes[~out], outside)(scores[out], inside)
    return log_loss(predicted, outcomes)


def checked(values: Array, outcomes: Array) -> tuple[Array, Array]:
    """Both as float64 [N].

    Raises:
        InputError: a value is not finite, or an outcome is neither 0 nor 1; the row is named.
        ValueError: shapes differ, or there is no row.
    """
    values, outcomes = np.asarray(values, dtype=np.float64), np.asarray(outcomes, dtype=np.float64)
    if values.ndim != 1 or values.shape != outcomes.shape or not len(values):
        raise ValueError("one value and one outcome per row, and at least one row")
    for what, bad in (("score", ~np.isfinite(values)), ("outcome", (outcomes != 0) & (outcomes != 1))):
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            held = (values if what == "score" else outcomes)[row]
            raise InputError(f"row {row + 1}: {what} {held} ({int(bad.sum())} such rows): mend or drop them")
    return values, outcomes


def log_loss(probabilities: Array, outcomes: Array) -> float:
    """Mean negative log-likelihood in nats; probabilities are kept 1e-12 away from 0 and 1."""
    p = np.clip(probabilities, 1e-12, 1 - 1e-12)
    return float(-np.mean(np.where(np.asarray(outcomes) > 0, np.log(p), np.log1p(-p))))

"""Drawing k candidates without replacement, with the probabilities that later evaluation needs.

    phi_i = log softmax(score / temperature)_i     over the candidates at hand
    G_i   = phi_i + Gumbel noise                   the k largest are a draw without replacement
    kappa = the (k+1)-th largest G                 -inf when there are at most k candidates
    q_i   = P(G_i > kappa) = 1 - exp(-exp(phi_i - kappa))

Given kappa, q_i is the chance that i is drawn; the unconditional chance has no closed form. For any
f, the sum over the draw of p_i / q_i * f_i, with p_i = exp(phi_i), has expectation sum_i p_i f_i.

Source: Kool, van Hoof and Welling, "Stochastic Beams and Where to Find Them", arXiv 1903.06059,
sections 2.3 and 4.2.

Cost:   one generator and P draws per query.
Shapes: Q queries, P candidates, k drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from duality.errors import InputError


@dataclass(frozen=True, eq=False)
class Draw:
    """Drawn columns, highest score first.

    Attributes:
        columns: int64 [Q, min(k, P)]; candidates of score -inf fill up a row that has too few.
        draw_probability: float64, p: the chance of being drawn first; 0 for a filler.
        inclusion_probability: float64, q: the chance of being in the draw given kappa.
    """

    columns: NDArray[np.int64]
    draw_probability: NDArray[np.float64]
    inclusion_probability: NDArray[np.float64]


def draw(
    scores: NDArray[np.floating], k: int, temperature: float, seed: int, keys: Sequence[str | bytes]
) -> Draw:
    """Draw k columns per row without replacement from softmax(scores / temperature).

    Args:
        scores: float [Q, P], highest first; -inf is no candidate.
        k: columns per row, >= 1.
        temperature: divides scores; > 0, in units of scores.
        seed: same seed, key and scores: same draw, whatever else is in the batch.
        keys: who asks, one per row; different keys have independent noise.

    Raises:
        InputError: temperature is not a positive number.
        ValueError: not one key per row.
    """
    if not (np.isfinite(temperature) and temperature > 0):
        raise InputError(f"temperature {temperature}: give a number above 0")
    if len(keys) != len(scores):
        raise ValueError(f"{len(keys)} keys for {len(scores)} queries")
    phi = log_softmax(np.asarray(scores, dtype=np.float64) / temperature)
    perturbed = phi + _gumbel(phi.shape, seed, keys)
    order = np.argsort(-perturbed, axis=1, kind="stable")
    columns = np.sort(order[:, :k], axis=1)
    kappa = np.full((len(phi), 1), -np.inf)
    if phi.shape[1] > k:
        kappa = np.take_along_axis(perturbed, order[:, k : k + 1], 1)
    chosen = np.take_along_axis(phi, columns, 1)
    return Draw(columns, np.exp(chosen), inclusion_probability(chosen, kappa))


def inclusion_probability(phi: NDArray[np.float64], kappa: NDArray[np.float64]) -> NDArray[np.float64]:
    """P(phi + Gumbel > kappa), elementwise; 0 where phi is -inf, 1 where kappa alone is."""
    with np.errstate(over="ignore", invalid="ignore"):
        chance = -np.expm1(-np.exp(phi - kappa))
    return np.where(np.isneginf(phi), 0.0, chance)


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-probabilities per row, float64 [Q, P]; a row of -inf alone stays so."""
    highest = logits.max(axis=1, keepdims=True, initial=-np.inf)
    shifted = logits - np.where(np.isfinite(highest), highest, 0.0)
    with np.errstate(divide="ignore"):
        return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)).clip(min=0.0)


def _gumbel(shape: tuple[int, ...], seed: int, keys: Sequence[str | bytes]) -> NDArray[np.float64]:
    noise = np.empty(shape)
    for row, key in enumerate(keys):
        noise[row] = np.random.default_rng([seed, _number(key)]).gumbel(size=shape[1])
    return noise


def _number(key: str | bytes) -> int:
    text = key.encode() if isinstance(key, str) else key
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")

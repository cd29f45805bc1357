"""One question's answer, the padding taken off: the best k, or a draw with its probabilities.

Shapes: k results at most, D dimensions; query vectors are [1, D + 3].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from duality.index.side import Side
from duality.retrieval.retrieve import retrieve, retrieve_sample


@dataclass(frozen=True, eq=False)
class Sample:
    """A draw without replacement, highest score first: k results at most.

    Attributes:
        ids, scores: as `recommend_items` returns them.
        draw_probability: float64 [k], p: softmax(score / temperature) over the candidates.
        inclusion_probability: float64 [k], q: the chance of being in the draw given its threshold;
            the propensity to log. sum(p / q * reward) estimates the reward of a draw of one.
        candidates: how many records p is normalised over.
    """

    ids: list[str]
    scores: np.ndarray
    draw_probability: np.ndarray
    inclusion_probability: np.ndarray
    candidates: int


def answer(
    side: Side, vector: np.ndarray, seen: list[str], k: int, where: str | None
) -> tuple[list[str], np.ndarray]:
    """The best k: ids and scores float32, best first."""
    ids, scores = retrieve(side, vector, k, where=where, exclude=[seen] if seen else None)
    found = _found(ids)
    return [ids[0][place] for place in found], scores[0][found]


def drawn(
    side: Side,
    vector: np.ndarray,
    seen: list[str],
    asking: str | None,
    k: int,
    where: str | None,
    temperature: float,
    seed: int,
    exact: bool,
) -> Sample:
    """One draw; the id that asks keys the noise, so `recommend` draws the same for it."""
    sampled = retrieve_sample(
        side,
        vector,
        k,
        temperature=temperature,
        where=where,
        exclude=[seen] if seen else None,
        seed=seed,
        keys=None if asking is None else [asking],
        pool=max(k, side.count) if exact else None,
        exact=exact,
    )
    found = _found(sampled.ids)
    return Sample(
        [sampled.ids[0][place] for place in found],
        sampled.scores[0][found],
        sampled.draw_probability[0][found],
        sampled.inclusion_probability[0][found],
        int(sampled.candidates[0]),
    )


def _found(ids: np.ndarray) -> list[int]:
    return [place for place, identifier in enumerate(ids[0]) if identifier is not None]

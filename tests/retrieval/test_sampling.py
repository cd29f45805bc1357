"""Draws without replacement: frequencies, probabilities and estimates against enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from duality.errors import InputError
from duality.retrieval.retrieve import retrieve_sample
from duality.retrieval.sampling import draw, log_softmax

SCORES = np.array([2.0, 1.2, 0.3, 0.0, -1.0])
TEMPERATURE, DRAWS = 0.8, 40_000


def many(scores: np.ndarray, k: int, draws: int = DRAWS, seed: int = 0):
    return draw(np.tile(scores, (draws, 1)), k, TEMPERATURE, seed, [str(n) for n in range(draws)])


def chances_of_subsets(p: np.ndarray, k: int) -> dict[tuple[int, ...], float]:
    """Chance of each set of k when drawing one after another without putting back."""
    found: dict[tuple[int, ...], float] = {}
    for order in itertools.permutations(range(len(p)), k):
        left, chance = 1.0, 1.0
        for one in order:
            chance *= p[one] / left
            left -= p[one]
        key = tuple(sorted(order))
        found[key] = found.get(key, 0.0) + chance
    return found


@pytest.mark.parametrize("k", [1, 2, 3])
def test_drawn_sets_have_the_enumerated_frequencies(k: int) -> None:
    p = np.exp(log_softmax(SCORES[None] / TEMPERATURE))[0]
    truth = chances_of_subsets(p, k)
    assert sum(truth.values()) == pytest.approx(1)
    columns = many(SCORES, k).columns
    seen = {key: 0 for key in truth}
    for key, count in zip(*np.unique(columns, axis=0, return_counts=True), strict=True):
        seen[tuple(key)] += int(count)
    expected = np.array([truth[key] for key in truth]) * DRAWS
    assert stats.chisquare([seen[key] for key in truth], expected).pvalue > 1e-3


@pytest.mark.parametrize("k", [1, 2, 4])
def test_importance_weights_are_unbiased(k: int) -> None:
    values = np.array([1.0, -2.0, 5.0, 0.5, 30.0])
    drawn = many(SCORES, k)
    terms = (drawn.draw_probability / drawn.inclusion_probability * values[drawn.columns]).sum(axis=1)
    truth = float(np.exp(log_softmax(SCORES[None] / TEMPERATURE))[0] @ values)
    assert abs(terms.mean() - truth) < 4 * terms.std() / np.sqrt(DRAWS)
    plain = (drawn.draw_probability * values[drawn.columns]).sum(axis=1)
    assert abs(plain.mean() - truth) > 4 * plain.std() / np.sqrt(DRAWS)


def test_inclusion_is_conditional_on_the_threshold() -> None:
    """Mean of [drawn] / q over draws is the number of candidates: every one counts as 1."""
    drawn = many(SCORES, 2)
    counted = np.bincount(
        drawn.columns.ravel(), weights=(1 / drawn.inclusion_probability).ravel(), minlength=len(SCORES)
    )
    np.testing.assert_allclose(counted[:3] / DRAWS, 1, atol=0.05)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=12),
    st.integers(1, 14),
    st.floats(1e-3, 50),
    st.integers(0, 2**31),
)
def test_probabilities_are_probabilities(scores: list[float], k: int, temperature: float, seed: int) -> None:
    row = np.sort(np.array(scores))[::-1]
    drawn = draw(row[None], k, temperature, seed, ["q"])
    q, p = drawn.inclusion_probability[0], drawn.draw_probability[0]
    assert drawn.columns.shape == (1, min(k, len(row)))
    assert (np.diff(drawn.columns[0]) > 0).all()
    assert ((p >= 0) & (p <= 1)).all()
    assert ((q >= 0) & (q <= 1)).all()
    if k >= len(row):
        assert (q == 1).all()
        assert p.sum() == pytest.approx(1)


def test_a_row_without_enough_candidates_is_filled_with_probability_zero() -> None:
    drawn = draw(np.array([[1.0, 0.0, -np.inf, -np.inf], [-np.inf] * 4]), 3, 1.0, 0, ["a", "b"])
    assert drawn.columns[0].tolist()[:2] == [0, 1]
    np.testing.assert_allclose(drawn.inclusion_probability, [[1, 1, 0], [0, 0, 0]])
    np.testing.assert_allclose(drawn.draw_probability[0, :2].sum(), 1)


def test_a_draw_does_not_depend_on_the_batch() -> None:
    scores = np.sort(np.random.default_rng(0).normal(size=(6, 40)), axis=1)[:, ::-1]
    keys = list("abcdef")
    together = draw(scores, 5, 1.0, 3, keys)
    for row in (0, 4):
        alone = draw(scores[row : row + 1], 5, 1.0, 3, keys[row : row + 1])
        assert (alone.columns[0] == together.columns[row]).all()
        assert (alone.inclusion_probability[0] == together.inclusion_probability[row]).all()
    assert (draw(scores, 5, 1.0, 4, keys).columns != together.columns).any()
    same = draw(np.tile(scores[:1], (2, 1)), 5, 1.0, 3, ["a", "b"])
    assert (same.columns[0] != same.columns[1]).any()


class Flat:
    """A side of 30 records with fixed scores."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def search(self, vectors, k=10, where=None, exclude=None, exact=False):
        self.asked.append(k)
        scores = np.tile(np.linspace(3, 0, 30, dtype=np.float32), (len(vectors), 1))[:, :k]
        ids = np.array([f"i{n}" for n in range(30)], object)[:k]
        return np.tile(ids, (len(vectors), 1)), scores


def test_the_pool_is_what_probabilities_are_normalised_over() -> None:
    side, query = Flat(), np.ones((1, 2), np.float32)
    wide = retrieve_sample(side, query, 30, temperature=1.0, pool=30)
    assert wide.candidates[0] == 30
    assert wide.draw_probability.sum() == pytest.approx(1)
    narrow = retrieve_sample(side, query, 5, temperature=1.0, pool=5)
    assert narrow.candidates[0] == 5
    assert narrow.draw_probability.sum() == pytest.approx(1)
    assert (narrow.inclusion_probability == 1).all()
    assert side.asked == [30, 5]
    retrieve_sample(side, query, 2, temperature=1.0)
    assert side.asked[-1] == 500


def test_refusals() -> None:
    side, query = Flat(), np.ones((1, 2), np.float32)
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="above 0"):
            retrieve_sample(side, query, 5, temperature=bad)
    with pytest.raises(InputError, match="pool of 3"):
        retrieve_sample(side, query, 5, temperature=1.0, pool=3)
    with pytest.raises(ValueError, match="keys"):
        draw(np.zeros((2, 3)), 1, 1.0, 0, ["one"])

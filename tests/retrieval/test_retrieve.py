"""Retrieval: best k, seeded sampling with the right chances, seen items of a dataset."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from duality.errors import InputError
from duality.retrieval.retrieve import retrieve
from duality.retrieval.sampling import draw
from duality.retrieval.seen import seen_items, seen_users


class Flat:
    """A side that scores every vector with NumPy."""

    def __init__(self, vectors):
        self.vectors = vectors
        self.ids = np.array([f"i{row}" for row in range(len(vectors))], object)

    def search(self, vectors, k=10, where=None, exclude=None, exact=False):
        scores = vectors @ self.vectors.T
        for row, ids in enumerate(exclude or []):
            scores[row, np.isin(self.ids, list(ids))] = -np.inf
        order = np.argsort(-scores, axis=1)
        order = np.hstack([order, np.zeros((len(order), max(0, k - order.shape[1])), int)])[:, :k]
        found = np.take_along_axis(scores, order, 1).astype(np.float32)
        found[:, len(self.vectors) :] = -np.inf
        return np.where(np.isneginf(found), None, self.ids[order]), found


@pytest.fixture
def side():
    return Flat(np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32))


QUERIES = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)


def test_without_temperature_it_is_the_best_k(side):
    ids, scores = retrieve(side, QUERIES, 5, exclude=[["i1"], [], []])
    expected = side.search(QUERIES, 5, exclude=[["i1"], [], []])
    assert (ids == expected[0]).all()
    assert (scores == expected[1]).all()


def test_a_draw_is_repeatable_sorted_and_without_repeats(side):
    first = retrieve(side, QUERIES, 8, temperature=1.0, seed=4)
    again = retrieve(side, QUERIES, 8, temperature=1.0, seed=4)
    other = retrieve(side, QUERIES, 8, temperature=1.0, seed=5)
    assert (first[0] == again[0]).all()
    assert (first[0] != other[0]).any()
    assert (np.diff(first[1], axis=1) <= 0).all()
    assert all(len(set(row)) == 8 for row in first[0])


def test_low_temperature_is_the_best_k_and_padding_comes_last(side):
    ids, _ = retrieve(side, QUERIES, 5, temperature=1e-6, seed=1)
    assert (ids == side.search(QUERIES, 5)[0]).all()
    few = Flat(side.vectors[:3])
    ids, scores = retrieve(few, QUERIES, 5, temperature=10.0, seed=1)
    assert all(set(row) == {"i0", "i1", "i2", None} for row in ids)
    assert np.isneginf(scores[:, 3:]).all()


def test_first_draws_follow_the_softmax():
    scores = np.tile(np.array([2.0, 1.0, 0.0, -np.inf], np.float32), (20_000, 1))
    drawn = draw(scores, 1, 2.0, 0, [str(row) for row in range(len(scores))]).columns[:, 0]
    weights = np.exp(np.array([1.0, 0.5, 0.0]))
    shares = np.bincount(drawn, minlength=4) / len(drawn)
    np.testing.assert_allclose(shares[:3], weights / weights.sum(), atol=0.015)
    assert shares[3] == 0


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_temperature(side, temperature):
    with pytest.raises(InputError, match="above 0"):
        retrieve(side, QUERIES, 5, temperature=temperature)


class Ids:
    def __init__(self, ids):
        self.held = ids

    def find(self, ids):
        return np.array([self.held.index(id) if id in self.held else -1 for id in ids])

    def ids(self, rows):
        return [self.held[row] for row in rows]


def test_seen_of_both_sides():
    events = [("u", "b"), ("u", "a"), ("u", "b"), ("v", "a")]
    dataset = SimpleNamespace(
        user_ids=Ids(["u", "v"]),
        item_ids=Ids(["a", "b", "c"]),
        user_indptr=np.array([0, 3, 4]),
        event_user=np.array([["u", "v"].index(user) for user, _ in events]),
        event_item=np.array([["a", "b"].index(item) for _, item in events]),
        item_indptr=np.array([0, 2, 4, 4]),
        item_event=np.array([1, 3, 0, 2]),
    )
    assert seen_items(dataset, "u") == ["a", "b"]
    assert seen_items(dataset, "nobody") == []
    assert seen_users(dataset, "a") == ["u", "v"]
    assert seen_users(dataset, "b") == ["u"]
    assert seen_users(dataset, "c") == []

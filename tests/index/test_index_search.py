"""Search of every kind against brute force: true scores, k results whenever k exist."""

from __future__ import annotations

import numpy as np
import pytest
from index_data import best, clustered

from duality.errors import DataError, FilterError, InputError, UnknownIdError
from duality.index.pair import Pair


@pytest.fixture
def items(built):
    with Pair.open(built[0]) as pair:
        yield pair.items


def stored(side):
    return {record["id"]: record["vector"] for record in side.list()}


def check(side, ids, scores, queries, k, vectors, recall):
    """Scores are true and sorted, ids known and different, and enough of the best are found."""
    found = 0
    for row, query in enumerate(queries):
        expected = best(vectors, query, k)
        width = len(expected)
        assert list(ids[row, width:]) == [None] * (k - width)
        assert len(set(ids[row, :width])) == width
        true = [float(vectors[id] @ query) for id in ids[row, :width]]
        np.testing.assert_allclose(scores[row, :width], true, rtol=1e-4, atol=1e-3)
        assert (np.diff(scores[row]) <= 0).all() if width == k else True
        # Ties at the edge make several right answers, so scores are compared, not ids.
        found += sum(score >= expected[-1][1] - 1e-3 for score in true) / max(width, 1)
    assert found / len(queries) >= recall


@pytest.mark.parametrize("k", [1, 10, 100])
def test_matches_brute_force(items, k):
    queries = clustered(40, seed=5)
    vectors = stored(items)
    ids, scores = items.search(queries, k)
    assert ids.shape == scores.shape == (40, k)
    assert (ids.dtype, scores.dtype) == (object, np.float32)
    check(items, ids, scores, queries, k, vectors, 1.0 if items.kind == "exact" else 0.9)
    check(items, *items.search(queries, k, exact=True), queries, k, vectors, 1.0)


@pytest.mark.parametrize(
    ("where", "keep", "recall"),
    [
        ("rare = true", lambda row: row % 50 == 0, 1.0),
        ("year >= 1950", lambda row: row % 100 >= 50, 0.9),
        ("genre is null and tags contains 't3'", lambda row: row % 3 == 0 and row % 7 == 3, 1.0),
        ("id in ('i1', 'i2', 'nobody')", lambda row: row in (1, 2), 1.0),
        ("year > 5000", lambda row: False, 1.0),
    ],
)
def test_filters_return_only_matches_and_as_many_as_exist(items, where, keep, recall):
    vectors = {id: vector for id, vector in stored(items).items() if keep(int(id[1:]))}
    queries = clustered(20, seed=6)
    ids, scores = items.search(queries, 10, where)
    assert {id for id in ids.ravel() if id is not None} <= set(vectors)
    if vectors:
        check(items, ids, scores, queries, 10, vectors, recall)
    else:
        assert set(ids.ravel()) == {None}
        assert np.isneginf(scores).all()


def test_exclusions_are_per_query_and_leave_k_results(items):
    queries = clustered(30, seed=7)
    free, _ = items.search(queries, 25, exact=True)
    exclude = [[*free[row, : row % 25], "unknown"] for row in range(30)]
    ids, _ = items.search(queries, 10, exclude=exclude)
    for row in range(30):
        assert None not in ids[row]
        assert not set(ids[row]) & set(exclude[row])
    exact, _ = items.search(queries, 1, exclude=exclude, exact=True)
    assert [exact[row, 0] for row in range(25)] == [free[row, row] for row in range(25)]


def test_excluding_nearly_everything_leaves_the_rest(items):
    everything = sorted(stored(items))
    ids, scores = items.search(clustered(2, seed=8), 10, exclude=[everything[3:], everything])
    assert set(ids[0, :3]) == set(everything[:3])
    assert list(ids[0, 3:]) == [None] * 7
    assert list(ids[1]) == [None] * 10
    assert np.isneginf(scores[1]).all()


def test_asking_for_more_than_there_is(items):
    ids, _ = items.search(clustered(2, seed=9), items.count + 5)
    assert set(ids[0, : items.count]) == set(stored(items))
    assert list(ids[0, items.count :]) == [None] * 5


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda side: side.search(np.ones((1, 3), np.float32)), DataError, "shape"),
        (lambda side: side.search(np.full((2, 16), np.nan, np.float32)), DataError, "row 1.*finite"),
        (lambda side: side.search(np.ones((1, 16))), DataError, "float32"),
        (lambda side: side.search(np.ones((1, 16), np.float32), 0), InputError, "k 0"),
        (lambda side: side.search(np.ones((1, 16), np.float32), exclude=[]), InputError, "0 lists"),
        (lambda side: side.search(np.ones((1, 16), np.float32), where="yeer = 1"), FilterError, "year"),
        (lambda side: side.vectors(["i1", "i15000"]), UnknownIdError, "did you mean i1500|i150"),
        (lambda side: side.upsert(["x"], np.ones((1, 16), np.float32)), InputError, 'mode="w"'),
    ],
)
def test_refusals(items, call, error, words):
    with pytest.raises(error, match=words):
        call(items)


def test_no_queries_give_no_rows(items):
    ids, scores = items.search(np.empty((0, 16), np.float32), 3)
    assert ids.shape == scores.shape == (0, 3)

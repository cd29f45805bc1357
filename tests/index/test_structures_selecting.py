"""The k best by thresholds are those of a sort; one query alone visits what it visits in a batch."""

from __future__ import annotations

import numpy as np
import pytest
from structure_worlds import clusters, decaying, made, recall

from duality.index.structures.list_filters import find_among
from duality.index.structures.probing import visits_among
from duality.index.structures.second_look import missing_lists
from duality.index.structures.selecting import best_columns, select, selecting_pays


@pytest.mark.parametrize(("width", "k"), [(3, 5), (10, 10), (40, 10), (200, 10), (5_000, 10), (5_000, 128)])
@pytest.mark.parametrize("values", [4, 1_000_000])
def test_the_largest_of_each_row(width, k, values):
    # Few different values: ties at the threshold, of which the first columns count.
    scores = np.random.default_rng(width + k).integers(0, values, (9, width)).astype(np.float32)
    found, columns = best_columns(scores, k)
    right = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    there = right.shape[1]
    np.testing.assert_array_equal(columns[:, :there], right)
    np.testing.assert_array_equal(found[:, :there], np.take_along_axis(scores, right, 1))
    assert (columns[:, there:] == -1).all()
    assert np.isneginf(found[:, there:]).all()


@pytest.mark.parametrize(("number", "rows"), [(8, 2_000), (130, 17_000), (65, 40_000)])
def test_rows_are_taken_in_blocks(number, rows):
    assert selecting_pays(number, rows, 10) or number * rows > 1 << 19
    vectors, queries = clusters(rows, 8), clusters(number, 8, seed=1)
    scores, found = select(queries, vectors, 10)
    products = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    np.testing.assert_allclose(scores, -np.sort(-products, axis=1)[:, :10], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.take_along_axis(products, found, 1), scores, rtol=1e-4, atol=1e-4)


def test_few_scores_are_left_to_faiss():
    assert not selecting_pays(1, 1_000_000, 10)
    assert not selecting_pays(128, 30, 10)
    assert not selecting_pays(128, 2_000, 1_000)


@pytest.mark.parametrize("world", [clusters, decaying])
@pytest.mark.parametrize("share", [0.5, 0.05])
@pytest.mark.parametrize("evenly", [True, False])
def test_one_query_looks_where_it_would_in_a_batch(world, share, evenly):
    rows, dim = 20_000, 16
    keys, vectors, queries = np.arange(rows) + 1, world(rows, dim), world(30, dim, seed=1)
    structure = made("ivf", keys, vectors)
    order = np.random.default_rng(3).permutation(rows) if evenly else np.argsort(vectors @ queries[0])
    allowed = np.sort(keys[order[: int(share * rows)]])
    candidates = structure._candidates(allowed)
    near = structure.coarse.nearness(queries)
    visited = visits_among(structure, near, 10, candidates, 3)
    worst = structure._search_lists(queries, 10, visited, candidates, None)[0][:, -1]
    more = missing_lists(structure, queries, 10, candidates, near, visited, worst)
    more = np.full((len(queries), 1), -1) if more is None else more
    same = []
    for row in range(len(queries)):
        one, alone = slice(row, row + 1), structure.coarse.nearness(queries[row : row + 1])
        visits = visits_among(structure, alone, 10, candidates, 3)
        assert visits[0].tolist() == visited[row][visited[row] >= 0].tolist()
        missing = missing_lists(structure, queries[one], 10, candidates, alone, visits, worst[one])
        found = set() if missing is None else set(missing[0].tolist())
        same.append(found == set(more[row][more[row] >= 0].tolist()))
    # Rounding may decide otherwise of a list at the threshold.
    assert np.mean(same) > 0.9


def test_a_filter_without_enough_matches_near_the_query():
    rows, dim = 20_000, 16
    keys, vectors, queries = np.arange(rows) + 1, clusters(rows, dim), clusters(1, dim, seed=1)
    structure = made("ivf", keys, vectors)
    allowed = np.sort(keys[np.argsort(vectors @ queries[0])[: rows // 2]])
    candidates = structure._candidates(allowed)
    found = find_among(structure, queries, 10, candidates, None)[1]
    right = structure._scan_candidates(queries, 10, candidates)[1]
    assert recall(found, right) >= 0.9

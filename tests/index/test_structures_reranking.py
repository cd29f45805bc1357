"""Scoring again from the matrix, and what the codecs ask of FAISS."""

import numpy as np
import pytest
from structure_worlds import clusters, made

from duality.index.faiss_module import faiss
from duality.index.structures.matrix import Matrix
from duality.index.structures.results import best


@pytest.mark.parametrize("queries", [1, 7])
@pytest.mark.parametrize("base", [0, 30, 100])
def test_products_are_those_of_base_and_added_rows(queries, base):
    vectors, rng = clusters(100, dim=8), np.random.default_rng(1)
    matrix = Matrix(vectors[:base])
    matrix.append(vectors[base:])
    positions = rng.integers(-1, 100, (queries, 20))
    asked = vectors[::2][:queries]
    found = matrix.products(asked, positions)
    wanted = np.einsum("qd,qrd->qr", asked, vectors[positions])
    np.testing.assert_allclose(found[positions >= 0], wanted[positions >= 0], rtol=1e-5, atol=1e-6)
    scores, kept = best(found, positions, 20)
    assert (scores[kept < 0] == -np.inf).all()


@pytest.mark.parametrize("width", [3, 12, 200])
def test_the_best_come_first_and_nothing_last(width):
    rng = np.random.default_rng(2)
    scores = rng.permuted(np.tile(np.arange(width, dtype=np.float32), (5, 1)), axis=1)
    positions = np.where(scores % 3 == 0, -1, scores.astype(np.int64))
    found, kept = best(scores, positions, 3)
    wanted = np.sort(positions, axis=1)[:, ::-1][:, :3]
    np.testing.assert_array_equal(kept, wanted)
    np.testing.assert_array_equal(found, np.where(wanted >= 0, wanted, -np.inf))


@pytest.mark.parametrize("kind", ["ivf", "sq8", "ivfpq", "rabitq"])
def test_scans_do_not_read_the_scores_of_lists(kind):
    # Searches hand FAISS zeros for them.
    vectors = clusters(600, dim=16)
    structure = made(kind, np.arange(600), vectors)
    asked, groups = vectors[:5], structure.coarse.rank(vectors[:5], structure.nlist)[1]
    wanted = structure._probe(asked, 10, groups, None)
    index, pointer = structure.codec.index, faiss().swig_ptr
    stored, nonsense = structure.codec.stored(asked), np.full(groups.shape, np.nan, np.float32)
    scores, found = np.empty((5, 10), np.float32), np.empty((5, 10), np.int64)
    index.search_preassigned_c(
        5, pointer(stored), 10, pointer(groups), pointer(nonsense), pointer(scores), pointer(found),
        False, structure._parameters(structure.nlist, None),
    )  # fmt: skip
    np.testing.assert_array_equal(found, wanted[1])
    np.testing.assert_array_equal(scores, wanted[0])


@pytest.mark.parametrize("kind", ["ivf", "sq8", "ivfpq", "rabitq"])
def test_a_batch_finds_what_its_queries_find_alone(kind):
    vectors = clusters(1_200, dim=16)
    structure = made(kind, np.arange(1_000), vectors[:1_000])
    structure.add(np.arange(1_000, 1_200), vectors[1_000:])
    asked = clusters(40, dim=16, seed=3)
    scores, keys = structure.search(asked, 10)
    for row in range(len(asked)):
        alone = structure.search(asked[row : row + 1], 10)
        np.testing.assert_array_equal(alone[1][0], keys[row])
        np.testing.assert_allclose(alone[0][0], scores[row], rtol=1e-5, atol=1e-6)

"""Every kind of search structure keeps the same promises; the exact answers are the oracle."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structure_worlds import KINDS, clusters, decaying, made, packed, recall, reopened, truth

ROWS, DIM = 3_000, 24
KEYS = np.arange(ROWS) * 7 + 3
VECTORS = clusters(ROWS)
QUERIES = clusters(40, seed=1)


@pytest.fixture(scope="module", params=KINDS)
def packed_kind(request):
    return packed(made(request.param, KEYS, VECTORS))


@pytest.fixture
def structure(packed_kind):
    """A structure that the test may change: changes go beside the arrays, never into them."""
    from duality.index.structures.build import unpack_structure

    for array in packed_kind[1].values():
        array.flags.writeable = False
    return unpack_structure(*packed_kind)


def test_recall_and_true_scores(structure):
    scores, found = structure.search(QUERIES, 10)
    assert recall(found, truth(KEYS, VECTORS, QUERIES, 10)[1]) >= 0.95
    at = np.searchsorted(KEYS, found)
    np.testing.assert_allclose(scores, np.einsum("qkd,qd->qk", VECTORS[at], QUERIES), rtol=1e-4, atol=1e-4)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert scores.dtype == np.float32
    assert found.dtype == np.int64


@pytest.mark.parametrize("kind", KINDS)
def test_recall_without_clusters(kind):
    vectors, queries = decaying(4_000), decaying(60, seed=1)
    structure = made(kind, np.arange(4_000), vectors)
    found = structure.search(queries, 10)[1]
    assert recall(found, truth(np.arange(4_000), vectors, queries, 10)[1]) >= 0.95


def test_exact_search_is_exact(structure):
    scores, found = structure.search(QUERIES, 25, exact=True)
    right_scores, right = truth(KEYS, VECTORS, QUERIES, 25)
    assert recall(found, right) >= 0.999
    np.testing.assert_allclose(scores, right_scores, rtol=1e-4, atol=1e-4)


def test_what_it_holds(structure):
    np.testing.assert_array_equal(structure.keys(), KEYS)
    assert (structure.count, structure.dim) == (ROWS, DIM)
    picked = KEYS[[5, 2, 900]]
    np.testing.assert_array_equal(structure.vectors_of(picked), VECTORS[[5, 2, 900]])
    with pytest.raises(KeyError, match="4"):
        structure.vectors_of(np.array([3, 4]))


def test_removed_never_comes_back_and_added_is_found(structure):
    best = structure.search(QUERIES, 5)[1]
    gone = np.unique(best)
    structure.remove(np.concatenate([gone, [999_999]]))
    assert structure.count == ROWS - len(gone)
    assert not np.isin(structure.search(QUERIES, 50)[1], gone).any()
    assert not np.isin(structure.search(QUERIES, 50, exact=True)[1], gone).any()
    structure.add(gone[:3], 3 * QUERIES[:3])
    assert (structure.search(QUERIES[:3], 1)[1].ravel() == gone[:3]).mean() > 0.6
    np.testing.assert_array_equal(structure.vectors_of(gone[:3]), 3 * QUERIES[:3])


def test_replacing_moves_a_vector(structure):
    key = structure.search(QUERIES[:1], 1)[1][0]
    structure.add(key, -VECTORS[:1] * 5)
    structure.add(key, -VECTORS[1:2] * 5)
    assert structure.count == ROWS
    assert structure.search(-VECTORS[1:2], 1)[1][0, 0] == key
    np.testing.assert_array_equal(structure.vectors_of(key), -VECTORS[1:2] * 5)


def test_every_live_vector_can_be_had(structure):
    structure.remove(KEYS[::2])
    _, found = structure.search(QUERIES[:3], ROWS + 5, exact=True)
    assert found.shape == (3, ROWS // 2)
    for row in found:
        np.testing.assert_array_equal(np.sort(row), KEYS[1::2])
    assert structure.search(QUERIES[:3], 0)[0].shape == (3, 0)
    structure.remove(KEYS)
    assert structure.search(QUERIES[:3], 5)[1].shape == (3, 0)
    assert structure.search(QUERIES[:3], 5, exact=True)[1].shape == (3, 0)
    structure.add(KEYS[:2], VECTORS[:2])
    assert structure.search(QUERIES[:3], 5)[1].shape == (3, 2)
    np.testing.assert_array_equal(np.sort(structure.search(QUERIES[:3], 5)[1]), [KEYS[:2]] * 3)


def test_filter_of_few_and_of_unknown_keys(structure):
    allowed = np.array([3, 4, 10, 17, 10**9])
    found = structure.search(QUERIES, 10, allowed)[1]
    assert found.shape == (len(QUERIES), 3)
    np.testing.assert_array_equal(np.sort(found, axis=1), [[3, 10, 17]] * len(QUERIES))
    assert structure.search(QUERIES, 10, np.empty(0, np.int64))[1].shape == (len(QUERIES), 0)


def test_a_kept_filter_follows_changes(structure):
    allowed = KEYS[:1_500].copy()
    allowed.flags.writeable = False
    first = structure.search(QUERIES, 10, allowed)[1]
    structure.remove(np.unique(first))
    second = structure.search(QUERIES, 10, allowed)[1]
    assert not np.isin(second, first).any()
    assert np.isin(second, allowed).all()


def test_packing_after_changes(structure):
    structure.remove(KEYS[:700])
    structure.add(KEYS[300:900], VECTORS[:600] * 1.5)
    again = reopened(structure)
    np.testing.assert_array_equal(again.keys(), structure.keys())
    np.testing.assert_array_equal(again.vectors_of(again.keys()), structure.vectors_of(again.keys()))
    right = structure.search(QUERIES, 10, exact=True)[1]
    assert recall(again.search(QUERIES, 10)[1], right) >= 0.94
    assert again.labels.dead == 0
    again.remove(KEYS[800:])
    again.add(KEYS[2_000:2_100], VECTORS[2_000:2_100])
    assert again.count == structure.count - len(KEYS[800:]) + 100


def test_packing_reads_nothing_written_later(structure):
    _, arrays = structure.pack()
    structure.add(np.array([100_000]), QUERIES[:1])
    matrix = arrays["matrix"]
    assert sum(len(block) for block in matrix.blocks()) == matrix.shape[0] == ROWS


def test_staging_shows_all_or_nothing(structure):
    # Of the batch, 30 keys are new and 70 replace others: far outside, so that they win at once.
    keys = np.concatenate([KEYS[:70], np.arange(30) + 500_000])
    vectors = 4 * np.resize(QUERIES, (100, DIM)).astype(np.float32)
    before = structure.search(QUERIES, 5)[1]
    steps = structure.staging(keys, vectors)
    np.testing.assert_array_equal(structure.search(QUERIES, 5)[1], before)
    states = []
    for _ in steps:
        states.append(structure.search(QUERIES, 5)[1])
        states.append(structure.search(QUERIES, 5, exact=True)[1])
    new = np.isin(states[-1], keys)
    assert new.mean() > 0.4
    for state in states[:-2]:
        np.testing.assert_array_equal(np.isin(state, 500_000 + np.arange(30)), False)
        assert recall(state, before) > 0.9
    np.testing.assert_array_equal(structure.vectors_of(keys), vectors)


def test_an_abandoned_batch_leaves_no_trace(structure):
    steps = structure.staging(np.arange(80) + 600_000, np.resize(QUERIES, (80, DIM)) * 9)
    if structure.kind == "hnsw":
        next(steps)
    steps.close()
    assert structure.count == ROWS
    assert structure.search(QUERIES, 10)[1].max() < 600_000
    assert reopened(structure).count == ROWS


def test_refusals_change_nothing(structure):
    for keys, vectors in [
        (KEYS[:2], VECTORS[:1]),
        (KEYS[[1, 1]], VECTORS[:2]),
        (np.array([-1]), VECTORS[:1]),
        (np.array([1 << 60]), VECTORS[:1]),
        (KEYS[:1], VECTORS[:1, :5]),
    ]:
        with pytest.raises(ValueError):
            structure.add(keys, vectors)
    np.testing.assert_array_equal(structure.keys(), KEYS)


def test_searches_may_run_together(structure):
    right, wrong = structure.search(QUERIES, 10, exact=True)[1], []

    def ask() -> None:
        for _ in range(10):
            if recall(structure.search(QUERIES, 10)[1], right) < 0.94:
                wrong.append("all")
            if not np.isin(structure.search(QUERIES, 10, KEYS[::3])[1], KEYS[::3]).all():
                wrong.append("filter")

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_longer_vectors_than_at_the_build_are_found(structure):
    structure.add(np.array([700_000, 700_001]), 50 * QUERIES[:2])
    found = structure.search(QUERIES[:2], 3)[1]
    assert found[0, 0] == 700_000
    assert found[1, 0] == 700_001
    again = reopened(structure)
    assert again.search(QUERIES[:2], 1)[1].ravel().tolist() == [700_000, 700_001]
    again.remove(np.array([700_000]))
    assert again.search(QUERIES[:1], 10)[1].min() >= 0
    assert 700_000 not in again.search(QUERIES[:1], 10)[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [0, 1, 5, 60])
def test_tiny(kind, rows):
    vectors = clusters(60, dim=5)[:rows].reshape(rows, 5)
    structure = reopened(made(kind, np.arange(rows), vectors))
    queries = clusters(3, dim=5, seed=3)
    assert structure.search(queries, 10)[1].shape == (3, min(rows, 10))
    structure.add(np.arange(100, 160), clusters(60, dim=5))
    assert structure.search(queries, 5)[1].shape == (3, 5)
    assert structure.plan(5).candidates > 0
    assert reopened(structure).count == rows + 60


@pytest.mark.parametrize("kind", KINDS)
def test_equal_vectors_are_ordered_by_key(kind):
    vectors = np.repeat(clusters(20, dim=8), 10, axis=0)
    found = made(kind, np.arange(200), vectors).search(vectors[::10], 10)[1]
    ordered = np.sort(found, axis=1)
    np.testing.assert_array_equal(found[(np.diff(ordered, axis=1) == 1).all(axis=1)],
                                  ordered[(np.diff(ordered, axis=1) == 1).all(axis=1)])  # fmt: skip


@pytest.mark.parametrize("kind", ["exact", "ivf", "sq8"])
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_random_changes_agree_with_a_dictionary(kind, data):
    vectors = clusters(400, dim=6)
    structure = made(kind, np.arange(150), vectors[:150])
    held = dict(zip(range(150), vectors[:150]))
    for _ in range(data.draw(st.integers(1, 8))):
        keys = np.unique(data.draw(st.lists(st.integers(0, 220), min_size=1, max_size=40)))
        match data.draw(st.sampled_from(["add", "remove", "reopen", "search"])):
            case "add":
                rows = vectors[data.draw(st.integers(0, 100)) :][: len(keys)]
                structure.add(keys, rows)
                held.update(zip(keys.tolist(), rows))
            case "remove":
                structure.remove(keys)
                for key in keys.tolist():
                    held.pop(key, None)
            case "reopen":
                structure = reopened(structure)
            case _:
                structure.search(vectors[:3], 4)
    names = np.array(sorted(held), np.int64)
    np.testing.assert_array_equal(structure.keys(), names)
    if len(names):
        rows = np.stack([held[key] for key in names.tolist()])
        np.testing.assert_array_equal(structure.vectors_of(names), rows)
        right = truth(names, rows, vectors[300:310], 5)[0]
        np.testing.assert_allclose(
            structure.search(vectors[300:310], 5, exact=True)[0], right, rtol=1e-4, atol=1e-4
        )
        every = structure.search(vectors[300:310], len(names), setting={"nprobe": 10**6})[1]
        np.testing.assert_array_equal(np.sort(every, axis=1), [names] * 10)

"""Tuning measures; its setting is honoured by searches and builds. Devices answer like the processor."""

from __future__ import annotations

import numpy as np
import pytest
from structure_worlds import KINDS, clusters, decaying, made, recall, reopened, truth

from duality.errors import InputError
from duality.index.structures.tuning import tune

ROWS, DIM = 2_000, 16
KEYS = np.arange(ROWS) * 2
VECTORS = decaying(ROWS, DIM)
QUERIES = decaying(100, DIM, seed=1)


@pytest.fixture(scope="module", params=KINDS)
def structure(request):
    return made(request.param, KEYS, VECTORS)


def test_tuning_reaches_the_target(structure):
    tuned = tune(structure, QUERIES, 10, 0.9)
    assert tuned.reached
    assert 0.9 <= tuned.low <= tuned.recall
    assert tuned.queries_per_second > 0
    right = structure.search(QUERIES, 10, exact=True)[1]
    assert recall(structure.search(QUERIES, 10, setting=tuned.setting)[1], right) >= 0.9
    assert tuned.setting in [row["setting"] for row in tuned.table]
    others = decaying(200, DIM, seed=2)
    right = structure.search(others, 10, exact=True)[1]
    assert recall(structure.search(others, 10, setting=tuned.setting)[1], right) >= 0.87


def test_tuning_says_when_nothing_reaches_the_target(structure):
    tuned = tune(structure, QUERIES[:2], 10, 1.0)
    assert not tuned.reached
    assert tuned.recall >= 0.8


@pytest.mark.parametrize("kind", ["ivf", "sq8", "hnsw"])
def test_a_tuned_setting_is_built_in(kind):
    setting = {"hnsw": {"ef_search": 40, "k": 10}}.get(kind, {"nprobe": 4, "nlist": 50, "k": 10})
    structure = reopened(made(kind, KEYS, VECTORS, search=setting))
    plan = structure.plan(10).settings
    if kind == "hnsw":
        assert plan["ef_search"] == 40
    else:
        # Four of fifty lists, whatever the number of lists is now.
        assert plan["nprobe"] == pytest.approx(structure.nlist * 4 / 50, abs=1)
    assert structure.plan(100).candidates > structure.plan(10).candidates


def test_nprobe_and_nlist_of_a_spec_are_kept():
    structure = reopened(made("ivf", KEYS, VECTORS, nlist=40, nprobe=9))
    assert structure.nlist == 40
    assert structure.plan(10).settings == {"nprobe": 9}


def test_tuning_needs_queries(structure):
    with pytest.raises(ValueError, match="queries"):
        tune(structure, QUERIES[:0], 10, 0.9)


@pytest.mark.parametrize("allowed", [None, KEYS[::3]], ids=["all", "filter"])
def test_exact_search_on_a_device(structure, allowed):
    pytest.importorskip("torch")
    scores, found = structure.search(QUERIES, 7, allowed, exact=True, device="cpu")
    right = structure.search(QUERIES, 7, allowed, exact=True)
    assert recall(found, right[1]) >= 0.999
    np.testing.assert_allclose(scores, right[0], rtol=1e-4, atol=1e-5)


def test_exact_search_on_a_device_after_changes():
    pytest.importorskip("torch")
    structure = made("exact", KEYS, VECTORS)
    structure.remove(KEYS[:100])
    structure.add(np.array([99_991]), 3 * QUERIES[:1])
    keys = structure.keys()
    right = truth(keys, structure.vectors_of(keys), QUERIES, 5)[1]
    assert recall(structure.search(QUERIES, 5, device="cpu")[1], right) >= 0.999


def test_lists_trained_on_a_device():
    pytest.importorskip("torch")
    from duality.index.spec import spec_named
    from duality.index.structures.build import build_structure

    vectors, queries = clusters(ROWS, DIM), clusters(50, DIM, seed=3)
    structure = build_structure(spec_named("ivf").options(), KEYS, vectors, device="cpu")
    right = structure.search(queries, 10, exact=True)[1]
    assert recall(structure.search(queries, 10)[1], right) >= 0.95


def test_a_device_that_is_not_there():
    torch = pytest.importorskip("torch")
    name = "cuda:63" if torch.cuda.is_available() else "cuda"
    with pytest.raises(InputError, match=f"(?s)device {name} cannot be used .*leave it out") as error:
        made("exact", KEYS, VECTORS).search(QUERIES, 5, device=name)
    assert "\n" not in str(error.value)


def test_a_real_gpu():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    structure = made("exact", KEYS, VECTORS)
    right = structure.search(QUERIES, 10)[1]
    assert recall(structure.search(QUERIES, 10, device="cuda")[1], right) >= 0.999

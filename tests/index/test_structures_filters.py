"""Filtered search finds the true neighbours whatever the filter has to do with the query; plans say why."""

from __future__ import annotations

import numpy as np
import pytest
from structure_worlds import KINDS, clusters, decaying, made, recall, reopened

ROWS, DIM = 12_000, 16
KEYS = np.arange(ROWS) + 1
WORLDS = {"clusters": clusters, "decaying": decaying}


@pytest.fixture(scope="module", params=[(kind, world) for kind in KINDS for world in WORLDS], ids="-".join)
def searched(request):
    kind, world = request.param
    vectors = WORLDS[world](ROWS, DIM)
    return reopened(made(kind, KEYS, vectors)), vectors, WORLDS[world](40, DIM, seed=1)


def compared(structure, queries, allowed):
    allowed.flags.writeable = False
    right = structure.search(queries, 10, allowed, exact=True)[1]
    found = structure.search(queries, 10, allowed)[1]
    assert np.isin(found[found >= 0], allowed).all()
    return recall(found, right)


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01, 0.001])
def test_filters_that_know_nothing_of_the_query(searched, share):
    structure, _, queries = searched
    allowed = np.sort(np.random.default_rng(7).choice(KEYS, int(share * ROWS), replace=False))
    assert compared(structure, queries, allowed) >= 0.95


@pytest.mark.parametrize("share", [0.5, 0.1])
@pytest.mark.parametrize("number", [1, 12])
def test_filters_that_exclude_what_is_near_the_query(searched, share, number):
    structure, vectors, queries = searched
    near = queries[:1] + 0.05 * np.random.default_rng(2).normal(size=(number, DIM)).astype(np.float32)
    allowed = np.sort(KEYS[np.argsort(vectors @ queries[0])[: int(share * ROWS)]])
    assert compared(structure, near, allowed) >= 0.95


def test_filters_that_keep_what_is_near_the_query(searched):
    structure, vectors, queries = searched
    allowed = np.sort(KEYS[np.argsort(-(vectors @ queries[0]))[: ROWS // 10]])
    assert compared(structure, queries[:1], allowed) >= 0.9


def test_one_batch_of_queries_that_a_filter_treats_differently(searched):
    structure, vectors, queries = searched
    allowed = np.sort(KEYS[np.argsort(vectors @ queries[0])[: ROWS // 2]])
    both = np.concatenate([queries, np.repeat(queries[:1], 5, axis=0)])
    assert compared(structure, both, allowed) >= 0.95


def test_plans_say_what_will_happen(searched):
    structure, _, queries = searched
    few = structure.plan(10, 20)
    assert few.strategy == "gather and scan"
    assert "20 of 12,000" in few.reason
    assert few.candidates == 20
    everything = structure.plan(10)
    wanted = {"exact": "scan", "hnsw": "graph"}.get(structure.kind, "probe")
    assert everything.strategy == wanted
    assert structure.plan(10, exact=True).strategy == "scan"
    assert structure.plan(10, 0).candidates == 0
    allowed = KEYS[::2]
    plan = structure.plan(10, queries=queries, allowed=allowed).as_dict()
    assert set(plan) == {"strategy", "reason", "candidates", "settings"}
    assert plan["strategy"] in ("scan", "gather and scan", "probe", "graph")


@pytest.mark.parametrize("world", list(WORLDS.values()))
def test_a_plan_sees_that_matches_are_far(world):
    rows = 5 * ROWS
    keys, vectors, queries = np.arange(rows) + 1, world(rows, DIM), world(40, DIM, seed=1)
    structure = made("ivf", keys, vectors)
    near = np.repeat(queries[:1], 20, axis=0)
    far = np.sort(keys[np.argsort(vectors @ queries[0])[: rows // 2]])
    anywhere = np.sort(np.random.default_rng(1).choice(keys, rows // 2, replace=False))
    assert (
        structure.plan(10, queries=near, allowed=far).candidates
        > 2 * structure.plan(10, queries=near, allowed=anywhere).candidates
    )

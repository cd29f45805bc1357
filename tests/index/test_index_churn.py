"""After much change: recall of a fresh build, space given back, structures rebuilt behind the searches."""

from __future__ import annotations

import time

import numpy as np
import pytest
from index_data import clustered, table

from duality.index.pair import Pair, build, verify_folder

ROWS = 4_000


def recall(side, queries):
    found, exact = (side.search(queries, 10, exact=flag)[0] for flag in (False, True))
    return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, exact)]))


def settled(side):
    """Wait for work in the background."""
    thread = side._upkeep._thread
    if thread is not None:
        thread.join(60)


def fresh_recall(side, path, kind, queries):
    ids, vectors = side.matching()
    made = table(vectors).set_column(0, "id", [ids])
    build(path, made.slice(0, 5), made, spec=kind)
    with Pair.open(path) as pair:
        return recall(pair.items, queries)


@pytest.mark.parametrize("kind", ["ivf", "hnsw", "sq8"])
@pytest.mark.parametrize("share", [0.5, 0.9, 2.0])
def test_replacing_keeps_the_recall_of_a_fresh_build(tmp_path, kind, share):
    rng = np.random.default_rng(5)
    build(tmp_path / "index", table(clustered(5), "u"), table(clustered(ROWS)), spec=kind)
    # The new vectors lie elsewhere: what the old structure was trained on no longer holds.
    turn = np.linalg.qr(rng.normal(size=(16, 16)))[0].astype(np.float32)
    queries = clustered(200, seed=11) @ turn
    with Pair.open(tmp_path / "index", "w") as pair:
        pair.items.search(queries[:1], 10)
        chosen = rng.permutation(np.tile(np.arange(ROWS), 2))[: int(share * ROWS)]
        for start in range(0, len(chosen), 500):
            rows = np.unique(chosen[start : start + 500])
            pair.items.upsert([f"i{row}" for row in rows], clustered(len(rows), seed=start) @ turn)
        settled(pair.items)
        mine = recall(pair.items, queries)
        assert mine >= fresh_recall(pair.items, tmp_path / "fresh", kind, queries) - 0.02
    assert verify_folder(tmp_path / "index") == []


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_deleting_a_region_keeps_recall_and_gives_space_back(tmp_path, kind):
    vectors = clustered(ROWS)
    near = np.argsort(-(vectors @ vectors[0]))
    region = {f"i{row}" for row in near[: ROWS * 3 // 4]}
    build(tmp_path / "index", table(clustered(5), "u"), table(vectors), spec=kind)
    queries = vectors[near[:100]]
    with Pair.open(tmp_path / "index", "w") as pair:
        before = pair.items.stats()["bytes"]
        pair.items.search(queries[:1], 10)
        assert pair.items.delete(region) == (len(region), [])
        settled(pair.items)
        ids, _ = pair.items.search(queries, 10)
        assert not region & set(ids.ravel())
        assert None not in ids
        assert (
            recall(pair.items, queries) >= fresh_recall(pair.items, tmp_path / "fresh", kind, queries) - 0.02
        )
        pair.items.compact()
        assert pair.items.stats()["bytes"] < before / 2
        assert pair.items.stats()["deleted"] == 0


def test_searches_go_on_while_a_structure_is_rebuilt(tmp_path):
    build(tmp_path / "index", table(clustered(5), "u"), table(clustered(ROWS)), spec="hnsw")
    query = clustered(1, seed=3)
    with Pair.open(tmp_path / "index", "w") as pair, Pair.open(tmp_path / "index") as reader:
        pair.items.search(query, 10)
        pair.items.delete([f"i{row}" for row in range(ROWS * 3 // 4)])
        # Removed vectors outnumber the live ones, so this starts a rebuild in the background.
        pair.items.upsert([f"n{row}" for row in range(2_100)], clustered(2_100, seed=8))
        thread, waits = pair.items._upkeep._thread, []
        assert thread is not None
        while thread.is_alive():
            start = time.perf_counter()
            assert None not in pair.items.search(query, 10)[0]
            assert pair.items.upsert(["more"], clustered(1, seed=len(waits))) == 1
            assert reader.items.count == ROWS // 4 + 2_101
            waits.append(time.perf_counter() - start)
        assert len(waits) > 3
        assert (
            pair.items.get(["more"])[0][0]["vector"].tolist() == clustered(1, seed=len(waits) - 1)[0].tolist()
        )
        best = pair.items.search(clustered(1, seed=len(waits) - 1) * 9, 1, where="id = 'more'")[0]
        assert best.tolist() == [["more"]]
    assert verify_folder(tmp_path / "index") == []


def test_closing_interrupts_the_background(tmp_path):
    build(tmp_path / "index", table(clustered(5), "u"), table(clustered(ROWS)), spec="hnsw")
    pair = Pair.open(tmp_path / "index", "w")
    pair.items.search(clustered(1), 1)
    pair.items.delete([f"i{row}" for row in range(ROWS - 100)])
    pair.items.upsert([f"n{row}" for row in range(2_100)], clustered(2_100, seed=8))
    assert pair.items._upkeep._thread is not None
    pair.close()
    with Pair.open(tmp_path / "index") as again:
        assert again.items.count == 2_200
        assert recall(again.items, clustered(20, seed=2)) > 0.9
    assert verify_folder(tmp_path / "index") == []

"""One contract for every place an index can live: files of this machine, and a Milvus server.

Each test runs over both; what a server adds is in test_remote_store.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from store_worlds import DIM, FACTS, USERS, Backend, rows_of_facts, table, vectors_like_a_model

from duality.errors import DataError, DualityError, InputError, UnknownIdError


def check(side: Any, held: dict[str, np.ndarray], seed: int, k: int = 5) -> None:
    """The side holds exactly these vectors, and searches answer as brute force does."""
    assert side.count == len(held)
    records = {record["id"]: record["vector"] for record in side.list()}
    assert list(records) == sorted(held)
    assert all(np.array_equal(records[id], held[id]) for id in held)
    queries = vectors_like_a_model(6, seed)
    ids, scores = side.search(queries, k)
    names, matrix = list(held), np.array(list(held.values()), np.float64).reshape(-1, DIM)
    truth = queries.astype(np.float64) @ matrix.T
    width = min(k, len(held))
    best = -np.sort(-truth, axis=1)[:, :width]
    assert (ids[:, width:] == None).all()  # noqa: E711 - elementwise
    assert np.isneginf(scores[:, width:]).all()
    np.testing.assert_allclose(scores[:, :width], best, rtol=1e-4, atol=1e-4)
    for row, found in enumerate(ids[:, :width]):
        own = [truth[row, names.index(id)] for id in found]
        np.testing.assert_allclose(own, best[row], rtol=1e-4, atol=1e-4)
        assert len(set(found)) == width


def test_records_by_id(backend: Backend, catalogue: Path) -> None:
    vectors, facts = vectors_like_a_model(60), rows_of_facts()
    with backend.open(catalogue) as pair:
        items = pair.items
        records, missing = items.get(["i7", "nobody", "i3", "i7"])
        assert ([record["id"] for record in records], missing) == (["i7", "i3"], ["nobody"])
        assert np.array_equal(records[0]["vector"], vectors[7])
        assert records[0]["vector"].dtype == np.float32
        assert items.attributes_of(["i7", "x"]) == {"i7": records[0]["attributes"]}
        assert np.array_equal(items.vectors(["i9", "i2", "i9"]), vectors[[9, 2, 9]])
        order = sorted(f"i{row}" for row in range(60))
        assert [record["id"] for record in items.list(limit=7, after="i15")] == order[
            order.index("i15") + 1 :
        ][:7]
        assert items.list(limit=0) == []
        names, found = items.matching("year >= 2010")
        assert names == sorted(row["id"] for row in facts if (row["year"] or 0) >= 2010)
        assert np.array_equal(found, vectors[[int(id[1:]) for id in names]])
        assert (pair.users.count, items.count, items.dim, items.kind) == (20, 60, DIM, "exact")
        assert items.stats()["count"] == 60
        assert items.verify() == []
        with pytest.raises(UnknownIdError, match=r"no id i700 \(did you mean"):
            items.vectors(["i1", "i700"])
        with pytest.raises(UnknownIdError, match=r"no id zebra.*i9"):
            items.vectors(["zebra"])


def test_attributes_of_every_kind_come_back(backend: Backend, catalogue: Path, tmp_path: Path) -> None:
    kinds = dict(zip(FACTS, ["string", "number", "number", "boolean", "date", "list", "list"]))
    with backend.open(catalogue) as pair:
        assert pair.items.attributes == kinds
        held = {record["id"]: record["attributes"] for record in pair.items.list()}
        for row in rows_of_facts():
            day = row["day"].isoformat() if row["day"] else None
            assert held[row["id"]] == {name: row[name] for name in FACTS} | {"day": day}
        assert pair.items.export(tmp_path / "items.parquet") == 60
        backend.build(tmp_path / "again", USERS, tmp_path / "items.parquet")
        with backend.open(tmp_path / "again") as again:
            assert again.items.attributes == kinds
            assert {record["id"]: record["attributes"] for record in again.items.list()} == held
        assert pair.items.export(tmp_path / "items.npy") == 60
    names = np.load(tmp_path / "items.ids.npy").tolist()
    order = [int(name[1:]) for name in names]
    assert np.array_equal(np.load(tmp_path / "items.npy"), vectors_like_a_model(60)[order])


def test_attributes_alone(index: Any) -> None:
    before = index.items.get(["i4"])[0][0]
    moment = pa.array([1_600_000_000_123_456], pa.timestamp("us", tz="Europe/Berlin"))
    index.items.upsert(["i4"], attributes=pa.table({"at": moment, "big": pa.array([2**62], pa.int64())}))
    after = index.items.get(["i4"])[0][0]
    expected = {"year": 1904, "at": "2020-09-13T12:26:40.123456", "big": 2**62}
    assert (after["attributes"], after["vector"].tolist()) == (expected, before["vector"].tolist())
    assert index.items.get(["i5"])[0][0]["attributes"] == {"year": 1905, "at": None, "big": None}
    # A vector alone keeps the attributes, a null removes one.
    index.items.upsert(["i4"], vectors_like_a_model(1, 9))
    assert index.items.get(["i4"])[0][0]["attributes"] == expected
    index.items.upsert(["i4"], attributes=pa.table({"year": pa.array([None], pa.int64())}))
    assert index.items.get(["i4"])[0][0]["attributes"]["year"] is None
    assert [record["id"] for record in index.items.list("year is null")] == ["i4"]
    assert [record["id"] for record in index.items.list(f"big >= {2**61}")] == ["i4"]
    with pytest.raises(InputError, match="attribute year is stored as number, not as string"):
        index.items.upsert(["i4"], attributes=pa.table({"year": ["text"]}))
    assert (index.items.version, index.items.verify()) == (4, [])


def spoiled(row: int, value: float) -> np.ndarray:
    vectors = vectors_like_a_model(3)
    vectors[row, 2] = value
    return vectors


@pytest.mark.parametrize(
    ("ids", "vectors", "words"),
    [
        (["a", "b", "a"], vectors_like_a_model(3), "row 3, column 'id': id a comes twice"),
        (["a", "", "b"], vectors_like_a_model(3), "row 2.*empty"),
        (["a", 7, "b"], vectors_like_a_model(3), "row 2.*not text"),
        (["a", "b\0", "c"], vectors_like_a_model(3), "row 2.*NUL"),
        (["a", "b", "ü" * 513], vectors_like_a_model(3), "row 3.*1,024"),
        (["a", "b", "c"], vectors_like_a_model(2), "2 vectors for 3 ids"),
        (["a", "b", "c"], vectors_like_a_model(3)[:, :5], "shape"),
        (["a", "b", "c"], vectors_like_a_model(3).astype(np.float64), "float32"),
        (["a", "b", "c"], spoiled(1, np.nan), "row 2, column 'vector': vector is not finite"),
        (["a", "b", "c"], spoiled(2, np.inf), "row 3, column 'vector': vector is not finite"),
        (["a", "b", "c"], spoiled(0, 1e30), "row 1.*large"),
        (["i1", "a", "b"], None, "row 2: id a is not stored and has no vector"),
    ],
)
def test_a_bad_batch_changes_nothing(
    backend: Backend, index: Any, ids: list[Any], vectors: Any, words: str
) -> None:
    with pytest.raises(DataError, match=words):
        index.items.upsert(ids, vectors)
    with pytest.raises(DataError, match="2 attribute rows"):
        index.items.upsert(["i1"], vectors_like_a_model(1), pa.table({"year": [1, 2]}))
    assert (index.items.count, index.items.version) == (200, 1)
    assert index.items.verify() == []


def test_refusals(backend: Backend, index: Any) -> None:
    one = vectors_like_a_model(1)
    for call, error, words in [
        (lambda: index.items.search(one, 0), InputError, "k 0"),
        (lambda: index.items.search(one, 3, exclude=[]), InputError, "0 lists"),
        (lambda: index.items.search(one[:, :3]), DataError, "shape"),
        (lambda: index.items.delete(), InputError, "either ids or a filter"),
        (lambda: index.items.list(limit=-1), InputError, "limit -1"),
        (lambda: index.side("things"), InputError, "side things"),
        (lambda: backend.open(index.path, "a"), InputError, "mode"),
        (lambda: backend.open(index.path / "nowhere"), InputError, "duality index build"),
    ]:
        with pytest.raises(error, match=words):
            call()
    with backend.open(index.path) as reader, pytest.raises(InputError, match='mode="w"'):
        reader.items.upsert(["a"], one)
    with pytest.raises(DualityError, match=r"process \d+"):
        backend.open(index.path, "w")
    with pytest.raises(DualityError, match=r"process \d+"):
        backend.build(index.path, USERS, USERS)


AWKWARD = [
    'a"b',
    "a'b",
    "back\\slash",
    'x" or id != "',
    "100%",
    "_",
    "日本",
    "a b\tc\n",
    "e\u0301",
    "é",
    "{x}",
    "ü" * 512,
]


def test_ids_of_any_letters(backend: Backend, index: Any) -> None:
    vectors = vectors_like_a_model(len(AWKWARD), 5)
    index.items.upsert(AWKWARD, vectors)
    assert index.items.count == 200 + len(AWKWARD)
    for id, vector in zip(AWKWARD, vectors):
        assert np.array_equal(index.items.vectors([id])[0], vector)
        quoted = id.replace("'", "''")
        assert [record["id"] for record in index.items.list(f"id = '{quoted}'")] == [id]
        assert id in index.items.search(vector[None], 200)[0][0]
    assert index.items.delete([*AWKWARD[:4], "100_"]) == (4, ["100_"])
    assert [record["id"] for record in index.items.list("id not contains 'i'")] == sorted(AWKWARD[4:])


def test_random_writes_agree_with_a_dictionary(backend: Backend, index: Any) -> None:
    rng = np.random.default_rng(3)
    held = {f"i{row}": vector for row, vector in enumerate(vectors_like_a_model(200))}
    with backend.open(index.path) as reader:
        for step in range(1, 13):
            ids = [f"i{number}" for number in rng.choice(300, rng.integers(1, 60), replace=False)]
            if step % 3:
                vectors = vectors_like_a_model(len(ids), step)
                assert index.items.upsert(ids, vectors) == len(ids)
                held.update(zip(ids, vectors))
            else:
                missing = [id for id in ids if id not in held]
                assert index.items.delete(ids) == (len(ids) - len(missing), missing)
                held = {id: vector for id, vector in held.items() if id not in ids}
            assert index.items.version == reader.items.version == step + 1
            check(index.items, held, step)
            check(reader.items, held, step)
        assert index.items.verify() == []
        index.items.compact()
        check(reader.items, held, 50)
    with backend.open(index.path) as again:
        check(again.items, held, 51)


def test_everything_deleted_then_filled_again(index: Any) -> None:
    assert index.items.delete(where="year >= 1900 and not id contains 'zz'")[0] == 200
    check(index.items, {}, 1)
    vectors = vectors_like_a_model(30, 4)
    index.items.upsert([f"n{row}" for row in range(30)], vectors)
    check(index.items, {f"n{row}": vectors[row] for row in range(30)}, 2, k=40)
    assert index.items.delete(["n1", "n1", "gone"]) == (1, ["gone"])
    assert index.items.delete(["gone"]) == (0, ["gone"])
    assert index.items.version == 4


def test_exclusions_are_per_query(index: Any) -> None:
    queries = vectors_like_a_model(12, 6)
    free, _ = index.items.search(queries, 30)
    exclude = [[*free[row, : 2 * row], "unknown"] for row in range(12)]
    ids, scores = index.items.search(queries, 5, exclude=exclude)
    assert [list(ids[row]) for row in range(12)] == [
        list(free[row, 2 * row : 2 * row + 5]) for row in range(12)
    ]
    assert (np.diff(scores) <= 0).all()
    everything = [f"i{row}" for row in range(200)]
    ids, scores = index.items.search(queries[:2], 5, exclude=[everything[3:], everything])
    assert (set(ids[0]), set(ids[1])) == ({"i0", "i1", "i2", None}, {None})
    assert np.isneginf(scores[1]).all()
    ids, _ = index.items.search(queries[:1], 5, "year < 1903", exclude=[["i1"]])
    assert list(ids[0, 2:]) == [None] * 3


@pytest.mark.parametrize("kind", ["exact", "ivf", "hnsw"])
def test_search_of_every_kind_against_brute_force(backend: Backend, tmp_path: Path, kind: str) -> None:
    vectors = vectors_like_a_model(1_000, 2)
    backend.build(tmp_path / kind, USERS, table(vectors, number=list(range(1_000))), spec=kind)
    queries = vectors_like_a_model(24, 8)
    truth = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    with backend.open(tmp_path / kind, "w") as pair:
        assert pair.items.kind == kind
        for where, allowed, exact, wanted in [
            (None, 1_000, False, 0.9),
            (None, 1_000, True, 1.0),
            ("number < 500", 500, False, 0.9),
            ("number < 30", 30, False, 1.0),
            ("number < 4", 4, False, 1.0),
        ]:
            ids, scores = pair.items.search(queries, 10, where, exact=exact)
            width, hits = min(10, allowed), 0.0
            for row in range(24):
                rows = [int(id[1:]) for id in ids[row, :width]]
                assert max(rows) < allowed
                np.testing.assert_allclose(scores[row, :width], truth[row, rows], rtol=1e-4, atol=1e-4)
                hits += (scores[row, :width] >= np.sort(truth[row, :allowed])[-width] - 1e-4).mean() / 24
            assert hits >= wanted - 1e-9
            assert (ids[:, width:] == None).all()  # noqa: E711 - elementwise
        # A vector that was not there when the structure was made is found at once.
        length = np.linalg.norm(vectors, axis=1).max() / np.linalg.norm(queries[0])
        pair.items.upsert(["new"], queries[:1] * np.float32(1.9 * length))
        assert pair.items.search(queries[:1], 1)[0][0, 0] == "new"
        pair.items.delete(["new"])
        assert "new" not in pair.items.search(queries[:1], 1_000)[0]


def test_generations_and_rollback(backend: Backend, tmp_path: Path) -> None:
    folder, extra = tmp_path / "index", {"model": {"fingerprint": "aa"}, "note": 1}
    backend.build(folder, USERS, table(vectors_like_a_model(50), year=list(range(50))), manifest_extra=extra)
    with backend.open(folder, "w") as pair:
        with pytest.raises(InputError, match="one generation only"):
            pair.rollback()
        pair.items.delete(["i0"])
    reader = backend.open(folder)
    newer = {"model": {"fingerprint": "bb"}}
    backend.build(folder, USERS, table(vectors_like_a_model(70, 5), "n"), spec="hnsw", manifest_extra=newer)
    # A reader keeps what it opened until it asks for more.
    assert (reader.items.count, reader.model) == (49, "aa")
    assert reader.items.list(limit=1)[0]["id"] == "i1"
    assert reader.refresh()
    assert (reader.items.count, reader.model, reader.items.kind) == (70, "bb", "hnsw")
    assert not reader.refresh()
    with pytest.raises(InputError, match="model aa do not belong into an index of model bb"):
        reader.items.search(vectors_like_a_model(1), 1, model="aa")
    reader.close()
    with backend.open(folder, "w") as pair:
        pair.rollback()
        assert (pair.items.count, pair.items.attributes, pair.model) == (49, {"year": "number"}, "aa")
        pair.items.upsert(["i0"], vectors_like_a_model(1))
        pair.rollback()
        assert (pair.items.count, pair.items.attributes, pair.model) == (70, {}, "bb")
        pair.rollback()
        assert (pair.items.count, pair.versions()) == (50, {"users": 1, "items": 3})


def test_a_failed_build_leaves_the_old_index(backend: Backend, folder: Path) -> None:
    with pytest.raises(DataError, match=r"row 3.*finite"):
        backend.build(folder, USERS, table(spoiled(2, np.nan)))
    with pytest.raises(DataError, match=f"user vectors have {DIM}"):
        backend.build(folder, USERS, table(vectors_like_a_model(3)[:, :5]))
    with pytest.raises(DataError, match="twice"):
        backend.build(folder, USERS, table(vectors_like_a_model(3), ["a", "b", "a"]))
    with backend.open(folder) as pair:
        assert (pair.items.count, pair.items.verify()) == (200, [])


def test_an_empty_side(backend: Backend, tmp_path: Path) -> None:
    backend.build(tmp_path / "index", USERS, table(vectors_like_a_model(0)))
    with backend.open(tmp_path / "index", "w") as pair:
        check(pair.items, {}, 1)
        vectors = vectors_like_a_model(3) / np.float32(20)
        pair.items.upsert(["a", "b", "c"], vectors)
        check(pair.items, dict(zip("abc", vectors)), 2)

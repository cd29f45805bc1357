"""What an index on a server adds to the contract: a network, a second process, batches of several calls."""

from __future__ import annotations

import inspect
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_server import GIVEN, own_server
from store_worlds import DIM, FACTS, USERS, table, vectors_like_a_model

from duality.errors import DataError, DualityError, InputError

pytest.importorskip("pymilvus", reason="pymilvus is not installed")

from duality.index.pair import Pair
from duality.index.remote import connection, rows, searching
from duality.index.remote.connection import Store
from duality.index.remote.filters import condition_of
from duality.index.remote.ledger import State
from duality.index.remote.pair import RemotePair
from duality.index.remote.side import RemoteSide
from duality.index.side import Side


@pytest.mark.skipif(bool(GIVEN), reason="a server that belongs to somebody else is not killed")
def test_acknowledged_batches_survive_the_servers_death(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with own_server() as server:
        RemotePair.build(tmp_path / "index", server.url, USERS, table(vectors_like_a_model(50)))
        with RemotePair.open(tmp_path / "index", "w", timeout=2.0) as pair:
            held = dict(zip([f"i{row}" for row in range(50)], vectors_like_a_model(50)))
            for step in range(5):
                vectors = vectors_like_a_model(30, step + 10)
                ids = [f"k{step}-{row}" for row in range(30)]
                pair.items.upsert(ids, vectors, pa.table({"step": [step] * 30}))
                held.update(zip(ids, vectors))
            assert pair.items.delete(["i3", "k0-0"]) == (2, [])
            held = {id: vector for id, vector in held.items() if id not in ("i3", "k0-0")}
            server.kill()
            monkeypatch.setattr(connection, "PATIENCE", 0.2)
            started = time.monotonic()
            with pytest.raises(DualityError, match=rf"^the store {server.url} does not answer \([a-z ]+\)$"):
                pair.items.upsert(["late"], vectors_like_a_model(1))
            assert time.monotonic() - started < 10
            monkeypatch.setattr(connection, "PATIENCE", 20.0)
            server.start()
            # The same open index goes on after the restart.
            records = {record["id"]: record["vector"] for record in pair.items.list()}
            assert records.keys() == held.keys()
            assert all(np.array_equal(records[id], held[id]) for id in held)
            assert pair.items.version == 7
            assert pair.items.verify() == []
            pair.items.upsert(["late"], vectors_like_a_model(1))
            assert len(pair.items.list("step = 4")) == 30
        with RemotePair.open(tmp_path / "index") as again:
            assert (again.items.count, again.users.count) == (len(held) + 1, 20)


def test_a_vector_beyond_the_headroom(stored: RemotePair) -> None:
    vectors = vectors_like_a_model(200)
    longest = vectors[np.linalg.norm(vectors, axis=1).argmax()]
    stored.items.upsert(["edge"], np.float32(1.99) * longest[None])
    with pytest.raises(DataError, match=r"row 2.*build the index again"):
        stored.items.upsert(["fits", "long"], np.stack([longest, np.float32(2.01) * longest]))
    assert (stored.items.get(["fits"])[1], stored.items.version) == (["fits"], 2)


def test_attributes_beyond_the_limit(stored: RemotePair) -> None:
    attributes = pa.table({"text": ["short", "x" * 70_000]})
    with pytest.raises(DataError, match=r"row 2: attributes of 70,0.. bytes; a store holds 65,536"):
        stored.items.upsert(["a", "b"], vectors_like_a_model(2), attributes)
    assert (stored.items.count, stored.items.version, stored.items.attributes) == (200, 1, {"year": "number"})


def test_a_batch_that_was_cut_off_is_told_and_can_be_sent_again(
    stored: RemotePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "MAX_BYTES", 5_000)
    upsert, calls = Store.upsert, []

    def dying(self: Store, name: str, sent: Any) -> None:
        calls.append(len(sent))
        if name == stored.items.collection and len(calls) == 4:
            raise DualityError("the store has gone")
        upsert(self, name, sent)

    ids, vectors = [f"n{row}" for row in range(60)], vectors_like_a_model(60, 3)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "upsert", dying)
        with pytest.raises(DualityError, match="has gone"):
            stored.items.upsert(ids, vectors)
    assert stored.items.version == 1
    assert 200 < stored.items.count < 260
    assert stored.items.verify() == ["items: a batch after version 1 was cut off: send it again"]
    stored.items.upsert(ids, vectors)
    assert (stored.items.version, stored.items.count, stored.items.verify()) == (2, 260, [])


def test_verify_finds_changed_and_lost_rows(stored: RemotePair) -> None:
    store, collection = stored.store, stored.items.collection
    (row,) = store.fetch(collection, 'id == "i7"', ["*"])
    store.upsert(collection, [{**row, "vector": [value + 1 for value in row["vector"]]}])
    (row,) = store.fetch(collection, 'id == "i9"', ["*"])
    store.upsert(collection, [{**row, "attributes": {"a0": 1}}])
    assert stored.verify() == ["items: 2 damaged records (i7, i9): upsert them again"]
    store.delete(collection, 'id in ["i7", "i9"]')
    (problem,) = stored.verify()
    assert problem.startswith("items: the store holds 198 records, and version 1 left 200")


def test_pages_that_come_back_full_are_halved(stored: RemotePair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_ROWS", 16)
    # Half of the rows came after the count.
    monkeypatch.setattr(Store, "count", lambda self, name, condition: 100)
    fetch, sizes = Store.fetch, []

    def counted(self: Store, name: str, condition: str, fields: Any, limit: int = 16) -> Any:
        found = fetch(self, name, condition, fields, limit=16)
        sizes.append(len(found))
        return found

    monkeypatch.setattr(Store, "fetch", counted)
    found = [
        row["id"]
        for rows_now in stored.store.scan(stored.items.collection, ["id"], 'id != ""', 1)
        for row in rows_now
    ]
    assert sorted(found) == sorted(f"i{row}" for row in range(200))
    assert 16 in sizes


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_a_short_answer_of_the_server_is_completed(
    store_url: str, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = vectors_like_a_model(400)
    RemotePair.build(tmp_path / kind, store_url, USERS, table(vectors, n=list(range(400))), spec=kind)
    # Many matches are asked of the server, and each of its answers lacks a few.
    monkeypatch.setattr(searching, "GATHER", 5)
    search, asked = Store.search, []

    def forgetful(self: Store, *arguments: Any) -> Any:
        asked.append(arguments[3])
        return [hits[: len(hits) // 2] for hits in search(self, *arguments)]

    queries = vectors_like_a_model(5, 4)
    with RemotePair.open(tmp_path / kind) as pair:
        plan = pair.items.plan(10, "n < 300")
        assert (plan.strategy, plan.candidates) == ("store", 300)
        assert pair.items.plan(10, "n < 4").strategy == "gather and scan"
        assert pair.items.plan(10, exact=True).strategy == "gather and scan"
        right = pair.items.search(queries, 10, "n < 300", exact=True)[1]
        whole = pair.items.search(queries, 10, "n < 300")[1]
        assert (np.abs(whole - right) < 1e-3).mean() >= 0.9
        monkeypatch.setattr(Store, "search", forgetful)
        ids, scores = pair.items.search(queries, 10, "n < 300")
    assert asked
    np.testing.assert_allclose(scores, right, rtol=1e-4, atol=1e-4)
    assert all(id is not None and int(id[1:]) < 300 for id in ids.ravel())


COLUMNS = State(
    DIM, 1.0, {}, columns=tuple(zip(FACTS, ["string", "number", "number", "boolean", "date", "list", "list"]))
)


@given(st.text(min_size=1, max_size=20).filter(lambda text: "\0" not in text and text.isprintable()))
def test_no_text_from_outside_reaches_an_expression(text: str) -> None:
    literal = "'" + text.replace("'", "''") + "'"
    for where in (
        f"title = {literal}",
        f"title contains {literal}",
        f"id = {literal}",
        f"id in ({literal})",
        f"tags contains {literal}",
    ):
        expression = condition_of(where, COLUMNS).expression
        assert expression.isascii()
        assert "\\" not in expression
        # Quotes and braces are the writer's: no more than around a harmless text, fewer where a text is left out.
        harmless = condition_of(where.replace(literal, "'x'"), COLUMNS).expression
        for sign in '"{}':
            assert expression.count(sign) <= harmless.count(sign)
        assert expression.count('"') % 2 == 0


@pytest.mark.parametrize(("local", "remote"), [(Pair, RemotePair), (Side, RemoteSide)])
def test_a_store_has_the_methods_of_the_local_index(local: type, remote: type) -> None:
    # A copy in files and the device are things of the local form.
    for name in [name for name in vars(local) if not name.startswith("_") and name not in ("copy_to", "dim")]:
        ours = getattr(remote, name)
        if callable(ours):
            wanted = set(inspect.signature(getattr(local, name)).parameters)
            own = {"device", "erase"} if name == "compact" else {"device"}
            assert wanted <= set(inspect.signature(ours).parameters) | own, name


def test_what_a_store_does_not_offer(stored: RemotePair) -> None:
    for call in (
        lambda: stored.items.delete(["i1"], erase=True),
        lambda: stored.create_snapshot("a"),
        lambda: stored.restore_snapshot("a"),
        lambda: stored.tune("items", vectors_like_a_model(1), 10, 0.9),
        lambda: stored.items.search(vectors_like_a_model(1), 1, device="cuda"),
    ):
        with pytest.raises(InputError, match="store"):
            call()
    assert (stored.snapshots(), stored.items.count) == ({}, 200)
    sample = stored.items.sample(30)
    assert sample.shape == (30, DIM)
    assert np.array_equal(sample, stored.items.sample(30))
    stored.items.snapshot()
    assert stored.items.stats()["bytes"] == 200 * 4 * (DIM + 1)

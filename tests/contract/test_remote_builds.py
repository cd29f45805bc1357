"""Builds on a server: what they refuse, what they make, what they leave."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store_worlds import DIM, USERS, table, vectors_like_a_model

from duality.errors import ConfigError, DualityError, InputError, MissingExtraError

pytest.importorskip("pymilvus", reason="pymilvus is not installed")

from duality.index.remote import schema
from duality.index.remote.connection import Store, check_url
from duality.index.remote.pair import RemotePair
from duality.index.spec import HnswSpec, IndexSpec, IvfSpec


def own_collections(pair: RemotePair) -> list[str]:
    return sorted(name for name in pair.store.collections() if name.startswith(pair.manifest["name"]))


def test_nobody_answers(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(DualityError, match=rf"^the store {url} does not answer \(.+\)$") as caught:
            RemotePair.build(tmp_path / "index", url, USERS, USERS)
    assert caught.value.exit_code == 1
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("localhost:19530", "give an address"),
        ("file:///etc/passwd", "give an address"),
        ("./milvus.db", "give an address"),
        ("http://:19530", "give an address"),
        ("http://host:99999999", "give an address"),
        ("http://root:secret@host:1", "no user or password"),
        ("ftp://root:secret@host:1", "give an address"),
        ("http://host:1/x.db", "database name"),
        ("http://host:1/?token=secret", "database name"),
    ],
)
def test_addresses_that_are_refused(url: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words) as caught:
        RemotePair.build(tmp_path / "index", url, USERS, USERS)
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "index").exists()


def test_addresses_that_are_taken() -> None:
    assert check_url("http://host:19530/") == "http://host:19530"
    assert check_url("https://host/research") == "https://host/research"


def test_the_token_comes_from_the_environment_and_stays_there(
    store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    import pymilvus

    class Client(pymilvus.MilvusClient):
        def __init__(self, uri: str, token: str, **more: Any) -> None:
            seen.append(token)
            super().__init__(uri, token=token, **more)

    monkeypatch.setattr(pymilvus, "MilvusClient", Client)
    monkeypatch.setenv("DUALITY_STORE_TOKEN", "user:secret-token")
    RemotePair.build(tmp_path / "index", store_url, USERS, USERS)
    RemotePair.open(tmp_path / "index").close()
    assert set(seen) == {"user:secret-token"}
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"secret" in path.read_bytes()]


def test_without_pymilvus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(
        MissingExtraError, match=r'pymilvus is not installed: pip install "duality\[milvus\]"'
    ):
        RemotePair.build(tmp_path / "index", "http://127.0.0.1:1", USERS, USERS)


@pytest.mark.parametrize("kind", ["ivfpq", "sq8", "rabitq"])
def test_other_kinds_are_refused(store_url: str, tmp_path: Path, kind: str) -> None:
    with pytest.raises(ConfigError, match=f"kind {kind} is not offered on a store: give exact, ivf, hnsw"):
        RemotePair.build(tmp_path / "index", store_url, USERS, USERS, spec=kind)


def test_a_build_that_breaks_off_leaves_no_trace(
    stored_folder: Path, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RemotePair.open(stored_folder) as reader:
        before, manifest = own_collections(reader), (stored_folder / "index.json").read_bytes()
        serve = Store.serve

        def broken(self: Store, name: str, layout: schema.Layout) -> None:
            if name.endswith("_items"):
                raise DualityError("the store has gone")
            serve(self, name, layout)

        monkeypatch.setattr(Store, "serve", broken)
        with pytest.raises(DualityError, match="has gone"):
            RemotePair.build(stored_folder, store_url, USERS, USERS)
        assert own_collections(reader) == before
        assert (stored_folder / "index.json").read_bytes() == manifest
        assert reader.items.search(vectors_like_a_model(1), 1)[0][0, 0] is not None
        with pytest.raises(DualityError, match="has gone"):
            RemotePair.build(stored_folder.parent / "other", store_url, USERS, USERS)
        assert not [name for name in reader.store.collections() if "_other_" in name]


def test_aliases_follow_and_old_generations_go(stored_folder: Path, store_url: str) -> None:
    def aliases(pair: RemotePair) -> list[str]:
        name = pair.manifest["name"]
        client = pair.store._client
        return [client.describe_alias(f"{name}_{side}")["collection_name"] for side in ("users", "items")]

    for rows_now in (30, 40, 50):
        RemotePair.build(stored_folder, store_url, USERS, table(vectors_like_a_model(rows_now)))
    with RemotePair.open(stored_folder, "w") as pair:
        assert aliases(pair) == [pair.users.collection, pair.items.collection]
        # Two generations of two sides, and the ledger.
        assert len(own_collections(pair)) == 5
        pair.rollback()
        assert aliases(pair) == [pair.users.collection, pair.items.collection]
        assert pair.items.count == 40
        # A process that died before it moved an alias: the next writer does.
        stale = next(
            name
            for name in own_collections(pair)
            if name.endswith("_items") and name != pair.items.collection
        )
        pair.store.point(schema.alias_name(pair.manifest["name"], "items"), stale)
    with RemotePair.open(stored_folder, "w") as pair:
        assert aliases(pair)[1] == pair.items.collection


@pytest.mark.parametrize(
    ("spec", "made"),
    [
        (IndexSpec(kind="hnsw", hnsw=HnswSpec(m=17, ef_construction=90)), {"M": 17, "efConstruction": 90}),
        (IndexSpec(kind="ivf", ivf=IvfSpec(nlist=9, nprobe=3)), {"nlist": 9}),
    ],
)
def test_the_settings_of_a_spec_arrive(
    store_url: str, tmp_path: Path, spec: IndexSpec, made: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    RemotePair.build(tmp_path / "index", store_url, USERS, table(vectors_like_a_model(500)), spec=spec)
    assert "does not confirm" not in capsys.readouterr().err
    with RemotePair.open(tmp_path / "index") as pair:
        held = pair.store._client.describe_index(pair.items.collection, "vector")
        assert {name: int({**held, **held.get("params", {})}[name]) for name in made} == made
        settings = pair.items.plan(10).settings
        assert settings == ({"nprobe": 3} if spec.kind == "ivf" else {"ef": 160})


def test_a_server_that_makes_something_else_is_found_out(
    store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call = Store._call
    answers: dict[str, Any] = {"index_type": "HNSW"}

    def other(self: Store, method: str, **arguments: Any) -> Any:
        found = call(self, method, **arguments)
        return answers if method == "describe_index" and arguments["index_name"] == "vector" else found

    monkeypatch.setattr(Store, "_call", other)
    with pytest.raises(DualityError, match="made HNSW instead of FLAT"):
        RemotePair.build(tmp_path / "index", store_url, USERS, USERS)
    monkeypatch.setattr(schema, "ledger_layout", lambda: schema.Layout(0, ({**FLAT, "index_type": "HNSW"},)))
    RemotePair.build(tmp_path / "index", store_url, USERS, USERS, spec="hnsw")
    assert "does not confirm M 32" in capsys.readouterr().err


FLAT = {"field_name": "vector", "index_type": "FLAT", "metric_type": "IP"}


def test_vectors_on_the_server_all_have_one_length(stored: RemotePair) -> None:
    found = stored.store.fetch(stored.items.collection, 'id != ""', ["id", "vector"])
    lengths = np.linalg.norm(np.array([row["vector"] for row in found]), axis=1)
    longest = np.linalg.norm(vectors_like_a_model(200), axis=1).max()
    np.testing.assert_allclose(lengths, 2 * longest, rtol=1e-5)


def test_two_folders_on_one_store_do_not_meet(stored: RemotePair, store_url: str, tmp_path: Path) -> None:
    RemotePair.build(tmp_path / "second" / "index", store_url, USERS, table(vectors_like_a_model(5)))
    RemotePair.build(tmp_path / "second" / "index", store_url, USERS, table(vectors_like_a_model(6)))
    assert stored.items.count == 200
    document = json.loads((tmp_path / "second/index/index.json").read_text())
    assert document["name"] != stored.manifest["name"]
    assert (document["format"], document["store"], document["dim"]) == (2, store_url, DIM)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(InputError, match="is no index"):
        RemotePair.build(tmp_path / "full", store_url, USERS, USERS)
    with pytest.raises(InputError, match="choose another folder"):
        RemotePair.build(stored.path, "http://127.0.0.1:1", USERS, USERS)

"""Snapshots, generations, rollback, models: what is switched is whole, and what was there can come back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from index_data import clustered, table

from duality.errors import DataError, DualityError, InputError
from duality.index.generations import read_root
from duality.index.pair import Pair, build, verify_folder

FIXTURES = Path(__file__).parents[1] / "fixtures"


def content(side):
    return {record["id"]: (record["vector"].tolist(), record["attributes"]) for record in side.list()}


def small(path, rows=40, seed=0, spec="exact", **extra):
    return build(
        path, table(clustered(10, seed=1), "u"), table(clustered(rows, seed=seed)), spec=spec, **extra
    )


def test_a_build_is_switched_under_readers_and_rolled_back(tmp_path):
    path = tmp_path / "index"
    small(path, 40)
    reader = Pair.open(path)
    first = content(reader.items)
    small(path, 30, seed=5, spec="hnsw")
    assert content(reader.items) == first
    assert reader.items.search(clustered(1), 3)[0][0][0] in first
    assert reader.refresh() is True
    assert (reader.items.count, reader.items.kind) == (30, "hnsw")
    assert reader.refresh() is False
    with Pair.open(path, "w") as pair:
        pair.rollback()
        assert content(pair.items) == first
    assert reader.refresh() is True
    assert content(reader.items) == first
    with Pair.open(path, "w") as pair:
        pair.rollback()
        assert pair.items.count == 30
    reader.close()
    assert verify_folder(path) == []


def test_only_the_previous_generation_is_kept(tmp_path):
    path = tmp_path / "index"
    for rows in (10, 11, 12, 13):
        small(path, rows)
    assert sorted(entry.name for entry in (path / "generations").iterdir()) == ["000003", "000004"]
    assert read_root(path).previous == ["000003"]


def test_a_failed_build_leaves_what_was(tmp_path):
    path = tmp_path / "index"
    bad = table(np.vstack([clustered(60), np.full((1, 16), np.nan, np.float32)]))
    with pytest.raises(DataError, match=r"row 61.*finite"):
        build(path, table(clustered(5), "u"), bad)
    assert not path.exists()
    small(path, 25)
    with pytest.raises(DataError, match="row 61"):
        build(path, table(clustered(5), "u"), bad)
    with pytest.raises(DataError, match=r"row 12.*i3 comes twice"):
        twice = table(clustered(12)).set_column(0, "id", pa.array([f"i{n}" for n in range(11)] + ["i3"]))
        build(path, table(clustered(5), "u"), twice)
    with Pair.open(path) as pair:
        assert pair.items.count == 25
    assert [entry.name for entry in (path / "generations").iterdir()] == ["000001"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="is no index"):
        small(tmp_path / "mine")


def test_snapshots(copied):
    folder, kind = copied
    reader = Pair.open(folder)
    with Pair.open(folder, "w") as pair:
        before = content(pair.items)
        # A reader may take it while a writer is at work.
        reader.create_snapshot("before")
        pair.items.delete(where="year < 1950")
        pair.items.upsert(["i99"], clustered(1, seed=8))
        after = content(pair.items)
        pair.create_snapshot("after")
        with pytest.raises(InputError, match="exists"):
            pair.create_snapshot("after")
        for name in ("../up", "", ".hidden", "a/b", "x" * 80):
            with pytest.raises(InputError, match="letters"):
                pair.create_snapshot(name)
        with pytest.raises(InputError, match="after, before"):
            pair.restore_snapshot("nothing")
        pair.restore_snapshot("before")
        assert content(pair.items) == before
        assert pair.snapshots()["after"]["version"]["items"] == 3
        pair.items.upsert(["fresh"], clustered(1, seed=9))
    assert reader.refresh()
    assert "fresh" in content(reader.items)
    reader.close()
    with Pair.open(folder, "w") as pair:
        pair.restore_snapshot("after")
        assert content(pair.items) == after
        assert pair.items.kind == kind
        pair.rollback()
        assert "fresh" in content(pair.items)
    assert verify_folder(folder) == []


def test_a_damaged_snapshot_is_not_restored(copied):
    folder, _ = copied
    with Pair.open(folder, "w") as pair:
        pair.create_snapshot("kept")
    database = folder / "snapshots" / "kept" / "items.sqlite"
    data = bytearray(database.read_bytes())
    data[len(data) // 2] ^= 4
    database.write_bytes(data)
    assert any("snapshot kept" in problem or "kept/items" in problem for problem in verify_folder(folder))
    with Pair.open(folder, "w") as pair:
        before = content(pair.items)
        with pytest.raises(DualityError, match="damaged"):
            pair.restore_snapshot("kept")
        assert content(pair.items) == before


def test_vectors_of_another_model_are_refused(tmp_path):
    path = tmp_path / "index"
    small(path, manifest_extra={"model": {"path": "m", "fingerprint": "aaaa"}})
    with Pair.open(path, "w") as pair:
        assert pair.items.upsert(["x"], clustered(1), model="aaaa") == 1
        with pytest.raises(InputError, match=r"model bbbb .* model aaaa"):
            pair.items.upsert(["y"], clustered(1), model="bbbb")
        with pytest.raises(InputError, match="bbbb"):
            pair.items.search(clustered(1), model="bbbb")
        assert pair.items.get(["y"])[1] == ["y"]
    marked = {name: table(clustered(4)).replace_schema_metadata({"duality.model": name}) for name in "ab"}
    with pytest.raises(InputError, match="different models: a and b"):
        build(path, marked["a"], marked["b"])


def test_an_index_of_format_1_opens(tmp_path):
    path = Path(shutil.copytree(FIXTURES / "index-format-1" / "index", tmp_path / "index"))
    expected = json.loads((FIXTURES / "index-format-1" / "records.json").read_text())
    with Pair.open(path) as pair:
        for name in ("users", "items"):
            assert pair.side(name).kind == "hnsw"
            found = [{**record, "vector": record["vector"].tolist()} for record in pair.side(name).list()]
            assert found == expected[name]
        assert pair.model == "0123456789abcdef"
        assert pair.items.list("live = true and genres contains 'war'") == []
        assert len(pair.items.search(np.ones((1, 4), np.float32), 29)[0][0]) == 29
    assert not (path / "items.sqlite").exists()
    assert verify_folder(path) == []
    damaged = Path(shutil.copytree(FIXTURES / "index-format-1" / "index", tmp_path / "damaged"))
    data = (damaged / "items.sqlite").read_bytes()
    at = data.rindex("Film 7 é".encode())
    (damaged / "items.sqlite").write_bytes(data[:at] + b"x" + data[at + 1 :])
    with pytest.raises(DualityError, match="i7 is damaged"):
        Pair.open(damaged)
    assert (damaged / "items.sqlite").exists()


@pytest.mark.parametrize("kind", ["exact", "ivf", "hnsw", "sq8", "ivfpq", "rabitq"])
def test_an_index_of_format_2_opens_as_it_is(tmp_path, kind, capsys):
    frozen = FIXTURES / "index-format-2"
    expected = json.loads((frozen / "records.json").read_text())
    path = Path(shutil.copytree(frozen / kind, tmp_path / "index"))
    assert verify_folder(path) == []
    with Pair.open(path) as pair:
        for name in ("users", "items"):
            found = [{**record, "vector": record["vector"].tolist()} for record in pair.side(name).list()]
            assert found == expected[name]
        queries = np.array([record["vector"] for record in expected["users"]], np.float32)
        found, exact = (pair.items.search(queries, 10, exact=flag)[0].tolist() for flag in (False, True))
        assert found == exact
        assert pair.items.kind == kind
    # Its structure was read, not built anew.
    assert capsys.readouterr().err == ""
    with Pair.open(path, "w") as pair:
        pair.items.upsert(["later"], np.ones((1, 8), np.float32))
        assert pair.items.count == len(expected["items"]) + 1


def test_an_interrupted_build_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    from pyarrow import parquet

    from duality.index import building, transfer

    monkeypatch.setattr(transfer, "BATCH", 100)
    path = tmp_path / "index"
    for name, rows in (("u", 30), ("i", 1_050)):
        parquet.write_table(table(clustered(rows), name, n=list(range(rows))), tmp_path / f"{name}.parquet")
    calls = []

    def interrupted(store, *rest, insert=building.RecordStore.insert):
        calls.append(store.path.stem)
        if calls.count("items") == 4:
            raise KeyboardInterrupt
        return insert(store, *rest)

    monkeypatch.setattr(building.RecordStore, "insert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(path, tmp_path / "u.parquet", tmp_path / "i.parquet", spec="ivf")
    with pytest.raises(InputError, match="no index"):
        Pair.open(path)
    assert build(path, tmp_path / "u.parquet", tmp_path / "i.parquet", spec="ivf")["items"] == 1_050
    assert "going on with an interrupted build: 300 items" in capsys.readouterr().err
    assert calls.count("users") == 1
    assert calls.count("items") == 4 + 8
    with Pair.open(path) as pair:
        ids, _ = pair.items.search(clustered(1_050)[500:501], 3, exact=True)
        assert pair.items.get(["i1049"])[0][0]["attributes"] == {"n": 1_049}
        assert len(set(ids[0])) == 3
        assert pair.items.version == 1
    assert verify_folder(path) == []


@pytest.mark.parametrize("spec", ["exact", "ivf", "hnsw"])
def test_a_reader_answers_from_a_generation_that_was_dropped_before_it_searched(tmp_path, spec):
    """Its snapshot is gone and the other side's file too; the records it holds open are enough."""
    path = tmp_path / "index"
    small(path, 400, spec=spec)
    with Pair.open(path) as reader:
        first = set(content(reader.items))
        for seed in range(4):
            small(path, 30, seed=seed + 5, spec=spec)
        assert not (path / "generations" / "000001").exists()
        found, _ = reader.items.search(clustered(5, seed=9), 3)
        assert set(found.ravel()) <= first
        assert reader.refresh() is True
        assert reader.items.count == 30

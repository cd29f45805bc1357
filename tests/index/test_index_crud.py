"""Writes of every kind against a dictionary: what was acknowledged is what is found, also after reopening."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest
from index_data import best, clustered, table

from duality.errors import DamageError, DataError, DualityError, InputError
from duality.index.pair import Pair, build, verify_folder


def same(side, vectors, seed):
    """The side holds exactly these vectors, and searches find them."""
    assert side.count == len(vectors)
    records = {record["id"]: record["vector"] for record in side.list()}
    assert records.keys() == vectors.keys()
    assert all(np.array_equal(records[id], vectors[id]) for id in vectors)
    queries = clustered(8, seed=seed)
    ids, scores = side.search(queries, 5)
    hits = 0
    for row, query in enumerate(queries):
        expected = best(vectors, query, 5)
        true = [float(vectors[id] @ query) for id in ids[row]]
        np.testing.assert_allclose(scores[row], true, rtol=1e-4, atol=1e-3)
        hits += sum(score >= expected[-1][1] - 1e-3 for score in true)
    assert hits / 40 >= (1.0 if side.kind == "exact" else 0.9)


def test_random_writes_agree_with_a_dictionary(copied):
    folder, _ = copied
    rng = np.random.default_rng(3)
    with Pair.open(folder) as pair:
        vectors = {record["id"]: record["vector"] for record in pair.items.list()}
    pair, reader, version = Pair.open(folder, "w"), Pair.open(folder), 1
    for step in range(24):
        side = pair.items
        ids = [f"i{number}" for number in rng.choice(1_800, rng.integers(1, 120), replace=False)]
        if step % 3 < 2:
            # Some rows grow tenfold, beyond the length that the structure was built for.
            new = clustered(len(ids), seed=step) * np.float32(10 if step % 8 == 1 else 1)
            assert side.upsert(ids, new) == len(ids)
            vectors.update(zip(ids, new))
        else:
            held = [id for id in ids if id in vectors]
            assert side.delete(ids) == (len(held), [id for id in ids if id not in vectors])
            for id in held:
                del vectors[id]
        version += 1
        assert side.version == version
        if step % 6 == 0:
            same(side, vectors, step)
            same(reader.items, vectors, step)
        if step % 8 == 7:
            pair.close()
            pair = Pair.open(folder, "w")
            same(pair.items, vectors, step)
    assert pair.items.verify() == []
    pair.items.compact()
    same(pair.items, vectors, 50)
    same(reader.items, vectors, 50)
    assert pair.items.stats()["deleted"] == 0
    assert pair.items.verify() == []
    pair.close()
    reader.close()


def test_everything_deleted_then_filled_again(copied):
    with Pair.open(copied[0], "w") as pair:
        pair.items.search(clustered(1), 3)
        assert pair.items.delete(where="year > 0")[0] == 1_500
        assert list(pair.items.search(clustered(1), 3)[0][0]) == [None] * 3
        vectors = clustered(300, seed=4)
        pair.items.upsert([f"n{row}" for row in range(300)], vectors)
        same(pair.items, {f"n{row}": vectors[row] for row in range(300)}, 4)
        assert pair.items.verify() == []


@pytest.mark.parametrize(
    ("ids", "vectors", "words"),
    [
        (["a", "b", "a"], clustered(3), "row 3.*twice"),
        (["a", "", "b"], clustered(3), "row 2.*empty"),
        (["a", 7, "b"], clustered(3), "row 2.*not text"),
        (["a", "b\0", "b"], clustered(3), "row 2.*NUL"),
        (["a", "b", "x" * 2000], clustered(3), "row 3.*1,024"),
        (["a", "b", "c"], clustered(2), "2 vectors for 3 ids"),
        (["a", "b", "c"], clustered(3, 7), "shape"),
        (["a", "b", "c"], clustered(3).astype(np.float64), "float32"),
        (
            ["a", "b", "c"],
            np.where(np.arange(48).reshape(3, 16) == 20, np.nan, clustered(3)),
            "row 2.*finite",
        ),
        (
            ["a", "b", "c"],
            np.where(np.arange(48).reshape(3, 16) == 40, np.inf, clustered(3)),
            "row 3.*finite",
        ),
        (["a", "b", "c"], clustered(3) * np.float32(1e30), "row 1.*large"),
        (["i1", "a", "b"], None, "id a is not stored"),
    ],
)
def test_a_bad_batch_changes_nothing(copied, ids, vectors, words):
    if vectors is not None and "finite" in words:
        vectors = vectors.astype(np.float32)
    with Pair.open(copied[0], "w") as pair:
        before = pair.items.version, pair.items.count, pair.items.get(["i1"])[0][0]["vector"].tolist()
        with pytest.raises(DataError, match=words):
            pair.items.upsert(ids, vectors)
        assert before == (
            pair.items.version,
            pair.items.count,
            pair.items.get(["i1"])[0][0]["vector"].tolist(),
        )


def test_attributes_of_every_kind_survive(tmp_path):
    columns = pa.table(
        {
            "Name": ["ü", None, "c"],
            "name": ["x", "y", "z"],
            "n": pa.array([1, None, 2**62], pa.int64()),
            "f": [1.5, float("nan"), 2.0],
            "ok": [True, False, None],
            "day": [dt.date(2020, 1, 2), None, dt.date(1999, 12, 31)],
            "at": pa.array([1_600_000_000_123_456, None, 0], pa.timestamp("us", tz="Europe/Berlin")),
            "tags": [["a", "b"], [], None],
            "key": pa.array(["p", "q", "p"]).dictionary_encode(),
        }
    )
    vectors = clustered(3)
    items = table(vectors)
    for name in columns.column_names:
        items = items.append_column(name, columns.column(name))
    build(tmp_path / "index", table(vectors, "u"), items)
    with Pair.open(tmp_path / "index", "w") as pair:
        assert pair.items.attributes["at"] == "date"
        first = pair.items.get(["i0"])[0][0]["attributes"]
        assert first == {
            "Name": "ü", "name": "x", "n": 1, "f": 1.5, "ok": True, "day": "2020-01-02",
            "at": "2020-09-13T12:26:40.123456", "tags": ["a", "b"], "key": "p",
        }  # fmt: skip
        assert [r["id"] for r in pair.items.list("key = 'p' and at < '1980-01-01' and n > 5")] == ["i2"]
        # Only attributes change; the vector and the other columns stay.
        pair.items.upsert(["i1"], attributes=pa.table({"n": [5], "extra": ["new"]}))
        (changed,) = pair.items.get(["i1"])[0]
        assert (changed["attributes"]["n"], changed["attributes"]["extra"]) == (5, "new")
        assert changed["attributes"]["name"] == "y"
        assert np.array_equal(changed["vector"], vectors[1])
        assert pair.items.get(["i0"])[0][0]["attributes"]["extra"] is None
        with pytest.raises(InputError, match="stored as number"):
            pair.items.upsert(["i1"], attributes=pa.table({"n": ["text"]}))
        assert pair.items.verify() == []
        assert pair.items.export(tmp_path / "items.parquet") == 3
    build(tmp_path / "again", table(vectors, "u"), tmp_path / "items.parquet", spec="ivf")
    with Pair.open(tmp_path / "again") as again, Pair.open(tmp_path / "index") as pair:
        ours, theirs = pair.items.list(), again.items.list()
        assert [r["attributes"] for r in ours] == [r["attributes"] for r in theirs]
        assert all(np.array_equal(a["vector"], b["vector"]) for a, b in zip(ours, theirs))
        assert again.items.attributes == pair.items.attributes


def test_one_writer_many_readers(copied):
    with Pair.open(copied[0], "w") as writer:
        with pytest.raises(DualityError, match=r"process \d+"):
            Pair.open(copied[0], "w")
        with pytest.raises(DualityError, match=r"process \d+"):
            build(copied[0], table(clustered(3), "u"), table(clustered(3)))
        with Pair.open(copied[0]) as reader:
            query = clustered(1, seed=2)
            reader.items.search(query, 1)
            writer.items.upsert(["giant"], query * np.float32(50))
            assert reader.items.search(query, 1)[0][0, 0] == "giant"
    Pair.open(copied[0], "w").close()


def test_a_failed_build_leaves_the_old_index(copied):
    bad = clustered(3)
    bad[1, 1] = np.nan
    with pytest.raises(DataError, match="row 2"):
        build(copied[0], table(clustered(3), "u"), table(bad))
    with pytest.raises(DataError, match="user vectors have 16"):
        build(copied[0], table(clustered(3), "u"), table(clustered(3, 7)))
    with Pair.open(copied[0]) as pair:
        assert pair.items.count == 1_500
    assert [path.name for path in copied[0].parent.iterdir()] == ["index"]


def generation(folder):
    return folder / "generations" / "000001"


def test_a_snapshot_far_behind_is_written_anew_on_close(copied):
    folder, _ = copied
    (first,) = generation(folder).glob("items.snapshot-1-*")
    with Pair.open(folder, "w") as pair:
        pair.items.upsert(["one"], clustered(1, seed=9))
    assert first.exists()
    with Pair.open(folder, "w") as pair:
        pair.items.upsert([f"m{row}" for row in range(1_100)], clustered(1_100, seed=9))
    (second,) = generation(folder).glob("items.snapshot-*-*")
    assert second.name.startswith("items.snapshot-3-")


def test_a_lost_or_damaged_snapshot_is_no_loss(copied, capsys):
    folder, _ = copied
    with Pair.open(folder) as pair:
        expected = pair.items.search(clustered(5, seed=3), 5, exact=True)[0].tolist()
    snapshot = next(generation(folder).glob("items.snapshot-*/matrix.npy"))
    data = bytearray(snapshot.read_bytes())
    data[len(data) // 2] ^= 255
    snapshot.write_bytes(data)
    with Pair.open(folder) as pair:
        assert "damaged" in pair.items.verify()[0]
        assert pair.items.search(clustered(5, seed=3), 5, exact=True)[0].tolist() == expected
        assert "damaged" in capsys.readouterr().err
    snapshot.unlink()
    with Pair.open(folder, "w") as pair:
        assert pair.items.search(clustered(5, seed=3), 5, exact=True)[0].tolist() == expected
    # A writer that met the damage leaves a whole snapshot.
    assert verify_folder(folder) == []


def test_damaged_records_are_named_and_not_served(copied):
    import sqlite3

    folder, _ = copied
    path = generation(folder) / "items.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE records SET vector = zeroblob(64) WHERE id = 'i7'")
        connection.execute("UPDATE records SET a0 = 1 WHERE id = 'i9'")
    connection.close()
    with pytest.raises(DamageError, match="restore a snapshot"):
        Pair.open(folder)
    assert any("2 damaged records (i7, i9)" in problem for problem in verify_folder(folder))


def test_acknowledged_batches_survive_a_kill(copied):
    import os
    import signal
    import subprocess
    import sys
    from pathlib import Path

    code = """
import sys
import numpy as np
from duality.index.pair import Pair
pair = Pair.open(sys.argv[1], "w")
for step in range(10_000):
    pair.items.upsert([f"k{step}-{n}" for n in range(20)], np.full((20, 16), step + 1, np.float32))
    print(step, flush=True)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(copied[0])], stdout=subprocess.PIPE, text=True, env=environment
    )
    acknowledged = [int(process.stdout.readline()) for _ in range(15)][-1]
    process.send_signal(signal.SIGKILL)
    acknowledged = max([acknowledged, *map(int, process.stdout.read().split())])
    process.wait()
    with Pair.open(copied[0], "w") as pair:
        stored = {record["id"] for record in pair.items.list("id >= 'k'")}
        batches = {id.split("-")[0] for id in stored}
        assert {f"k{step}" for step in range(acknowledged + 1)} <= batches
        assert len(stored) == 20 * len(batches)
        assert pair.items.verify() == []
        found = pair.items.search(np.ones((1, 16), np.float32) * 3, 20)[0][0]
        assert set(found) == {f"k{len(batches) - 1}-{n}" for n in range(20)}


@pytest.mark.parametrize("headless", [False, True])
def test_a_search_asks_sqlite_only_after_an_acknowledged_write(copied, monkeypatch, headless):
    """Without a head file to look at, it asks every time and is right all the same."""
    folder, _ = copied
    with Pair.open(folder, "w") as writer, Pair.open(folder) as reader:
        live, asked = reader.items._live, []
        if headless:
            live._acknowledged.close()
        newest = type(live.reads).newest
        monkeypatch.setattr(type(live.reads), "newest", lambda reads: asked.append(1) or newest(reads))
        query = 100 * clustered(1, seed=5)
        reader.items.search(query)
        asked.clear()
        reader.items.search(query)
        assert bool(asked) == headless
        writer.items.upsert(["fresh"], query)
        asked.clear()
        assert reader.items.search(query)[0][0, 0] == "fresh"
        assert asked


def test_a_search_is_never_older_than_a_listing_nor_waits_for_an_acknowledgement(copied, monkeypatch):
    """A writer died between its commit and the head: records show it, and so must searches."""
    folder, _ = copied
    with Pair.open(folder, "w") as writer, Pair.open(folder) as reader:
        query = 100 * clustered(1, seed=5)
        reader.items.search(query)
        with monkeypatch.context() as patched:
            patched.setattr("duality.index.writer.write_head", lambda path, head: None)
            writer.items.upsert(["first"], query)
            assert reader.items.get(["first"])[0]
            assert reader.items.search(query)[0][0, 0] == "first"
            writer.items.upsert(["second"], 2 * query)
            assert reader.items.search(query, where="id = 'second'")[0][0, 0] == "second"

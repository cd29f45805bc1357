"""`duality index` beyond reading and writing: snapshots, rollback, tuning, erasure, export, plans."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from index_data import clustered, table
from pyarrow import parquet

from duality.cli.index import index
from duality.errors import DataError, InputError
from duality.index.pair import Pair, build


def call(*arguments):
    result = CliRunner().invoke(index, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def home(tmp_path):
    """An ivf index of 600 items and 80 users, and users.parquet beside it."""
    users = table(clustered(80, seed=1), "u")
    parquet.write_table(users, tmp_path / "users.parquet")
    items = table(clustered(600), year=[1900 + row % 100 for row in range(600)])
    build(tmp_path / "index", users, items, spec="ivf")
    return tmp_path


def test_snapshots_and_rollback(home):
    folder = home / "index"
    made = call("snapshot", "create", folder, "first")
    assert (made["snapshot"], made["version"]) == ("first", {"users": 1, "items": 1})
    call("delete", folder, "--side", "items", "--where", "year < 1950")
    (listed,) = call("snapshot", "list", folder)["snapshots"]
    assert listed["name"] == "first"
    restored = call("snapshot", "restore", folder, "first")
    assert restored["sides"]["items"]["count"] == 600
    assert restored["generation"] == "000002"
    assert call("rollback", folder)["sides"]["items"]["count"] == 300
    assert call("verify", folder)["ok"] is True


def test_tune_measures_and_keeps_the_setting(home):
    folder = home / "index"
    tuned = call("tune", folder, "--side", "items", "--target-recall", "0.9", "-k", 5)
    assert tuned["recall"] >= 0.9
    assert tuned["setting"]
    assert all(0 <= row["recall"] <= 1 and row["queries_per_second"] > 0 for row in tuned["table"])
    with Pair.open(folder) as pair:
        queries = clustered(200, seed=4)
        found, exact = (pair.items.search(queries, 5, exact=flag)[0] for flag in (False, True))
        assert np.mean([len(set(a) & set(b)) / 5 for a, b in zip(found, exact)]) >= 0.8
        assert pair.items.options["search"] == tuned["setting"]
    result = CliRunner().invoke(
        index, ["tune", str(folder), "--side", "users", "--from", str(home / "users.parquet")]
    )
    assert "kept:" in result.stdout


@pytest.mark.parametrize(("kind", "setting"), [("ivf", "nprobe"), ("sq8", "nprobe"), ("hnsw", "ef_search")])
def test_a_tuned_setting_is_what_searches_use(tmp_path, kind, setting):
    folder = tmp_path / "index"
    build(folder, table(clustered(80, seed=1), "u"), table(clustered(3_000)), spec=kind)
    with Pair.open(folder, "w") as pair:
        before = pair.items.plan(5).settings[setting]
        tuned = pair.tune("items", clustered(100, seed=4), 5, 0.5).setting
        assert tuned[setting] < before
        assert pair.items.plan(5).settings[setting] == tuned[setting]
    with Pair.open(folder) as pair:
        assert pair.items.plan(5).settings[setting] == tuned[setting]


def test_plan_is_explained(home):
    folder, queries = home / "index", home / "users.parquet"
    few = call("search", folder, "--side", "items", "--from", queries, "--where", "year = 1950", "--explain")
    assert few["plan"]["strategy"] == "gather and scan"
    assert "6 of 600" in few["plan"]["reason"]
    plain = call("search", folder, "--side", "items", "--from", queries, "--exact", "--explain")
    assert plain["plan"]["strategy"] == "scan"


def test_erasure_reaches_every_file(home):
    folder = home / "index"
    with Pair.open(folder, "w") as pair:
        secret = np.arange(1, 17, dtype=np.float32) * np.float32(0.777)
        pair.items.upsert(["secret-person-77"], secret[None], pa.table({"note": ["private-note"]}))
        pair.create_snapshot("with")
    build(folder, table(clustered(80, seed=1), "u"), table(clustered(50)))
    traces = (b"secret-person-77", secret.tobytes(), b"private-note")
    found = [
        path for path in folder.rglob("*") if path.is_file() and any(t in path.read_bytes() for t in traces)
    ]
    assert found
    assert call("delete", folder, "--side", "items", "--ids", "secret-person-77", "--erase")["deleted"] == 0
    left = [
        path for path in folder.rglob("*") if path.is_file() and any(t in path.read_bytes() for t in traces)
    ]
    assert left == []
    assert call("verify", folder)["ok"] is True
    with Pair.open(folder, "w") as pair:
        pair.rollback()
        assert pair.items.count == 600
        assert pair.items.get(["secret-person-77"])[1] == ["secret-person-77"]


def test_export_to_arrays(home):
    folder = home / "index"
    assert call("export", folder, "--side", "users", "--out", home / "u.npy")["exported"] == 80
    vectors, ids = np.load(home / "u.npy"), np.load(home / "u.ids.npy")
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, clustered(80, seed=1))
    assert ids.tolist() == [f"u{row}" for row in range(80)]


def test_files_of_another_model_are_refused(home):
    marked = table(clustered(3), "new").replace_schema_metadata({"duality.model": "cafe"})
    parquet.write_table(marked, home / "new.parquet")
    build(home / "made", home / "new.parquet", home / "new.parquet")
    with Pair.open(home / "made") as pair:
        assert pair.model == "cafe"
    other = table(clustered(3), "x").replace_schema_metadata({"duality.model": "beef"})
    parquet.write_table(other, home / "other.parquet")
    for command in ("upsert", "search"):
        with pytest.raises(InputError, match=r"model beef .* model cafe"):
            CliRunner().invoke(
                index,
                [command, str(home / "made"), "--side", "items", "--from", str(home / "other.parquet")],
                catch_exceptions=False,
            )


def test_vectors_in_csv_are_refused(home):
    (home / "v.csv").write_text("id\na\n")
    with pytest.raises(DataError, match="Parquet"):
        build(home / "new", home / "v.csv", home / "v.csv")

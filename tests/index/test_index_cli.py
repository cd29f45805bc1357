"""`duality index`: JSON of every command, exit codes of a real process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner
from index_data import clustered, table
from pyarrow import parquet

from duality.cli.index import index

ROOT = Path(__file__).parents[2]


def call(*arguments):
    result = CliRunner().invoke(index, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def process(*arguments, cwd=None):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "duality.cli.main", "index", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        check=False,
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with users.parquet, items.parquet and an index made from them."""
    monkeypatch.setenv("DUALITY_HOME", str(tmp_path))
    parquet.write_table(table(clustered(20, seed=1), "u"), tmp_path / "users.parquet")
    parquet.write_table(table(clustered(60), year=list(range(1960, 2020))), tmp_path / "items.parquet")
    files = ["--users", tmp_path / "users.parquet", "--items", tmp_path / "items.parquet"]
    document = call("build", *files, "--spec", ROOT / "indexes" / "specs" / "ivf.toml")
    assert document == {"users": 20, "items": 60, "dim": 16, "kind": "ivf", "version": 1}
    return tmp_path


def test_write_and_read_commands(folder):
    home = folder / "indexes" / "default"
    parquet.write_table(table(clustered(2, seed=3), "new", year=[2030, 2031]), folder / "more.parquet")
    items = ("--side", "items")
    assert call("upsert", home, *items, "--from", folder / "more.parquet") == {"upserted": 2, "version": 2}
    found = call("get", home, *items, "--ids", '"new0",nobody')
    assert [record["id"] for record in found["records"]] == ["new0"]
    assert found["records"][0]["attributes"] == {"year": 2030}
    assert found["records"][0]["vector"] == clustered(2, seed=3)[0].tolist()
    assert (found["missing"], found["version"]) == (["nobody"], 2)
    deleted = call("delete", home, *items, "--ids", "new0,nobody")
    assert deleted == {"deleted": 1, "missing": ["nobody"], "version": 3}
    assert call("delete", home, *items, "--where", "year < 1970")["deleted"] == 10
    listed = call("list", home, *items, "--where", "year >= 2018", "--limit", 2, "--after", "i58")
    assert [record["id"] for record in listed["records"]] == ["i59", "new1"]
    stats = call("stats", home)["sides"]["items"]
    expected = {"count": 51, "deleted": 11, "dim": 16, "kind": "ivf", "version": 4}
    assert {key: stats[key] for key in expected} == expected
    assert stats["bytes"] > 0
    assert call("compact", home)["sides"]["items"]["deleted"] == 0
    assert call("verify", home) == {"ok": True, "problems": []}


def test_attributes_alone_from_csv(folder):
    home = folder / "indexes" / "default"
    (folder / "years.csv").write_text("id,year\ni1,1800\n")
    call("upsert", home, "--side", "items", "--from", folder / "years.csv")
    assert call("get", home, "--side", "items", "--ids", "i1")["records"][0]["attributes"] == {"year": 1800}


def test_search_and_export(folder):
    home = folder / "indexes" / "default"
    query = ["--side", "items", "--from", folder / "users.parquet", "-k", 3, "--where", "year >= 1990"]
    results = call("search", home, *query, "--exact")["results"]
    assert len(results) == 20
    assert results[0]["id"] == "u0"
    scores = [one["score"] for one in results[0]["neighbours"]]
    assert scores == sorted(scores, reverse=True)
    assert all(int(one["id"][1:]) >= 30 for result in results for one in result["neighbours"])
    out = folder / "out.parquet"
    assert call("export", home, "--side", "items", "--out", out)["exported"] == 60
    exported = parquet.read_table(out)
    assert exported.schema.field("vector").type == pa.list_(pa.float32(), 16)
    assert exported.column("year").to_pylist() == list(range(1960, 2020))


def test_every_command_speaks_to_people_too(folder):
    home = folder / "indexes" / "default"
    for arguments, words in [
        (["list", home, "--side", "items", "--limit", "1"], "i0  year=1960"),
        (["search", home, "--side", "items", "--from", folder / "users.parquet"], "u0: "),
        (["stats", home], "60 records of 16 values, 0.1 MB, ivf"),
        (["verify", home], "everything is as written"),
    ]:
        result = CliRunner().invoke(index, list(map(str, arguments)), catch_exceptions=False)
        assert words in result.stdout


def test_exit_codes_and_one_line_errors(folder):
    home = folder / "indexes" / "default"
    bad = [
        (["list", home, "--side", "items", "--where", "yaer > 3"], "did you mean year"),
        (["stats", folder / "nowhere"], "duality index build"),
        (["delete", home, "--side", "items"], "--where"),
        (["search", home, "--side", "items", "--from", folder / "none.parquet"], "no such file"),
        (["build", "--users", folder / "users.parquet"], "go together"),
    ]
    for arguments, words in bad:
        done = process(*arguments)
        assert (done.returncode, done.stdout) == (2, ""), done
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
    generation = home / "generations" / "000001"
    with open(next(generation.glob("items.snapshot-*/matrix.npy")), "r+b") as file:
        file.seek(200)
        file.write(b"damaged!")
    done = process("verify", home, "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["ok"] is False
    with open(generation / "users.sqlite", "r+b") as file:
        file.write(b"\0" * 8192)
    done = process("verify", home, "--json")
    assert done.returncode == 1
    assert "users" in json.loads(done.stdout)["problems"][0]


def test_a_query_starts_fast_paths_only(folder):
    code = (
        "import sys; from duality.index.pair import Pair; pair = Pair.open(sys.argv[1]);"
        "pair.items.search(pair.users.vectors(['u1']), 3, exclude=[['i1']]);"
        "heavy = {'torch', 'pyarrow', 'duckdb', 'pydantic'} & set(sys.modules); assert not heavy, heavy"
    )
    command = [sys.executable, "-c", code, str(folder / "indexes" / "default")]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
    )
    assert done.returncode == 0, done.stderr

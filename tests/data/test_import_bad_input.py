"""Every bad source: one line with file, row and column, and the old dataset stays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from duality.data.dataset import Dataset
from duality.data.importing import import_events
from duality.errors import DamageError, DataError, FilterError, InputError

GOOD = "user_id,item_id,timestamp\nu1,a,10\nu1,b,20\nu2,a,30\n"
HEADER = "user_id,item_id,timestamp\n"
BIG = "x" * 3_000_000


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


BAD = {
    "missing column": (
        HEADER.replace("item_id", "thing") + "u,a,1\n",
        {},
        "no item column among user_id, thing",
        None,
        None,
    ),
    "misnamed option": (GOOD, {"user_column": "user"}, "did you mean user_id", None, "user"),
    "no time": ("user_id,item_id\nu,a\n", {}, "neither a time nor an order", None, None),
    "unparsable time": (HEADER + "u,a,1\nu,b,soon\n", {}, "no time in 'soon'", 2, "timestamp"),
    "unparsable date": (
        HEADER + "u,a,2020-01-01\nu,b,2020-13-45\n",
        {},
        "no time in '2020-13-45'",
        2,
        "timestamp",
    ),
    "missing time": (HEADER + "u,a,1\nu,b,\n", {}, "no time in nothing", 2, "timestamp"),
    "zero bytes": ("", {}, "empty (0 bytes)", None, None),
    "header only": (HEADER, {}, "no rows", None, None),
    "nothing left": (
        GOOD,
        {"min_user_events": 9},
        "no rows are left: all dropped by min_user_events 3",
        None,
        None,
    ),
    "empty id": (HEADER + "u,a,1\n,b,2\n", {}, "no id in 1 row", 2, "user_id"),
    "NaN id": (HEADER + "1,a,1\nnan,b,2\n3,c,2\n", {}, "no id in 1 row", 2, "user_id"),
    "long id": (HEADER + f"u,{'i' * 1025},1\n", {}, "longer than 1,024 bytes", 1, "item_id"),
    "huge cell": (HEADER + f"u,a,1\nu,{BIG},2\n", {}, "longer than 1 MB", 2, "item_id"),
    "big cell": (HEADER + f"u,a,1\nu,{'y' * 1_100_000},2\n", {}, "longer than 1 MB", 2, "item_id"),
    "long row": (HEADER + "u,a,1\nu,b,2,3\n", {}, "more than the header's 3 columns", 2, None),
    "short row": (HEADER + "u,a,1\nu,b\n", {}, "2 columns, the header has 3", 2, None),
    "open quote": (HEADER + 'u,a,1\nu,"b,2\n', {}, "never closed", 2, None),
    "not UTF-8": (HEADER.encode() + b"u,a,1\nu,\xff\xfe,2\n", {}, "not UTF-8", 2, None),
    "UTF-16": (GOOD.encode("utf-16"), {}, "UTF-16", None, None),
    "wrong delimiter": (
        GOOD.replace(",", "^"),
        {},
        "only one column found, 'user_id^item_id^timestamp'",
        None,
        None,
    ),
    "column twice": (
        "user_id,item_id,user_id,ts\n1,2,3,4\n",
        {},
        "two columns have this name",
        None,
        "user_id",
    ),
    "text event": (
        HEADER.replace("\n", ",kind\n") + "u,a,1,buy\n",
        {"event_column": "kind"},
        "--where",
        None,
        "kind",
    ),
    "text order": (
        HEADER + "u,a,1\n",
        {"order_column": "item_id"},
        "an order must be a number",
        1,
        "item_id",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_csv_names_file_row_and_column(tmp_path: Path, case: str) -> None:
    content, options, message, row, column = BAD[case]
    source = write(tmp_path, "log.csv", content)
    with pytest.raises(DataError) as caught:
        import_events(source, tmp_path / "out", **options)
    text = str(caught.value)
    assert message in text
    assert "log.csv" in text
    assert (caught.value.row, caught.value.column) == (row, column)
    assert "\n" not in text
    assert len(text) < 500
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


def test_failure_leaves_the_old_dataset_untouched(tmp_path: Path) -> None:
    out = tmp_path / "out"
    import_events(write(tmp_path, "good.csv", GOOD), out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(DataError):
        import_events(write(tmp_path, "bad.csv", HEADER + "u,a,soon\n"), out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.csv", "good.csv", "out"]


def test_somebody_elses_folder_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "home"
    other.mkdir()
    (other / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match=r"holds no dataset\.json"):
        import_events(write(tmp_path, "good.csv", GOOD), other)
    assert (other / "letter.txt").read_text() == "dear"


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
def test_truncated_parquet(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({"user_id": range(5000), "item_id": range(5000), "ts": range(5000)}), path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(DataError, match=r"log\.parquet: truncated Parquet"):
        import_events(path, tmp_path / "out")


def test_damaged_parquet_pages(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({"user_id": range(5000), "item_id": range(5000), "ts": range(5000)}), path)
    raw = bytearray(path.read_bytes())
    raw[4:2000] = b"\xff" * 1996
    path.write_bytes(raw)
    with pytest.raises(DataError, match="damaged Parquet file"):
        import_events(path, tmp_path / "out")


def test_csv_called_parquet(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a Parquet file"):
        import_events(write(tmp_path, "log.parquet", GOOD), tmp_path / "out")


@pytest.mark.parametrize("column", ["user_id", "item_id"])
def test_null_ids_in_parquet(tmp_path: Path, column: str) -> None:
    columns: dict[str, list[float]] = {
        "user_id": [1.0, 2.0, 3.0],
        "item_id": [4.0, 5.0, 6.0],
        "ts": [1.0, 2.0, 3.0],
    }
    columns[column][1] = float("nan")
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table(columns), path)
    with pytest.raises(DataError) as caught:
        import_events(path, tmp_path / "out")
    assert (caught.value.row, caught.value.column) == (2, column)


def test_huge_cell_in_parquet(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({"user_id": [1, 2], "item_id": [1, 2], "ts": [1, 2], "note": ["x", BIG]}), path)
    with pytest.raises(DataError, match="longer than 1 MB") as caught:
        import_events(path, tmp_path / "out")
    assert (caught.value.row, caught.value.column) == (2, "note")


@pytest.mark.parametrize("content", ["[1, 2]\n", "hello\n", '{"user_id": 1, "item_id"\n'])
def test_bad_json_lines(tmp_path: Path, content: str) -> None:
    with pytest.raises(DataError, match=r"log\.jsonl"):
        import_events(write(tmp_path, "log.jsonl", content), tmp_path / "out")


def test_unknown_things(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for source, message in (
        (tmp_path / "none.csv", "no such file"),
        (tmp_path / "folder", "no log that is known"),
        (write(tmp_path, "log.xlsx", "x"), "unknown kind of file '.xlsx'"),
        ({"user": 1}, "cannot import a dict"),
    ):
        with pytest.raises(DataError, match=message):
            import_events(source, tmp_path / "out")


def test_filter_on_an_unknown_column_shows_its_position(tmp_path: Path) -> None:
    with pytest.raises(FilterError, match="position 1"):
        import_events(write(tmp_path, "log.csv", GOOD), tmp_path / "out", where="stars > 3")


@pytest.mark.parametrize(
    ("users", "message", "row"),
    [
        ("user_id,age\nu1,3\nu1,4\n", "more than one row", 1),
        ("user_id,age\nu1,3\n,4\n", "no id", 2),
        ("name,age\nu1,3\n", "no id column", None),
    ],
)
def test_bad_user_attributes(tmp_path: Path, users: str, message: str, row: int | None) -> None:
    source, table = write(tmp_path, "log.csv", GOOD), write(tmp_path, "users.csv", users)
    with pytest.raises(DataError, match=message) as caught:
        import_events(source, tmp_path / "out", users=table)
    assert caught.value.row == row
    assert "users.csv" in str(caught.value)


@pytest.mark.parametrize("options", [{"repeats": "some"}, {"min_user_events": 0}, {"memory_limit": "much"}])
def test_bad_options(tmp_path: Path, options: dict) -> None:
    with pytest.raises(InputError):
        import_events(write(tmp_path, "log.csv", GOOD), tmp_path / "out", **options)


def test_opening_nothing_and_damage(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no dataset at .*duality data import"):
        Dataset.open(tmp_path / "none")
    out = tmp_path / "out"
    import_events(write(tmp_path, "log.csv", GOOD), out)
    item_event = (out / "item_event.npy").read_bytes()
    (out / "item_event.npy").write_bytes(item_event[:-1] + b"\x07")
    assert Dataset.open(out).verify() == [f"{out / 'item_event.npy'} does not match its checksum"]
    (out / "item_event.npy").write_bytes(item_event[:-8])
    with pytest.raises(DamageError, match=r"item_event\.npy is damaged"):
        Dataset.open(out)
    (out / "item_event.npy").unlink()
    with pytest.raises(DamageError, match="item_event"):
        Dataset.open(out)


def test_command_line_exit_code_and_single_line(tmp_path: Path) -> None:
    source = write(tmp_path, "log.csv", HEADER + "u,a,1\nu,b,soon\n")
    command = [
        sys.executable,
        "-m",
        "duality.cli.main",
        "data",
        "import",
        str(source),
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "row 2, column 'timestamp'" in done.stderr

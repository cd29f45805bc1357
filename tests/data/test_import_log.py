"""A log goes in; the arrays say the same thing, whatever the format and the row order."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from duality.cli.data import data as data_group
from duality.data.dataset import Dataset
from duality.data.importing import import_events
from duality.data.join_time import JoinTime
from duality.errors import DataError

FRAME = pd.DataFrame(
    {
        "user_id": ["ü", "ü", "ü", "b,c", "b,c", "007"],
        "item_id": ["x", "y", "日本", "y", "x", "x"],
        "timestamp": [30, 10, 20, 5, 6, 40],
        "rating": [1, 2, 3, 4, 5, 6],
    }
)


def load(source: Any, folder: Path, **options: Any) -> Dataset:
    import_events(source, folder / "out", **options)
    dataset = Dataset.open(folder / "out")
    assert dataset.verify() == []
    return dataset


def histories(dataset: Dataset) -> dict[str, list[str]]:
    """Items of each user, oldest first, by id."""
    return {
        dataset.user_ids.id(user): dataset.item_ids.ids(
            dataset.event_item[dataset.user_indptr[user] : dataset.user_indptr[user + 1]]
        )
        for user in range(dataset.num_users)
    }


def item_histories(dataset: Dataset) -> dict[str, list[str]]:
    """Users of each item, oldest first, by id."""
    return {
        dataset.item_ids.id(item): dataset.user_ids.ids(
            dataset.event_user[dataset.item_event[dataset.item_indptr[item] : dataset.item_indptr[item + 1]]]
        )
        for item in range(dataset.num_items)
    }


def write_source(kind: str, folder: Path) -> Any:
    if kind == "pandas":
        return FRAME
    if kind == "polars":
        return pl.from_pandas(FRAME)
    if kind == "polars lazy":
        return pl.from_pandas(FRAME).lazy()
    if kind == "arrow":
        return pa.Table.from_pandas(FRAME)
    path = folder / f"log.{kind}"
    if kind == "parquet":
        FRAME.to_parquet(path)
    elif kind in ("csv", "csv.gz"):
        FRAME.to_csv(path, index=False)
    elif kind == "tsv":
        FRAME.to_csv(path, index=False, sep="\t")
    elif kind == "jsonl":
        FRAME.to_json(path, orient="records", lines=True, force_ascii=False)
    elif kind == "inter":
        header = "user_id:token\titem_id:token\ttimestamp:float\trating:float\n"
        path.write_text(header + FRAME.to_csv(index=False, header=False, sep="\t"), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "kind", ["parquet", "csv", "csv.gz", "tsv", "jsonl", "inter", "pandas", "polars", "polars lazy", "arrow"]
)
def test_every_format_gives_the_same_dataset(tmp_path: Path, kind: str) -> None:
    dataset = load(write_source(kind, tmp_path), tmp_path)
    assert histories(dataset) == {"007": ["x"], "b,c": ["y", "x"], "ü": ["y", "日本", "x"]}
    assert item_histories(dataset) == {"x": ["b,c", "ü", "007"], "y": ["b,c", "ü"], "日本": ["ü"]}
    assert np.asarray(dataset.event_time).tolist() == [
        40_000_000,
        5_000_000,
        6_000_000,
        10_000_000,
        20_000_000,
        30_000_000,
    ]
    attributes = dataset.event_attributes()
    assert attributes is not None
    assert attributes["rating"].to_pylist() == [6, 4, 5, 2, 3, 1]
    assert dataset.manifest["first_event"] == "1970-01-01T00:00:05Z"
    assert dataset.users()["id"].to_pylist() == ["007", "b,c", "ü"]


events = st.lists(
    st.tuples(st.sampled_from("abcde"), st.sampled_from("uvwxyz"), st.integers(0, 3), st.integers(0, 2)),
    min_size=1,
    max_size=40,
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=events, shuffle=st.randoms(use_true_random=False))
def test_row_order_of_the_source_changes_nothing(tmp_path: Path, rows: list, shuffle: Any) -> None:
    names = ["user_id", "item_id", "timestamp", "rating"]
    first = import_events(pd.DataFrame(rows, columns=names), tmp_path / "out")
    dataset = Dataset.open(tmp_path / "out")
    assert sorted(
        zip(dataset.user_ids.ids(dataset.event_user), dataset.item_ids.ids(dataset.event_item))
    ) == sorted((user, item) for user, item, _, _ in rows)
    times = np.asarray(dataset.event_time)
    for users in (False, True):
        indptr = dataset.user_indptr if users else dataset.item_indptr
        order = np.arange(len(rows)) if users else dataset.item_event
        for start, end in pairwise(indptr.tolist()):
            assert np.all(np.diff(times[order[start:end]]) >= 0)
            owner = dataset.event_user if users else dataset.event_item
            assert len(set(owner[order[start:end]].tolist())) == 1
    shuffle.shuffle(rows)
    assert (
        import_events(pd.DataFrame(rows, columns=names), tmp_path / "out")["fingerprint"]
        == first["fingerprint"]
    )


def test_ties_follow_the_seed_not_the_file_nor_the_ids(tmp_path: Path) -> None:
    users, items = 40, 10
    frame = pd.DataFrame(
        {"user_id": np.repeat(np.arange(users), items), "item_id": np.tile(np.arange(items), users)}
    )
    frame["timestamp"] = 7
    orders = {seed: histories(load(frame, tmp_path, seed=seed)) for seed in (0, 1)}
    assert orders[0] != orders[1]
    first = np.array([int(history[0]) for history in orders[0].values()])
    assert len(set(first.tolist())) > 5
    assert 2 < first.mean() < 7


@pytest.mark.parametrize(
    ("values", "unit", "microseconds"),
    [
        ([1_600_000_000, 1_600_000_001], "seconds", 1_600_000_000_000_000),
        ([1_600_000_000.25, 1_600_000_001.5], "seconds", 1_600_000_000_250_000),
        ([1_600_000_000_123, 1_600_000_001_000], "milliseconds", 1_600_000_000_123_000),
        ([1_600_000_000_123_456, 1_600_000_001_000_000], "microseconds", 1_600_000_000_123_456),
        ([1_600_000_000_123_456_789, 1_600_000_001_000_000_000], "nanoseconds", 1_600_000_000_123_456),
        (["2020-09-13T12:26:40Z", "2020-09-13T12:26:41Z"], "ISO 8601 text", 1_600_000_000_000_000),
        (["2020-09-13T14:26:40+02:00", "2020-09-14"], "ISO 8601 text", 1_600_000_000_000_000),
        (["1600000000", "1600000001"], "seconds", 1_600_000_000_000_000),
        (pd.to_datetime(["2020-09-13 12:26:40", "2021-01-01 00:00:00"]), "timestamp", 1_600_000_000_000_000),
        (
            pd.to_datetime(["2020-09-13T14:26:40+02:00", "2021-01-01T00:00:00+02:00"]),
            "",
            1_600_000_000_000_000,
        ),
        (pa.array([18518, 18519], pa.date32()), "date", 1_599_955_200_000_000),
    ],
)
def test_times_of_every_kind(tmp_path: Path, values: Any, unit: str, microseconds: int) -> None:
    table = pa.table({"user_id": ["u", "u"], "item_id": ["a", "b"], "ts": pa.array(values)})
    dataset = load(table, tmp_path)
    assert int(np.asarray(dataset.event_time)[0]) == microseconds
    assert dataset.manifest["time_unit"].startswith(unit.split("_")[0])


def test_finer_clock_is_preferred_and_float_ids_become_whole(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "uid": [12.0, 12.0],
            "movieId": [3, 4],
            "timestamp": [1_600_000_000] * 2,
            "time_ms": [1_600_000_000_900, 1_600_000_000_100],
        }
    )
    dataset = load(frame, tmp_path)
    assert histories(dataset) == {"12": ["4", "3"]}
    assert dataset.manifest["mapping"]["time"] == "time_ms"


def test_order_without_time(tmp_path: Path) -> None:
    frame = pd.DataFrame({"user_id": list("aabb"), "item_id": list("xyyx"), "position": [1, 0, 5, 9]})
    dataset = load(frame, tmp_path)
    assert histories(dataset) == {"a": ["y", "x"], "b": ["y", "x"]}
    assert (dataset.timed, dataset.event_time) == (False, None)
    assert {item: set(users) for item, users in item_histories(dataset).items()} == {
        "x": {"a", "b"},
        "y": {"a", "b"},
    }
    shown = CliRunner().invoke(data_group, ["describe", str(tmp_path / "out")])
    assert "item histories are sets: this log has an order per user but no time" in shown.output


def test_order_column_beside_time(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"user_id": list("aab"), "item_id": list("xyx"), "step": [1, 0, 0], "ts": [10, 20, 5]}
    )
    dataset = load(frame, tmp_path, order_column="step")
    assert histories(dataset)["a"] == ["y", "x"]
    assert item_histories(dataset)["x"] == ["b", "a"]
    assert dataset.manifest["order_disagrees_with_time"] == 1


def test_dropping_counts_each_reason_and_reaches_the_fixed_point(tmp_path: Path) -> None:
    chain = [(f"u{n}", f"i{n}") for n in range(6)] + [(f"u{n}", f"i{n + 1}") for n in range(6)]
    block = [(user, item) for user in ("p", "q") for item in ("s", "t")]
    frame = pd.DataFrame(chain + block, columns=["user_id", "item_id"])
    frame["timestamp"] = np.arange(len(frame))
    frame["good"] = True
    extra = pd.DataFrame(
        {"user_id": ["p", "q"], "item_id": ["s", "t"], "timestamp": [99, 98], "good": [True, False]}
    )
    frame = pd.concat([frame, extra])
    dataset = load(
        frame, tmp_path, event_column="good", repeats="first", min_user_events=2, min_item_events=2
    )
    assert histories(dataset) == {"p": ["s", "t"], "q": ["s", "t"]}
    dropped = dataset.manifest["dropped"]
    assert (dropped["event"], dropped["repeats"]) == (1, 1)
    assert dropped["min_user_events"] + dropped["min_item_events"] == len(chain)


@pytest.mark.parametrize(("repeats", "times"), [("keep", [1, 2, 3]), ("first", [1, 3]), ("last", [2, 3])])
def test_repeats(tmp_path: Path, repeats: str, times: list[int]) -> None:
    frame = pd.DataFrame({"user_id": list("aaa"), "item_id": list("xxy"), "ts": [1, 2, 3]})
    dataset = load(frame, tmp_path, repeats=repeats)
    assert (np.asarray(dataset.event_time) // 1_000_000).tolist() == times


def test_where_on_every_kind_of_column(tmp_path: Path) -> None:
    csv = tmp_path / "log.csv"
    csv.write_text(
        "user_id,item_id,ts,rating,liked,day,zip\n1,a,1,5,true,2020-01-01,01234\n1,b,2,3.5,false,2020-02-01,1234\n"
        "2,a,3,,true,2020-03-01,\n"
    )
    for where, kept in (
        ("rating >= 4", 1),
        ("not (rating >= 4)", 1),
        ("rating is null", 1),
        ("liked = true and day > '2020-01-15'", 1),
        ("zip = '01234'", 1),
        ("user_id in ('1', '2') and item_id = 'a'", 2),
    ):
        document = import_events(csv, tmp_path / "out", where=where)
        assert (document["events"], document["dropped"]) == (kept, {"where": 3 - kept}), where


def test_attributes_of_users_and_items(tmp_path: Path) -> None:
    items = tmp_path / "items.parquet"
    genres = pa.array([["Comedy", "Drama"], None, ["War"]], pa.list_(pa.string()))
    pq.write_table(pa.table({"item_id": ["y", "x", "unused"], "genres": genres, "id": [1, 2, 3]}), items)
    users = tmp_path / "users.csv"
    users.write_text("id,age,zip\n007,33,04109\nghost,1,2\n")
    dataset = load(FRAME, tmp_path, users=users, items=items)
    assert dataset.items().to_pylist() == [
        {"id": "x", "genres": None, "original_id": 2},
        {"id": "y", "genres": ["Comedy", "Drama"], "original_id": 1},
        {"id": "日本", "genres": None, "original_id": None},
    ]
    assert dataset.users()["age"].to_pylist() == [33, None, None]
    assert dataset.users()["zip"].to_pylist() == ["04109", None, None]
    assert (dataset.manifest["users_without_events"], dataset.manifest["items_without_events"]) == (1, 1)


def test_times_joined_from_another_log(tmp_path: Path) -> None:
    other = pd.DataFrame({"user": [100, 100, 200], "item": [7, 8, 7], "time": [50, 60, 40]})
    log = pd.DataFrame({"user_id": ["a", "a", "b"], "item_id": ["x", "y", "x"], "position": [1, 0, 0]})
    users = pd.DataFrame({"user_id": ["a", "b"], "old": [100, 200]})
    items = pd.DataFrame({"item_id": ["x", "y"], "old": [7, 8]})
    join = JoinTime(other, "old", "old")
    dataset = load(log, tmp_path, users=users, items=items, join_time=join)
    assert histories(dataset)["a"] == ["y", "x"]
    assert item_histories(dataset)["x"] == ["b", "a"]
    assert (dataset.timed, dataset.manifest["order_disagrees_with_time"]) == (True, 1)
    for times, message in (
        (other[:2], "1 events have no time"),
        (pd.concat([other, other.assign(time=1)]), "several times"),
    ):
        with pytest.raises(DataError, match=message):
            import_events(
                log, tmp_path / "out", users=users, items=items, join_time=JoinTime(times, "old", "old")
            )


def test_command_prints_one_document_and_describe_agrees(tmp_path: Path) -> None:
    source = tmp_path / "log.csv"
    FRAME.to_csv(source, index=False)
    runner = CliRunner(env={"DUALITY_HOME": str(tmp_path)})
    imported = runner.invoke(data_group, ["import", str(source), "--json"], catch_exceptions=False)
    document = json.loads(imported.stdout)
    assert (document["users"], document["items"], document["events"], document["dropped"]) == (3, 3, 6, {})
    assert (tmp_path / "datasets" / "default" / "dataset.json").is_file()
    described = json.loads(runner.invoke(data_group, ["describe", "--json"], catch_exceptions=False).stdout)
    assert {key: described[key] for key in document if key != "seconds"} == {
        key: value for key, value in document.items() if key != "seconds"
    }
    assert str(tmp_path) not in (tmp_path / "datasets" / "default" / "dataset.json").read_text()
    table = runner.invoke(data_group, ["describe"], catch_exceptions=False).output
    assert "timestamp is the time" in table
    assert "events per month" in table

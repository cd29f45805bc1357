"""Events appended to a dataset: the same histories as an import of everything, one version per update."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import duality
from duality.data.append import append_events
from duality.data.dataset import Dataset
from duality.data.versions import Home
from duality.errors import DataError, DualityError, InputError


def random_log(rng: np.random.Generator, rows: int, users: int, items: int, **more: object) -> pa.Table:
    """Few moments, so that many events share one, and now and then an event stands twice."""
    columns = {
        "user_id": [f"u{n}" for n in rng.integers(users, size=rows)],
        "item_id": [f"i{n}" for n in rng.integers(items, size=rows)],
        "timestamp": 1_700_000_000 + rng.integers(50, size=rows),
    }
    return pa.table({**columns, **more})


def histories(path: Path) -> tuple[dict[str, list], dict[str, list]]:
    """Both sides of a dataset by external ids, after a check that its arrays fit each other."""
    data = Dataset.open(path)
    assert data.verify() == []
    users, items = data.user_ids.ids(range(data.num_users)), data.item_ids.ids(range(data.num_items))
    np.testing.assert_array_equal(np.sort(data.item_event), np.arange(data.num_events))
    owner = np.repeat(np.arange(data.num_items), np.diff(data.item_indptr))
    np.testing.assert_array_equal(data.event_item[data.item_event], owner)
    of_users = {
        user: [items[i] for i in data.event_item[slice(*data.user_indptr[row : row + 2])]]
        for row, user in enumerate(users)
    }
    of_items = {
        item: [users[data.event_user[e]] for e in data.item_event[slice(*data.item_indptr[row : row + 2])]]
        for row, item in enumerate(items)
    }
    return of_users, of_items


def union(*logs: pa.Table) -> pa.Table:
    """Every event as often as the log that has it most often."""
    counted: Counter[tuple] = Counter()
    for log in logs:
        counted |= Counter(tuple(row.values()) for row in log.to_pylist())
    rows = list(counted.elements())
    return pa.table({name: [row[place] for row in rows] for place, name in enumerate(logs[0].column_names)})


@pytest.mark.parametrize("repeats", ["keep", "first", "last"])
@pytest.mark.parametrize("seed", range(3))
def test_updates_in_any_order_are_an_import_of_everything(tmp_path: Path, repeats: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    base, one, two = random_log(rng, 300, 30, 20), random_log(rng, 80, 36, 25), random_log(rng, 50, 40, 30)
    duality.import_events(union(base, one, two), tmp_path / "all", repeats=repeats)
    for name, order in {"a": (one, two, one), "b": (two, one)}.items():
        duality.import_events(base, tmp_path / name, repeats=repeats)
        for log in order:
            append_events(log, Home.open(tmp_path / name))
        assert histories(tmp_path / name) == histories(tmp_path / "all")
        known, now = Dataset.open(tmp_path / name / "versions/000001"), Dataset.open(tmp_path / name)
        assert now.user_ids.ids(range(known.num_users)) == known.user_ids.ids(range(known.num_users))
        assert now.item_ids.ids(range(known.num_items)) == known.item_ids.ids(range(known.num_items))


def test_events_that_are_there_are_counted_and_make_no_version(tmp_path: Path) -> None:
    log = pa.table({"user_id": ["a", "b"], "item_id": ["x", "x"], "timestamp": [10, 20]})
    duality.import_events(log, tmp_path / "d")
    twice = pa.concat_tables([log, log, log.slice(0, 1)])
    first = append_events(twice, Home.open(tmp_path / "d"))
    assert (first.events, first.dropped["already_there"], first.new_users) == (3, 2, 0)
    again = append_events(twice, Home.open(tmp_path / "d"))
    assert (again.events, again.dropped["already_there"]) == (0, 5)
    assert [update["version"] for update in Home.open(tmp_path / "d").updates] == ["000002"]


def test_what_changed_since_a_version_and_which_versions_stay(tmp_path: Path) -> None:
    duality.import_events(
        pa.table({"user_id": ["a", "b"], "item_id": ["x", "y"], "timestamp": [1, 2]}), tmp_path / "d"
    )
    fingerprints = [Dataset.open(tmp_path / "d").fingerprint]
    for user, item in (("b", "x"), ("c", "z"), ("a", "x")):
        log = pa.table({"user_id": [user], "item_id": [item], "timestamp": [50 + len(fingerprints)]})
        append_events(log, Home.open(tmp_path / "d"))
        fingerprints.append(Dataset.open(tmp_path / "d").fingerprint)
    home = Home.open(tmp_path / "d")
    changes = [[rows.tolist() for rows in home.changed_since(print_) or ()] for print_ in fingerprints]
    assert changes == [[[0, 1, 2], [0, 2]], [[0, 2], [0, 2]], [[0], [0]], [[], []]]
    assert home.changed_since("0" * 16) is None
    assert sorted(p.name for p in (tmp_path / "d/versions").iterdir()) == ["000001", "000003", "000004"]
    for number, print_ in enumerate(fingerprints):
        kept = Dataset.open(tmp_path / "d", at=print_).fingerprint == print_
        assert kept == (number != 1)
    assert Home.open(tmp_path / "d/versions/000003").path == tmp_path / "d"
    with pytest.raises(InputError, match="no longer kept"):
        Dataset.open(tmp_path / "d/versions/000002")


def test_the_rules_of_the_import_hold(tmp_path: Path) -> None:
    log = {"who": ["a", "b", "c"], "what": ["x", "y", "x"], "when": [10, 20, 30], "stars": [5, 4, 1]}
    names = {"user_column": "who", "item_column": "what", "time_column": "when"}
    duality.import_events(pa.table(log), tmp_path / "d", where="stars >= 4", **names)
    new = {"who": ["a", "d"], "what": ["y", "x"], "when": [40, 50], "stars": [5, 2], "more": ["p", "q"]}
    done = append_events(pa.table(new), Home.open(tmp_path / "d"))
    assert (done.events, done.dropped["where"], done.new_users) == (1, 1, 0)
    table = Dataset.open(tmp_path / "d").event_attributes()
    assert table is not None
    assert table.to_pydict() == {"stars": [5, 5, 4]}
    done = append_events(pa.table(new), Home.open(tmp_path / "d"), where="")
    assert (done.events, done.dropped["already_there"], done.new_users) == (1, 1, 1)
    other = pa.table({"user_id": ["a"], "item_id": ["z"], "timestamp": [60]})
    assert append_events(other, Home.open(tmp_path / "d"), where="").events == 1
    table = Dataset.open(tmp_path / "d").event_attributes()
    assert table is not None
    assert table.to_pydict() == {"stars": [5, 5, None, 4, 2]}


def test_without_times_events_follow_in_file_order_and_a_file_counts_once(tmp_path: Path) -> None:
    log = pa.table({"user_id": ["a", "a", "b"], "item_id": ["x", "y", "x"], "position": [2, 1, 1]})
    duality.import_events(log, tmp_path / "d")
    new = pa.table({"user_id": ["a", "b", "a"], "item_id": ["z", "y", "x"]})
    assert append_events(new, Home.open(tmp_path / "d")).events == 3
    assert histories(tmp_path / "d")[0] == {"a": ["y", "x", "z", "x"], "b": ["x", "y"]}
    again = append_events(new, Home.open(tmp_path / "d"))
    assert (again.events, again.dropped["already_there"]) == (0, 3)
    ordered = pa.table({"user_id": ["b", "b"], "item_id": ["z", "w"], "position": [9, 3]})
    append_events(ordered, Home.open(tmp_path / "d"))
    assert histories(tmp_path / "d")[0]["b"] == ["x", "y", "w", "z"]
    everything = pa.table(
        {
            "user_id": ["a", "a", "a", "a", "b", "b", "b", "b"],
            "item_id": ["y", "x", "z", "x", "x", "y", "w", "z"],
            "position": list(range(8)),
        }
    )
    duality.import_events(everything, tmp_path / "all")
    assert histories(tmp_path / "d") == histories(tmp_path / "all")


def test_histories_ordered_by_a_column_get_new_events_at_their_end(tmp_path: Path) -> None:
    log = pa.table({"user_id": ["a"] * 3, "item_id": ["x", "y", "z"], "timestamp": [30, 10, 20]})
    log = log.append_column("rank", pa.array([1, 2, 3]))
    duality.import_events(log, tmp_path / "d", order_column="rank")
    append_events(
        pa.table({"user_id": ["a"], "item_id": ["w"], "timestamp": [5], "rank": [1]}),
        Home.open(tmp_path / "d"),
    )
    of_users, _ = histories(tmp_path / "d")
    assert of_users == {"a": ["x", "y", "z", "w"]}
    assert Dataset.open(tmp_path / "d").manifest["order_disagrees_with_time"] == 2


BAD = {
    "empty.csv": ("", "empty (0 bytes)"),
    "header.csv": ("user_id,item_id,timestamp\n", "no rows"),
    "id.csv": ("user_id,item_id,timestamp\na,x,1\n,x,2\n", "id.csv, row 2, column 'user_id': no id"),
    "time.csv": (
        "user_id,item_id,timestamp\na,x,1\na,x,soon\n",
        "row 2, column 'timestamp': no time in 'soon'",
    ),
    "columns.csv": ("user_id,thing,timestamp\na,x,1\n", "--item-column"),
    "untimed.csv": ("user_id,item_id,position\na,x,1\n", "--time-column"),
    "kind.csv": ("user_id,item_id,timestamp,stars\na,x,9,many\n", "column 'stars': string, and the dataset"),
    "events.doc": ("x", "unknown kind of file"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_sources_are_refused_and_nothing_changes(tmp_path: Path, name: str) -> None:
    log = pa.table({"user_id": ["a"], "item_id": ["x"], "timestamp": [1], "stars": [3]})
    duality.import_events(log, tmp_path / "d")
    before = {path: path.read_bytes() for path in (tmp_path / "d").iterdir() if path.is_file()}
    content, message = BAD[name]
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as caught:
        append_events(tmp_path / name, Home.open(tmp_path / "d"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in (tmp_path / "d").iterdir() if path.is_file()} == before
    assert not list((tmp_path / "d").glob("versions/*"))


def test_what_an_update_changed_is_never_guessed(tmp_path: Path) -> None:
    log = pa.table({"user_id": ["a"], "item_id": ["x"], "timestamp": [1]})
    duality.import_events(log, tmp_path / "d")
    before = Dataset.open(tmp_path / "d").fingerprint
    append_events(pa.table({"user_id": ["a"], "item_id": ["x"], "timestamp": [2]}), Home.open(tmp_path / "d"))
    (tmp_path / "d/updates/000002.items.npy").unlink()
    with pytest.raises(DualityError, match=r"000002\.items\.npy is damaged"):
        Home.open(tmp_path / "d").changed_since(before)

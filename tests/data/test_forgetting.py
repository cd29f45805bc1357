"""Users taken out of a dataset: what is left is a dataset that never had them, whatever stops the work."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from test_append import histories, random_log

import duality
from duality.data import forgetting
from duality.data.append import append_events
from duality.data.dataset import Dataset
from duality.data.forgetting import forget_users
from duality.data.versions import Home
from duality.errors import InputError


def without(log: pa.Table, users: list[str]) -> pa.Table:
    return log.filter(pc.invert(pc.is_in(log["user_id"], pa.array(users))))


def logs(seed: int, number: int) -> list[pa.Table]:
    rng = np.random.default_rng(seed)
    rows = 300
    return [
        random_log(rng, rows, 25, 30, price=rng.integers(9, size=rows).astype(float)) for _ in range(number)
    ]


def grown(folder: Path, some: list[pa.Table]) -> Home:
    duality.import_events(some[0], folder)
    for more in some[1:]:
        append_events(more, Home.open(folder))
    return Home.open(folder)


@pytest.mark.parametrize("updates", [0, 1, 4])
def test_what_is_left_is_a_dataset_that_never_had_them(tmp_path: Path, updates: int) -> None:
    some, gone = logs(updates, updates + 1), ["u3", "u17"]
    home = grown(tmp_path / "all", some)
    labels = [home.imported, *(update["fingerprint"] for update in home.updates)]
    before = Dataset.open(home.path).num_events
    done = forget_users(home, [*gone, "nobody"])
    assert done.users == sorted(gone, key=str.encode)
    grown(tmp_path / "others", [without(log, gone) for log in some])
    # Items keep their rows, those nobody else met too, so histories are compared by id.
    now, expected = histories(tmp_path / "all"), histories(tmp_path / "others")
    assert now[0] == expected[0]
    assert {item: users for item, users in now[1].items() if users} == expected[1]
    left, other = Dataset.open(tmp_path / "all"), Dataset.open(tmp_path / "others")
    assert done.events == before - left.num_events > 0
    prices = [data.event_attributes()["price"].to_pylist() for data in (left, other)]  # type: ignore[index]
    assert prices[0] == prices[1]
    for key in ("users", "events", "first_event", "last_event", "order_disagrees_with_time"):
        assert left.manifest[key] == other.manifest[key]
    # Whoever knows an earlier version still finds it, and is told whose histories changed.
    home = Home.open(tmp_path / "all")
    for label in labels:
        assert home.knows(label)
    kept = Dataset.open(home.path, at=labels[0])
    assert kept.verify() == []
    assert not set(gone) & set(kept.user_ids.ids(range(kept.num_users)))


def test_changes_on_record_move_with_the_rows(tmp_path: Path) -> None:
    some = logs(7, 3)
    home = grown(tmp_path, some)
    old = Dataset.open(tmp_path)
    users, items = home.changed_since(home.imported) or ((), ())
    names = set(old.user_ids.ids(users)) - {"u3"}
    touched = {*old.item_ids.ids(items), *histories(tmp_path)[0]["u3"]}
    forget_users(home, ["u3"])
    home, new = Home.open(tmp_path), Dataset.open(tmp_path)
    users, items = home.changed_since(home.imported) or ((), ())
    assert set(new.user_ids.ids(users)) == names
    assert set(new.item_ids.ids(items)) == touched


def test_they_do_not_come_back_with_an_older_file(tmp_path: Path) -> None:
    some = logs(1, 2)
    home = grown(tmp_path, some[:1])
    forget_users(home, ["u3"])
    added = append_events(some[1], Home.open(tmp_path))
    assert added.dropped["forgotten"] == pc.sum(pc.equal(some[1]["user_id"], "u3")).as_py() > 0
    assert "u3" not in histories(tmp_path)[0]
    again = append_events(some[0], Home.open(tmp_path))
    assert again.events == 0
    text = (tmp_path / "dataset.json").read_text()
    assert '"u3"' not in text


def test_who_may_return_does(tmp_path: Path) -> None:
    some = logs(1, 2)
    forget_users(grown(tmp_path, some[:1]), ["u3"], may_return=True)
    append_events(some[1], Home.open(tmp_path))
    assert "u3" in histories(tmp_path)[0]


@pytest.mark.parametrize("last", ["_write_without", "_twin", "commit", "prune"])
@pytest.mark.parametrize("updates", [0, 2])
def test_what_is_cut_short_is_finished_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str, updates: int
) -> None:
    some = logs(2, updates + 1)
    home = grown(tmp_path / "data", some)
    whole = histories(tmp_path / "data")
    target = Home if last in ("commit", "prune") else forgetting

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(target, last, killed)
        with pytest.raises(KeyboardInterrupt):
            forget_users(home, ["u3"])
    now = histories(tmp_path / "data")
    assert now == whole if last != "prune" else "u3" not in now[0]
    forget_users(Home.open(tmp_path / "data"), ["u3"])
    grown(tmp_path / "others", [without(log, ["u3"]) for log in some])
    assert histories(tmp_path / "data")[0] == histories(tmp_path / "others")[0]
    folders = {path.name for path in (tmp_path / "data/versions").iterdir()}
    assert folders == set(Home.open(tmp_path / "data").kept())
    for file in (tmp_path / "data").rglob("users.ids.bin"):
        assert "u3" not in Dataset.open(file.parent).user_ids.ids(range(Dataset.open(file.parent).num_users))


def test_the_last_user_is_not_taken_out(tmp_path: Path) -> None:
    log = logs(3, 1)[0]
    home = grown(tmp_path / "data", [log.filter(pc.equal(log["user_id"], "u3"))])
    before = shutil.copytree(tmp_path / "data", tmp_path / "copy")
    with pytest.raises(InputError, match="no events of other users"):
        forget_users(home, ["u3"])
    assert histories(tmp_path / "data") == histories(before)

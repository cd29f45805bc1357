"""`duality forget`: nothing of a user is left anywhere, everybody else stays, a kill is made good."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from small_worlds import SMALL, synthetic_log
from test_update import LATER, log
from test_whole_path import answer, run

import duality
from duality.data.dataset import Dataset
from duality.errors import InputError, UnknownIdError
from duality.index.pair import held_in_copies
from duality.model import forgetting
from duality.model.folder import ModelFolder
from duality.training.checkpoint import FOLDER
from duality.training.loop import BANKS
from duality.workflows import forget as workflow
from duality.workflows.forget import forget, look_for

GONE = "user-number-nine"


def known_log() -> pa.Table:
    told = synthetic_log()
    names = pa.array([GONE if user == "u9" else user for user in told["user_id"].to_pylist()])
    return told.set_column(0, "user_id", names)


def base_log() -> pa.Table:
    """`fresh` and `shelf` came too late for training; nobody but GONE met `lonely`."""
    fresh = [(user, "fresh", LATER + n) for n, user in enumerate(("u1", "u2", "u3", GONE))]
    late = log(*fresh, ("u20", "shelf", LATER), (GONE, "lonely", LATER + 9))
    return pa.concat_tables([known_log(), late])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset that was updated, a model, an index of two generations, and a snapshot."""
    root = tmp_path_factory.mktemp("forget")
    duality.import_events(base_log(), root / "datasets/default")
    duality.train(root / "datasets/default", root / "models/default", settings=SMALL)
    index = root / "indexes/default"
    duality.build_index(root / "models/default", index)
    duality.build_index(root / "models/default", index)
    with duality.Index.open(index, "w") as opened:
        opened.pair.create_snapshot("monday")
        opened.update(log((GONE, "i5", LATER + 60), ("u4", "i5", LATER + 61), ("u4", "fresh", LATER + 62)))
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "w"))


def vectors(root: Path, side: str) -> dict[str, np.ndarray]:
    with duality.Index.open(root / "indexes/default") as index:
        return dict(zip(*index.pair.side(side).matching(), strict=True))


def files_with(root: Path, needle: bytes) -> list[Path]:
    return [file for file in root.rglob("*") if file.is_file() and needle in file.read_bytes()]


def test_nothing_is_left_of_them_and_everybody_else_stays(root: Path) -> None:
    index = root / "indexes/default"
    users, items = vectors(root, "users"), vectors(root, "items")
    held = held_in_copies(index, "users", [GONE])
    assert len(held) == 3  # two generations and the snapshot
    needles = [GONE.encode(), *(vector.tobytes() for own in held.values() for vector in own)]
    assert len(needles) == 4
    assert all(files_with(root, needle) for needle in needles)
    document = forget([GONE], index=index)
    assert not any(files_with(root, needle) for needle in needles)
    assert document["index"]["copies"] == 3
    assert document["events"] == base_log()["user_id"].to_pylist().count(GONE) + 1
    left = vectors(root, "users")
    del users[GONE]
    assert set(left) == set(users)
    for user, vector in left.items():
        np.testing.assert_array_equal(vector, users[user], err_msg=user)
    now = vectors(root, "items")
    assert set(items) - set(now) == {"lonely"}
    changed = {item for item in now if not np.array_equal(now[item], items[item])}
    with duality.Index.open(index) as opened:
        data = opened.dataset
        assert (
            opened.pair.manifest["dataset"]["fingerprint"]
            == Dataset.open(root / "datasets/default").fingerprint
        )
    assert data is not None
    assert GONE not in data.user_ids.ids(range(data.num_users))
    assert "fresh" in changed
    assert "shelf" not in changed  # GONE never met it


def test_look_for_finds_what_there_is_and_nothing_afterwards(root: Path) -> None:
    found = look_for([GONE], index=root / "indexes/default").traces
    for part in ("users.ids.bin", "users.parquet", "has a record of them", f"the id '{GONE}'"):
        assert any(part in line for line in found), part
    forget([GONE], index=root / "indexes/default")
    assert look_for([GONE], index=root / "indexes/default").traces == []


def test_a_user_who_is_left_in_one_place_is_found_there(root: Path) -> None:
    forget([GONE], data=root / "datasets/default")
    found = look_for([GONE], index=root / "indexes/default").traces
    assert any("monday" in line for line in found)
    assert not any("datasets" in line for line in found)


def test_a_model_is_evaluated_and_built_from_without_them(root: Path) -> None:
    forget([GONE], index=root / "indexes/default")
    report = duality.evaluate(root / "models/default", baselines=False)["user-to-item"]
    assert report["queries"] > 40
    duality.build_index(root / "models/default", root / "indexes/again", data=root / "datasets/default")
    with duality.Index.open(root / "indexes/again") as index, pytest.raises(UnknownIdError):
        index.recommend_items(GONE)


def test_one_after_the_other_is_both(root: Path) -> None:
    """Versions have other fingerprints each time, and models and indexes still find theirs."""
    index = root / "indexes/default"
    for user in (GONE, "u4"):
        forget([user], index=index)
        assert duality.evaluate(root / "models/default", baselines=False)["user-to-item"]["queries"] > 40
    assert look_for([GONE, "u4"], index=index).traces == []
    with duality.Index.open(index, "w") as opened:
        assert opened.update(log(("u5", "i7", LATER + 99)))["events"] == 1
    left = set(vectors(root, "users"))
    assert len(left) == 58
    assert not left & {GONE, "u4"}


@pytest.mark.parametrize("known", ["id", "id,age"])
def test_a_model_that_knew_them_by_id_forgets_them(tmp_path: Path, known: str) -> None:
    table = known_log()
    users = sorted(set(table["user_id"].to_pylist()))
    ages = pa.table({"user_id": users, "age": [f"{n % 3}0" for n in range(len(users))]})
    duality.import_events(table, tmp_path / "data", users=ages)
    names = ",".join(f'"{name}"' for name in known.split(","))
    duality.train(
        tmp_path / "data", tmp_path / "model", settings=[*SMALL, f"model.user_attributes=[{names}]"]
    )
    (tmp_path / "model/checkpoint").mkdir()
    folder = ModelFolder.open(tmp_path / "model")
    before, fingerprint = _embedded(tmp_path, "before"), folder.fingerprint
    row = int(duality.data.ids.Ids.open(folder.path, "users").find([GONE])[0])
    own = folder.load().user_attributes.vectors[row].detach().numpy().tobytes()  # type: ignore[union-attr]
    assert files_with(folder.path, own)
    document = forget([GONE], data=tmp_path / "data", models=[tmp_path / "model"])
    assert document["models"] == [{"path": str(tmp_path / "model"), "users": 1, "states": ["checkpoint"]}]
    assert not files_with(tmp_path / "model", own)
    assert not files_with(tmp_path / "model", GONE.encode())
    folder = ModelFolder.open(tmp_path / "model")
    assert folder.fingerprint == fingerprint
    after = _embedded(tmp_path, "after")
    assert set(before) - set(after) == {GONE}
    for user, vector in after.items():
        np.testing.assert_allclose(vector, before[user], atol=1e-5, err_msg=user)


def _embedded(root: Path, name: str) -> dict[str, np.ndarray]:
    """Users of a model on its own dataset, without what an index weighs by everybody's histories."""
    import pyarrow.parquet as pq

    from duality.workflows.build import embed

    embed(root / "model", root / name)
    table = pq.read_table(root / name / "users.parquet")
    return {
        user: np.array(vector)[:16]
        for user, vector in zip(*map(pa.Table.to_pydict(table).get, ("id", "vector")))
    }


def test_what_an_unfinished_training_leaves_is_known_by_the_names_that_it_has() -> None:
    assert forgetting.STATES == (FOLDER, BANKS)


@pytest.mark.parametrize("step", ["_from_model", "_from_index", "catch_up", "traces"])
def test_what_is_cut_short_is_finished_by_the_next_run(
    root: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(workflow, step, killed)
        with pytest.raises(KeyboardInterrupt):
            forget([GONE], index=root / "indexes/default")
    forget([GONE], index=root / "indexes/default")
    assert look_for([GONE], index=root / "indexes/default").traces == []
    whole = Path(shutil.copytree(root, root.parent / "other"))
    assert "lonely" not in vectors(whole, "items")
    assert duality.evaluate(root / "models/default", baselines=False)["user-to-item"]["queries"] > 40


def test_they_do_not_come_back_by_an_update(root: Path) -> None:
    forget([GONE], index=root / "indexes/default")
    with duality.Index.open(root / "indexes/default", "w") as index:
        document = index.update(log((GONE, "i7", LATER + 99), ("u5", "i7", LATER + 99)))
    assert document["dropped"]["forgotten"] == 1
    assert GONE not in vectors(root, "users")


def test_refusals_change_nothing(root: Path) -> None:
    index = root / "indexes/default"
    before = {file: file.read_bytes() for file in root.rglob("*") if file.is_file()}
    with pytest.raises(UnknownIdError, match=f"did you mean.*{GONE}"):
        forget([GONE, GONE + "0"], index=index)
    with pytest.raises(InputError, match="nowhere to look"):
        forget([GONE])
    assert {file: file.read_bytes() for file in before} == before


def test_the_command_line(root: Path) -> None:
    index = str(root / "indexes/default")
    looked = run(root, "forget", "--user", GONE, "--index", index, "--check", "--json", code=1)
    assert not json.loads(looked.stdout)["ok"]
    assert answer(root, "forget", "--user", GONE, "--index", index)["index"]["copies"] == 3
    assert answer(root, "forget", "--user", GONE, "--index", index, "--check")["ok"]
    again = run(root, "forget", "--user", GONE)  # nobody any more, and that is no mistake
    assert "no traces" in again.stdout
    run(root, "forget", "--user", "somebody-else", code=2)

"""`duality index update`: the touched equal a making from scratch, the others stay, a kill loses nothing."""

from __future__ import annotations

import copy
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from small_worlds import synthetic_log
from test_whole_path import answer, run

import duality
from duality.data.dataset import Dataset
from duality.data.histories import item_histories, user_histories
from duality.embeddings import (
    item_vectors,
    last_moment,
    packed_item_states,
    states_before_events,
    stored_ends,
    stored_generated,
    stored_users,
    user_states,
)
from duality.errors import DualityError, InputError
from duality.generated import group_of
from duality.intensity import FadingCounts
from duality.model.folder import ModelFolder, save_model
from duality.model.two_sided import TwoSided

LATER = 1_800_000_000
SETTINGS = ["model.dim=16", "model.item_history=4", "train.epochs=2", "train.rows=200"]
SETTINGS += ["choose.popularity=false"]


def log(*rows: tuple[str, str, int]) -> pa.Table:
    names = ("user_id", "item_id", "timestamp")
    return pa.table({name: [row[place] for row in rows] for place, name in enumerate(names)})


def base_log() -> pa.Table:
    """`fresh` and `shelf` are met only by last events, so training never sees them."""
    fresh = [(f"u{n}", "fresh", LATER + n) for n in range(6)]
    return pa.concat_tables([synthetic_log(), log(*fresh, *((f"u{n}", "shelf", LATER) for n in (20, 21)))])


NEW = log(
    ("u7", "fresh", LATER + 60),
    ("u3", "i5", LATER + 61),
    ("newcomer", "fresh", LATER + 62),
    ("newcomer", "novelty", LATER + 63),
    ("newcomer", "i8", LATER + 64),
    ("u3", "novelty", LATER + 65),
)
TRAINED = ["i5", "i8"]
TOUCHED = {"users": ["newcomer", "u3", "u7"], "items": ["fresh", *TRAINED, "novelty"]}
SHARE = 0.25  # of a generated vector in those of trained items


def set_chosen(root: Path, share: float, popularity: float = 0.0, activity: float = 0.0) -> None:
    """What training chooses on validation, chosen here; biases fade in 100 seconds."""
    folder = ModelFolder.open(root / "models/default")
    model = folder.load()
    model.generated_share.fill_(share)
    model.popularity.copy_(torch.tensor([popularity, 100.0]))
    model.activity.copy_(torch.tensor([activity, 100.0]))
    config = {name: folder.config[name] for name in ("data", "split", "loss", "train")}
    save_model(folder.path, model, ids_from=root / "datasets/default", config=config)


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, a model and an index that nothing has been added to; copies are made of it."""
    root = tmp_path_factory.mktemp("update")
    duality.import_events(base_log(), root / "datasets/default")
    duality.train(root / "datasets/default", root / "models/default", settings=SETTINGS)
    set_chosen(root, SHARE)
    duality.build_index(root / "models/default", root / "indexes/default")
    pq.write_table(NEW, root / "new.parquet")
    return root


@pytest.fixture
def world(before: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(before, tmp_path / "w"))


def stored(root: Path) -> dict[str, dict[str, np.ndarray]]:
    with duality.Index.open(root / "indexes/default") as index:
        return {name: dict(zip(*index.pair.side(name).matching())) for name in ("users", "items")}


def update(root: Path, events: pa.Table, **options: str) -> dict:
    with duality.Index.open(root / "indexes/default", "w") as index:
        return index.update(events, **options)


def from_scratch(root: Path, untouched: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Both sides by the functions that embed a whole dataset.

    The model gets rows for items that came after it: the item without users, never trained. Weights
    are those of the build; items that no event touched stay what the index had.
    """
    with duality.Index.open(root / "indexes/default") as index:
        model, weights = index.model, np.array(index.pair.manifest["extra"]["generated_weights"], np.float32)
    data = Dataset.open(root / "datasets/default")
    wide = copy.deepcopy(model)
    wide.grow(data.num_items)
    visible = np.ones(data.num_events, bool)
    histories = item_histories(data, visible)
    after = packed_item_states(wide, data, histories, states_before_events(wide, data, visible))
    made = after[torch.from_numpy(histories.indptr[1:] - 1)], histories.lengths, weights
    vectors = item_vectors(wide, data, visible, made).clone()
    items = stored_ends(wide, made)[0]
    names = data.item_ids.ids(range(data.num_items))
    mixed = [name for name in TRAINED if name in untouched]
    for name in mixed:
        row, share = names.index(name), np.float32(model.generated_share)
        made_alone = stored_generated(made[0][row : row + 1], weights[group_of(made[1][row : row + 1])])[0]
        items[row] = (1 - share) * items[row] + share * made_alone
    for row, name in enumerate(names):
        if name in untouched and name not in TOUCHED["items"] and not wide.trained[row]:
            vectors[row] = torch.from_numpy(untouched[name][: model.dim].copy())
    users = stored_users(model, user_states(wide, data, user_histories(data, visible), vectors))
    return {
        "users": dict(zip(data.user_ids.ids(range(data.num_users)), users)),
        "items": dict(zip(names, items)),
    }


def check(root: Path, was: dict[str, dict[str, np.ndarray]]) -> None:
    """Touched records are those made from scratch, all others are byte for byte what they were."""
    now, expected = stored(root), from_scratch(root, was["items"])
    for side, touched in TOUCHED.items():
        assert set(now[side]) == set(expected[side])
        for name, vector in now[side].items():
            if name in touched:
                np.testing.assert_allclose(vector, expected[side][name], atol=2e-5, err_msg=name)
                assert (
                    name in TRAINED or name not in was[side] or np.abs(vector - was[side][name]).max() > 1e-3
                )
            else:
                np.testing.assert_array_equal(vector, was[side][name], err_msg=name)


def test_touched_equal_a_making_from_scratch_and_the_others_stay(world: Path) -> None:
    was = stored(world)
    document = update(world, NEW)
    counts = {key: document[key] for key in ("events", "users", "items", "new_users", "new_items")}
    assert counts == {"events": 6, "users": 3, "items": 4, "new_users": 1, "new_items": 1}
    assert (document["generated"], document["kept_trained"], document["mixed"]) == (2, 2, 2)
    assert document["version"] == {"users": 3, "items": 3}  # a commit for the known, one for the new
    check(world, was)


def test_without_a_share_trained_items_are_not_written_and_nothing_brings_them_back(world: Path) -> None:
    for share in (SHARE, 0.0):
        root = Path(shutil.copytree(world, world.parent / f"share {share}"))
        set_chosen(root, share)
        duality.build_index(root / "models/default", root / "indexes/default")
        with duality.Index.open(root / "indexes/default", "w") as index:
            index.items.delete(["i5"])
            kept = index.items.vectors(["i8"])
        document = update(root, NEW)
        assert (document["kept_trained"], document["mixed"]) == (2, 1 if share else 0)
        with duality.Index.open(root / "indexes/default") as index:
            assert index.items.get(["i5"])[1] == ["i5"]
            assert np.array_equal(index.items.vectors(["i8"]), kept) == (not share)
            assert index.items.get(["i8", "fresh"])[0][0]["attributes"]["generated"] is False
            assert index.items.get(["novelty"])[0][0]["attributes"]["generated"] is True


def test_trained_items_only(world: Path) -> None:
    document = update(world, log(("u1", "i2", LATER + 90), ("u2", "i3", LATER + 91)))
    assert (document["users"], document["items"], document["generated"]) == (2, 2, 0)


def test_only_touched_ids_are_written_and_only_their_part_is_encoded(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from duality.index.side import Side

    written, rows = {}, []
    upsert, encode = Side.upsert, TwoSided.user_states

    def watched(self: Side, ids: list[str], *rest: object, **named: object) -> int:
        written[self.name] = sorted([*written.get(self.name, []), *ids])
        return upsert(self, ids, *rest, **named)  # type: ignore[arg-type]

    def counted(self: TwoSided, vectors: torch.Tensor, layout: object, **how: bool) -> torch.Tensor:
        rows.append(len(vectors))
        return encode(self, vectors, layout, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(Side, "upsert", watched)
    monkeypatch.setattr(TwoSided, "user_states", counted)
    update(world, NEW)
    assert written == TOUCHED
    data = Dataset.open(world / "datasets/default")
    lengths = dict(zip(data.user_ids.ids(range(data.num_users)), np.diff(data.user_indptr)))
    most = len(TOUCHED["items"]) * 4  # newest users that an item is made from
    longest = sorted(lengths.values())[-most:]
    assert sum(rows) <= sum(lengths[user] for user in TOUCHED["users"]) + sum(longest)
    assert sum(rows) < data.num_events / 2


def test_two_updates_in_either_order_or_one_give_the_same(before: Path, tmp_path: Path) -> None:
    """Of files that share no user and no item; otherwise the later one finds more to know."""
    one = log(("u7", "fresh", LATER + 60), ("u8", "fresh", LATER + 62))
    two = log(
        ("newcomer", "novelty", LATER + 63), ("newcomer", "i8", LATER + 64), ("u30", "novelty", LATER + 61)
    )
    found = {}
    for name, logs in {"ab": [one, two], "ba": [two, one], "once": [pa.concat_tables([one, two])]}.items():
        root = Path(shutil.copytree(before, tmp_path / name))
        for part in logs:
            update(root, part)
        found[name] = stored(root)
    for side in ("users", "items"):
        assert set(found["ab"][side]) == set(found["ba"][side]) == set(found["once"][side])
        for identifier, vector in found["once"][side].items():
            for name in ("ab", "ba"):
                np.testing.assert_allclose(found[name][side][identifier], vector, atol=2e-5)


def test_a_build_after_an_update_holds_the_new_items(world: Path) -> None:
    update(world, NEW)
    updated = stored(world)
    dataset = Dataset.open(world / "datasets/default")
    document = duality.build_index(world / "models/default", world / "indexes/default", data=dataset.path)
    built = stored(world)
    assert document["items"] == dataset.num_items > len(ModelFolder.open(world / "models/default").item_ids)
    assert built["items"].keys() == updated["items"].keys()
    # The update keeps the weights of the build before: what users make of items has another length.
    for name in set(TOUCHED["items"]) - set(TRAINED):
        was, now = updated["items"][name][:-3], built["items"][name][:-3]
        assert was @ now == pytest.approx(np.linalg.norm(was) * np.linalg.norm(now), rel=1e-4)


def test_late_events_take_their_place_in_time(world: Path) -> None:
    first = base_log().column("timestamp").to_numpy().min() - 1000
    update(
        world, log(("u7", "fresh", int(first)), ("u3", "novelty", int(first)), ("newcomer", "i1", int(first)))
    )
    data = Dataset.open(world / "datasets/default")
    start = data.user_indptr[data.user_ids.row("u7")]
    assert data.item_ids.id(data.event_item[start]) == "fresh"
    expected = from_scratch(world, stored(world)["items"])
    now = stored(world)
    for side, touched in {"users": TOUCHED["users"], "items": ["fresh", "novelty"]}.items():
        for name in touched:
            np.testing.assert_allclose(now[side][name], expected[side][name], atol=2e-5, err_msg=name)


KILLED = """
import os, signal, sys
import duality
import duality.data.versions, duality.workflows.update
module, name = sys.argv[2].rsplit(".", 1)
def die(*rest, **named):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(sys.modules[module], name, die)
with duality.Index.open(sys.argv[1] + "/indexes/default", "w") as index:
    index.update(sys.argv[1] + "/new.parquet")
"""


@pytest.mark.parametrize(
    ("step", "left"),
    [
        ("duality.data.versions.write_json", 6),
        ("duality.workflows.update._upsert_items", 0),
        ("duality.workflows.update._upsert_users", 0),
        ("duality.workflows.update.record_dataset", 0),
    ],
)
def test_a_kill_between_the_steps_is_made_good_by_the_same_command(world: Path, step: str, left: int) -> None:
    was = stored(world)
    done = subprocess.run([sys.executable, "-c", KILLED, str(world), step], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with duality.Index.open(world / "indexes/default") as index:
        assert index.dataset is not None
        assert index.dataset.num_users == 60
        assert index.recommend_items("u3", k=5)[0]
    document = json.loads(
        run(
            world,
            "index",
            "update",
            "--events",
            str(world / "new.parquet"),
            "--json",
            str(world / "indexes/default"),
        ).stdout
    )
    assert (document["events"], document["users"], document["items"]) == (left, 3, 4)
    check(world, was)
    assert run(world, "index", "verify", str(world / "indexes/default")).stdout
    again = answer(world, "index", "update", "--events", str(world / "new.parquet"))
    assert (again["events"], again["users"], again["items"]) == (0, 0, 0)
    assert again["version"] == document["version"]


def test_new_users_and_items_answer_at_once_and_evaluate_stays_honest(world: Path) -> None:
    run(world, "index", "update", "--events", str(world / "new.parquet"))
    for_newcomer = answer(world, "query", "--user", "newcomer", "-k", "60")["results"]
    assert for_newcomer
    assert not {"fresh", "novelty", "i8"} & {row["id"] for row in for_newcomer}
    for_novelty = answer(world, "query", "--item", "novelty", "-k", "70")["results"]
    assert len(for_novelty) == 61 - 2
    assert answer(world, "query", "--history", "novelty,i3")["results"]
    assert answer(world, "recommend", "--items", "all", "--out", str(world / "r.parquet"))["queries"] == 63
    assert "was trained on dataset" in run(world, "evaluate", code=2).stderr
    first = str(world / "datasets/default/versions/000001")
    assert answer(world, "evaluate", "--data", first, "--direction", "user-to-item")
    assert answer(world, "data", "describe", str(world / "datasets/default"))["users"] == 61


def test_an_index_that_missed_updates_takes_them_over(world: Path) -> None:
    was = stored(world)
    shutil.copytree(world / "indexes/default", world / "indexes/other")
    with duality.Index.open(world / "indexes/other", "w") as index:
        for row in range(len(NEW)):
            index.update(NEW.slice(row, 1))
    with duality.Index.open(world / "indexes/default") as index:
        assert index.recommend_items("u3", k=3)[0]
    document = update(world, NEW)
    assert (document["events"], document["users"], document["items"]) == (0, 3, 4)
    check(world, was)


def test_refusals_are_one_line_and_change_nothing(world: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("user_id,item_id,timestamp\nu1,i1,5\nu1,,6\n")
    message = run(world, "index", "update", "--events", str(bad), code=2).stderr
    assert f"{bad}, row 2, column 'item_id': no id" in message
    assert "no such file" in run(world, "index", "update", "--events", str(tmp_path / "no"), code=2).stderr
    assert "--events" in run(world, "index", "update", code=2).stderr
    good = ["index", "update", "--events", str(world / "new.parquet")]
    duality.import_events(base_log().slice(5), tmp_path / "other")
    assert "never was" in run(world, *good, "--data", str(tmp_path / "other"), code=2).stderr
    answer(world, "embed", "--out", str(tmp_path / "e"))
    sides = [
        part for side in ("users", "items") for part in (f"--{side}", str(tmp_path / f"e/{side}.parquet"))
    ]
    run(world, "index", "build", *sides, "--out", str(tmp_path / "plain"))
    assert "no histories" in run(world, *good, str(tmp_path / "plain"), code=2).stderr
    with duality.Index.open(world / "indexes/default") as index, pytest.raises(InputError, match='mode="w"'):
        index.update(NEW)
    with (
        duality.Index.open(world / "indexes/default", "w"),
        pytest.raises(DualityError, match="being written"),
    ):
        update(world, NEW)
    weights = world / "models/default/config.json"
    weights.write_text(weights.read_text().replace('"fingerprint": "', '"fingerprint": "0', 1))
    assert "build the index again" in run(world, *good, code=2).stderr
    assert Dataset.open(world / "datasets/default").num_users == 60
    assert not list((world / "datasets/default").glob("versions/*"))


def test_biases_of_the_touched_are_on_the_scale_of_those_that_stay(world: Path) -> None:
    """All counts fade alike: whoever is not in the file keeps what the build gave them, and ranks as if
    everybody had been counted again."""
    weights = {"users": 0.25, "items": 0.5}
    found = {}
    for biased in (False, True):
        root = Path(shutil.copytree(world, world.parent / f"biased {biased}"))
        set_chosen(root, SHARE, popularity=0.5 * biased, activity=0.25 * biased)
        duality.build_index(root / "models/default", root / "indexes/default")
        update(root, NEW)
        found[biased] = stored(root)
    data = Dataset.open(root / "datasets/default")
    assert data.event_time is not None
    passed = 60.0  # from the newest event of the log, LATER + 5, to that of NEW, LATER + 65
    for side, place, owner, ids in (
        ("users", 17, data.event_user, data.user_ids),
        ("items", 18, data.event_item, data.item_ids),
    ):
        counts = FadingCounts(owner, data.event_time, len(ids), 100.0).now(last_moment(data))
        for row, name in enumerate(ids.ids(range(len(ids)))):
            added = found[True][side][name] - found[False][side][name]
            expected = weights[side] * (counts[row] + passed / 100)
            assert np.delete(added, place) == pytest.approx(0, abs=1e-5)
            if counts[row] > -29:
                assert added[place] == pytest.approx(expected, abs=2e-3), name
            else:  # so long ago that it counts as never, before and after
                assert added[place] == pytest.approx(weights[side] * -30, abs=weights[side])

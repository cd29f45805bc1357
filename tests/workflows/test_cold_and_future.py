"""Cold rows are gone from training and histories; nothing after a cut moves a score; own split files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_worlds import SMALL, synthetic_log

import duality
from duality.data.dataset import Dataset
from duality.data.histories import Histories
from duality.data.splits import split_named
from duality.errors import DataError, InputError
from duality.evaluation.cold import cold_queries
from duality.evaluation.queries import DIRECTIONS, ITEM_TO_USER, USER_TO_ITEM, make_queries
from duality.model.folder import ModelFolder
from duality.workflows.scorers import ModelScorer, States
from duality.workflows.train import world_of

FEW = [*SMALL, "train.epochs=2"]


@pytest.fixture(scope="module")
def log() -> pa.Table:
    return synthetic_log(users=120, items=40)


@given(st.lists(st.integers(0, 9), min_size=2, max_size=8), st.integers(0, 99), st.booleans())
@settings(deadline=None)
def test_what_is_asked_comes_after_what_is_given(lengths: list[int], seed: int, ordered: bool) -> None:
    indptr = np.concatenate(([0], np.cumsum(lengths)))
    arrivals = Histories(indptr, np.random.default_rng(seed).permutation(indptr[-1]))
    if max(lengths) <= 3:
        with pytest.raises(InputError, match="more than 3 events"):
            cold_queries(arrivals, (1, 3), 2, ordered=ordered, seed=seed)
        return
    asked = cold_queries(arrivals, (1, 3), 2, ordered=ordered, seed=seed)
    for row, length in enumerate(lengths):
        events = arrivals.event[indptr[row] : indptr[row + 1]]
        one, three = (asked.given(n).packed(np.array([row]))[0] for n in (1, 3))
        mine = np.intersect1d(asked.events, events)
        if length <= 3:
            assert len(one) == len(three) == len(mine) == 0
            continue
        assert one.tolist() == three[:1].tolist()
        assert len(mine) == min(2, length - 3)
        assert not np.isin(mine, three).any()
        if ordered:
            assert three.tolist() == events[:3].tolist()
    assert asked.few == sum(0 < length <= 3 for length in lengths)


@pytest.mark.parametrize("protocol", ["cold-item", "cold-user"])
def test_cold_rows_are_asked_without_having_been_trained(
    tmp_path: Path, log: pa.Table, protocol: str
) -> None:
    duality.import_events(log, tmp_path / "d")
    duality.train(tmp_path / "d", tmp_path / "m", settings=[*FEW, f"split.name={protocol}"])
    dataset, model = Dataset.open(tmp_path / "d"), ModelFolder.open(tmp_path / "m")
    split = split_named(dataset, protocol)
    owner = dataset.event_item if protocol == "cold-item" else dataset.event_user
    assert len(split.cold) == round(0.2 * (dataset.num_items if protocol == "cold-item" else 120))
    assert not np.isin(owner[split.train | split.visible("test")], split.cold).any()
    if protocol == "cold-item":
        assert not model.load().trained.numpy()[split.cold].any()
    report = duality.evaluate(tmp_path / "m", baselines=True)
    for direction, part in report.items():
        assert list(part["by_events"]) == ["1", "3", "5", "10"]
        assert part["metrics"] == part["by_events"]["5"]["metrics"]
        assert part["queries"] > 20
        assert part["protocol"]["name"] == protocol
        assert ("time_matched" in part) == (direction == ITEM_TO_USER)
        sides = {name: found["metrics"]["auc"]["value"] for name, found in part["by_events"].items()}
        assert all(0 < value < 1 for value in sides.values())
    with pytest.raises(InputError, match="ranks all candidates"):
        duality.evaluate(tmp_path / "m", candidates="uniform:5")


def test_an_event_planted_after_the_cut_moves_no_score(tmp_path: Path, log: pa.Table) -> None:
    """Everything after the second cut happens to other items; training and queries' scores are the same."""
    times = log["timestamp"].to_numpy()
    late = times >= np.quantile(times, 0.92)
    items = np.where(
        late, np.random.default_rng(1).permutation(log["item_id"].to_numpy(False)), log["item_id"]
    )
    scores = {}
    for name, column in (("a", log["item_id"]), ("b", pa.array(items))):
        duality.import_events(log.set_column(1, "item_id", column), tmp_path / f"d-{name}")
        duality.train(tmp_path / f"d-{name}", tmp_path / f"m-{name}", settings=[*FEW, "split.name=temporal"])
        scores[name] = _temporal_scores(tmp_path, name)
    assert set(scores["a"]) == set(scores["b"])
    assert len(scores["a"]) > 20
    for key, row in scores["a"].items():
        np.testing.assert_allclose(scores["b"][key], row, atol=1e-5)


def _temporal_scores(root: Path, name: str) -> dict[tuple[str, str], np.ndarray]:
    """Scores over named candidates of the hidden events just after the second cut."""
    dataset = Dataset.open(root / f"d-{name}")
    split = split_named(dataset, "temporal")
    world = world_of(dataset, split, "test")
    assert dataset.event_time is not None
    early = split.test[dataset.event_time[split.test] < np.quantile(dataset.event_time, 0.92)]
    scorer = ModelScorer(States(ModelFolder.open(root / f"m-{name}").load(), dataset, world.visible))
    found = {}
    for direction in DIRECTIONS:
        queries = make_queries(world, early, direction)
        scores = scorer.score(queries, slice(0, len(queries)), direction)
        ids = dataset.item_ids if direction == USER_TO_ITEM else dataset.user_ids
        order = np.argsort(ids.ids(np.arange(len(ids))))
        for row, event in enumerate(queries.event):
            user = dataset.user_ids.ids([dataset.event_user[event]])[0]
            found[direction, user] = scores[row, order]
    return found


def test_users_answer_as_they_were_at_the_query(world: Path) -> None:
    """Next user: what a user does at or after the moment of a query changes no score of that query."""
    dataset = Dataset.open(world / "datasets/default")
    split = split_named(dataset, "leave-one-out")
    asked = world_of(dataset, split, "test")
    queries = make_queries(asked, split.test, ITEM_TO_USER)
    model = ModelFolder.open(world / "models/default").load()
    rows = slice(0, len(queries))
    states = States(model, dataset, asked.visible)
    scores = ModelScorer(states).score(queries, rows, ITEM_TO_USER)
    assert queries.time is not None
    moment = np.sort(queries.time)[len(queries) // 2]
    earlier = States(model, dataset, asked.visible & (np.asarray(dataset.event_time) < moment))
    # What generated items are weighed by is fitted to all that is visible, as the model is.
    earlier.made = (*earlier.made[:2], states.made[2])
    cut = ModelScorer(earlier).score(queries, rows, ITEM_TO_USER)
    past = queries.time <= moment
    np.testing.assert_allclose(cut[past], scores[past], atol=1e-5)
    assert np.abs(cut[~past] - scores[~past]).max() > 0.01


def test_a_split_file_of_ones_own(tmp_path: Path, log: pa.Table) -> None:
    duality.import_events(log, tmp_path / "d")
    # The second last event of each user judges, the one before chooses, what is later trains.
    chosen = _by_age(log)
    path = tmp_path / "mine.csv"
    rows = [f"{u},{i},{part}" for u, i, part in chosen]
    path.write_text("user,item,part\n" + "\n".join(rows) + "\n")
    duality.train(tmp_path / "d", tmp_path / "m", settings=[*FEW, f"split.name=file:{path}"])
    report = duality.evaluate(tmp_path / "m", direction=USER_TO_ITEM)
    assert report[USER_TO_ITEM]["protocol"]["name"] == f"file:{path}"
    assert report[USER_TO_ITEM]["queries"] == sum(part == "test" for *_, part in chosen)
    for text, row, message in (
        ("user,item,part\nu0,i0,exam\n", 1, "none of train, validation, test"),
        (f"user,item,part\n{rows[0]}\nnobody,i0,test\n", 2, "'nobody' is not in the dataset"),
        ("user,item,part\nu0,i0,test\nu0,i0,train\n", 2, "two parts"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message) as caught:
            split_named(Dataset.open(tmp_path / "d"), f"file:{path}")
        assert caught.value.row == row


def _by_age(log: pa.Table) -> list[tuple[str, str, str]]:
    chosen = []
    for user in pc.unique(log["user_id"]).to_pylist():
        mine = log.filter(pc.equal(log["user_id"], user)).sort_by("timestamp")["item_id"].to_pylist()
        chosen += [(user, mine[-2], "test"), (user, mine[-3], "validation")]
    return chosen

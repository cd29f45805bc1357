"""The mirror of a log and its split, and the one-sided control that is trained on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from small_worlds import ONE_SIDED, SMALL, synthetic_log

import duality
from duality.data.dataset import Dataset
from duality.data.importing import import_events
from duality.data.mirror import original_events
from duality.data.splits import split_named
from duality.encoders.base import Layout
from duality.errors import InputError
from duality.evaluation.protocol import measure
from duality.evaluation.queries import ITEM_TO_USER, USER_TO_ITEM, Queries, make_queries
from duality.model.folder import ModelFolder
from duality.model.two_sided import ModelConfig, TwoSided
from duality.workflows.mirror import Mirror, mirror
from duality.workflows.train import world_of

SPLITS = ("leave-one-out", "temporal", "cold-item", "cold-user")


def repeated_log() -> pa.Table:
    """A log in which every third event comes again, between the others."""
    log = synthetic_log(users=40, items=25)
    again = log.take(list(range(0, len(log), 3)))
    time = 1_700_000_030 + np.random.default_rng(1).permutation(len(again)) * 180
    return pa.concat_tables([log, again.set_column(2, "timestamp", pa.array(time))])


@pytest.fixture(scope="module", params=["once", "repeated"])
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("original") / "d"
    import_events(repeated_log() if request.param == "repeated" else synthetic_log(40, 25), folder)
    return Dataset.open(folder)


def mirror_of(dataset: Dataset, folder: Path, split: str = "leave-one-out") -> tuple[Dataset, dict]:
    made = mirror(dataset.path, split, folder)
    return Dataset.open(folder), made


def test_every_event_is_kept_with_its_ends_exchanged(dataset: Dataset, tmp_path: Path) -> None:
    mirrored, made = mirror_of(dataset, tmp_path / "m")
    assert mirrored.verify() == []
    sizes = (dataset.num_items, dataset.num_users, dataset.num_events)
    assert (made["users"], made["items"], made["events"]) == sizes
    assert (mirrored.num_users, mirrored.num_items, mirrored.num_events) == sizes
    event = original_events(mirrored, dataset)
    assert sorted(event) == list(range(dataset.num_events))
    found = zip(mirrored.user_ids.ids(mirrored.event_user), mirrored.item_ids.ids(mirrored.event_item))
    expected = zip(dataset.item_ids.ids(dataset.event_item), dataset.user_ids.ids(dataset.event_user))
    ends = list(expected)
    assert list(found) == [ends[number] for number in event]
    np.testing.assert_array_equal(mirrored.event_time, np.asarray(dataset.event_time)[event])


@pytest.mark.parametrize("name", SPLITS)
def test_the_split_is_carried_over(dataset: Dataset, tmp_path: Path, name: str) -> None:
    split = split_named(dataset, name)
    mirrored, made = mirror_of(dataset, tmp_path / "m", name)
    event, carried = original_events(mirrored, dataset), split_named(mirrored, made["split"])
    pair = dataset.event_user.astype(np.int64) * dataset.num_items + dataset.event_item
    clean = ~np.isin(pair, pair[~split.train])
    np.testing.assert_array_equal(carried.train, clean[event])
    assert made["withheld"] == np.count_nonzero(split.train & ~clean)
    in_validation = np.isin(np.arange(dataset.num_events), split.validation)
    others = ~split.train & ~in_validation
    asked = in_validation[event] & ~np.isin(pair, pair[others])[event]
    assert set(np.flatnonzero(asked)) <= set(carried.validation)
    assert set(np.flatnonzero(others[event])) <= set(carried.test)
    if len(np.unique(pair)) == len(pair):
        assert made["withheld"] == 0
        np.testing.assert_array_equal(np.sort(event[carried.validation]), np.sort(split.validation))
    elif name != "cold-item":
        assert made["withheld"] > 0


def random_model(mirrored: Dataset) -> TwoSided:
    torch.manual_seed(2)
    model = TwoSided(mirrored.num_items, ModelConfig(dim=8)).eval()
    with torch.no_grad():
        model.trained[[4, 11]] = False
    return model


@torch.inference_mode()
def test_scores_are_states_of_the_item_before_the_query_times_the_users(
    dataset: Dataset, tmp_path: Path
) -> None:
    mirrored, _ = mirror_of(dataset, tmp_path / "m")
    model = random_model(mirrored)
    split = split_named(dataset, "leave-one-out")
    world = world_of(dataset, split, "test")
    queries = make_queries(world, split.test, ITEM_TO_USER)
    found = Mirror(model, mirrored, dataset, world.visible).score(
        queries, slice(0, len(queries)), ITEM_TO_USER
    )
    time = np.asarray(dataset.event_time)
    row = {identifier: place for place, identifier in enumerate(mirrored.items()["id"].to_pylist())}
    ids = dataset.users()["id"].to_pylist()
    trained = np.array([bool(model.trained[row[identifier]]) for identifier in ids])
    table = model.item_table[[row[identifier] for identifier in ids]]
    for q, (item, moment) in enumerate(zip(queries.item, queries.time, strict=True)):
        past = world.visible & (dataset.event_item == item) & (time < moment) & trained[dataset.event_user]
        users = dataset.event_user[sorted(np.flatnonzero(past), key=lambda event: time[event])]
        state = model.empty_user
        if len(users):
            state = model.user_states(table[users.astype(np.int64)], Layout(np.array([len(users)])))[-1]
        np.testing.assert_allclose(found[q][trained], (table @ state)[trained], atol=1e-4)
        assert np.isneginf(found[q][~trained]).all()
    assert (~trained).sum() == 2
    assert len(np.unique(queries.item)) > 5


def test_nothing_at_or_after_the_query_moves_a_score(dataset: Dataset, tmp_path: Path) -> None:
    mirrored, _ = mirror_of(dataset, tmp_path / "m")
    model, split = random_model(mirrored), split_named(dataset, "leave-one-out")
    world = world_of(dataset, split, "test")
    queries = make_queries(world, split.test, ITEM_TO_USER)
    together = Mirror(model, mirrored, dataset, world.visible).score(
        queries, slice(0, len(queries)), ITEM_TO_USER
    )
    for q in range(0, len(queries), 5):
        before = world.visible & (np.asarray(dataset.event_time) < queries.time[q])
        alone = Mirror(model, mirrored, dataset, before).score(queries, slice(q, q + 1), ITEM_TO_USER)
        np.testing.assert_allclose(alone[0], together[q], atol=1e-4)


def grouped_log() -> pa.Table:
    """80 users in 4 groups, each with 7 of the 10 items of their group."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(80), 7)
    item = np.concatenate([rng.permutation(10)[:7] * 4 + number % 4 for number in range(80)])
    time = 1_700_000_000 + rng.permutation(len(user)) * 60
    names = [f"u{n}" for n in user], [f"i{n}" for n in item]
    return pa.table({"user_id": names[0], "item_id": names[1], "timestamp": time})


def test_an_ordinary_training_on_the_mirror_answers_for_the_original(tmp_path: Path) -> None:
    """A quarter of the users are of the item's group: who knows that ranks the target high."""
    import_events(grouped_log(), tmp_path / "d")
    dataset = Dataset.open(tmp_path / "d")
    mirrored, made = mirror_of(dataset, tmp_path / "m")
    duality.train(
        mirrored.path, tmp_path / "model", settings=[*SMALL, *ONE_SIDED, f"split.name={made['split']}"]
    )
    split = split_named(dataset, "leave-one-out")
    config = ModelFolder.open(tmp_path / "model").config
    assert config["data"]["training_events"] == split.train.sum()
    world = world_of(dataset, split, "test")
    queries = make_queries(world, split.test, ITEM_TO_USER)
    scorer = Mirror(ModelFolder.open(tmp_path / "model").load(), mirrored, dataset, world.visible)
    found = measure([scorer], queries, world, ITEM_TO_USER)
    assert [pool.name for pool in found.pools] == ["all", "time-matched"]
    auc = found.values("mirror")[:, found.names.index("auc")].mean()
    assert auc > 0.7


def other(tmp_path: Path) -> Dataset:
    import_events(synthetic_log(40, 25, seed=5), tmp_path / "other")
    return Dataset.open(tmp_path / "other")


def test_a_mirror_knows_its_original(dataset: Dataset, tmp_path: Path) -> None:
    mirrored, _ = mirror_of(dataset, tmp_path / "m")
    with pytest.raises(InputError, match="is not the mirror of"):
        original_events(mirrored, other(tmp_path))
    with pytest.raises(InputError, match="is no mirror: make one with"):
        original_events(dataset, dataset)
    with pytest.raises(InputError, match="a model of 7 items was not trained on"):
        Mirror(TwoSided(7, ModelConfig(dim=8)), mirrored, dataset, np.ones(dataset.num_events, bool))


def test_a_log_of_equal_size_and_other_events_is_not_the_original(dataset: Dataset, tmp_path: Path) -> None:
    mirrored, _ = mirror_of(dataset, tmp_path / "m")
    log = repeated_log() if dataset.num_events == len(repeated_log()) else synthetic_log(40, 25)
    later = log.set_column(2, "timestamp", pa.array(log["timestamp"].to_numpy() + 1))
    import_events(later, tmp_path / "later")
    with pytest.raises(InputError, match="is not the mirror of"):
        original_events(mirrored, Dataset.open(tmp_path / "later"))


def test_what_has_no_mirror_is_said(dataset: Dataset, tmp_path: Path) -> None:
    log = synthetic_log(10, 20)
    columns = {"user_id": log["user_id"], "item_id": log["item_id"], "position": pa.array(range(len(log)))}
    import_events(pa.table(columns), tmp_path / "untimed")
    with pytest.raises(InputError, match="has no times"):
        mirror(tmp_path / "untimed", "leave-one-out", tmp_path / "m")
    assert not (tmp_path / "m").exists()
    with pytest.raises(InputError, match="would replace its original"):
        mirror(dataset.path, "leave-one-out", dataset.path / ".." / dataset.path.name)
    assert Dataset.open(dataset.path).verify() == []


@pytest.mark.parametrize("change", [lambda q: (USER_TO_ITEM, q), lambda q: (ITEM_TO_USER, untimed(q))])
def test_a_mirror_answers_timed_item_queries_only(
    dataset: Dataset, tmp_path: Path, change: Callable[[Queries], tuple[str, Queries]]
) -> None:
    mirrored, _ = mirror_of(dataset, tmp_path / "m")
    split = split_named(dataset, "leave-one-out")
    world = world_of(dataset, split, "test")
    direction, queries = change(make_queries(world, split.test, ITEM_TO_USER))
    with pytest.raises(InputError, match="answers item-to-user on logs with times only"):
        Mirror(random_model(mirrored), mirrored, dataset, world.visible).score(
            queries, slice(0, 1), direction
        )


def untimed(queries: Queries) -> Queries:
    return Queries(queries.event, queries.user, queries.item)

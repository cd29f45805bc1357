"""Models that are told when they are asked: in training, evaluation, the index and `--at`."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_worlds import SMALL

from duality.data.dataset import Dataset
from duality.data.histories import Histories, user_histories
from duality.data.splits import split_named
from duality.embeddings import last_moment, states_before_events, stored_users, user_states
from duality.encoders.base import Layout
from duality.errors import InputError
from duality.evaluation.queries import USER_TO_ITEM, make_queries
from duality.model.folder import ModelFolder
from duality.workflows.build import build_index
from duality.workflows.index import Index
from duality.workflows.query import answer
from duality.workflows.recipe import load_recipe
from duality.workflows.scorers import States
from duality.workflows.train import train, world_of

HOUR = 3_600_000_000
SETTINGS = [
    *(setting for setting in SMALL if "hidden" not in setting),
    "model.user_encoder.name=hstu",
    "model.request_time=true",
    "train.epochs=3",
]


@pytest.fixture(scope="module")
def told(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, a model that is told when it is asked, and its index."""
    root = tmp_path_factory.mktemp("told")
    shutil.copytree(world / "datasets/default", root / "data")
    train(root / "data", root / "model", load_recipe(None, SETTINGS))
    build_index(root / "model", root / "index", "exact", root / "data")
    return root


def test_every_state_is_asked_when_the_next_row_happened() -> None:
    layout = Layout(np.array([2, 3]), np.array([10, 20, 1, 2, 3]))
    assert layout.asked_in_turn().asked.tolist() == [20, 20, 2, 3, 3]
    assert layout.asked_in_turn(np.array([99, 77])).asked.tolist() == [20, 99, 2, 3, 77]
    assert Layout(np.array([2])).asked_in_turn().asked is None


def test_queries_are_asked_at_their_time_and_nobody_else_knows_what_comes(told: Path) -> None:
    dataset, model = Dataset.open(told / "data"), ModelFolder.open(told / "model").load()
    split = split_named(dataset, "leave-one-out")
    world = world_of(dataset, split, "test")
    queries = make_queries(world, split.hidden("test"), USER_TO_ITEM)
    states = States(model, dataset, world.visible)
    found = states.users_asked(queries, slice(0, 9))
    for place, (user, time) in enumerate(zip(queries.user[:9], queries.time[:9], strict=True)):
        events, lengths = user_histories(dataset, world.visible).packed(np.array([user]))
        layout = Layout(lengths, dataset.event_time[events]).asked_in_turn(np.array([time]))
        with torch.inference_mode():
            alone = model.user_states(
                states.vectors[torch.from_numpy(dataset.event_item[events]).long()], layout
            )
        np.testing.assert_allclose(found[place], stored_users(model, alone[-1:])[0], atol=1e-5)
    later = states.users_asked(replace(queries, time=queries.time + 1_000 * HOUR), slice(0, 9))
    assert np.abs(later - found).max() > 1e-3
    # As candidates of item to user: moving what comes after does not move what was before.
    last = dataset.user_indptr[1:] - 1
    moved = np.array(dataset.event_time)
    moved[last] += 1_000 * HOUR
    other = replace_time(dataset, moved)
    everything = np.ones(dataset.num_events, dtype=bool)
    places = (dataset.user_indptr[:-1] + np.arange(dataset.num_users))[:, None] + np.arange(3)
    first, second = (States(model, data, everything).users_after[places.ravel()] for data in (dataset, other))
    np.testing.assert_array_equal(first, second)
    # Those who came are in an item's history as they were asked when they came.
    before, after = (states_before_events(model, data, everything) for data in (dataset, other))
    assert (before[last] - after[last]).abs().max() > 1e-3


def replace_time(dataset: Dataset, time: np.ndarray) -> Dataset:
    copied = replace(dataset)
    object.__setattr__(copied, "event_time", time)
    return copied


def test_the_index_is_asked_at_the_end_of_the_log_and_queries_when_they_say(told: Path) -> None:
    dataset, model = Dataset.open(told / "data"), ModelFolder.open(told / "model").load()
    histories, end = user_histories(dataset, np.ones(dataset.num_events, dtype=bool)), last_moment(dataset)
    with Index.open(told / "index") as index:
        name = dataset.user_ids.ids([4])[0]
        stored = index.users.vectors([name])
        vectors = States(model, dataset, np.ones(dataset.num_events, dtype=bool)).vectors
        made = stored_users(model, user_states(model, dataset, histories, vectors, end))[4]
        np.testing.assert_allclose(stored[0], made, atol=1e-5)
        now, late = (index.recommend_items(name, k=5, at=at) for at in (end, end + 10_000 * HOUR))
        np.testing.assert_allclose(now[1], index.recommend_items(name, k=5)[1], atol=1e-5)
        assert np.abs(now[1] - late[1]).max() > 1e-4  # small weights: attention is divided by max_length
    said = answer(told / "index", user=name, k=5, at="2023-12-01T00:00:00")
    assert len(said["results"]) == 5
    assert said["results"] != answer(told / "index", user=name, k=5)["results"]


def test_what_at_does_not_change_is_said(told: Path, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    same = answer(world / "indexes/default", user="u3", at="2024-01-01")["results"]
    assert same == answer(world / "indexes/default", user="u3")["results"]
    assert "does not use the request time: --at changes nothing" in capsys.readouterr().err
    answer(told / "index", item="i3", at="2024-01-01")
    assert "--at changes nothing without --user" in capsys.readouterr().err
    with pytest.raises(InputError, match="write a time as 2024-05-01T12:30:00"):
        answer(told / "index", user="u3", at="tomorrow")


def test_only_an_encoder_that_knows_time_can_be_told() -> None:
    with pytest.raises(InputError, match="request_time needs a user encoder that knows time"):
        load_recipe(None, ["model.request_time=true"])


def test_subsets_of_histories_have_their_own_states(told: Path) -> None:
    dataset, model = Dataset.open(told / "data"), ModelFolder.open(told / "model").load()
    histories = user_histories(dataset, np.ones(dataset.num_events, dtype=bool))
    events, lengths = histories.packed(np.array([5, 2]))
    some = Histories(np.concatenate(([0], np.cumsum(lengths))), events)
    vectors = model.item_table.detach()
    both, whole = (user_states(model, dataset, part, vectors) for part in (some, histories))
    torch.testing.assert_close(both, whole[[5, 2]])

"""Pooled cold items against loops over their users, and on the scale of trained items."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from duality.data.dataset import Dataset
from duality.data.histories import Histories, item_histories, user_histories
from duality.embeddings import user_states_after
from duality.evaluation.queries import DIRECTIONS, Queries
from duality.generated import group_of
from duality.model.folder import ModelFolder
from duality.workflows.cold_controls import (
    item_pools,
    means_of_first,
    pooled_items,
    pooled_users,
    weights_of_users,
)
from duality.workflows.cold_scorers import GivenItems, GivenUsers
from duality.workflows.pooling import ItemMeans, Weighed, centred_means, log_odds
from duality.workflows.scorers import Lately, States

FIRST = 3


@pytest.fixture(scope="module")
def states(world: Path) -> States:
    dataset, model = (
        Dataset.open(world / "datasets/default"),
        ModelFolder.open(world / "models/default").load(),
    )
    for chosen in (model.generated_share, model.popularity, model.activity):
        chosen.zero_()
    return States(model, dataset, np.ones(dataset.num_events, bool))


@pytest.fixture(scope="module")
def given(states: States) -> Histories:
    """The first one to three users of two in three items."""
    whole = item_histories(states.dataset, states.visible)
    wanted = np.arange(whole.num_owners) % (FIRST + 1) % FIRST + (np.arange(whole.num_owners) % 3 == 0)
    lengths = np.minimum(whole.lengths, wanted)
    event = [
        whole.event[start : start + length] for start, length in zip(whole.indptr[:-1], lengths, strict=True)
    ]
    return Histories(np.concatenate(([0], np.cumsum(lengths))), np.concatenate(event))


def pooled(states: States, given: Histories, name: str) -> GivenItems:
    return GivenItems(name, states, given, item_pools(states)[name])


def users_when_they_came(states: States, given: Histories, item: int) -> np.ndarray:
    """float32 [n, D]: one user after another, from their own history up to the meeting."""
    dataset, found = states.dataset, []
    histories = user_histories(dataset, states.visible)
    after = user_states_after(states.model, dataset, histories, states.vectors).numpy()
    for event in given.packed(np.array([item]))[0]:
        user = int(dataset.event_user[event])
        earlier = int((histories.packed(np.array([user]))[0] < event).sum())
        found.append(after[histories.indptr[user] + user + earlier])
    return np.array(found)


def test_means_are_those_of_the_users_when_they_came(states: States, given: Histories) -> None:
    means = means_of_first(states, given)
    for item in np.flatnonzero(given.lengths)[:6]:
        np.testing.assert_allclose(
            means[item], users_when_they_came(states, given, item).mean(axis=0), atol=1e-5
        )
    assert not means[given.lengths == 0].any()


def test_log_odds_weigh_trained_items_by_what_the_users_prefer(states: States) -> None:
    model, pool = states.model, log_odds(states)
    table, population = model.item_table.detach().numpy(), model.population_mean.numpy()
    trained, mean = model.trained.numpy(), states.users[:4, : model.dim]
    found = pool(mean, np.array([1, 5, 9, 0]))
    for number in range(3):
        odds = table[trained] @ (mean[number] - population)
        weights = np.exp(odds - odds.max()) / np.exp(odds - odds.max()).sum()
        np.testing.assert_allclose(found[number], weights @ table[trained], atol=1e-4)
    np.testing.assert_allclose(found[3], table[trained].mean(0), atol=1e-5)


def test_a_centred_mean_points_where_its_users_do_and_is_weighed_by_how_many_they_are(
    states: States, given: Histories
) -> None:
    weighed, dim = Weighed(states, centred_means(states)), states.model.dim
    control = GivenItems("centred_mean", states, given, partial(pooled_items, weighed=weighed))
    asked = np.flatnonzero(given.lengths)
    centred = means_of_first(states, given)[asked] - states.model.population_mean.numpy()
    weights = weighed.weights[group_of(given.lengths[asked])]
    np.testing.assert_allclose(control.items[asked, :dim], centred * weights[:, :1], atol=1e-5)
    np.testing.assert_array_equal(control.items[asked][:, [dim, -1]], weights[:, 1:])
    np.testing.assert_array_equal(control.items[given.lengths == 0], states.items[given.lengths == 0])
    assert len(np.unique(weights, axis=0)) > 1


def test_running_means_are_those_of_each_prefix(states: States) -> None:
    histories, means = item_histories(states.dataset, states.visible), ItemMeans(states)
    before = states.before_events.numpy()
    for item in (0, 1, histories.num_owners - 1):
        start, end = histories.indptr[item], histories.indptr[item + 1]
        found, known = means.after(np.arange(start, end))
        assert known.tolist() == list(range(1, end - start + 1))
        for place in range(end - start):
            expected = before[histories.event[start : start + place + 1]].mean(0)
            np.testing.assert_allclose(found[place], expected, atol=1e-5)
    found, known = means.after(np.array([-1]))
    assert not found.any()
    assert not known.any()


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_score_is_the_inner_product_of_the_given_item_and_the_user(
    states: States, given: Histories, direction: str
) -> None:
    dataset = states.dataset
    events = np.flatnonzero(np.isin(dataset.event_item, np.flatnonzero(given.lengths)))[:4]
    assert dataset.event_time is not None
    queries = Queries(
        events, dataset.event_user[events], dataset.event_item[events], dataset.event_time[events]
    )
    control = pooled(states, given, "log_odds")
    scores = control.score(queries, slice(0, 4), direction)
    own = [
        (control.items[i] * u).sum() for i, u in zip(queries.item, states.users_before(events), strict=True)
    ]
    found = scores[np.arange(4), queries.targets(direction)]
    np.testing.assert_allclose(found, own, atol=1e-4)


@pytest.fixture(scope="module")
def first_items(states: States) -> Histories:
    """The first two items of every third user."""
    whole = user_histories(states.dataset, states.visible)
    lengths = np.where(np.arange(whole.num_owners) % 3 == 0, np.minimum(whole.lengths, 2), 0)
    event = [
        whole.event[start : start + length] for start, length in zip(whole.indptr[:-1], lengths, strict=True)
    ]
    return Histories(np.concatenate(([0], np.cumsum(lengths))), np.concatenate(event))


def test_pooled_users_are_their_items_and_the_mean_user(states: States, first_items: Histories) -> None:
    control = GivenUsers("centred_mean", states, first_items, pooled_users)
    items, model = states.vectors.detach().numpy(), states.model
    centre = items[model.trained.numpy()].mean(axis=0)
    for place, user in enumerate(control.owners[:6]):
        events = first_items.packed(np.array([user]))[0]
        a, b = weights_of_users(states, len(events))
        mean = items[states.dataset.event_item[events]].mean(axis=0)
        expected = a * (mean - centre) + b * model.population_mean.numpy()
        np.testing.assert_allclose(control.users[place, : model.dim], expected, atol=1e-4)


def test_weights_of_users_are_the_likeliest(states: States) -> None:
    """Against the loss of each trained user written out, at the weights and beside them."""
    items, model, dataset = states.vectors.detach().numpy(), states.model, states.dataset
    centre, histories = items[model.trained.numpy()].mean(axis=0), user_histories(dataset, states.visible)

    def loss(a: float, b: float) -> float:
        total = []
        for user in np.flatnonzero(histories.lengths > 2):
            row = dataset.event_item[histories.packed(np.array([user]))[0]]
            state = a * (items[row[:2]].mean(axis=0) - centre) + b * model.population_mean.numpy()
            scores = (items @ state).astype(np.float64)
            total.append(np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[row[2]])
        return float(np.mean(total))

    a, b = weights_of_users(states, 2)
    for beside in ((0.1, 0.0), (-0.1, 0.0), (0.0, 0.1), (0.0, -0.1)):
        assert loss(a, b) < loss(a + beside[0], b + beside[1])


def test_a_pooled_user_scores_as_the_index_would(states: States, first_items: Histories) -> None:
    states.model.popularity.copy_(torch.tensor((0.5, 3600.0)))
    control = GivenUsers("centred_mean", states, first_items, pooled_users)
    dataset, owners = states.dataset, control.owners
    assert dataset.event_time is not None
    events = np.flatnonzero(np.isin(dataset.event_user, owners))[:4]
    queries = Queries(
        events, dataset.event_user[events], dataset.event_item[events], dataset.event_time[events]
    )
    rows = control.users[np.searchsorted(owners, queries.user)]
    items = control.score(queries, slice(0, 4), DIRECTIONS[0])
    popularity = Lately(states, DIRECTIONS[0]).bias(queries, slice(0, 4))
    states.model.popularity.zero_()
    assert np.ptp(popularity, axis=1).min() > 0
    np.testing.assert_allclose(items, rows @ states.items.T + popularity, atol=1e-5)
    users = control.score(queries, slice(0, 4), DIRECTIONS[1])
    np.testing.assert_allclose(users[:, owners], states.items[queries.item] @ control.users.T, atol=1e-4)

"""Pooled cold items against loops over their users, and on the scale of trained items."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from duality.data.dataset import Dataset
from duality.data.histories import Histories, item_histories, user_histories
from duality.embeddings import stored_items, user_states_after
from duality.evaluation.queries import DIRECTIONS, Queries
from duality.model.folder import ModelFolder
from duality.workflows.cold_controls import ColdCentredMean, ColdLogOdds, means_of_first
from duality.workflows.scorers import States

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
    """The first three users of every third item."""
    whole = item_histories(states.dataset, states.visible)
    lengths = np.where(np.arange(whole.num_owners) % 3 == 0, np.minimum(whole.lengths, FIRST), 0)
    event = [
        whole.event[start : start + length] for start, length in zip(whole.indptr[:-1], lengths, strict=True)
    ]
    return Histories(np.concatenate(([0], np.cumsum(lengths))), np.concatenate(event))


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


def test_log_odds_weigh_trained_items_by_what_the_users_prefer(states: States, given: Histories) -> None:
    model, control = states.model, ColdLogOdds(states, given)
    table, population = model.item_table.detach().numpy(), model.population_mean.numpy()
    trained = model.trained.numpy()
    for item in np.flatnonzero(given.lengths)[:6]:
        users = users_when_they_came(states, given, item)
        odds = ((users - population) @ table[trained].T).mean(axis=0)
        weights = np.exp(odds - odds.max()) / np.exp(odds - odds.max()).sum()
        expected = weights @ stored_items(model.item_table)[trained]
        np.testing.assert_allclose(control.items[item], expected, atol=1e-4)


def test_a_centred_mean_points_where_its_users_do_and_competes_on_the_scale_of_trained_items(
    states: States, given: Histories
) -> None:
    control, dim = ColdCentredMean(states, given), states.model.dim
    made = control.items[given.lengths > 0][:, :dim]
    centred = means_of_first(states, given)[given.lengths > 0] - states.model.population_mean.numpy()
    cosine = (made * centred).sum(1) / np.linalg.norm(made, axis=1) / np.linalg.norm(centred, axis=1)
    np.testing.assert_allclose(np.abs(cosine), 1.0, atol=1e-4)
    np.testing.assert_array_equal(control.items[given.lengths == 0], states.items[given.lengths == 0])
    # Least squares: no other scale of the running means is nearer to the trained vectors.
    whole = control._histories
    known = np.flatnonzero((whole.lengths > 0) & states.model.trained.numpy())
    means, table = (
        control._running[whole.indptr[known + 1] - 1],
        states.model.item_table.detach().numpy()[known],
    )
    errors = [((control._scale * factor * means - table) ** 2).sum() for factor in (0.9, 1.0, 1.1)]
    assert errors[1] == min(errors)


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
    control = ColdLogOdds(states, given)
    scores = control.score(queries, slice(0, 4), direction)
    own = [
        (control.items[i] * u).sum() for i, u in zip(queries.item, states.users_before(events), strict=True)
    ]
    found = scores[np.arange(4), queries.targets(direction)]
    np.testing.assert_allclose(found, own, atol=1e-4)

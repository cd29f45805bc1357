"""Popularity and activity: chosen by what they score, in stored vectors, and right after an update."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from duality.data.dataset import Dataset
from duality.data.splits import split_named
from duality.embeddings import embed, last_moment
from duality.evaluation.pools import pools_for
from duality.evaluation.queries import DIRECTIONS, ITEM_TO_USER, USER_TO_ITEM, Queries, World, make_queries
from duality.evaluation.ranking import rank_pools
from duality.intensity import FadingCounts
from duality.metrics import per_query
from duality.model.folder import ModelFolder
from duality.model.two_sided import TwoSided
from duality.workflows.biases import DAY, JUDGED, choose_bias
from duality.workflows.scorers import ModelScorer, States
from duality.workflows.train import world_of

Asked = tuple[TwoSided, Dataset, World, dict[str, Queries]]


@pytest.fixture
def asked(world: Path) -> Asked:
    dataset, model = (
        Dataset.open(world / "datasets/default"),
        ModelFolder.open(world / "models/default").load(),
    )
    for chosen in (model.generated_share, model.popularity, model.activity):
        chosen.zero_()
    split = split_named(dataset, "leave-one-out")
    known = world_of(dataset, split, "validation")
    return model, dataset, known, {d: make_queries(known, split.hidden("validation"), d) for d in DIRECTIONS}


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_bias_chosen_is_the_one_whose_model_scores_best(asked: Asked, direction: str) -> None:
    model, dataset, world, every = asked
    queries = every[direction]
    best, found = choose_bias(States(model, dataset, world.visible), world, queries, direction)
    assert found[best] == max(found.values())
    bias = model.popularity if direction == USER_TO_ITEM else model.activity
    for setting in ((0.0, 0.0), (0.5, DAY), (1.0, 30 * DAY), best):
        for side, value in enumerate(setting):
            bias[side] = value
        ranks, candidates = rank_pools(
            [ModelScorer(States(model, dataset, world.visible))],
            queries,
            world,
            direction,
            pools_for(queries, world, direction)[-1:],
        )
        logs = [np.log(max(per_query(m, ranks[0, 0], candidates[0]).mean(), 1e-6)) for m in JUDGED]
        assert np.exp(np.mean(logs)) == pytest.approx(found[setting], rel=1e-3)


def test_a_query_counts_only_what_came_strictly_before_it(asked: Asked) -> None:
    model, dataset, world, every = asked
    model.popularity[0], model.popularity[1] = 0.5, 7 * DAY
    model.activity[0], model.activity[1] = 0.25, DAY
    scorer, number = ModelScorer(States(model, dataset, world.visible)), 5
    for direction, bias, owner in (
        (USER_TO_ITEM, model.popularity, dataset.event_item),
        (ITEM_TO_USER, model.activity, dataset.event_user),
    ):
        queries, row = every[direction], slice(number, number + 1)
        added = scorer.score(queries, row, direction) - scorer.preference(queries, row, direction)
        assert dataset.event_time is not None
        assert queries.time is not None
        earlier = world.visible & (dataset.event_time < queries.time[number])
        counts = FadingCounts(owner[earlier], dataset.event_time[earlier], added.shape[1], float(bias[1]))
        np.testing.assert_allclose(
            added[0], float(bias[0]) * counts.now(int(queries.time[number])), atol=1e-4
        )


def test_stored_vectors_carry_the_biases_of_the_last_moment(asked: Asked) -> None:
    model, dataset, _, _ = asked
    plain = [np.stack(t.column("vector").to_numpy(zero_copy_only=False)) for t in embed(model, dataset)[:2]]
    model.popularity[0], model.popularity[1] = 0.5, 7 * DAY
    model.activity[0], model.activity[1] = 0.25, DAY
    users, items = (
        np.stack(t.column("vector").to_numpy(zero_copy_only=False)) for t in embed(model, dataset)[:2]
    )
    assert dataset.event_time is not None
    now = last_moment(dataset)
    popular = FadingCounts(dataset.event_item, dataset.event_time, dataset.num_items, 7 * DAY).now(now)
    active = FadingCounts(dataset.event_user, dataset.event_time, dataset.num_users, DAY).now(now)
    expected = plain[0] @ plain[1].T + 0.25 * active[:, None] + 0.5 * popular
    np.testing.assert_allclose(users @ items.T, expected, atol=1e-3)

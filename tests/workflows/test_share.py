"""The share of g in the vectors of trained items: one mixture everywhere, chosen by what it scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from duality.data.dataset import Dataset
from duality.data.histories import item_histories
from duality.data.split import Split
from duality.data.splits import split_named
from duality.embeddings import embed, stored_ends, stored_item_vectors
from duality.evaluation.pools import pools_for
from duality.evaluation.queries import DIRECTIONS, ITEM_TO_USER, USER_TO_ITEM, Queries, World, make_queries
from duality.evaluation.ranking import rank_pools
from duality.generated import group_of
from duality.metrics import per_query
from duality.model.folder import ModelFolder
from duality.model.two_sided import ModelConfig, TwoSided
from duality.workflows.biases import JUDGED
from duality.workflows.scorers import ModelScorer, States
from duality.workflows.share import SHARES, choose_share
from duality.workflows.train import world_of


@pytest.fixture(scope="module")
def asked(world: Path) -> tuple[TwoSided, Dataset, World, dict[str, Queries]]:
    dataset, model = (
        Dataset.open(world / "datasets/default"),
        ModelFolder.open(world / "models/default").load(),
    )
    model.popularity.zero_()
    model.activity.zero_()
    split: Split = split_named(dataset, "leave-one-out")
    known = world_of(dataset, split, "validation")
    return model, dataset, known, {d: make_queries(known, split.hidden("validation"), d) for d in DIRECTIONS}


def quality(
    model: TwoSided, dataset: Dataset, world: World, asked: dict[str, Queries], share: float
) -> list[float]:
    """What decides, by the model's own scorer with this share: a geometric mean for each direction."""
    model.generated_share.fill_(share)
    found = []
    for direction, queries in asked.items():
        scorer = ModelScorer(States(model, dataset, world.visible))
        pools = pools_for(queries, world, direction)
        ranks, candidates = rank_pools([scorer], queries, world, direction, pools)
        logs = [np.log(max(per_query(m, ranks[0, -1], candidates[-1]).mean(), 1e-6)) for m in JUDGED]
        found.append(float(np.exp(np.mean(logs))))
    return found


def test_the_share_chosen_gains_most_and_costs_neither_direction_anything(
    asked: tuple[TwoSided, Dataset, World, dict[str, Queries]],
) -> None:
    model, dataset, world, queries = asked
    model.generated_share.fill_(0.0)
    best, found = choose_share(States(model, dataset, world.visible), world, queries)
    assert set(found) == set(SHARES)
    for share in (0.0, 0.4, 0.8, best):
        assert quality(model, dataset, world, queries, share) == pytest.approx(found[share], rel=1e-3)
    assert all(now >= was for now, was in zip(found[best], found[0.0], strict=True))
    for share, values in found.items():
        if np.prod(values) > np.prod(found[best]):
            assert min(np.array(values) - found[0.0]) < 0, f"{share} gains more at no cost"
    model.generated_share.fill_(0.0)


def test_what_is_stored_is_the_mixture_and_only_trained_items_with_users_have_one(
    asked: tuple[TwoSided, Dataset, World, dict[str, Queries]],
) -> None:
    model, dataset, _, _ = asked
    states = States(model, dataset, np.ones(dataset.num_events, bool))
    trained, generated = stored_ends(model, states.made)
    unseen = ~model.trained.numpy()
    np.testing.assert_array_equal(trained[unseen], generated[unseen])
    model.generated_share.fill_(0.25)
    try:
        table = embed(model, dataset)[1]
        vectors = np.stack(table.column("vector").to_numpy(zero_copy_only=False))
        np.testing.assert_allclose(vectors, 0.75 * trained + 0.25 * generated, atol=1e-5)
        assert np.abs(trained - generated).max() > 0.05
    finally:
        model.generated_share.fill_(0.0)


def test_an_item_asked_about_is_made_from_the_users_before_the_query(
    asked: tuple[TwoSided, Dataset, World, dict[str, Queries]],
) -> None:
    model, dataset, world, queries = asked
    model.generated_share.fill_(1.0)
    try:
        states, every = States(model, dataset, world.visible), queries[ITEM_TO_USER]
        found = states.items_before(every, slice(0, len(every)))
        for number in (0, len(every) // 2, len(every) - 1):
            earlier = world.visible & (dataset.event_time < every.time[number])  # type: ignore[index]
            mine = States(model, dataset, earlier).generated_before(every, slice(number, number + 1))
            known = states.known_users(every, slice(number, number + 1))
            slope = states.made[2][group_of(known), 0]
            np.testing.assert_allclose(found[number, : model.dim], slope * mine[0], atol=1e-4)
    finally:
        model.generated_share.fill_(0.0)
    assert USER_TO_ITEM in queries


def test_a_share_that_is_chosen_later_counts_where_only_unseen_items_were_made_before(
    asked: tuple[TwoSided, Dataset, World, dict[str, Queries]],
) -> None:
    _, dataset, world, _ = asked
    torch.manual_seed(0)
    shape = {"dim": 16, "user_encoder": {"name": "hstu", "max_length": 3}}
    model = TwoSided(dataset.num_items, ModelConfig.model_validate(shape)).eval()
    model.trained[item_histories(dataset, world.visible).lengths.argmin()] = False
    states = States(model, dataset, world.visible)
    before = stored_item_vectors(model, dataset, world.visible)
    np.testing.assert_allclose(states.vectors, before[:, :16], atol=1e-5)
    model.generated_share.fill_(0.5)
    expected = stored_item_vectors(model, dataset, world.visible)
    assert np.abs(expected - before).max() > 0.05
    np.testing.assert_allclose(states.items, expected, atol=1e-5)

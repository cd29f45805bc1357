"""What an epoch is judged by: items that training saw, among themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from duality.data.dataset import Dataset
from duality.data.histories import Histories
from duality.data.splits import split_named
from duality.embeddings import user_states
from duality.errors import InputError
from duality.evaluation.queries import USER_TO_ITEM, make_queries
from duality.model.folder import ModelFolder
from duality.model.two_sided import TwoSided
from duality.workflows import scorers
from duality.workflows.scorers import ModelScorer, States, TrainedStates
from duality.workflows.train import _asked_after_epochs, validation, world_of


def asked(dataset: Dataset):
    split = split_named(dataset, "leave-one-out")
    return world_of(dataset, split, "validation"), make_queries(
        world_of(dataset, split, "validation"), split.hidden("validation"), USER_TO_ITEM
    )


def test_it_is_the_whole_ranking_where_training_saw_every_item(world: Path) -> None:
    dataset, model = (
        Dataset.open(world / "datasets/default"),
        ModelFolder.open(world / "models/default").load(),
    )
    visible, queries = asked(dataset)
    model.trained.fill_(True)
    model.generated_share.zero_()
    given = dataset, visible, [(USER_TO_ITEM, queries)], ("ndcg@10", "auc")
    assert validation(model, *given, TrainedStates) == validation(model, *given, States)


def test_items_that_training_never_saw_come_last_and_are_not_asked_for(world: Path) -> None:
    dataset, model = (
        Dataset.open(world / "datasets/default"),
        ModelFolder.open(world / "models/default").load(),
    )
    visible, queries = asked(dataset)
    model.generated_share.zero_()
    unseen = np.unique(queries.item)[:7]
    model.trained[unseen.astype(np.int64)] = False
    some, seen_as = _asked_after_epochs(queries, model.trained.numpy())
    assert seen_as is TrainedStates
    assert len(some) == len(queries) - np.isin(queries.item, unseen).sum() > 0
    assert not np.isin(some.item, unseen).any()
    block = slice(0, len(some))
    scores = ModelScorer(TrainedStates(model, dataset, visible.visible)).preference(some, block, USER_TO_ITEM)
    others = np.setdiff1d(np.arange(dataset.num_items), unseen)
    assert np.isfinite(scores).all()
    assert scores[:, unseen].max() < scores[:, others].min()


def test_where_most_targets_are_unseen_generated_vectors_are_asked(world: Path) -> None:
    dataset = Dataset.open(world / "datasets/default")
    _, queries = asked(dataset)
    some, seen_as = _asked_after_epochs(queries, np.zeros(dataset.num_items, dtype=bool))
    assert seen_as is States
    assert len(some) == len(queries)
    with pytest.raises(InputError, match="nothing to validate on"):
        _asked_after_epochs(
            queries.part(np.zeros(len(queries), dtype=bool)), np.ones(dataset.num_items, bool)
        )


def test_only_users_who_are_asked_about_are_encoded_and_no_differently(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, model = (
        Dataset.open(world / "datasets/default"),
        ModelFolder.open(world / "models/default").load(),
    )
    visible, queries = asked(dataset)
    some = queries.part(np.repeat(np.arange(len(queries))[5:60:7], 2)[::-1])  # twice each, newest user first
    encoded = []

    def counting(model: TwoSided, dataset: Dataset, histories: Histories, *given: object) -> torch.Tensor:
        encoded.append(histories.num_owners)
        return user_states(model, dataset, histories, *given)

    monkeypatch.setattr(scorers, "user_states", counting)
    states = States(model, dataset, visible.visible)
    found = [states.users_asked(some, rows) for rows in (slice(0, 3), slice(3, len(some)))]
    assert encoded == [len(np.unique(some.user))]
    whole = States(model, dataset, visible.visible).users[some.user]
    np.testing.assert_allclose(np.concatenate(found), whole, atol=1e-5)

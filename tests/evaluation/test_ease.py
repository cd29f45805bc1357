"""EASE against its optimality conditions, a least-squares solver and loops over the log."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from worlds import DAY, random_world

from duality.errors import InputError
from duality.evaluation import ease
from duality.evaluation.ease import EASE, choose_regularisation, item_weights
from duality.evaluation.queries import DIRECTIONS, ITEM_TO_USER, USER_TO_ITEM, Queries, World, make_queries
from duality.evaluation.ranking import rank_full

SEEDS = st.integers(0, 10_000)
WAYS = st.sampled_from(DIRECTIONS)


def ridge_without_itself(pairs: np.ndarray, regularisation: float) -> np.ndarray:
    """Each column by its own ridge regression on all the other columns."""
    items = pairs.shape[1]
    weights = np.zeros((items, items))
    for item in range(items):
        others = np.arange(items) != item
        left = np.concatenate((pairs[:, others], np.sqrt(regularisation) * np.eye(items - 1)))
        right = np.concatenate((pairs[:, item], np.zeros(items - 1)))
        weights[others, item] = np.linalg.lstsq(left, right, rcond=None)[0]
    return weights


@given(SEEDS, st.sampled_from([0.5, 3.0, 200.0]))
@settings(deadline=None)
def test_weights_are_the_ridge_regressions_of_each_item_on_the_others(
    seed: int, regularisation: float
) -> None:
    pairs = np.random.default_rng(seed).random((15, 7)) < 0.3
    found = item_weights(sparse.csr_matrix(pairs), regularisation)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(np.diag(found), 0)
    np.testing.assert_allclose(found, ridge_without_itself(pairs.astype(float), regularisation), atol=2e-6)


def test_two_items_that_always_come_together_by_hand() -> None:
    """XᵀX = [[4, 4], [4, 4]]: each item is 4 / (4 + λ) of the other."""
    pairs = sparse.csr_matrix(np.ones((4, 2), dtype=bool))
    np.testing.assert_allclose(item_weights(pairs, 1.0), [[0, 0.8], [0.8, 0]], rtol=1e-6)


@given(SEEDS, WAYS, st.booleans(), st.booleans())
@settings(deadline=None)
def test_scores_sum_the_weights_of_what_was_met_before(
    seed: int, direction: str, timed: bool, narrow: bool
) -> None:
    world, hidden = random_world(seed, timed=timed)
    queries = make_queries(world, hidden, direction)
    if not len(queries):
        return
    scorer = EASE(world, direction, 2.0)
    with pytest.MonkeyPatch.context() as patch:
        if narrow:
            patch.setattr(ease, "_WINDOW_CELLS", 3 * len(queries))
        scores = scorer.score(queries, slice(0, len(queries)), direction)
    assert scores.shape == (len(queries), world.num_targets(direction))
    users = np.arange(world.num_users)
    for q in range(len(queries)):
        cut = direction == ITEM_TO_USER and timed
        past = world.visible & (world.event_time < queries.time[q] if cut else True)
        met = np.zeros((world.num_users, world.num_items))
        met[world.event_user[past], world.event_item[past]] = 1
        if direction == USER_TO_ITEM:
            expected = met[queries.user[q]] @ scorer.weights
        else:
            expected = met[users] @ scorer.weights[:, queries.item[q]]
        np.testing.assert_allclose(scores[q], expected, atol=3e-6)


@given(SEEDS, WAYS)
@settings(deadline=None)
def test_blocks_agree_and_the_future_moves_nothing(seed: int, direction: str) -> None:
    world, hidden = random_world(seed)
    queries = make_queries(world, hidden, direction)
    if not len(queries):
        return
    scorer = EASE(world, direction, 2.0)
    whole = scorer.score(queries, slice(0, len(queries)), direction)
    for q in reversed(range(len(queries))):
        alone = scorer.score(queries, slice(q, q + 1), direction)
        np.testing.assert_allclose(alone[0], whole[q], atol=3e-6)
    if direction == USER_TO_ITEM:
        return
    # An event at the very instant of the first query is not before it.
    late = world.event_time >= queries.time[0]
    moved = World(**{**vars(world), "event_item": np.where(late, 0, world.event_item).astype(np.int32)})
    moved = World(**{**vars(moved), "train": world.train & ~late})
    same = World(**{**vars(world), "train": world.train & ~late})
    first, again = (EASE(w, direction, 2.0).score(queries, slice(0, 1), direction) for w in (same, moved))
    np.testing.assert_array_equal(first, again)


def test_users_without_history_and_items_without_users_go_by_popularity() -> None:
    user, item = np.array([0, 0, 1, 1, 2, 4]), np.array([0, 1, 0, 1, 0, 2])
    train = np.array([True] * 5 + [False])
    world = World(5, 4, train, train, user.astype(np.int32), item.astype(np.int32), None)
    queries = Queries(np.array([5]), np.array([4], np.int32), np.array([2], np.int32))
    scores = EASE(world, USER_TO_ITEM, 1.0).score(queries, slice(0, 1), USER_TO_ITEM)
    assert scores[0].argsort()[::-1][:2].tolist() == [0, 1]
    assert scores[0].max() < 1e-6
    users = EASE(world, ITEM_TO_USER, 1.0).score(queries, slice(0, 1), ITEM_TO_USER)
    assert users[0, 0] == users[0, 1] > users[0, 2] > users[0, 3] == 0


def test_what_cannot_be_fitted_is_said() -> None:
    world, hidden = random_world(3)
    with pytest.raises(InputError, match="regularisation 0: give a number above 0"):
        EASE(world, USER_TO_ITEM, 0)
    pairs = sparse.csr_matrix(np.ones((1000, 3), dtype=bool))
    with pytest.raises(InputError, match="too small for this log"):
        item_weights(pairs, 1e-9)
    queries = make_queries(world, hidden, USER_TO_ITEM)
    with pytest.raises(ValueError, match="fitted for user-to-item"):
        EASE(world, USER_TO_ITEM).score(queries, slice(0, 1), ITEM_TO_USER)


def chosen_world() -> tuple[World, Queries]:
    """Half of item 3's 120 users met item 0; all of item 1's 6 met item 2, and who met 1 and 3 is asked.

    Item 0 scores 60 / (120 + λ) and item 2 scores 6 / (6 + λ): few users count only if λ is small.
    """
    often = [(user, 3) for user in range(120)] + [(user, 0) for user in range(60)]
    together = [(user, item) for user in range(120, 126) for item in (1, 2)]
    given = [(user, item) for user in range(130, 140) for item in (1, 3)]
    hidden = [(user, 2) for user in range(130, 140)]
    user, item = np.array([*often, *together, *given, *hidden]).T
    number = np.arange(len(user))
    train, visible = number < len(often) + len(together), number < len(user) - len(hidden)
    world = World(140, 4, visible, train, user.astype(np.int32), item.astype(np.int32), number * DAY)
    return world, make_queries(world, np.flatnonzero(~visible), USER_TO_ITEM)


def test_the_regularisation_is_chosen_by_validation_quality() -> None:
    world, queries = chosen_world()
    ranks = {
        value: int(rank_full(EASE(world, USER_TO_ITEM, value), queries, world, USER_TO_ITEM)[0][0])
        for value in (2.0, 5000.0)
    }
    assert ranks[2.0] == 1
    assert ranks[5000.0] == 2
    assert choose_regularisation(world, queries, USER_TO_ITEM, (5000.0, 2.0)) == 2.0
    assert choose_regularisation(world, queries, USER_TO_ITEM, (2.0, 2.1)) == 2.0


def test_without_a_query_nothing_is_chosen() -> None:
    world, _ = random_world(3)
    assert (
        choose_regularisation(world, make_queries(world, np.array([], int), USER_TO_ITEM), USER_TO_ITEM)
        == 500
    )

"""Baselines against dense brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import DAY, random_world

from duality.errors import InputError
from duality.evaluation.baselines import LastActive, Markov, MostPopular, RecentPopularity, choose_window
from duality.evaluation.neighbours import NearestNeighbours
from duality.evaluation.queries import DIRECTIONS, Queries, World, make_queries
from duality.evaluation.ranking import rank_full

SEEDS = st.integers(0, 10_000)
WAYS = st.sampled_from(DIRECTIONS)


def all_rows(queries: Queries) -> slice:
    return slice(0, len(queries))


def dense_pairs(world: World, events: np.ndarray, direction: str) -> np.ndarray:
    source, target = world.event_ends(direction)
    pairs = np.zeros((world.num_sources(direction), world.num_targets(direction)))
    pairs[source[events], target[events]] = 1.0
    return pairs


@given(SEEDS, WAYS)
def test_most_popular_counts_training_events(seed: int, direction: str) -> None:
    world, hidden = random_world(seed)
    queries = make_queries(world, hidden, direction)
    scores = MostPopular(world, direction).score(queries, all_rows(queries), direction)
    target = world.event_ends(direction)[1]
    expected = [sum(target[world.train] == t) for t in range(world.num_targets(direction))]
    assert scores.shape == (len(queries), world.num_targets(direction))
    assert all(row.tolist() == expected for row in scores)


@given(SEEDS, WAYS, st.sampled_from([1, 3, 7, 90]))
@settings(deadline=None)
def test_recent_popularity_counts_the_window_strictly_before(seed: int, direction: str, days: int) -> None:
    world, hidden = random_world(seed)
    queries = make_queries(world, hidden, direction)
    scores = RecentPopularity(world, direction, days).score(queries, all_rows(queries), direction)
    target = world.event_ends(direction)[1]
    for q in range(len(queries)):
        age = queries.time[q] - world.event_time
        inside = world.train & (age > 0) & (age <= days * DAY)
        expected = np.bincount(target[inside], minlength=world.num_targets(direction))
        np.testing.assert_array_equal(np.floor(scores[q]), expected)


def test_recent_popularity_excludes_the_same_instant() -> None:
    user, item = np.array([0, 1, 2], dtype=np.int32), np.array([0, 1, 2], dtype=np.int32)
    time = np.array([5 * DAY, 10 * DAY, 10 * DAY])
    train = np.array([True, True, False])
    world = World(3, 3, train, train, user, item, time)
    queries = make_queries(world, np.array([2]), "user-to-item")
    scores = RecentPopularity(world, "user-to-item", 7).score(queries, slice(0, 1), "user-to-item")
    assert np.floor(scores).tolist() == [[1, 0, 0]]


def test_blocks_of_recent_popularity_agree() -> None:
    world, hidden = random_world(8)
    queries = make_queries(world, hidden, "user-to-item")
    scorer = RecentPopularity(world, "user-to-item", 7)
    whole = scorer.score(queries, all_rows(queries), "user-to-item")
    parts = [scorer.score(queries, slice(q, q + 1), "user-to-item") for q in range(len(queries))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_recent_popularity_needs_time() -> None:
    world, _ = random_world(1, timed=False)
    with pytest.raises(InputError, match="no time"):
        RecentPopularity(world, "user-to-item", 7)


def test_window_is_chosen_by_validation_quality() -> None:
    """Item 0 is popular for ever, item 1 three days before the queries; all targets are item 1."""
    old = [(user, 0, 0) for user in range(20)]
    new = [(user, 1, 47) for user in range(5)]
    asked = [(user, 1, 50) for user in range(20, 30)]
    user, item, day = np.array([*old, *new, *asked]).T
    train = np.arange(len(user)) < len(old) + len(new)
    world = World(30, 2, train, train, user.astype(np.int32), item.astype(np.int32), day * DAY)
    queries = make_queries(world, np.flatnonzero(~train), "user-to-item")
    ranks = {days: first_rank(world, queries, days) for days in (1, 7, 90)}
    assert ranks == {1: 2, 7: 1, 90: 2}
    assert choose_window(world, queries, "user-to-item", windows=(1, 7, 90)) == 7


def first_rank(world: World, queries: Queries, days: int) -> int:
    ranks, _ = rank_full(RecentPopularity(world, "user-to-item", days), queries, world, "user-to-item")
    return int(ranks[0])


@given(SEEDS, WAYS, st.sampled_from([0.0, 10.0]), st.sampled_from([2, 50]))
@settings(deadline=None)
def test_neighbours_equal_dense_cosine(seed: int, direction: str, shrink: float, neighbours: int) -> None:
    world, hidden = random_world(seed)
    queries = make_queries(world, hidden, direction)
    scorer = NearestNeighbours(world, direction, neighbours=neighbours, shrink=shrink)
    train = dense_pairs(world, world.train, direction)
    norms = np.sqrt(train.sum(axis=0))
    cosine = (train.T @ train) / np.maximum(np.outer(norms, norms) + shrink, 1e-30)
    np.fill_diagonal(cosine, 0.0)
    kept = scorer.similarity.toarray()
    np.testing.assert_allclose(
        np.sort(kept, axis=1), np.sort(top_only(cosine, neighbours), axis=1), atol=1e-6
    )
    np.testing.assert_allclose(kept[kept > 0], cosine[kept > 0], rtol=1e-5)
    history = np.stack([met_before(world, queries, q, direction) for q in range(len(queries))])
    scores = scorer.score(queries, all_rows(queries), direction)
    expected = history @ kept
    np.testing.assert_allclose(np.maximum(scores, 0), expected, atol=1e-5)
    assert ((scores < 0) == (expected == 0)).all()
    counts = np.bincount(world.event_ends(direction)[1][world.train], minlength=world.num_targets(direction))
    for row in scores:
        unrelated = row < 0
        assert (np.diff(row[unrelated][np.argsort(counts[unrelated])]) >= 0).all()


def met_before(world: World, queries: Queries, q: int, direction: str) -> np.ndarray:
    """What the source of a query had visibly met: for items, only users strictly before the query."""
    source, target = world.event_ends(direction)
    events = world.visible & (source == queries.sources(direction)[q])
    if direction == "item-to-user" and world.event_time is not None:
        events &= world.event_time < queries.time[q]
    met = np.zeros(world.num_targets(direction))
    met[target[events]] = 1.0
    return met


@given(SEEDS)
@settings(deadline=None)
def test_last_active_is_the_time_of_the_last_visible_event_before(seed: int) -> None:
    world, hidden = random_world(seed)
    queries = make_queries(world, hidden, "item-to-user")
    if not len(queries):
        return
    scores = LastActive(world, "item-to-user").score(queries, all_rows(queries), "item-to-user")
    for q in range(len(queries)):
        for user in range(world.num_users):
            past = world.visible & (world.event_user == user) & (world.event_time < queries.time[q])
            assert scores[q, user] == max(world.event_time[past], default=-np.inf)


@given(SEEDS, WAYS, st.booleans())
@settings(deadline=None)
def test_markov_counts_what_followed_the_last_one(seed: int, direction: str, timed: bool) -> None:
    world, hidden = random_world(seed, timed=timed)
    queries = make_queries(world, hidden, direction)
    if not len(queries):
        return
    scores = Markov(world, direction).score(queries, all_rows(queries), direction)
    source, target = world.event_ends(direction)
    when = np.arange(len(source)) if world.event_time is None else world.event_time
    order = sorted(range(len(source)), key=lambda e: (when[e], e))
    follows = np.zeros((world.num_targets(direction),) * 2)
    for row in range(world.num_sources(direction)):
        chain = [target[e] for e in order if world.train[e] and source[e] == row]
        for a, b in itertools.pairwise(chain):
            follows[a, b] += 1
    for q in range(len(queries)):
        row = queries.sources(direction)[q]
        past = [e for e in order if world.visible[e] and source[e] == row]
        if direction == "item-to-user" and timed:
            past = [e for e in past if when[e] < queries.time[q]]
        expected = follows[target[past[-1]]] if past else np.zeros(world.num_targets(direction))
        np.testing.assert_array_equal(np.floor(scores[q] + 1), expected)


def top_only(cosine: np.ndarray, neighbours: int) -> np.ndarray:
    """Each row with everything below its n-th largest value set to zero, at most n kept."""
    kept = np.zeros_like(cosine)
    for a, row in enumerate(cosine):
        best = np.argsort(-row)[:neighbours]
        kept[a, best] = row[best]
    return kept


def test_names_follow_the_direction() -> None:
    world, _ = random_world(2)
    names = {
        direction: [
            MostPopular(world, direction).name,
            RecentPopularity(world, direction, 7).name,
            NearestNeighbours(world, direction).name,
        ]
        for direction in DIRECTIONS
    }
    assert names["user-to-item"] == ["most_popular", "recently_popular", "item_knn"]
    assert names["item-to-user"] == ["most_active", "recently_active", "user_knn"]


def test_the_other_direction_is_refused() -> None:
    world, hidden = random_world(2)
    queries = make_queries(world, hidden, "user-to-item")
    with pytest.raises(ValueError, match="fitted for user-to-item"):
        MostPopular(world, "user-to-item").score(queries, slice(0, 1), "item-to-user")

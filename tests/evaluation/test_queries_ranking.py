"""Queries and ranks against plain Python on small random logs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import TableScorer, random_scores, random_world

from duality.errors import DualityError, InputError
from duality.evaluation import ranking
from duality.evaluation.queries import DIRECTIONS, Queries, World, make_queries, seen_csr
from duality.evaluation.ranking import Candidates, parse_candidates, rank_full, rank_sampled, sample_negatives

SEEDS = st.integers(0, 10_000)
WAYS = st.sampled_from(DIRECTIONS)


def seen_pairs(world: World) -> set[tuple[int, int]]:
    rows = np.flatnonzero(world.visible)
    return {(int(world.event_user[e]), int(world.event_item[e])) for e in rows}


def unseen_targets(world: World, queries: Queries, q: int, direction: str) -> list[int]:
    seen, source = seen_pairs(world), int(queries.sources(direction)[q])
    if direction == "user-to-item":
        return [t for t in range(world.num_items) if (source, t) not in seen]
    users = [t for t in range(world.num_users) if (t, source) not in seen]
    return [t for t in users if queries.time is None or active_before(world, t, queries.time[q])]


def active_before(world: World, user: int, time: int) -> bool:
    events = np.flatnonzero(world.visible & (world.event_user == user))
    return any(world.event_time[e] < time for e in events)


@given(SEEDS)
def test_queries_are_the_hidden_pairs_nobody_has_seen(seed: int) -> None:
    world, hidden = random_world(seed)
    queries = make_queries(world, hidden, "user-to-item")
    seen = seen_pairs(world)
    expected = [e for e in hidden if (world.event_user[e], world.event_item[e]) not in seen]
    assert queries.event.tolist() == [int(e) for e in expected]
    assert queries.time is not None
    assert queries.time.tolist() == world.event_time[expected].tolist()
    assert sum(queries.dropped.values()) + len(queries) == len(hidden)


def test_reasons_and_notes_are_counted() -> None:
    user = np.array([0, 0, 0, 1, 1, 1], dtype=np.int32)
    item = np.array([0, 1, 0, 2, 3, 3], dtype=np.int32)
    visible = np.array([True, True, False, True, False, False])
    world = World(2, 4, visible, visible, user, item)
    queries = make_queries(world, np.flatnonzero(~visible), "user-to-item")
    assert queries.dropped == {"target already seen": 1, "pair hidden twice": 1}
    assert queries.event.tolist() == [4]
    assert queries.notes == {"target without a training event": 1}
    assert queries.time is None
    assert make_queries(world, np.array([4]), "item-to-user").notes == {"query without a training event": 1}


def test_visible_hidden_event_is_a_bug() -> None:
    world, _ = random_world(1)
    with pytest.raises(ValueError, match="visible"):
        make_queries(world, np.flatnonzero(world.visible)[:1], "user-to-item")


@given(SEEDS, WAYS)
def test_seen_matrix_holds_the_visible_pairs(seed: int, direction: str) -> None:
    world, _ = random_world(seed)
    rows, columns = seen_csr(world, direction).nonzero()
    users, items = (rows, columns) if direction == "user-to-item" else (columns, rows)
    assert set(zip(users.tolist(), items.tolist(), strict=True)) == seen_pairs(world)


@given(SEEDS, WAYS)
@settings(deadline=None)
def test_full_ranks_equal_plain_python(seed: int, direction: str) -> None:
    world, hidden = random_world(seed)
    queries = make_queries(world, hidden, direction)
    table = random_scores(seed, world, direction)
    ranks, candidates = rank_full(TableScorer(table), queries, world, direction)
    for q in range(len(queries)):
        scores, target = table[queries.sources(direction)[q]], int(queries.targets(direction)[q])
        others = [t for t in unseen_targets(world, queries, q, direction) if t != target]
        assert ranks[q] == 1 + sum(scores[t] >= scores[target] for t in others)
        assert candidates[q] == 1 + len(others)


def test_blocks_do_not_change_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    world, hidden = random_world(3)
    queries = make_queries(world, hidden, "user-to-item")
    scorer = TableScorer(random_scores(3, world, "user-to-item"))
    whole = rank_full(scorer, queries, world, "user-to-item")
    monkeypatch.setattr(ranking, "_BLOCK_CELLS", 2 * world.num_items)
    np.testing.assert_array_equal(rank_full(scorer, queries, world, "user-to-item"), whole)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_constant_scores_come_last(direction: str) -> None:
    world, hidden = random_world(5)
    queries = make_queries(world, hidden, direction)
    constant = np.zeros((world.num_sources(direction), world.num_targets(direction)))
    ranks, candidates = rank_full(TableScorer(constant), queries, world, direction)
    np.testing.assert_array_equal(ranks, candidates)


def test_nan_and_wrong_shapes_name_the_scorer() -> None:
    world, hidden = random_world(5)
    queries = make_queries(world, hidden, "user-to-item")
    table = np.zeros((world.num_users, world.num_items))
    with pytest.raises(DualityError, match="'short' returned shape"):
        rank_full(TableScorer(table[:, 1:], "short"), queries, world, "user-to-item")
    table[queries.user[0], 0] = np.nan
    with pytest.raises(DualityError, match="'broken' returned NaN"):
        rank_full(TableScorer(table, "broken"), queries, world, "user-to-item")


@given(SEEDS, WAYS, st.sampled_from(["uniform", "popularity"]), st.integers(1, 12))
@settings(deadline=None)
def test_sampled_negatives_are_unseen_and_distinct(seed: int, direction: str, kind: str, n: int) -> None:
    world, hidden = random_world(seed)
    queries = make_queries(world, hidden, direction)
    negatives = sample_negatives(queries, world, direction, Candidates(kind, n), seed=seed)
    assert negatives.shape == (len(queries), n)
    trained = set(world.event_ends(direction)[1][world.train].tolist())
    for q, row in enumerate(negatives):
        pool = set(unseen_targets(world, queries, q, direction)) - {int(queries.targets(direction)[q])}
        pool = pool & trained if kind == "popularity" else pool
        drawn = [t for t in row.tolist() if t >= 0]
        assert len(set(drawn)) == len(drawn) == min(n, len(pool))
        assert set(drawn) <= pool


@given(SEEDS, WAYS)
@settings(deadline=None)
def test_sampled_ranks_equal_plain_python(seed: int, direction: str) -> None:
    world, hidden = random_world(seed)
    queries = make_queries(world, hidden, direction)
    table = random_scores(seed, world, direction)
    negatives = sample_negatives(queries, world, direction, Candidates("uniform", 4), seed=seed)
    ranks, candidates = rank_sampled(TableScorer(table), queries, world, direction, negatives)
    for q in range(len(queries)):
        scores, target = table[queries.sources(direction)[q]], int(queries.targets(direction)[q])
        drawn = [t for t in negatives[q].tolist() if t >= 0]
        assert ranks[q] == 1 + sum(scores[t] >= scores[target] for t in drawn)
        assert candidates[q] == 1 + len(drawn)


@pytest.mark.parametrize("kind", ["uniform", "popularity"])
def test_first_draw_follows_the_weights(kind: str) -> None:
    weights = np.array([1, 2, 3, 4, 0, 10])
    popular = np.repeat(np.arange(6), weights)
    queries_wanted = 20_000
    user = np.concatenate([np.zeros(len(popular)), np.arange(1, queries_wanted + 1)]).astype(np.int32)
    item = np.concatenate([popular, np.full(queries_wanted, 5)]).astype(np.int32)
    visible = np.arange(len(user)) < len(popular)
    world = World(queries_wanted + 1, 6, visible, visible, user, item)
    queries = make_queries(world, np.flatnonzero(~visible), "user-to-item")
    first = sample_negatives(queries, world, "user-to-item", Candidates(kind, 1), seed=1)[:, 0]
    chances = weights[:5] / 10 if kind == "popularity" else np.full(5, 0.2)
    observed = np.bincount(first, minlength=5) / queries_wanted
    np.testing.assert_allclose(observed, chances, atol=4 * np.sqrt(0.25 / queries_wanted))


def test_negatives_depend_on_the_seed_alone() -> None:
    world, hidden = random_world(9)
    queries = make_queries(world, hidden, "user-to-item")
    draw = [
        sample_negatives(queries, world, "user-to-item", Candidates("uniform", 3), seed=s) for s in (1, 1, 2)
    ]
    np.testing.assert_array_equal(draw[0], draw[1])
    assert (draw[0] != draw[2]).any()


def test_candidates_parse() -> None:
    assert parse_candidates("full") == Candidates("full")
    assert str(parse_candidates("popularity:100")) == "popularity:100"


@pytest.mark.parametrize(
    "text", ["", "all", "uniform", "uniform:", "uniform:0", "uniform:-1", "full:3", "uniform:1.5"]
)
def test_bad_candidates_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="uniform:N"):
        parse_candidates(text)

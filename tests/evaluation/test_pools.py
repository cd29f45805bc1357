"""Time-matched candidates and the clock against plain Python; being online is worth nothing there."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import DAY, random_world

from duality.evaluation.baselines import LastActive
from duality.evaluation.past import Clock
from duality.evaluation.pools import NextEvents, pools_for
from duality.evaluation.protocol import evaluate
from duality.evaluation.queries import World, make_queries

SEEDS = st.integers(0, 10_000)


@given(SEEDS, st.integers(1, 14))
@settings(deadline=None)
def test_the_matched_are_those_who_come_next(seed: int, most: int) -> None:
    world, _ = random_world(seed)
    moments = np.random.default_rng(seed).integers(-DAY, 41 * DAY, 6)
    found = NextEvents(world).allowed(moments, most)
    for row, moment in zip(found, moments):
        upcoming = []
        for user in range(world.num_users):
            times = world.event_time[(world.event_user == user) & (world.event_time >= moment)]
            if len(times):
                upcoming.append((times.min(), user))
        assert set(np.flatnonzero(row)) == {user for _, user in sorted(upcoming)[:most]}


@given(SEEDS, st.lists(st.integers(-DAY, 41 * DAY), min_size=1, max_size=6))
@settings(deadline=None)
def test_the_clock_counts_and_dates_what_came_strictly_before(seed: int, moments: list[int]) -> None:
    world, _ = random_world(seed)
    clock = Clock(world.event_user, world.event_time, world.num_users)
    for asked in (moments, moments[::-1]):
        counts, latest = clock.counts(np.array(asked)), clock.latest(np.array(asked))
        for row, moment in enumerate(asked):
            for user in range(world.num_users):
                past = world.event_time[(world.event_user == user) & (world.event_time < moment)]
                assert counts[row, user] == len(past)
                assert latest[row, user] == max(past, default=np.iinfo(np.int64).min)


@given(SEEDS)
@settings(deadline=None)
def test_the_target_is_always_among_the_matched(seed: int) -> None:
    world, hidden = random_world(seed)
    queries = make_queries(world, hidden, "item-to-user")
    if not len(queries):
        return
    _, matched = pools_for(queries, world, "item-to-user", matched=world.num_users)
    allowed = matched.allowed(slice(0, len(queries)))
    assert allowed[np.arange(len(queries)), queries.user].all()


def test_finding_who_is_online_pays_over_all_users_and_not_over_matched_ones() -> None:
    """Users come in shifts; within a shift, who comes next is chance."""
    random = np.random.default_rng(3)
    num_users, shifts = 400, 8
    events = []
    for day in range(6 * shifts):
        shift = np.flatnonzero(np.arange(num_users) % shifts == day // 6)
        for user in shift:
            events += [(user, random.integers(0, 200), day * DAY + random.integers(0, DAY)) for _ in range(3)]
    user, item, time = np.array(events).T
    order = np.lexsort((time, user))
    user, item, time = user[order].astype(np.int32), item[order].astype(np.int32), time[order]
    last = np.append(np.flatnonzero(np.diff(user)), len(user) - 1)
    visible = np.ones(len(user), dtype=bool)
    visible[last] = False
    world = World(num_users, 200, visible, visible, user, item, time)
    queries = make_queries(world, last, "item-to-user")
    found = evaluate([LastActive(world, "item-to-user")], queries, world, "item-to-user", matched=20)
    assert found["metrics"]["auc"]["value"] > 0.85
    assert found["time_matched"]["metrics"]["auc"]["value"] < 0.7

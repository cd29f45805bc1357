"""Segments divide the queries; what they count is what a plain loop counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import DAY, TableScorer, random_scores, random_world

from duality.evaluation import segments
from duality.evaluation.protocol import Measured, measure
from duality.evaluation.queries import DIRECTIONS, USER_TO_ITEM, World, make_queries
from duality.evaluation.report_curves import by_strength, rank_shares, recall_curve
from duality.evaluation.report_lists import exposure_of, one_per_source, top_lists
from duality.evaluation.segments import (
    by_columns,
    by_segment,
    known_events,
    parts_of,
    segmentations,
    training_events,
)


def measured_world(seed: int, direction: str, *, timed: bool = True) -> tuple[Measured, World, TableScorer]:
    world, hidden = random_world(seed, timed=timed)
    queries = make_queries(world, hidden, direction)
    scorers = [
        TableScorer(random_scores(seed + number, world, direction) - 9, name)
        for number, name in enumerate("abc")
    ]
    return measure(scorers, queries, world, direction), world, scorers[0]


@given(st.integers(0, 200), st.sampled_from(DIRECTIONS), st.booleans())
@settings(deadline=None, max_examples=10)
def test_segments_partition_the_queries_and_average_to_the_whole(
    seed: int, direction: str, timed: bool
) -> None:
    measured, world, _ = measured_world(seed, direction, timed=timed)
    for pool in range(len(measured.pools)):
        names = ("ndcg@5", "auc")
        found = by_segment(measured, world, pool=pool, names=names, against="b")
        assert [part["name"] for part in found] == ["history", "popularity", "time"][: 2 + timed]
        values = {name: measured.values(name, pool) for name in ("a", "b")}
        for division in found:
            rows = division["rows"]
            weights = np.array([row["queries"] for row in rows])
            assert weights.sum() == len(measured.queries)
            assert weights.min() >= 1
            assert len({row["label"] for row in rows}) == len(rows)
            for name in names:
                column = list(measured.names).index(name)
                mean = np.average([row["metrics"][name]["value"] for row in rows], weights=weights)
                assert mean == pytest.approx(values["a"][:, column].mean())
                gap = np.average([row["differences"][name]["difference"] for row in rows], weights=weights)
                assert gap == pytest.approx((values["a"] - values["b"])[:, column].mean())


@given(st.integers(0, 100), st.sampled_from(DIRECTIONS), st.booleans())
@settings(deadline=None, max_examples=40)
def test_what_is_counted_is_what_a_loop_counts(seed: int, direction: str, timed: bool) -> None:
    world, hidden = random_world(seed, timed=timed)
    if timed:  # many events at one moment
        world = replace(world, event_time=world.event_time // (8 * DAY))
    queries = make_queries(world, hidden, direction)
    source, target = world.event_ends(direction)
    known, trained = known_events(queries, world, direction), training_events(queries, world, direction)
    for row, event in enumerate(queries.event):
        earlier = np.ones(len(source), dtype=bool)
        if direction == USER_TO_ITEM:
            earlier = np.arange(len(source)) < event
        elif timed:
            earlier = world.event_time < world.event_time[event]
        assert known[row] == np.sum(world.visible & earlier & (source == source[event]))
        assert trained[row] == np.sum(world.train & (target == target[event]))


@given(st.lists(st.integers(0, 50), min_size=1, max_size=80))
def test_parts_rise_keep_equal_values_together_and_zero_alone(values: list[int]) -> None:
    counts = np.array(values)
    place = parts_of(counts)
    assert set(place) == set(range(place.max() + 1))
    assert place.max() < 6
    for part in range(place.max()):
        assert counts[place == part].max() < counts[place == part + 1].min()
    if (counts == 0).any():
        assert (counts[place == 0] == 0).all()


def test_parts_are_about_equally_large_when_values_differ() -> None:
    place = parts_of(np.random.default_rng(0).permutation(1000) + 1)
    assert np.bincount(place).tolist() == pytest.approx([200] * 5, abs=1)


def test_a_segment_of_one_source_has_no_interval() -> None:
    measured, world, _ = measured_world(3, USER_TO_ITEM)
    rows = [row for part in by_segment(measured, world) for row in part["rows"]]
    assert {row["metrics"]["ndcg@10"]["low"] is None for row in rows} == {True, False}
    for row in rows:
        assert (row["metrics"]["ndcg@10"]["low"] is None) == (row["sources"] == 1)
    assert "differences" not in rows[0]


@pytest.mark.parametrize(("step", "length"), [(DAY, 10), (DAY // 86_400, 19)])
def test_times_are_told_in_days_or_else_in_seconds(step: int, length: int) -> None:
    measured, world, _ = measured_world(3, USER_TO_ITEM)
    queries = measured.queries
    moments = DAY * 20_000 + step * np.arange(len(queries))
    division = segmentations(replace(queries, time=moments), world, USER_TO_ITEM)[2]
    ends = [label.split(" to ") for label in division.labels]
    assert {len(end) for pair in ends for end in pair} == {length}
    assert ends[0][0].startswith("2024-10-04")
    flat = [end for pair in ends for end in pair]
    assert flat == sorted(flat)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_curves_agree_with_the_metrics(direction: str) -> None:
    measured, _, _ = measured_world(1, direction)
    for pool in range(len(measured.pools)):
        curve = recall_curve(measured, pool=pool)
        ranks = measured.ranks["b"][pool]
        for k, value in zip(curve["k"], curve["recall"]["b"], strict=True):
            assert value == pytest.approx((ranks <= k).mean())
        assert curve["recall"]["a"][-1] == curve["chance"][-1] == 1.0
        assert all(
            low <= value <= high
            for low, value, high in zip(curve["low"], curve["recall"]["a"], curve["high"], strict=True)
        )
        shares = rank_shares(measured, ["a", "b"], pool=pool)
        assert sum(shares["share"]["b"]) == pytest.approx(1.0)
        assert shares["share"]["b"][1] == pytest.approx(np.isin(ranks, (2, 3)).mean())


def test_chance_is_what_a_random_order_reaches() -> None:
    """The curve called chance, against ranks drawn uniformly."""
    measured, _, _ = measured_world(5, USER_TO_ITEM)
    random, competing = np.random.default_rng(0), measured.competing[0]
    drawn = random.integers(1, competing + 1, size=(20_000, len(competing)))
    curve = recall_curve(measured)
    for k, chance in zip(curve["k"], curve["chance"], strict=True):
        assert (drawn <= k).mean() == pytest.approx(chance, abs=0.01)


def test_the_strongest_comes_first() -> None:
    measured, _, _ = measured_world(2, USER_TO_ITEM)
    order = by_strength(measured)
    column = list(measured.names).index("ndcg@9" if "ndcg@9" in measured.names else "ndcg@5")
    assert sorted(order) == ["b", "c"]
    measured.ranks["c"][:] = 1
    assert by_strength(measured) == ["c", "b"]
    assert measured.values("c")[:, column].mean() == 1.0


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_lists_are_the_best_unseen_and_exposure_adds_up(direction: str) -> None:
    measured, world, scorer = measured_world(7, direction)
    queries = measured.queries
    asked = one_per_source(queries, direction)
    assert len(np.unique(queries.sources(direction)[asked])) == len(asked)
    lists = top_lists(scorer, measured, world, asked, 3)
    source, target = world.event_ends(direction)
    for row, query in enumerate(asked):
        own = queries.sources(direction)[query]
        seen = set(target[world.visible & (source == own)].tolist())
        allowed = measured.pools[0].allowed
        block = None if allowed is None else np.asarray(allowed(slice(query, query + 1)))[0]
        free = [
            other
            for other in range(world.num_targets(direction))
            if other not in seen and (block is None or block[other]) and np.isfinite(scorer.table[own, other])
        ]
        expected = sorted(free, key=lambda other: (-scorer.table[own, other], other))[:3]
        got = [other for other in lists[row].tolist() if other >= 0]
        scores = [scorer.table[own, other] for other in got]
        assert scores == [scorer.table[own, other] for other in expected]
        assert set(got) <= set(free)
    found = exposure_of(scorer, measured, world, k=3)
    assert found is not None
    assert found["slots"] == (lists >= 0).sum()
    shown = np.unique(lists[lists >= 0])
    assert found["coverage"] == pytest.approx(len(shown) / world.num_targets(direction))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_columns_of_few_values_divide_queries_by_the_event_to_be_found(
    direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "MOST_VALUES", 3)
    measured, world, _ = measured_world(3, direction)
    events, asked = len(world.event_user), measured.queries.event
    exact = [None if event % 3 == 2 else event % 3 == 1 for event in range(events)]
    table = pa.table(
        {
            "../Exact": exact,
            "category": pa.array(exact).dictionary_encode(),
            "serial": list(range(events)),
            "same": ["a"] * events,
            "tags": [["a"], ["b"]] * (events // 2) + [["a"]] * (events % 2),
        }
    )
    found, same = by_columns(table, measured.queries)
    assert (same.labels, same.place.tolist()) == (found.labels, found.place.tolist())
    assert (found.name, found.title, found.labels) == (
        "event-0-exact",
        "../Exact",
        ["False", "True", "not known"],
    )
    assert (found.place == asked % 3).all()
    rows = by_segment(measured, world, more=[found])[-1]["rows"]
    assert [row["queries"] for row in rows] == np.bincount(asked % 3).tolist()

"""Futures and their metrics: against plain Python, and what must not be visible."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duality.errors import InputError
from duality.evaluation.horizon import NAMES, Futures, compare, futures, last_new_items, quality


@st.composite
def logs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users' events together, and a cut somewhere in each history."""
    lengths = draw(st.lists(st.integers(0, 9), min_size=1, max_size=6))
    items = draw(st.lists(st.integers(0, 6), min_size=sum(lengths), max_size=sum(lengths)))
    shown = [draw(st.integers(0, n)) for n in lengths]
    user = np.repeat(np.arange(len(lengths)), lengths)
    visible = np.concatenate([np.arange(n) < s for n, s in zip(lengths, shown, strict=True)])
    return user, np.array(items, dtype=np.int64), visible.astype(bool)


def plainly(user: np.ndarray, item: np.ndarray, visible: np.ndarray, longest: int) -> dict[int, list[int]]:
    expected = {}
    for who in np.unique(user):
        past = item[(user == who) & visible].tolist()
        coming = list(dict.fromkeys(i for i in item[(user == who) & ~visible].tolist() if i not in past))
        if past and coming:
            expected[int(who)] = coming[:longest]
    return expected


@given(logs(), st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_futures_are_the_next_new_items(log: tuple, longest: int) -> None:
    user, item, visible = log
    found = futures(user, item, visible, (6, 7), longest)
    got = {
        int(u): [i for i in row if i >= 0] for u, row in zip(found.user, found.items.tolist(), strict=True)
    }
    assert got == plainly(user, item, visible, longest)


@given(logs(), st.integers(1, 4))
@settings(max_examples=200, deadline=None)
def test_hiding_the_last_new_items_leaves_exactly_so_many(log: tuple, longest: int) -> None:
    user, item, _ = log
    visible = last_new_items(user, item, (6, 7), longest)
    found = futures(user, item, visible, (6, 7), longest)
    for who in range(6):
        different = len(set(item[user == who].tolist()))
        if different > longest:
            assert (found.items[np.flatnonzero(found.user == who)[0]] >= 0).all()
        else:
            assert visible[user == who].all()


def test_a_hidden_event_before_a_visible_one_is_refused() -> None:
    with pytest.raises(ValueError, match="after a hidden one"):
        futures(np.zeros(3, int), np.arange(3), np.array([True, False, True]), (1, 3), 1)


def test_metrics_by_hand() -> None:
    lists, truth = np.array([[4, 1, 9], [1, 2, 3]]), np.array([[1, 2, 9], [7, 8, 6]])
    gain = [1 / math.log2(n) for n in (2, 3, 4)]
    values = quality(lists, truth)
    np.testing.assert_allclose(values[0], [2 / 3, (gain[1] + gain[2]) / sum(gain), 1 / 3])
    np.testing.assert_allclose(values[1], 0)


def test_metrics_equal_ir_measures() -> None:
    ir = pytest.importorskip("ir_measures")
    rng = np.random.default_rng(0)
    lists = np.stack([rng.permutation(30)[:5] for _ in range(200)])
    truth = np.stack([rng.permutation(30)[:5] for _ in range(200)])
    values = quality(lists, truth)
    qrels = [ir.Qrel(str(q), str(i), 1) for q in range(200) for i in truth[q]]
    run = [ir.ScoredDoc(str(q), str(i), 5.0 - n) for q in range(200) for n, i in enumerate(lists[q])]
    for row in ir.iter_calc([ir.R @ 5, ir.P @ 5, ir.nDCG @ 5], qrels, run):
        column = 1 if "nDCG" in str(row.measure) else 0
        assert values[int(row.query_id), column] == pytest.approx(row.value)


def test_comparison_is_paired_and_says_what_is_shown() -> None:
    rng = np.random.default_rng(0)
    truth = np.stack([rng.permutation(50)[:3] for _ in range(100)])
    truth[90:, 2] = -1
    good, bad = truth.copy(), np.full_like(truth, 60)
    found = Futures(np.arange(100), truth, {})
    report = compare({"top": {3: bad}, "same": {3: bad}, "best": {3: good}}, found, [3])["3"]
    assert report["queries"] == 90
    assert report["metrics"]["best"]["ndcg@3"]["value"] == pytest.approx(1)
    assert report["comparisons"]["best"]["recall@3"] == pytest.approx(
        {"difference": 1, "low": 1, "high": 1, "shown": True}
    )
    assert not any(report["comparisons"]["same"][f"{name}@3"]["shown"] for name in NAMES)
    assert report["per_step"]["best"]["exact"] == [1.0, 1.0, 1.0]


def test_a_horizon_nobody_reaches_is_refused() -> None:
    found = Futures(np.arange(2), np.array([[1, -1], [2, -1]]), {})
    with pytest.raises(InputError, match="nobody has 2 new items"):
        compare({"top": {2: np.zeros((2, 2), int)}}, found, [2])


def test_few_queries_are_named() -> None:
    found = Futures(np.arange(2), np.array([[1], [2]]), {})
    assert compare({"top": {1: np.array([[1], [1]])}}, found, [1])["1"]["warning"] == "only 2 queries"


def test_the_command_end_to_end(world: Path) -> None:
    from duality.model.decoding import Decoding
    from duality.workflows.horizon import horizon

    report = horizon(world / "models/default", options=Decoding(steps=(1, 2), samples=4, beam=2))
    assert "every step but the last two" in report["protocol"]["weights"]
    one = report["horizons"]["1"]["metrics"]
    assert one["top"] == one["greedy"] == one["ra"] == one["beam"]
    assert set(report["horizons"]) == {"1", "2"}

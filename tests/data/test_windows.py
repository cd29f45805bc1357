"""Windows of long histories: every event ends in exactly one, with enough before it."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from duality.data.histories import Histories, newest, overlapping_windows, random_windows

LENGTHS = st.lists(st.integers(0, 40), min_size=1, max_size=8)


def histories(lengths: list[int]) -> Histories:
    indptr = np.concatenate(([0], np.cumsum(lengths)))
    return Histories(indptr, np.random.default_rng(0).permutation(int(indptr[-1])))


@given(LENGTHS, st.integers(2, 12))
@settings(max_examples=60, deadline=None)
def test_fresh_rows_of_overlapping_windows_cover_every_event_once(lengths: list[int], size: int) -> None:
    whole = histories(lengths)
    windows = overlapping_windows(whole, size)
    ended = []
    for number, owner in enumerate(windows.owner):
        events = windows.histories.packed(np.array([number]))[0]
        mine = whole.packed(np.array([owner]))[0]
        end = windows.ends[number]
        np.testing.assert_array_equal(events, mine[end - len(events) : end])
        assert len(events) <= size
        for place in range(end - windows.fresh[number], end):
            before = place - (end - len(events))  # events of the window before this one
            assert before >= min(place, size - size // 2)
            ended.append((owner, place))
    assert sorted(ended) == [(o, p) for o, n in enumerate(lengths) for p in range(n)]


@given(LENGTHS, st.integers(2, 12), st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_random_windows_are_stretches_of_their_owner(lengths: list[int], size: int, seed: int) -> None:
    whole = histories(lengths)
    windows = random_windows(whole, size, np.random.default_rng(seed))
    for owner, length in enumerate(lengths):
        mine = whole.packed(np.array([owner]))[0]
        events = windows.histories.packed(np.array([owner]))[0]
        assert 0 < len(events) <= size or not length
        start = windows.ends[owner] - len(events)
        np.testing.assert_array_equal(events, mine[start : windows.ends[owner]])


def test_random_windows_start_everywhere_and_often_at_the_beginning() -> None:
    whole, rng = histories([400]), np.random.default_rng(0)
    starts = np.array([int(random_windows(whole, 40, rng).ends[0]) for _ in range(2000)])
    assert (starts == 40).mean() > 0.04
    assert starts.max() == 400
    assert len(np.unique(starts)) > 200


def test_a_size_of_zero_leaves_histories_whole_and_newest_keeps_the_last() -> None:
    whole = histories([5, 0, 9])
    for windows in (overlapping_windows(whole, 0), random_windows(whole, 0, np.random.default_rng(0))):
        np.testing.assert_array_equal(windows.histories.event, whole.event)
        np.testing.assert_array_equal(windows.fresh, [5, 0, 9])
    kept = newest(whole, 4)
    assert kept.lengths.tolist() == [4, 0, 4]
    np.testing.assert_array_equal(kept.packed(np.array([2]))[0], whole.packed(np.array([2]))[0][-4:])
    assert newest(whole, 0) is whole

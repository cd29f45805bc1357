"""Splits, histories and batches lose no event and invent none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duality.data.batches import row_batches
from duality.data.dataset import Dataset
from duality.data.histories import Histories, item_histories, user_histories
from duality.data.splits import leave_one_out, split_named, temporal
from duality.errors import InputError


@pytest.fixture(scope="module")
def dataset(world: Path) -> Dataset:
    return Dataset.open(world / "datasets/default")


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.integers(1, 20), st.booleans())
@settings(max_examples=60, deadline=None)
def test_batches_cover_every_owner_once(lengths: list[int], rows: int, shuffled: bool) -> None:
    indptr = np.concatenate(([0], np.cumsum(lengths)))
    histories = Histories(indptr, np.arange(indptr[-1]))
    batches = row_batches(histories, rows, np.random.default_rng(0) if shuffled else None)
    owners = np.concatenate(batches) if batches else np.array([], dtype=np.int64)
    assert sorted(owners.tolist()) == [o for o, length in enumerate(lengths) if length]
    for batch in batches:
        sizes = histories.lengths[batch]
        assert len(batch)
        assert sizes.sum() <= rows or len(batch) == 1
        assert (np.diff(sizes) >= 0).all()
    packed = [histories.packed(batch)[0] for batch in batches]
    assert sorted(np.concatenate(packed).tolist() if packed else []) == list(range(indptr[-1]))


def test_batches_by_length_hold_histories_of_about_one_length_in_a_new_order_each_time() -> None:
    lengths = np.repeat([3, 9, 30], 40)
    histories = Histories(np.concatenate(([0], np.cumsum(lengths))), np.arange(lengths.sum()))
    one, other = (row_batches(histories, 60, np.random.default_rng(seed), by_length=True) for seed in (0, 1))
    assert sorted(np.concatenate(one).tolist()) == list(range(120))
    spread = [len(np.unique(lengths[batch])) for batch in one]
    assert max(spread) <= 2
    assert spread.count(2) <= 2  # where one length ends
    assert any(set(a) != set(b) for a, b in zip(one, other, strict=True))
    mixed = row_batches(histories, 60, np.random.default_rng(0))
    assert np.mean([len(np.unique(lengths[batch])) > 1 for batch in mixed]) > 0.5


def test_leave_one_out_hides_the_two_newest_events(dataset: Dataset) -> None:
    split = leave_one_out(dataset)
    for user in range(dataset.num_users):
        events = np.arange(dataset.user_indptr[user], dataset.user_indptr[user + 1])
        assert split.test[user] == events[-1]
        assert split.validation[user] == events[-2]
        assert split.train[events].sum() == len(events) - 2
    assert not split.visible("test")[split.test].any()
    assert split.visible("test")[split.validation].all()
    assert not split.visible("validation")[split.validation].any()


def test_temporal_split_shows_nothing_after_the_cut(dataset: Dataset) -> None:
    split = temporal(dataset)
    time = np.asarray(dataset.event_time)
    assert time[split.train].max() < time[split.validation].min()
    assert time[split.visible("test")].max() < time[split.test].min()
    assert len(np.unique(dataset.event_user[split.test])) == len(split.test)


def test_unknown_split_is_refused(dataset: Dataset) -> None:
    with pytest.raises(InputError, match="leave-one-out, temporal"):
        split_named(dataset, "random")


def test_histories_are_ordered_by_time_on_both_sides(dataset: Dataset) -> None:
    mask = np.ones(dataset.num_events, dtype=bool)
    time = np.asarray(dataset.event_time)
    for histories, owner in (
        (user_histories(dataset, mask), dataset.event_user),
        (item_histories(dataset, mask), dataset.event_item),
    ):
        for number in range(histories.num_owners):
            events, lengths = histories.packed(np.array([number]))
            assert len(events) == lengths[0]
            assert (owner[events] == number).all()
            assert (np.diff(time[events]) >= 0).all()

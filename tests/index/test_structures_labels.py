"""Keys and positions: refused where they cannot be told apart, the same whenever the table is made."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from duality.index.structures.labels import MAX_KEY, Labels

SHUFFLED = np.random.default_rng(1).permutation(5_000) + 7
# Far apart: marks per key would take more memory than the keys.
SPARSE = SHUFFLED * 1_000_003


@pytest.mark.parametrize("keys", [np.sort(SHUFFLED), SHUFFLED, SPARSE], ids=["ascending", "dense", "sparse"])
def test_a_repeated_key_is_refused_in_any_order(keys: np.ndarray) -> None:
    Labels(keys)
    twice = keys.copy()
    twice[4_000] = twice[17]
    with pytest.raises(ValueError, match="repeated"):
        Labels(twice)


@pytest.mark.parametrize("wrong", [-1, MAX_KEY])
def test_a_key_out_of_range_is_refused(wrong: int) -> None:
    keys = SHUFFLED.copy()
    keys[3] = wrong
    with pytest.raises(ValueError, match="keys go from"):
        Labels(keys)
    with pytest.raises(ValueError, match="keys go from"):
        Labels(SHUFFLED).append(np.array([wrong]))


@pytest.mark.parametrize("keys", [SHUFFLED, SPARSE], ids=["dense", "sparse"])
@pytest.mark.parametrize("asked_first", [True, False])
def test_changes_count_whether_the_table_was_made_before_or_after_them(
    keys: np.ndarray, asked_first: bool
) -> None:
    labels = Labels(keys)
    if asked_first:
        assert (labels.positions_of(keys) == np.arange(5_000)).all()
    labels.drop(np.array([2, 4_999]))
    labels.append(np.array([3, keys[2]]))
    labels.append_unnamed(1)
    assert labels.positions_of(np.array([keys[2], keys[4_999], 3, keys[0], -5])).tolist() == [
        5_001, -1, 5_000, 0, -1,
    ]  # fmt: skip
    assert (labels.count, labels.dead) == (5_000, 3)


def test_threads_that_ask_first_all_get_the_right_positions() -> None:
    labels = Labels(SHUFFLED)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: labels.positions_of(SHUFFLED), range(8)))
    assert all((positions == np.arange(5_000)).all() for positions in found)
